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
from diffusers.utils import is_accelerate_available, is_transformers_available
from diffusers.utils import logging as diffusers_logging
from diffusers.utils.hub_utils import extract_commit_hash
from torch import nn

from pullback.models.families import FAMILIES
from pullback.models.weights import bytes_of, check_room

_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

#: Libraries whose networks say, when they are read, which of their tensors the files lack.
_LIBRARIES = ("diffusers", "transformers")

_NAMED = 5  # tensors in a message


def from_folder(
    folder: Path,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    device: torch.device | str = "cpu",
) -> Any:
    """The pipeline or the network of a local folder, with all its tensors, on the CPU.

    Args:
        folder: in diffusers format.
        dtype: in which it is read; float32 by default.
        variant: of its weights, such as "fp16".
        device: where it is to be put later, and has to fit too.

    Raises:
        FileNotFoundError: there is no model in it.
        ValueError: it is of another kind, damaged, pickled or incomplete.
        MemoryError: it does not fit; nothing but the headers of its files was read.
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
            how: dict[str, Any] = {"dtype": dtype or torch.float32, "variant": variant}
            check_room(_needed(folder, kind, how), folder, how["dtype"], device)
            return _pipeline(folder, how) if kind is None else _complete(kind, folder, how)
    except MemoryError:
        raise
    except _IncompleteError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # diffusers passes on whatever its parts raise
        raise ValueError(
            f"{folder} could not be read as a diffusers model: {first_line(error)} Expected the "
            "files that save_pretrained writes; write them again, or copy the folder again."
        ) from error


def _needed(folder: Path, kind: Any, how: Mapping[str, Any]) -> dict[str, int]:
    """Bytes that the parts of a folder take when they are read, by their names.

    Args:
        folder: of a pipeline, or of one network.
        kind: the network's class; None for a pipeline.
        how: in which dtype, and which variant of the weights.
    """
    dtype, variant = how["dtype"], how["variant"]
    if kind is not None:
        read = torch.float32 if _narrows(kind, dtype) else dtype
        return {kind.__name__: bytes_of(folder, read, variant, _kept(kind, dtype))}
    needed = {}
    for name, part in _parts(folder).items():
        # Of other libraries' parts the pipeline reads what it reads by default.
        if part is None:
            needed[name] = bytes_of(folder / name, torch.float32)
            continue
        read = torch.float32 if _narrows(part, dtype) else dtype
        needed[name] = bytes_of(folder / name, read, variant, _kept(part, dtype))
    return {name: size for name, size in needed.items() if size}


def _kept(kind: Any, dtype: torch.dtype) -> set[str]:
    """The modules of a network class whose tensors libraries read in float32 all the same."""
    if dtype not in (torch.float16, torch.bfloat16):
        return set()
    lists = ["_keep_in_fp32_modules_strict"]
    if dtype == torch.float16 or issubclass(kind, diffusers.ModelMixin):
        lists.append("_keep_in_fp32_modules")
    return {name for one in lists for name in getattr(kind, one, None) or ()}


def _narrows(kind: Any, dtype: torch.dtype) -> bool:
    """Whether a network is read in float32 and brought to its dtype after that.

    Where some of its tensors stay in float32, diffusers reads it in another dtype by means of
    accelerate alone.
    """
    of_diffusers = issubclass(kind, diffusers.ModelMixin)
    return of_diffusers and bool(_kept(kind, dtype)) and not is_accelerate_available()


def _pipeline(folder: Path, how: Mapping[str, Any]) -> DiffusionPipeline:
    """A pipeline, whose networks are read one by one: as a whole it does not say what it lacks."""
    # Saved without a part, a class asks for it all the same.
    config = DiffusionPipeline.load_config(str(folder), local_files_only=True)
    parts: dict[str, Any] = {
        name: None for name, entry in config.items() if entry in ([None, None], (None, None))
    }
    parts |= {
        name: _complete(kind, folder / name, how)
        for name, kind in _parts(folder).items()
        if kind is not None
    }
    # By its own class: the class of all pipelines reads optional parts again, in float32, though
    # they are handed to it.
    own: Any = getattr(diffusers, str(config.get("_class_name")), None)
    known = isinstance(own, type) and issubclass(own, DiffusionPipeline)
    return (own if known else DiffusionPipeline).from_pretrained(
        str(folder), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, **parts
    )


def _parts(folder: Path) -> dict[str, Any]:
    """The parts that lie in a pipeline's folder, with the class of those that are networks."""
    entries = DiffusionPipeline.load_config(str(folder), local_files_only=True).items()
    return {name: _module_class(entry) for name, entry in entries if (folder / name).is_dir()}


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
    dtype, kept = how["dtype"], _kept(kind, how["dtype"])
    reader, options = kind, {"dtype": dtype}
    narrows = _narrows(kind, dtype)
    if issubclass(kind, diffusers.ModelMixin):
        if getattr(kind, "_keep_in_fp32_modules", None) and (narrows or not kept):
            # In one dtype nothing has to stay, for which diffusers would ask for accelerate too.
            reader = type(kind.__name__, (kind,), {"_keep_in_fp32_modules": None})
        # transformers reads without copies of its own; diffusers has to be told.
        options = {
            "low_cpu_mem_usage": bool(kept) and not narrows,
            "torch_dtype": torch.float32 if narrows else dtype,
        }
    network, told = reader.from_pretrained(
        str(folder), use_safetensors=True, local_files_only=True,
        output_loading_info=True, ignore_mismatched_sizes=True, variant=how["variant"], **options,
    )  # fmt: skip
    if reader is not kind:
        network.__class__ = kind
    if narrows:
        _narrow(network, dtype, kept)
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


def fetched(name: str, variant: str | None = None) -> tuple[Path, str | None]:
    """The folder of a hub id, fetched where it is not in the hub's cache, and its commit.

    Args:
        name: the hub id.
        variant: of its weights, such as "fp16".

    Returns:
        The folder, and the hash of the commit that it is of, where the cache tells it.

    Raises:
        OSError: it could not be fetched.
    """
    try:
        with quiet():
            found = DiffusionPipeline.download(name, use_safetensors=True, variant=variant)
    except Exception as error:  # the hub's client has no common error class
        raise OSError(
            f"The hub model {name!r} could not be fetched: {first_line(error)} Check the name "
            "and the network, or download the model elsewhere and pass the folder's path."
        ) from error
    folder = Path(found)
    return folder, extract_commit_hash(str(folder / "model_index.json"))


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
