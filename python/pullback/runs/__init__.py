"""From a plan to a folder of local bases or of edits, file by file, resumable."""

from pullback.runs.edit_plan import WAYS, EditPlan, EditSample, way_of
from pullback.runs.edit_run import EditWatch, edit_samples, summarize_edits
from pullback.runs.edit_store import SampleEdits, edit_basis_path, edits_path
from pullback.runs.plan import Plan
from pullback.runs.run import Watch, discover
from pullback.runs.store import TimestepBases, basis_path, latents_path, summary_path
from pullback.runs.summary import summarize

__all__ = [
    "WAYS",
    "EditPlan",
    "EditSample",
    "EditWatch",
    "Plan",
    "SampleEdits",
    "TimestepBases",
    "Watch",
    "basis_path",
    "discover",
    "edit_basis_path",
    "edit_samples",
    "edits_path",
    "latents_path",
    "summarize",
    "summarize_edits",
    "summary_path",
    "way_of",
]
