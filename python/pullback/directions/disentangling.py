"""A direction without what it shares with others: exact projections, plain and whitened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from pullback.directions import checks, samples
from pullback.directions.direction import Direction

_ROOM = 64  # steps of the dtype, within which a vector counts as lying in a span

#: Vectors `[c, p]` times the metric, `[c, p]`.
_Metric = Callable[[torch.Tensor], torch.Tensor]


def disentangle(
    direction: Direction,
    from_: Direction | Sequence[Direction],
    *,
    features: torch.Tensor | None = None,
    shrinkage: float | None = None,
) -> Direction:
    """A direction n without its part along others, the rows of N: n − Nᵀ(N M Nᵀ)⁻¹ N M n.

    The metric M is the identity, as published, or, with features, the inverse of their covariance:
    then n is decorrelated from the others, in that the linear discriminants M n and M N of the
    features are. Moving along the result leaves the other discriminants as they are.

    Strength 1 adds what is left of what it added before, so that the unit shrinks with the vector.

    Args:
        direction: the direction n.
        from_: one direction or several, of the same space, tap, pool and model.
        features: `[N, *shape]`, whose covariance the metric is the inverse of; None is the plain
            metric.
        shrinkage: of the covariance, 0 to 1, towards a multiple of the identity; by default that of
            Ledoit and Wolf.

    Returns:
        The direction with the same fields. Its provenance holds, under "disentangled", the names of
        the others, the cosines to them in the metric before and after, and the share of the norm
        that is kept.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the directions do not belong together; they depend linearly on each other, or
            the direction lies in the span of the others; features have another shape, or NaN or
            Inf; or shrinkage is given without features, or leaves a covariance without inverse.

    Cost: c + 1 vectors in float64, for c others. With N samples, N² p products of their entries p
    where p is above N, else N p² products.

    Source: Haas et al. 2023, arXiv:2303.11073, for the plain metric.
    """
    others = [from_] if isinstance(from_, Direction) else list(from_)
    _check(direction, others)
    if features is None and shrinkage is not None:
        raise ValueError(
            "Expected features with a shrinkage, whose covariance it is for, got none."
        )
    vector = _row(direction)
    rows = torch.stack([_row(one).to(vector.device) for one in others])
    steps = max(torch.finfo(one.vector.dtype).eps for one in (direction, *others))
    _check_independent(vector, rows, _ROOM * steps)
    metric, told = _metric(features, shrinkage, direction)
    dual = metric(rows)
    # A second pass takes out what rounding left of the first.
    left = vector
    for _ in range(2):
        weights = torch.linalg.solve(dual @ rows.T, dual @ left)
        left = left - weights @ rows
    kept = float(torch.linalg.vector_norm(left))
    known: dict[str, Any] = {
        "from": [one.name or f"{place + 1}" for place, one in enumerate(others)],
        **told,
        "cosines_before": _cosines(metric, vector, rows, dual),
        "cosines_after": _cosines(metric, left, rows, dual),
        "kept": kept,
    }
    shape, dtype = direction.vector.shape, direction.vector.dtype
    return replace(
        direction,
        vector=checks.normalised(left.reshape(shape)).to(dtype),
        unit=direction.unit * kept,
        provenance={**direction.provenance, "disentangled": known},
    )


def _row(direction: Direction) -> torch.Tensor:
    """The vector as a row `[p]` of norm 1 in float64."""
    row = direction.vector.detach().flatten().double()
    return row / torch.linalg.vector_norm(row)


def _check(direction: object, others: list[Direction]) -> None:
    """Raise unless all are directions in one space of one model."""
    if not others:
        raise ValueError("Expected at least one direction to disentangle from, got none.")
    for one in (direction, *others):
        if not isinstance(one, Direction):
            raise TypeError(
                f"Expected directions, got {type(one).__name__}. `direction()` of what a finder "
                "returned, or Direction.of(vector, ...), makes one."
            )
    assert isinstance(direction, Direction)
    for place, one in enumerate(others):
        for what in ("space", "tap", "pool"):
            ours, theirs = getattr(direction, what), getattr(one, what)
            if ours != theirs:
                raise ValueError(
                    f"Expected directions of one {what}, got {ours!r} and {theirs!r} (the other "
                    f"direction {place + 1})."
                )
        if direction.vector.shape != one.vector.shape:
            raise ValueError(
                f"Expected directions of shape {list(direction.vector.shape)}, got "
                f"{list(one.vector.shape)} (the other direction {place + 1})."
            )
        prints = [d.provenance.get("fingerprint") for d in (direction, one)]
        if None not in prints and prints[0] != prints[1]:
            raise ValueError(
                f"Expected directions of one model, got fingerprints {prints} (the other "
                f"direction {place + 1}). Find them with the same model."
            )


def _check_independent(vector: torch.Tensor, rows: torch.Tensor, room: float) -> None:
    """Raise ValueError where rows `[c, p]` are dependent or the vector `[p]` lies in their span."""
    count, dims = rows.shape
    least = 0.0 if count > dims else float(torch.linalg.svdvals(rows)[-1])
    if least <= room:
        raise ValueError(
            "Expected directions to disentangle from that are linearly independent, got one that "
            "the others make up. Leave it out."
        )
    frame = torch.linalg.qr(rows.T).Q
    left = vector - frame @ (frame.T @ vector)
    if float(torch.linalg.vector_norm(left)) <= room:
        raise ValueError(
            "Expected a direction outside the span of those to disentangle it from, got one that "
            "lies in it: nothing of it would be left."
        )


def _metric(
    features: torch.Tensor | None, shrinkage: float | None, direction: Direction
) -> tuple[_Metric, dict[str, Any]]:
    """The metric as a function of rows, and what the provenance says of it."""
    if features is None:
        return (lambda rows: rows), {"metric": "euclidean"}
    features = samples.check_features(features)
    shape = list(direction.vector.shape)
    if list(features.shape[1:]) != shape or len(features) < 2:
        raise ValueError(
            f"Expected features [N, {', '.join(map(str, shape))}] like the direction, of two "
            f"samples or more, got {list(features.shape)}."
        )
    rows = samples.rows_of(features).to(direction.vector.device)
    centred = rows - rows.mean(0)
    count, dims = centred.shape
    if shrinkage is None:
        share = samples.shrinkage_of(centred, dims)
    else:
        share = samples.share_of(shrinkage, count - 1, dims)
    level = share * float(centred.square().sum()) / (count * dims)
    told = {"metric": "whitened", "samples": count, "shrinkage": share}
    return _inverse(centred, (1 - share) / count, level), told


def _inverse(centred: torch.Tensor, scale: float, level: float) -> _Metric:
    """Multiplication with the inverse of scale XᵀX + level I, for X `[N, p]`."""
    count, dims = centred.shape
    small = centred.T @ centred if dims <= count else centred @ centred.T
    small = scale * small
    small.diagonal().add_(level)
    factor, info = torch.linalg.cholesky_ex(small)
    if int(info) or (dims > count and not level):
        raise ValueError(
            "Expected features whose covariance can be inverted, got a singular one. Take a larger "
            "shrinkage, or more samples."
        )
    if dims <= count:
        return lambda rows: torch.cholesky_solve(rows.T, factor).T

    def multiplied(rows: torch.Tensor) -> torch.Tensor:
        inside = torch.cholesky_solve(centred @ rows.T, factor)
        return (rows - scale * (centred.T @ inside).T) / level

    return multiplied


def _cosines(
    metric: _Metric, vector: torch.Tensor, rows: torch.Tensor, dual: torch.Tensor
) -> list[float]:
    """Cosines of a vector `[p]` to rows `[c, p]` in the metric, whose product with them is dual."""
    own = torch.sqrt(metric(vector[None])[0] @ vector)
    lengths = (rows * dual).sum(1).sqrt()
    cosines: list[float] = (dual @ vector / (own * lengths)).tolist()
    return cosines
