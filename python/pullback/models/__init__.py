"""A diffusion model as this library sees it: schedule, conditions, taps, and loading."""

import pullback.models.tangents  # noqa: F401  (registers modules of diffusers)
from pullback.models.conditions import Condition, Conditions
from pullback.models.denoising import denoise, states
from pullback.models.fingerprints import told
from pullback.models.images import has_autoencoder
from pullback.models.inverting import Inversion, invert
from pullback.models.loading import load
from pullback.models.model import LatentModel, check_model
from pullback.models.schedule import Schedule
from pullback.models.taps import Reached, Site, Tap, TapName, hooked, pooled
from pullback.models.walking import Walker, WalkOptions, with_walk_options

__all__ = [
    "Condition",
    "Conditions",
    "Inversion",
    "LatentModel",
    "Reached",
    "Schedule",
    "Site",
    "Tap",
    "TapName",
    "WalkOptions",
    "Walker",
    "check_model",
    "denoise",
    "has_autoencoder",
    "hooked",
    "invert",
    "load",
    "pooled",
    "states",
    "told",
    "with_walk_options",
]
