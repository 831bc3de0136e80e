"""Measurements of pullback against what is published, and of its kernels against torch's own.

`python -m benchmarks` (or `make bench`) runs them and writes a JSON file with the environment.
"""
