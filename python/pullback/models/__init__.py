"""A diffusion model as this library sees it: schedule, conditions, taps, and loading."""

from pullback.models.conditions import Condition, Conditions
from pullback.models.denoising import ddim
from pullback.models.loading import load
from pullback.models.model import LatentModel, check_model
from pullback.models.schedule import Schedule
from pullback.models.taps import Reached, Site, Tap, TapName, hooked, pooled

__all__ = [
    "Condition",
    "Conditions",
    "LatentModel",
    "Reached",
    "Schedule",
    "Site",
    "Tap",
    "TapName",
    "check_model",
    "ddim",
    "hooked",
    "load",
    "pooled",
]
