"""What the weights of a folder will take in memory, told by the headers of their files alone."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from pullback._memory import free_bytes, told


def bytes_of(
    folder: Path, dtype: torch.dtype, variant: str | None = None, kept: Collection[str] = ()
) -> int:
    """What the tensors of one network take when its files are read.

    Args:
        folder: of the network, in the format of diffusers or of transformers.
        dtype: in which floating tensors are read; others stay as they are.
        variant: of the weights, such as "fp16".
        kept: names of modules whose tensors are read in float32 whatever the dtype.

    Returns:
        Bytes; 0 where there are no safetensors of that variant.

    Raises:
        ValueError: the list of the files is damaged.
        SafetensorError, OSError: a file is damaged, or not there.

    Cost: the headers are read, and no weights.
    """
    total = 0
    for path in _files(folder, variant):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_slice(name)
                wanted = torch.float32 if not set(kept).isdisjoint(name.split(".")) else dtype
                bits = _bits(str(tensor.get_dtype()), wanted)
                total += bits * torch.Size(tensor.get_shape()).numel() // 8
    return total


def check_room(
    needed: Mapping[str, int], folder: Path, dtype: torch.dtype, device: torch.device | str
) -> None:
    """Raise unless a model fits the machine's memory, and that of the device where it is to lie.

    Args:
        needed: bytes by the name of a part.
        folder: of the model.
        dtype: in which it is to be read.
        device: where it is to be put; files are read on the CPU first.

    Raises:
        MemoryError: it does not fit; the message has what each part takes, and what there is.
    """
    total = sum(needed.values())
    places = ["cpu"] if str(device).partition(":")[0] != "cuda" else ["cpu", str(device)]
    for place in places:
        free = _free(place)
        if free is None or total <= free:
            continue
        parts = ", ".join(f"{name} {told(size)}" for name, size in needed.items())
        where, other = ("The machine", "a machine") if place == "cpu" else (f"{place}", "a device")
        way = "" if dtype.itemsize <= 2 else "in a smaller dtype, such as dtype=torch.bfloat16, or "
        raise MemoryError(
            f"{folder} takes {told(total)} in {str(dtype).removeprefix('torch.')} ({parts}). "
            f"{where} has {told(free)} to spare, so no weights were read. Read them {way}on "
            f"{other} with more memory."
        )


def _free(place: str) -> int | None:
    """Bytes to spare; None where that is not known, as of a device that is not there."""
    try:
        return free_bytes(torch.device(place))
    except (RuntimeError, AssertionError):  # told in better words when the model is put there
        return None


def _files(folder: Path, variant: str | None) -> list[Path]:
    """The files that hold a network of some variant, as they are looked for when it is read."""
    infix = "" if variant is None else f".{variant}"
    for stem in ("diffusion_pytorch_model", "model"):
        single = folder / f"{stem}{infix}.safetensors"
        # The variant stands before the ending; older versions of diffusers wrote it elsewhere.
        lists = [f"{stem}.safetensors.index{infix}.json", f"{stem}.safetensors{infix}.index.json"]
        found = [folder / name for name in lists if (folder / name).is_file()]
        if single.is_file() and (not found or stem == "model"):
            return [single]
        if found:
            shards = json.loads(found[0].read_text("utf-8"))["weight_map"].values()
            return [folder / name for name in sorted(set(shards))]
    return []


def _bits(stored: str, wanted: torch.dtype) -> int:
    """Bits of one number that a file calls by its type, such as "BF16", when it is read."""
    if stored.startswith(("F", "BF")):
        return wanted.itemsize * 8
    size = re.search(r"\d+", stored)
    return int(size[0]) if size else 8  # BOOL
