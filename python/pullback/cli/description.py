"""What is installed, and what a model is, as plain values."""

from __future__ import annotations

import platform
from typing import Any

import diffusers
import torch

from pullback import zoo
from pullback._version import __version__
from pullback.models import LatentModel
from pullback_ext.__main__ import report


def describe_installation() -> dict[str, Any]:
    """Versions, the native library's state, devices and bundled models, as plain values."""
    native = report()
    devices = {"cpu": platform.processor() or platform.machine()}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return {
        "versions": {
            "pullback": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        },
        "devices": devices,
        "native": {
            "problem": native["problem"],
            "build": native["build"],
            "usable": native["usable"],
            "unusable": native["unusable"],
            "kernels_agree": native["passed"],
        },
        "zoo": {name: str(folder) for name, (folder, _) in zoo.MODELS.items()},
    }


def describe_model(model: LatentModel) -> dict[str, Any]:
    """Shapes, schedule, condition and taps of a model, as plain values.

    Cost: one forward pass of one sample.
    """
    try:
        condition: dict[str, Any] | None = {
            # An embedded prompt is too long to be told.
            name: value.item() if value.numel() == 1 else {"shape": list(value.shape)}
            for name, value in model.conditions.null.items()
        }
    except ValueError:
        condition = None
    return {
        "name": model.name,
        "network": type(model.network).__name__,
        "family": model.family.label,
        "predicts": model.schedule.prediction_type,
        "scheduler": type(model.schedule.scheduler).__name__,
        "fingerprint": model.fingerprint,
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "weights": _weights(model),
        "latent_shape": list(model.latent_shape),
        "timesteps": model.schedule.num_timesteps,
        "max_timestep": model.schedule.max_timestep,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "call": model.given,
        "takes": {
            name: "needed" if argument.needed else "optional"
            for name, argument in (model.conditions.arguments or {}).items()
        },
        "null_condition": condition,
        "default_tap": model.default_tap,
        "taps": describe_taps(model),
    }


def _weights(model: LatentModel) -> dict[str, int]:
    """Bytes that the networks of a model take, by the names of the pipeline's parts."""
    parts = {"network": model.network} if model.pipeline is None else model.pipeline.components
    return {
        name: sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))
        for name, part in parts.items()
        if isinstance(part, torch.nn.Module)
    }


def describe_taps(model: LatentModel) -> list[dict[str, Any]]:
    """Where the features of a model can be read.

    Cost: one forward pass of one sample.
    """
    return [
        {"path": tap.path, "shape": list(tap.shape), "share": tap.share} for tap in model.taps()
    ]
