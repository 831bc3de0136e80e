"""From a name, a folder, a hub id or an object of diffusers to a `LatentModel`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import is_transformers_available
from diffusers.utils import logging as diffusers_logging

from pullback import zoo
from pullback.models.conditions import Condition
from pullback.models.families import FAMILIES, family_of
from pullback.models.model import LatentModel
from pullback.models.suitability import unwrapped

_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


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
        ValueError: the folder holds pickled weights only.
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
        found = _from_hub(name)
        return _place(_from_object(found, scheduler, null_cond, latent_shape, name), device, dtype)
    found = _from_folder(folder)
    return _place(_from_object(found, scheduler, null_cond, latent_shape, name), device, dtype)


def _from_folder(folder: Path) -> Any:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not any(path.suffix == ".safetensors" for path in files):
        pickled = sorted(path.name for path in files if path.suffix in _PICKLED)
        if pickled:
            raise ValueError(
                f"{folder} holds pickled weights only ({', '.join(pickled[:3])}), which can run "
                "code when they are read. Expected safetensors: load the model once where you "
                "trust it and call save_pretrained(folder, safe_serialization=True)."
            )
        raise FileNotFoundError(
            f"{folder} holds no model: expected a diffusers folder with model_index.json or "
            "config.json and *.safetensors weights."
        )
    if (folder / "model_index.json").exists():
        kind: Any = DiffusionPipeline
    elif (folder / "config.json").exists():
        kind = _network_class(folder / "config.json")
    else:
        raise FileNotFoundError(
            f"{folder} has neither model_index.json (a pipeline) nor config.json (a network): "
            "expected one of them beside the weights."
        )
    try:
        with _quiet():
            return kind.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
            )
    except Exception as error:  # diffusers passes on whatever its parts raise
        raise ValueError(
            f"{folder} could not be read as a diffusers model: {_first_line(error)} Expected the "
            "files that save_pretrained writes; write them again, or copy the folder again."
        ) from error


def _network_class(config: Path) -> Any:
    """The class of diffusers that a config file names."""
    try:
        name = json.loads(config.read_text("utf-8")).get("_class_name")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{config} is not a diffusers config ({error}). Copy it again.") from error
    kind = getattr(diffusers, str(name), None)
    if kind is None or not any(issubclass(kind, family) for family in FAMILIES):
        known = ", ".join(family.__name__ for family in FAMILIES)
        raise ValueError(
            f"{config} is of a {name}. Expected one of {known}; pass another network as an object."
        )
    return kind


def _from_hub(name: str) -> Any:
    try:
        with _quiet():
            return DiffusionPipeline.from_pretrained(
                name, use_safetensors=True, low_cpu_mem_usage=False
            )
    except Exception as error:  # the hub's client has no common error class
        raise OSError(
            f"The hub model {name!r} could not be fetched: {_first_line(error)} Check the name "
            "and the network, or download the model elsewhere and pass the folder's path."
        ) from error


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
    try:
        with _quiet():
            # The whole pipeline, so that its text encoders are where the network is.
            whole = model.network if model.pipeline is None else model.pipeline
            whole.to(device=torch.device(device), dtype=dtype or model.dtype)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"The model could not be put on device {str(device)!r}: {_first_line(error)} Choose "
            'another device; "cpu" always works.'
        ) from error
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and advice of diffusers and transformers off the screen while loading.

    What they make without naming a device is on the CPU, whatever torch's default device is.
    """
    voices: list[Any] = [diffusers_logging]
    if is_transformers_available():
        from transformers.utils import logging as transformers_logging

        voices.append(transformers_logging)
    before = [(voice.get_verbosity(), voice.is_progress_bar_enabled()) for voice in voices]
    for voice in voices:
        voice.set_verbosity_error()
        voice.disable_progress_bar()
    try:
        with torch.device("cpu"):
            yield
    finally:
        for voice, (verbosity, bars) in zip(voices, before, strict=True):
            voice.set_verbosity(verbosity)
            if bars:
                voice.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip()
    return line if line.endswith((".", "!", "?")) else line + "."
