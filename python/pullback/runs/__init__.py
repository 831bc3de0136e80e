"""From a plan to a folder of local bases, one pair of files per timestep, resumable."""

from pullback.runs.run import Found, Plan, Watch, basis_path, discover, latents_path, summary

__all__ = ["Found", "Plan", "Watch", "basis_path", "discover", "latents_path", "summary"]
