"""From a plan to a folder of local bases or of what is made of them, file by file, resumable."""

from pullback.runs.analyse_bench import AnalysisWatch
from pullback.runs.analyse_plan import ANALYSES, OF_BASES, AnalysesPlan
from pullback.runs.analyse_run import (
    ANALYSES_FORMAT,
    Analyses,
    analyse,
    analysis_path,
    runs_for_analyses,
)
from pullback.runs.batch_bases import UnitBases
from pullback.runs.batch_plan import BatchPlan, Unit, default_memory
from pullback.runs.batch_run import BatchRun
from pullback.runs.batch_store import plan_path, unit_path
from pullback.runs.batch_unit import Watch
from pullback.runs.edit_plan import WAYS, EditPlan, EditSample, way_of
from pullback.runs.edit_run import EditWatch, edit_samples, summarize_edits
from pullback.runs.edit_store import SampleEdits, edit_basis_path, edits_path
from pullback.runs.find_run import FoundDirections, find_directions, found_path
from pullback.runs.finding import Finding, OfLocal, OfPullback, OfSpectral, OfTarget
from pullback.runs.finding_of_samples import (
    OfBoundary,
    OfSupervised,
    OfTrajectories,
    OfWeights,
)
from pullback.runs.global_run import (
    HOWS,
    GlobalPlan,
    SharedDirections,
    direction_path,
    global_path,
    share_directions,
    summarize_global,
)
from pullback.runs.path_run import (
    KINDS,
    PathPlan,
    PathWatch,
    SamplePaths,
    path_path,
    sample_paths,
    summarize_paths,
)
from pullback.runs.plan import Plan
from pullback.runs.run import discover
from pullback.runs.settings import ANOTHER, check_same
from pullback.runs.store import TimestepBases, basis_path, latents_path, summary_path
from pullback.runs.summary import summarize
from pullback.runs.transport_run import (
    BACKS,
    BASES,
    TimestepTransport,
    TransportPlan,
    summarize_transport,
    transport_path,
    transport_samples,
)

__all__ = [
    "ANALYSES",
    "ANALYSES_FORMAT",
    "ANOTHER",
    "BACKS",
    "BASES",
    "HOWS",
    "KINDS",
    "OF_BASES",
    "WAYS",
    "Analyses",
    "AnalysesPlan",
    "AnalysisWatch",
    "BatchPlan",
    "BatchRun",
    "EditPlan",
    "EditSample",
    "EditWatch",
    "Finding",
    "FoundDirections",
    "GlobalPlan",
    "OfBoundary",
    "OfLocal",
    "OfPullback",
    "OfSpectral",
    "OfSupervised",
    "OfTarget",
    "OfTrajectories",
    "OfWeights",
    "PathPlan",
    "PathWatch",
    "Plan",
    "SampleEdits",
    "SamplePaths",
    "SharedDirections",
    "TimestepBases",
    "TimestepTransport",
    "TransportPlan",
    "Unit",
    "UnitBases",
    "Watch",
    "analyse",
    "analysis_path",
    "basis_path",
    "check_same",
    "default_memory",
    "direction_path",
    "discover",
    "edit_basis_path",
    "edit_samples",
    "edits_path",
    "find_directions",
    "found_path",
    "global_path",
    "latents_path",
    "path_path",
    "plan_path",
    "runs_for_analyses",
    "sample_paths",
    "share_directions",
    "summarize",
    "summarize_edits",
    "summarize_global",
    "summarize_paths",
    "summarize_transport",
    "summary_path",
    "transport_path",
    "transport_samples",
    "unit_path",
    "way_of",
]
