"""What a basis file must hold: names, types, shapes and numbers, all checked when it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from pullback import krylov

#: What the provenance of every basis says, beside its tap.
_PROVENANCE = {
    "model": str, "fingerprint": str, "dtype": str, "map": str, "wrt": str, "seed": int,
    "t": list, "pullback": str, "torch": str, "diffusers": str,
}  # fmt: skip

#: Dimensions of the tensors beside u and v, from the left of [B, k].
_DIMENSIONS = {
    "s": 2, "residual": 2, "angle_bound": 1, "converged": 1, "rank": 1, "products": 1,
}  # fmt: skip

_DTYPES = {
    "angle_bound": torch.float64, "converged": torch.bool, "rank": torch.int64,
    "products": torch.int64,
}  # fmt: skip


def fields(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a basis from the tensors and the header of its file.

    Raises:
        ValueError: what is wrong with them, beginning with "expected".
    """
    _check_shapes(tensors)
    _check_numbers(tensors)
    header = {name: _from_json(metadata, name) for name in ("stopped", "tol", "provenance")}
    count = len(tensors["s"])
    stopped, tol, provenance = header["stopped"], header["tol"], header["provenance"]
    if not _is_list(stopped, str, count):
        raise ValueError(f"expected stopped as {count} words in the header, got {stopped!r}")
    if not isinstance(tol, float) or not 0 < tol < 1:
        raise ValueError(f"expected tol between 0 and 1 in the header, got {tol!r}")
    _check_provenance(provenance, count)
    return {**tensors, "stopped": tuple(stopped), "tol": tol, "provenance": provenance}


def _check_shapes(tensors: Mapping[str, torch.Tensor]) -> None:
    names = krylov.SVDResult.TENSORS
    if set(tensors) != set(names):
        raise ValueError(f"expected the tensors {', '.join(names)}, got {', '.join(tensors)}")
    shape = list(tensors["s"].shape)
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"expected s of shape [B, k], got {shape}")
    for name in ("u", "v"):
        got = list(tensors[name].shape)
        if len(got) < 3 or got[:2] != shape or math.prod(got[2:]) < shape[1]:
            raise ValueError(
                f"expected {name} as {shape[1]} directions of each of the {shape[0]} samples of s, "
                f"[{shape[0]}, {shape[1]}, ...], got shape {got}"
            )
    for name, dimensions in _DIMENSIONS.items():
        got = list(tensors[name].shape)
        if got != shape[:dimensions]:
            raise ValueError(f"expected {name} of shape {shape[:dimensions]}, got {got}")
    dtype = tensors["v"].dtype
    if not dtype.is_floating_point:
        raise ValueError(f"expected v in a floating dtype, got {dtype}")
    for name in names:
        wanted = _DTYPES.get(name, dtype)
        if tensors[name].dtype != wanted:
            raise ValueError(f"expected {name} in {wanted}, got {tensors[name].dtype}")


def _check_numbers(tensors: Mapping[str, torch.Tensor]) -> None:
    for name in ("u", "s", "v", "residual"):
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ValueError(f"expected finite numbers in {name}, got NaN or Inf")
    # A bound may be infinite, where none was found.
    for name in ("s", "residual", "angle_bound", "rank", "products"):
        if not bool((tensors[name] >= 0).all()):
            raise ValueError(f"expected numbers of 0 or more in {name}, got others")
    if bool((tensors["rank"] > tensors["s"].shape[1]).any()):
        raise ValueError(f"expected ranks up to {tensors['s'].shape[1]}, got larger ones")


def _from_json(metadata: Mapping[str, str], name: str) -> Any:
    try:
        return json.loads(metadata[name])
    except (KeyError, ValueError, RecursionError):
        raise ValueError(
            f"expected {name} as JSON in the header, got {metadata.get(name)!r:.60}"
        ) from None


def _check_provenance(provenance: object, count: int) -> None:
    if not isinstance(provenance, dict):
        raise ValueError(f"expected provenance as a mapping in the header, got {provenance!r:.60}")
    for name, kind in _PROVENANCE.items():
        value = provenance.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(
                f"expected {name} as {kind.__name__} in the provenance, got {value!r:.60}"
            )
    if not _is_list(provenance["t"], int, count):
        raise ValueError(f"expected t as {count} timesteps in the provenance")
    if not isinstance(provenance.get("tap"), (str, type(None))):
        raise ValueError(
            f"expected tap as str or null in the provenance, got {provenance['tap']!r}"
        )


def _is_list(value: object, kind: type, count: int) -> bool:
    whole = isinstance(value, list) and len(value) == count
    return whole and all(type(entry) is kind for entry in value)  # type: ignore[attr-defined]
