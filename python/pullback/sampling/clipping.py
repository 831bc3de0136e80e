"""Where the steps of diffusers' schedulers clip the data that they predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import DDIMScheduler

from pullback.sampling.schedule import Schedule

#: Their steps clip nothing, whatever their configuration says.
_CLIP_NOTHING = frozenset({"CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "TCDScheduler"})
#: Their steps take the noise from the clipped x̂_0, where DDIM's keep what the network predicted.
_CLIP_NOISE_TOO = frozenset(
    {
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EDMDPMSolverMultistepScheduler",
        "HeunDiscreteScheduler",
        "SASolverScheduler",
        "UniPCMultistepScheduler",
    }
)
_SETTINGS = (
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
)


class Clipping(NamedTuple):
    """How x̂_0 is clipped, and whether the noise is to be taken from the clipped x̂_0."""

    clip: Callable[[torch.Tensor], torch.Tensor]
    noise_too: bool


def clipping(schedule: Schedule) -> Clipping | None:
    """How a scheduler's own steps clip x̂_0; None where they do not."""
    config = schedule.scheduler.config
    kinds = {kind.__name__ for kind in type(schedule.scheduler).__mro__}
    if schedule.prediction_type == "flow" or kinds & _CLIP_NOTHING:
        return None
    clips = {"clip_sample": False, "thresholding": False}
    clips |= {name: config[name] for name in _SETTINGS if name in config}
    noise_too = bool(kinds & _CLIP_NOISE_TOO)
    if clips["thresholding"]:
        with torch.device("cpu"):
            return Clipping(DDIMScheduler(**clips)._threshold_sample, noise_too)
    if clips["clip_sample"]:
        bound = clips.get("clip_sample_range", 1.0)
        return Clipping(lambda clean: clean.clamp(-bound, bound), noise_too)
    return None
