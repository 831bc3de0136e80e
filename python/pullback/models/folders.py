"""Reading a model folder in diffusers format, from the disk or the hub: whole, or not at all."""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import is_transformers_available
from diffusers.utils import logging as diffusers_logging
from torch import nn

from pullback.models.families import FAMILIES

_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

#: Libraries whose networks say, when they are read, which of their tensors the files lack.
_LIBRARIES = ("diffusers", "transformers")

_NAMED = 5  # tensors in a message


def from_folder(folder: Path, dtype: torch.dtype | None = None, variant: str | None = None) -> Any:
    """The pipeline or the network of a local folder, with all its tensors.

    Args:
        folder: in diffusers format.
        dtype: in which it is read; float32 by default.
        variant: of its weights, such as "fp16".

    Raises:
        FileNotFoundError: there is no model in it.
        ValueError: it is of another kind, damaged, pickled or incomplete.
    """
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
        kind = None
    elif (folder / "config.json").exists():
        kind = _network_class(folder / "config.json")
    else:
        raise FileNotFoundError(
            f"{folder} has neither model_index.json (a pipeline) nor config.json (a network): "
            "expected one of them beside the weights."
        )
    try:
        with quiet():
            how = {"dtype": dtype or torch.float32, "variant": variant}
            return _pipeline(folder, how) if kind is None else _complete(kind, folder, how)
    except _IncompleteError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # diffusers passes on whatever its parts raise
        raise ValueError(
            f"{folder} could not be read as a diffusers model: {first_line(error)} Expected the "
            "files that save_pretrained writes; write them again, or copy the folder again."
        ) from error


def _pipeline(folder: Path, how: Mapping[str, Any]) -> DiffusionPipeline:
    """A pipeline, whose networks are read one by one: as a whole it does not say what it lacks."""
    parts: dict[str, Any] = {}
    config = DiffusionPipeline.load_config(str(folder), local_files_only=True)
    # A class takes parts that are given it even where they are optional; the common one does not.
    own: Any = getattr(diffusers, str(config.get("_class_name")), None)
    known = isinstance(own, type) and issubclass(own, DiffusionPipeline)
    for name, entry in config.items():
        kind = _module_class(entry)
        if kind is not None and (folder / name).is_dir():
            parts[name] = _complete(kind, folder / name, how)
        elif entry in (
            [None, None],
            (None, None),
        ):  # saved without it; it is asked for all the same
            parts[name] = None
    return (own if known else DiffusionPipeline).from_pretrained(
        str(folder), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, **parts
    )


def _module_class(entry: object) -> Any:
    """The network class that an entry of model_index.json names; None where it names another."""
    if not isinstance(entry, (list, tuple)) or len(entry) != 2 or entry[0] not in _LIBRARIES:
        return None
    kind = getattr(importlib.import_module(entry[0]), str(entry[1]), None)
    is_network = isinstance(kind, type) and issubclass(kind, nn.Module)
    return kind if is_network and hasattr(kind, "from_pretrained") else None


def _complete(kind: Any, folder: Path, how: Mapping[str, Any]) -> Any:
    """A network with all its tensors from the files of a folder.

    Args:
        kind: its class.
        folder: its files.
        how: in which dtype, and which variant of the weights.

    Raises:
        _IncompleteError: a tensor is missing or has another shape; libraries only warn of that, and
            leave in it what the memory held.
    """
    # transformers reads without copies of its own; diffusers has to be told.
    reader, dtype = kind, how["dtype"]
    kept = tuple(getattr(kind, "_keep_in_fp32_modules", None) or ())
    if issubclass(kind, diffusers.ModelMixin):
        if kept:  # which diffusers reads with a further package only; see _narrow
            reader = type(kind.__name__, (kind,), {"_keep_in_fp32_modules": None})
            dtype = torch.promote_types(dtype, torch.float32)
        options = {"low_cpu_mem_usage": False, "torch_dtype": dtype}
    else:
        options = {"dtype": dtype}
    network, told = reader.from_pretrained(
        str(folder), use_safetensors=True, local_files_only=True,
        output_loading_info=True, ignore_mismatched_sizes=True, variant=how["variant"], **options,
    )  # fmt: skip
    if reader is not kind:
        network.__class__ = kind
        _narrow(network, how["dtype"], kept)
    missing = {str(name) for name in told["missing_keys"]}
    shapes = {
        str(name): f"{name} (file {list(there)}, network {list(wanted)})"
        for name, there, wanted in told["mismatched_keys"]
    }
    if not missing and not shapes:
        return network
    wrong = []
    if missing - shapes.keys():
        wrong.append(f"are missing {_some(missing - shapes.keys())}")
    if shapes:
        wrong.append(f"have another shape {_some(shapes.values())}")
    if told["unexpected_keys"]:
        wrong.append(f"are unknown to it {_some(told['unexpected_keys'])}")
    raise _IncompleteError(
        f"{folder} does not hold all of its {kind.__name__}: of the tensors in its files "
        f"{'; '.join(wrong)}. Expected every tensor of the network that config.json describes, by "
        "its name. Copy the folder again, or write it again with save_pretrained."
    )


def _narrow(network: nn.Module, dtype: torch.dtype, kept: Collection[str]) -> None:
    """Put the weights of a network in a dtype, but for those that its class keeps in float32."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and not set(kept) & set(name.split(".")):
            tensor.data = tensor.data.to(dtype)


class _IncompleteError(Exception):
    """A folder lacks tensors of its network."""


def _some(names: Collection[Any]) -> str:
    listed = sorted(map(str, names))
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


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


def from_hub(name: str, dtype: torch.dtype | None = None, variant: str | None = None) -> Any:
    """The pipeline of a hub id, fetched where it is not in the hub's cache.

    Args:
        name: the hub id.
        dtype: in which it is read; float32 by default.
        variant: of its weights, such as "fp16".

    Raises:
        OSError: it could not be fetched.
        ValueError: what was fetched is no whole model.
    """
    try:
        with quiet():
            folder = DiffusionPipeline.download(name, use_safetensors=True, variant=variant)
    except Exception as error:  # the hub's client has no common error class
        raise OSError(
            f"The hub model {name!r} could not be fetched: {first_line(error)} Check the name "
            "and the network, or download the model elsewhere and pass the folder's path."
        ) from error
    return from_folder(Path(folder), dtype, variant)


@contextmanager
def quiet() -> Iterator[None]:
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


def first_line(error: BaseException) -> str:
    """What an error of another library says first, as a sentence."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip()
    return line if line.endswith((".", "!", "?")) else line + "."
