"""A diffusion model as this library sees it: schedule, conditions, taps, and loading."""

from pullback.models.loading import load
from pullback.models.model import Condition, LatentModel
from pullback.models.taps import Site, Tap, TapName

__all__ = ["Condition", "LatentModel", "Site", "Tap", "TapName", "load"]
