"""From a plan to a folder of local bases, one pair of files per timestep, resumable."""

from pullback.runs.plan import Plan
from pullback.runs.run import Watch, discover
from pullback.runs.store import TimestepBases, basis_path, latents_path, summary_path
from pullback.runs.summary import summarize

__all__ = [
    "Plan",
    "TimestepBases",
    "Watch",
    "basis_path",
    "discover",
    "latents_path",
    "summarize",
    "summary_path",
]
