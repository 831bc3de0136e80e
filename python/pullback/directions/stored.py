"""The files of directions: one safetensors tensor, and all else as JSON in the header.

One direction is a file of `vector` `[*shape]`, several that are applied together one of `vectors`
`[T, *shape]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pullback._files import write_safetensors

_FORMAT, _ENTRY = "pullback.Direction/1", "pullback.Entry/1"
_BASIS = "pullback.LocalBasis/"

#: The one tensor of each format.
_TENSORS = {_FORMAT: "vector", _ENTRY: "vectors"}

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
    _write(path, fields["vector"], metadata)


def write_entry(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the fields of several directions of one shape; the file appears complete or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    told = [{name: fields[name] for name in _HEADER} for fields in rows]
    vectors = torch.stack([fields["vector"].cpu() for fields in rows])
    _write(path, vectors, {"format": _ENTRY, "directions": json.dumps(told)})


def read(path: Path) -> dict[str, Any]:
    """The fields that a file of one direction holds, on the CPU; what they must be it is to say.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or of another kind.
    """
    vector, metadata = _contents(path, (_FORMAT,))
    return _fields(path, vector, metadata)


def read_entry(path: Path) -> list[dict[str, Any]]:
    """The fields of each direction that a file holds, of one or of several, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or of another kind.
    """
    tensor, metadata = _contents(path, (_FORMAT, _ENTRY))
    if metadata["format"] == _FORMAT:
        return [_fields(path, tensor, metadata)]
    rows = _from_json(path, metadata, "directions")
    count = len(tensor) if tensor.dim() else 0
    listed = isinstance(rows, list) and all(isinstance(one, dict) for one in rows)
    if not listed or any(set(one) != set(_HEADER) for one in rows):
        raise damaged(path, f"expected directions with {', '.join(_HEADER)}, got {rows!r:.60}")
    if not 2 <= len(rows) == count:
        what = f"two vectors or more, one for each of {len(rows)} directions"
        raise damaged(path, f"expected {what}, got {list(tensor.shape)}")
    return [{"vector": tensor[place].clone(), **one} for place, one in enumerate(rows)]


def damaged(path: Path, what: str) -> ValueError:
    """The error of a file that says that it is a direction and is none."""
    return ValueError(
        f"{path} is damaged: {what.rstrip('.')}. Copy it again, or find the direction again."
    )


def _write(path: Path, tensor: torch.Tensor, metadata: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {_TENSORS[metadata["format"]]: tensor.detach()}, metadata)


def _contents(path: Path, formats: Sequence[str]) -> tuple[torch.Tensor, dict[str, str]]:
    """The tensor and the header of a file of one of the formats."""
    if not path.is_file():
        raise FileNotFoundError(
            f"No direction file at {path}. Expected a .safetensors file that Direction.save wrote; "
            "Direction.from_pretrained reads folders and hub ids."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_format(path, metadata.get("format"), formats)
            wanted, names = _TENSORS[metadata["format"]], list(file.keys())
            if names != [wanted]:
                raise damaged(path, f"expected the one tensor {wanted}, got {_listed(names)}")
            # A copy: the tensor lies in the file itself, and would follow what is written there.
            return file.get_tensor(wanted).clone(), metadata
    except (SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(_no_safetensors(path, error)) from error


def _fields(path: Path, vector: torch.Tensor, metadata: Mapping[str, str]) -> dict[str, Any]:
    return {"vector": vector, **{name: _from_json(path, metadata, name) for name in _HEADER}}


def _check_format(path: Path, found: str | None, formats: Sequence[str]) -> None:
    if found in formats:
        return
    if found == _ENTRY:
        raise ValueError(
            f"{path} holds several directions that are applied together. Expected one direction: "
            "pullback.directions.load(path) reads all of them, as pullback.edit takes them."
        )
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
