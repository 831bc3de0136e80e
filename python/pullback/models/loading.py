"""From a name, a folder, a hub id or an object of diffusers to a `LatentModel`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from pullback import zoo
from pullback.models.conditions import Condition
from pullback.models.families import family_of
from pullback.models.folders import first_line, from_folder, from_hub, quiet
from pullback.models.model import LatentModel
from pullback.models.suitability import unwrapped


def load(
    source: Any,
    *,
    scheduler: Any = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    null_cond: Condition | None = None,
    latent_shape: Sequence[int] | None = None,
) -> LatentModel:
    """A `LatentModel` from whatever holds a diffusion model.

    Args:
        source: a name of the zoo ("digits"), a local folder in diffusers format (a pipeline or a
            network), a hub id, a diffusers pipeline with a `unet` or `transformer` and a
            `scheduler`, a network of diffusers or any callable f(x, t, **cond) (with
            `scheduler=`), or a `LatentModel`, which is returned as it is. A network or pipeline
            that is passed in is used as it stands: neither moved nor converted.
        scheduler: the scheduler, where the source has none.
        latent_shape: (C, H, W) of x, where the network's config does not say or another size is
            wanted. A pipeline of Flux takes the size that its own default image has.
        device: where to put a model that is read from files.
        dtype: its dtype, float32 by default.
        null_cond: the condition that stands for "no condition", per sample.

    Raises:
        FileNotFoundError: no such folder, or a folder without a model.
        ValueError: the folder holds pickled weights only, or not all tensors of a network.
        OSError: the hub id could not be fetched.
        TypeError: the object is not a diffusion model that is known.
    """
    if isinstance(source, LatentModel):
        return source
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"Expected dtype as a torch.dtype such as torch.float64, got {dtype!r}.")
    if not isinstance(source, (str, Path)):
        return _from_object(source, scheduler, null_cond, latent_shape)
    name = str(source)
    if name in zoo.MODELS:
        folder, null = zoo.MODELS[name]
        null_cond = null if null_cond is None else null_cond
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
    elif isinstance(source, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"Expected a model folder, a hub id (owner/name) or one of the zoo's names "
            f"({', '.join(zoo.MODELS)}); {name!r} is none of them, and no such folder exists."
        )
    else:
        found = from_hub(name)
        return _place(_from_object(found, scheduler, null_cond, latent_shape, name), device, dtype)
    found = from_folder(folder)
    return _place(_from_object(found, scheduler, null_cond, latent_shape, name), device, dtype)


def _from_object(
    source: Any,
    scheduler: Any,
    null_cond: Condition | None,
    latent_shape: Sequence[int] | None,
    name: str | None = None,
) -> LatentModel:
    network: Any = source
    pipeline: Any = None
    for part in ("unet", "transformer"):
        if isinstance(source, DiffusionPipeline) and getattr(source, part, None) is not None:
            network, pipeline = unwrapped(getattr(source, part)), source
            scheduler = source.scheduler if scheduler is None else scheduler
    if isinstance(network, DiffusionPipeline) or not callable(network):
        raise TypeError(
            "Expected a diffusers pipeline with a unet or transformer, a network, a callable, a "
            f"folder, a hub id or one of the zoo's names ({', '.join(zoo.MODELS)}), got "
            f"{type(source).__name__}."
        )
    if scheduler is None:
        raise ValueError(
            "A network alone does not say how noise was added in training. Pass scheduler=, for "
            "example diffusers.DDPMScheduler() with the settings it was trained with."
        )
    if latent_shape is None and pipeline is not None:
        latent_shape = family_of(network).pipeline_latent_shape(pipeline)
    return LatentModel(
        network,
        scheduler,
        name=name or type(network).__name__,
        null_cond=null_cond,
        latent_shape=latent_shape,
        pipeline=pipeline,
    )


def _place(
    model: LatentModel, device: torch.device | str, dtype: torch.dtype | None
) -> LatentModel:
    if str(device).partition(":")[0] == "meta":
        raise ValueError(
            f"The model could not be put on device {str(device)!r}, where tensors have shapes and "
            'no numbers. Expected a device that computes: "cpu", "cuda", "cuda:1".'
        )
    try:
        with quiet():
            # The whole pipeline, so that its text encoders are where the network is.
            whole = model.network if model.pipeline is None else model.pipeline
            whole.to(device=torch.device(device), dtype=dtype or model.dtype)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"The model could not be put on device {str(device)!r}: {first_line(error)} Choose "
            'another device; "cpu" always works.'
        ) from error
    return model
