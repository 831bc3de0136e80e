"""The file of a direction: one safetensors tensor, and all else as JSON in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pullback._files import write_safetensors

_FORMAT = "pullback.Direction/1"
_BASIS = "pullback.LocalBasis/"

#: How files begin that others keep tensors in, by what they are.
_FOREIGN = {
    b"PK\x03\x04": "a zip archive, such as torch.save and numpy.savez write",
    b"\x80": "a pickle, which can run code when it is read",
    b"\x93NUMPY": "an array of numpy",
    b"\x89HDF": "an HDF5 file",
}

_HEADER = ("space", "tap", "pool", "t", "window", "unit", "name", "provenance")


def write(path: Path, fields: Mapping[str, Any]) -> None:
    """Write the fields of a direction; the file appears complete or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    metadata = {"format": _FORMAT, **{name: json.dumps(fields[name]) for name in _HEADER}}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {"vector": fields["vector"].detach()}, metadata)


def read(path: Path) -> dict[str, Any]:
    """The fields that a file holds, onto the CPU; what they must be is for the direction to say.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"No direction file at {path}. Expected a .safetensors file that Direction.save wrote; "
            "Direction.from_pretrained reads folders and hub ids."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_format(path, metadata.get("format"))
            names = list(file.keys())
            if names != ["vector"]:
                raise damaged(path, f"expected the one tensor vector, got {_listed(names)}")
            # A copy: the tensor lies in the file itself, and would follow what is written there.
            vector: torch.Tensor = file.get_tensor("vector").clone()
    except (SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(_no_safetensors(path, error)) from error
    fields = {name: _from_json(path, metadata, name) for name in _HEADER}
    return {"vector": vector, **fields}


def damaged(path: Path, what: str) -> ValueError:
    """The error of a file that says that it is a direction and is none."""
    return ValueError(
        f"{path} is damaged: {what.rstrip('.')}. Copy it again, or find the direction again."
    )


def _check_format(path: Path, found: str | None) -> None:
    if found == _FORMAT:
        return
    if found is not None and found.startswith(_BASIS):
        raise ValueError(
            f"{path} is a local basis, which holds many directions. Expected one direction: "
            "pullback.LocalBasis.load(path).direction(index) takes one of them."
        )
    raise ValueError(
        f"{path} is not a direction: expected the format {_FORMAT!r} in its header, got "
        f"{found!r:.60}. Was it written by a later version, or by something else? "
        "Direction.of(vector, ...) makes one of any tensor."
    )


def _no_safetensors(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    for begin, kind in _FOREIGN.items():
        if head.startswith(begin):
            return (
                f"{path} is {kind}, and is not read. Expected a safetensors file: read it where "
                "you trust it, and make a direction of its tensor with Direction.of(vector, ...)."
            )
    return (
        f"{path} is damaged or is no safetensors file ({error}). Copy it again, or find the "
        "direction again."
    )


def _from_json(path: Path, metadata: Mapping[str, str], name: str) -> Any:
    try:
        return json.loads(metadata[name])
    except (KeyError, ValueError, RecursionError):
        got = repr(metadata.get(name))[:60]
        raise damaged(path, f"expected {name} as JSON in the header, got {got}") from None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more
