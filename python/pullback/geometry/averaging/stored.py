"""The file of global directions: what it must hold, all checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pullback._files import read_safetensors, write_safetensors

_FORMAT = "pullback.GlobalDirections/1"

_HOW = ("nearest", "hungarian", "frechet", "metric")
_SPACES = ("h", "x", "prompt")

#: What the provenance says, beside tap and pool.
_PROVENANCE = {
    "model": str, "fingerprint": str, "dtype": str, "map": str, "wrt": str, "t": int, "how": str,
    "vector": str, "samples": int, "pullback": str, "torch": str, "diffusers": str,
}  # fmt: skip


def write(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    space: str,
    how: str,
    provenance: Mapping[str, Any],
) -> None:
    """Write global directions; the file appears complete or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    header = {"space": space, "how": how, "provenance": provenance}
    metadata = {"format": _FORMAT, **{name: json.dumps(value) for name, value in header.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {name: one.detach() for name, one in tensors.items()}, metadata)


def read(path: Path) -> dict[str, Any]:
    """The fields that a file holds, onto the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"No file of global directions at {path}. Expected a .safetensors file that "
            "GlobalDirections.save wrote."
        )
    return read_safetensors(
        path, _FORMAT, _fields, otherwise="holds no global directions",
        again="find the directions again",
    )  # fmt: skip


def _fields(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The fields from tensors and header; what is wrong with them begins with "expected"."""
    header = {name: _from_json(metadata, name) for name in ("space", "how", "provenance")}
    space, how = header["space"], header["how"]
    if space not in _SPACES:
        raise ValueError(f"expected space as one of {', '.join(_SPACES)}, got {space!r:.60}")
    if how not in _HOW:
        raise ValueError(f"expected how as one of {', '.join(_HOW)}, got {how!r:.60}")
    _check_tensors(tensors, ["vectors", "agreement", *(["s"] if how == "metric" else [])])
    _check_provenance(header["provenance"], space)
    return {"s": None, **tensors, **header}


def _check_tensors(tensors: Mapping[str, torch.Tensor], names: list[str]) -> None:
    if set(tensors) != set(names):
        raise ValueError(f"expected the tensors {', '.join(names)}, got {', '.join(tensors)}")
    vectors = tensors["vectors"]
    shape = list(vectors.shape)
    if vectors.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected vectors in float32 or float64, got {vectors.dtype}")
    if vectors.dim() < 2 or not vectors.numel():
        raise ValueError(f"expected vectors of shape [D, *shape], got {shape}")
    for name in names[1:]:
        one = tensors[name]
        if one.dtype != torch.float64 or list(one.shape) != shape[:1]:
            raise ValueError(
                f"expected {name} as float64 of shape {shape[:1]}, got {one.dtype} of shape "
                f"{list(one.shape)}"
            )
    for name in names:
        if not bool(tensors[name].isfinite().all()):
            raise ValueError(f"expected finite numbers in {name}, got NaN or Inf")
    norms = vectors.flatten(1).double().norm(dim=1)
    if bool(((norms - 1).abs() > 16 * torch.finfo(vectors.dtype).eps).any()):
        raise ValueError(f"expected vectors of norm 1, got norms {norms.tolist()!r:.60}")
    agreement = tensors["agreement"]
    if bool(((agreement < 0) | (agreement > 1)).any()):
        raise ValueError(f"expected agreement from 0 to 1, got {agreement.tolist()!r:.60}")
    if "s" in names and bool((tensors["s"] <= 0).any()):
        raise ValueError(f"expected s above 0, got {tensors['s'].tolist()!r:.60}")


def _from_json(metadata: Mapping[str, str], name: str) -> Any:
    try:
        return json.loads(metadata[name])
    except (KeyError, ValueError, RecursionError):
        got = repr(metadata.get(name))[:60]
        raise ValueError(f"expected {name} as JSON in the header, got {got}") from None


def _check_provenance(provenance: object, space: str) -> None:
    if not isinstance(provenance, dict):
        raise ValueError(f"expected provenance as a mapping in the header, got {provenance!r:.60}")
    for name, kind in _PROVENANCE.items():
        value = provenance.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(
                f"expected {name} as {kind.__name__} in the provenance, got {value!r:.60}"
            )
    if provenance["samples"] < 2 or provenance["t"] < 0:
        raise ValueError("expected two samples or more, and t of 0 or more, in the provenance")
    if provenance["vector"] not in ("u", "v"):
        raise ValueError(f"expected vector as u or v, got {provenance['vector']!r:.60}")
    if provenance.get("pool") not in (None, "space"):
        raise ValueError(f"expected pool as space or null, got {provenance['pool']!r:.60}")
    tap = provenance.get("tap")
    if not isinstance(tap, (str, type(None))) or (space == "h" and not tap):
        raise ValueError(f"expected tap as str, or null outside h, got {tap!r:.60}")
