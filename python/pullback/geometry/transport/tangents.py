"""The tangents that are carried: from an index, a tensor or a direction to unit rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

# Directions stand above this room: they are reached by the front door, when they are asked for.
import pullback
from pullback._numbers import is_several, whole
from pullback.geometry.bases import LocalBasis
from pullback.geometry.grassmann import frame
from pullback.geometry.transport.checks import check_something, warn_little

#: What is known of each of several tangents.
Origins = tuple[dict[str, Any], ...]


def in_frame(rows: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Coordinates of vectors in the frame of rows.

    Args:
        rows: `[k, *shape]`, orthonormal up to rounding.
        vectors: `[D, N]`, float64.

    Returns:
        `[D, k]`, float64.
    """
    return vectors @ frame(rows.flatten(1)).mT


def units(vectors: torch.Tensor, what: str) -> torch.Tensor:
    """Vectors `[D, ...]` as unit rows `[D, N]` in float64.

    Raises:
        TypeError: they are no floating tensor.
        ValueError: one is not finite, or zero.
    """
    if not isinstance(vectors, torch.Tensor) or not vectors.is_floating_point():
        kind = vectors.dtype if isinstance(vectors, torch.Tensor) else type(vectors).__name__
        raise TypeError(f"Expected {what} as a tensor of floating numbers, got {kind}.")
    rows = vectors.detach().double().flatten(1)
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"Expected finite numbers in {what}, got NaN or Inf.")
    largest = rows.abs().amax(1, keepdim=True)
    zero = torch.nonzero(largest.flatten() == 0).flatten().tolist()
    if zero:
        raise ValueError(
            f"Expected {what} other than zero, which has no direction; row {zero[0]} is."
        )
    rows = rows / largest  # squares of float64 overflow and vanish
    return rows / rows.norm(dim=1, keepdim=True)


def tangents_of(
    direction: object, source: LocalBasis | None, target: LocalBasis
) -> tuple[torch.Tensor, Origins]:
    """Unit tangents `[D, m]` in float64 that a direction stands for, and what is known of each.

    Args:
        direction: as for `transport`.
        source: where an index or a direction in the latents belongs.
        target: whose device and features they are for.

    Raises:
        As `transport`.
    """
    if isinstance(direction, pullback.Direction):
        rows, origin = _of_direction(direction, source, target)
        return rows.to(target.u.device), (origin,)
    if isinstance(direction, torch.Tensor):
        shape = tuple(target.u.shape[2:])
        stack = direction.unsqueeze(0) if direction.dim() == len(shape) else direction
        if tuple(stack.shape[1:]) != shape or not len(stack):
            raise ValueError(
                f"Expected tangents of shape {list(shape)}, one or [D, ...] of them, as the "
                f"features of the target are, got {list(direction.shape)}. Indices are ints, and "
                "a direction in the latents is given as a pullback.Direction."
            )
        rows = units(stack.to(target.u.device), "tangents")
        return rows, tuple({"row": row} for row in range(len(rows)))
    return _of_indices(direction, source, target)


def _of_indices(
    direction: object, source: LocalBasis | None, target: LocalBasis
) -> tuple[torch.Tensor, Origins]:
    given: Sequence[object] = direction if is_several(direction) else [direction]  # type: ignore[assignment]
    if isinstance(direction, (str, bytes, float)) or direction is None or not len(given):
        raise TypeError(
            "Expected a direction as an index, several indices, a tensor of tangents or a "
            f"pullback.Direction, got {direction!r:.60}."
        )
    if source is None:
        raise ValueError(
            f"Expected a source that {direction!r:.60} counts the directions of, got None. Give "
            "the basis, or the tangents themselves."
        )
    indices = [whole("a direction", one, 0, source.s.shape[1] - 1) for one in given]
    short = torch.nonzero(source.rank <= max(indices)).flatten().tolist()
    if short:
        raise ValueError(
            f"Expected directions below {int(source.rank[short[0]])}, the numerical rank of sample "
            f"{short[0]} of the source, got {max(indices)}: the singular value is zero up to "
            "rounding, and the vector is arbitrary."
        )
    rows = source.u[:, indices].flatten(0, 1).to(target.u.device)
    origins = tuple(
        {
            **source.provenance,
            "t": source.provenance["t"][sample],
            "how": "local basis",
            "sample": sample,
            "index": index,
            "s": float(source.s[sample, index]),
        }
        for sample in range(len(source))
        for index in indices
    )
    return units(rows, "u of the source"), origins


def _of_direction(
    direction: pullback.Direction, source: LocalBasis | None, target: LocalBasis
) -> tuple[torch.Tensor, dict[str, Any]]:
    known = direction.provenance.get("fingerprint")
    if known is not None and known != target.provenance.get("fingerprint"):
        raise ValueError(
            f"Expected a direction of the target's model, {target.provenance.get('model')!r} "
            f"(fingerprint {target.provenance.get('fingerprint')}), got one of "
            f"{direction.provenance.get('model')!r} (fingerprint {known}). If it is the same model "
            "in another dtype, give the tangent itself, direction.vector."
        )
    origin = {**direction.provenance, "name": direction.name, "space": direction.space}
    vector = direction.vector.unsqueeze(0)
    if direction.space == "h" and target.provenance["wrt"] != "h":
        wanted = target.direction(0, space="h")
        for name in ("tap", "pool"):
            was, now = getattr(direction, name), getattr(wanted, name)
            if was != now:
                raise ValueError(
                    f"Expected a direction in the feature with {name}={now!r}, as the target has, "
                    f"got {name}={was!r}. Compute the target there."
                )
        _check_shape(direction, tuple(target.u.shape[2:]))
        return units(vector, "the direction"), origin
    if source is None or direction.space != source.provenance["wrt"]:
        raise ValueError(
            f'Expected a source with respect to "{direction.space}" for a direction there, which '
            f"says where it lies in its tangent space, got "
            f"{'None' if source is None else repr(source.provenance['wrt'])}."
        )
    if len(source) != 1:
        raise ValueError(
            f'Expected a source of one sample for a direction in "{direction.space}", got '
            f"{len(source)}: take the one that it belongs to, source[i]."
        )
    _check_shape(direction, tuple(source.v.shape[2:]))
    rank = int(source.rank[0])
    along = in_frame(source.v[0, :rank], units(vector.to(source.v.device), "the direction"))
    kept, space = along.norm(dim=1, keepdim=True), "the span of v of the source"
    check_something(kept, source.v.dtype, space)
    warn_little(kept, source.rank, source.v[0, 0].numel(), space, depth=2)
    return units(along @ source.u[0, :rank].double().flatten(1), "the direction"), origin


def _check_shape(direction: pullback.Direction, shape: tuple[int, ...]) -> None:
    if tuple(direction.vector.shape) != shape:
        raise ValueError(
            f'Expected a direction in "{direction.space}" of shape {list(shape)}, got '
            f"{list(direction.vector.shape)}."
        )
