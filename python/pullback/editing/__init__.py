"""Applying directions: at one timestep or along the way, one by one or in sweeps."""

from pullback.editing.displacements import Entry, Own, PerSample
from pullback.editing.edits import Sweep, edit, sweep
from pullback.editing.masks import on_latents
from pullback.editing.timing import EditTimes, edit_times
from pullback.editing.ways import Addition, Guidance, Injection, Shooting, Way

__all__ = [
    "Addition",
    "EditTimes",
    "Entry",
    "Guidance",
    "Injection",
    "Own",
    "PerSample",
    "Shooting",
    "Sweep",
    "Way",
    "edit",
    "edit_times",
    "on_latents",
    "sweep",
]
