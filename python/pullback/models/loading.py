"""From a name, a folder, a hub id or an object of diffusers to a `LatentModel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from pullback import zoo
from pullback.models.conditions import Condition
from pullback.models.folders import fetched, first_line, from_folder, quiet
from pullback.models.model import LatentModel
from pullback.models.suitability import unwrapped

#: What pipelines call their denoising networks.
_NETWORKS = ("unet", "transformer", "prior", "decoder")


def load(
    source: Any,
    *,
    scheduler: Any = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    null_cond: Condition | None = None,
    latent_shape: Sequence[int] | None = None,
    call: Mapping[str, Any] | None = None,
    variant: str | None = None,
) -> LatentModel:
    """A `LatentModel` from whatever holds a diffusion model.

    Args:
        source: a name of the zoo ("digits"), a local folder in diffusers format (a pipeline or a
            network), a hub id, a diffusers pipeline with a `unet` or `transformer` and a
            `scheduler`, a network of diffusers or any callable f(x, t, **cond) (with
            `scheduler=`), or a `LatentModel`, which is returned as it is. A network or pipeline
            that is passed in is used as it stands: neither moved nor converted.
        scheduler: the scheduler, where the source has none.
        latent_shape: the shape of x without the batch, such as (C, H, W), where the network's
            config does not say or another size than the pipeline's own is wanted.
        device: where to put a model that is read from files.
        dtype: the dtype in which it is read, float32 by default.
        null_cond: the condition that stands for "no condition", per sample.
        call: keyword arguments that the pipeline's call needs beside a prompt, such as `image`;
            `model.given` tells them.
        variant: of the weights in the files, such as "fp16", where there are several.

    Raises:
        FileNotFoundError: no such folder, or a folder without a model.
        ValueError: the folder holds pickled weights only, or not all tensors of a network.
        OSError: the hub id could not be fetched.
        MemoryError: its weights do not fit the machine's memory, or the device's. It is raised
            before any of them is read, and says what each part takes in the dtype asked for.
        TypeError: the object is not a diffusion model that is known.

    Cost: a pipeline is run for its first steps, to read how it calls its network: five to eleven
    forward passes of one sample, at the size of its own images unless latent_shape says another.
    """
    if isinstance(source, LatentModel):
        return source
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"Expected dtype as a torch.dtype such as torch.float64, got {dtype!r}.")
    options = {"scheduler": scheduler, "null_cond": null_cond, "latent_shape": latent_shape}
    options["call"] = call
    if not isinstance(source, (str, Path)):
        return _from_object(source, **options)
    name, revision = str(source), None
    if name in zoo.MODELS:
        folder, null = zoo.MODELS[name]
        options["null_cond"] = null if null_cond is None else null_cond
        found = from_folder(folder, dtype, device=device)
    elif Path(name).expanduser().is_dir():
        found = from_folder(Path(name).expanduser(), dtype, variant, device)
    elif isinstance(source, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"Expected a model folder, a hub id (owner/name) or one of the zoo's names "
            f"({', '.join(zoo.MODELS)}); {name!r} is none of them, and no such folder exists."
        )
    else:
        folder, revision = fetched(name, variant)
        found = from_folder(folder, dtype, variant, device)
    _place(found, device)
    return _from_object(found, name=name, revision=revision, **options)


def _from_object(
    source: Any,
    *,
    scheduler: Any,
    null_cond: Any,
    latent_shape: Any,
    call: Any,
    name: str | None = None,
    revision: str | None = None,
) -> LatentModel:
    network: Any = source
    pipeline: Any = None
    for part in _NETWORKS:
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
    return LatentModel(
        network,
        scheduler,
        name=name or type(network).__name__,
        null_cond=null_cond,
        latent_shape=latent_shape,
        pipeline=pipeline,
        call=call,
        revision=revision,
    )


def _place(found: Any, device: torch.device | str) -> None:
    """Put a pipeline, with its text encoders, or a network on a device."""
    if str(device).partition(":")[0] == "meta":
        raise ValueError(
            f"The model could not be put on device {str(device)!r}, where tensors have shapes and "
            'no numbers. Expected a device that computes: "cpu", "cuda", "cuda:1".'
        )
    try:
        with quiet():
            found.to(device=torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"The model could not be put on device {str(device)!r}: {first_line(error)} Choose "
            'another device; "cpu" always works.'
        ) from error
