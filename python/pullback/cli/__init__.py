"""The command line: `pullback demo`, `pullback basis`, `pullback taps` and `pullback info`."""

from pullback.cli.application import app, main

__all__ = ["app", "main"]
