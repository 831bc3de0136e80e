"""Paths between latents, and how far the tangent spaces turn along them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from typing_extensions import Unpack

from pullback._numbers import whole
from pullback.geometry.bases import LocalBasis
from pullback.geometry.grassmann import distance
from pullback.geometry.options import StepOptions, with_step_options
from pullback.geometry.transport.following import Following
from pullback.geometry.transport.shooting import follow
from pullback.models import Condition, LatentModel, TapName

#: Kinds of paths by name.
KINDS = ("slerp", "lerp", "shooting")

#: The sine of the angle between ends from which they count as opposite.
_OPPOSITE = 1e-6


@dataclass(frozen=True, eq=False)
class LatentPath:
    """Paths of B pairs of latents, with how far the tangent spaces turn: see `latent_path`.

    Attributes:
        points: latents `[segments + 1, B, *x_shape]`, the first those at the start.
        distance: `[segments, B]`, float64: the geodesic distance of the tangent spaces at both ends
            of each segment, in radians.
        gap: `[B]`, float64: how far the last point is from the end, as a share of ‖end − start‖;
            0 but for "shooting".
        kind: "slerp", "lerp" or "shooting".
    """

    points: torch.Tensor
    distance: torch.Tensor
    gap: torch.Tensor
    kind: str

    @property
    def length(self) -> torch.Tensor:
        """The semantic length, the sum of the distances: `[B]`, float64, in radians."""
        return self.distance.sum(0)

    @property
    def curvedness(self) -> torch.Tensor:
        """How curved each segment is, which is its distance: `[segments, B]`, float64."""
        return self.distance

    @property
    def latent_length(self) -> torch.Tensor:
        """The length in the latents, the sum of ‖x_{l+1} − x_l‖: `[B]`, float64."""
        return self.points.double().diff(dim=0).flatten(2).norm(dim=2).sum(0)


@with_step_options
def latent_path(
    model: LatentModel,
    start: torch.Tensor,
    end: torch.Tensor,
    t: int | torch.Tensor,
    *,
    kind: str = "slerp",
    segments: int = 30,
    rank: int = 10,
    tap: TapName | None = None,
    cond: Condition | None = None,
    pool: str | None = None,
    quality: str = "standard",
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[StepOptions],
) -> LatentPath:
    """Paths between pairs of latents at one timestep, and how far the tangent spaces turn on them.

    - "lerp": a straight line.
    - "slerp": along the great circle between the directions of start and end, evenly, with the
      norms in between; for ends of one norm, on their sphere.
    - "shooting": geodesic shooting from the start, along the part of end − start in the first local
      basis, in steps of ‖end − start‖ / segments; it arrives near the end at best, and `gap` is
      what it misses. The paper does not say how its shooting joins two samples: this is our
      reading.

    Args:
        model: the model.
        start: latents at the timestep t in training units, `[B, *x_shape]`, in the model's dtype
            and on its device.
        end: latents at t, `[B, *x_shape]`, other than those of start.
        t: their timestep in training units: one for all, or int64 `[B]`, of both ends.
        kind: "slerp", "lerp" or "shooting".
        segments: L, of equal length.
        rank: of the local bases.
        tap: where features are read; the middle block by default.
        cond: the network's further arguments, batch first; None is the null condition.
        pool: "space" for the mean of the features over space, as in the paper.
        quality: of the local bases: "draft", "standard" or "tight".
        progress: called after each point with the number of those done and of all.
        **options: of the local bases: see `pullback.geometry.StepOptions`.

    Returns:
        A `LatentPath`; a pair's path does not depend on the others in its batch, up to rounding.

    Raises:
        TypeError: an argument of another type, or an option that does not exist.
        ValueError: one that does not fit the model; start and end of a pair are equal, or, for
            slerp, zero or opposite; the numerical rank at a point is below `rank`.

    Warns:
        UserWarning: a basis did not converge.

    Cost: local bases at segments + 1 points, each started from the one before.
    Source: Park et al. 2023, arXiv:2302.12469, with L = 30.
    """
    following = Following.of(
        "latent_path", model, start, t, rank=rank, tap=tap, cond=cond, pool=pool, quality=quality,
        options=options,
    )  # fmt: skip
    model.check_latents(end)
    segments = whole("segments", segments, 1)
    if kind not in KINDS:
        raise ValueError(f"Expected kind as one of {', '.join(KINDS)}, got {kind!r}.")
    if start.shape != end.shape:
        raise ValueError(
            f"Expected as many ends as starts, got {list(end.shape)} and {list(start.shape)}."
        )
    between = (end.double() - start.double()).flatten(1)
    apart = between.norm(dim=1)
    equal = torch.nonzero(apart == 0).flatten().tolist()
    if equal:
        raise ValueError(
            f"Expected ends that differ from the starts, and those of pair {equal[0]} are equal: "
            "there is no path."
        )
    turns = _Turns(following, segments + 1, progress)
    if kind == "shooting":
        along = between / apart[:, None]
        points = follow(following, start, along, apart, segments, visit=turns.visit).points
        turns.at(points[-1])
    else:
        points = (_slerp if kind == "slerp" else _lerp)(start, end, segments)
        for point in points:
            turns.at(point)
    following.warn()
    gap = (points[-1].double() - end.double()).flatten(1).norm(dim=1) / apart
    return LatentPath(points, torch.stack(turns.distances), gap, kind)


class _Turns:
    """Distances of tangent spaces, as the bases come point by point.

    Args:
        following: how bases are found.
        count: points.
        progress: as for `latent_path`.
    """

    def __init__(
        self, following: Following, count: int, progress: Callable[[int, int], None] | None
    ) -> None:
        self._following, self._count, self._progress = following, count, progress
        self.distances: list[torch.Tensor] = []
        self._last: LocalBasis | None = None
        self._done = 0

    def at(self, x: torch.Tensor) -> None:
        """Find the bases at the next points `[B, *x_shape]`, from the last ones on."""
        everyone = torch.arange(len(x), device=x.device)
        self.visit(self._following.at(x, everyone, None if self._last is None else self._last.v))

    def visit(self, basis: LocalBasis) -> None:
        """The bases of all pairs at the next point."""
        k = basis.s.shape[1]
        short = torch.nonzero(basis.rank < k).flatten().tolist()
        if short:
            rank = int(basis.rank[short[0]])
            raise ValueError(
                f"Expected tangent spaces of dimension {k} all along, and at point {self._done} of "
                f"pair {short[0]} the numerical rank is {rank}. Choose rank={rank} or less."
            )
        if self._last is not None:
            self.distances.append(distance(self._last.u.flatten(2), basis.u.flatten(2)))
        self._last = basis
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._count)


def _lerp(start: torch.Tensor, end: torch.Tensor, segments: int) -> torch.Tensor:
    a = _shares(start, segments)
    return _exact((1 - a) * start.double() + a * end.double(), start, end)


def _slerp(start: torch.Tensor, end: torch.Tensor, segments: int) -> torch.Tensor:
    shape = (1, len(start), *[1] * (start.dim() - 1))
    norms = [x.double().flatten(1).norm(dim=1) for x in (start, end)]
    if not bool((torch.stack(norms) > 0).all()):
        raise ValueError(
            'Expected latents other than zero for "slerp", since zero has no direction. Use '
            'kind="lerp".'
        )
    first, last = (
        x.double() / n.reshape(shape[1:]) for x, n in zip((start, end), norms, strict=True)
    )
    apart, together = ((first - last).flatten(1).norm(dim=1), (first + last).flatten(1).norm(dim=1))
    angle = 2 * torch.atan2(apart, together)
    opposite = torch.nonzero(together < _OPPOSITE).flatten().tolist()
    if opposite:
        raise ValueError(
            f"The latents of pair {opposite[0]} are opposite, so that no single great circle joins "
            'them. Use kind="lerp", or other latents.'
        )
    a, w = _shares(start, segments), angle.reshape(shape)
    # Of latents in one direction only the norms differ.
    sine = torch.where(w > 0, w.sin(), 1.0)
    early = torch.where(w > 0, ((1 - a) * w).sin() / sine, 1 - a)
    late = torch.where(w > 0, (a * w).sin() / sine, a)
    norm = (1 - a) * norms[0].reshape(shape) + a * norms[1].reshape(shape)
    return _exact(norm * (early * first + late * last), start, end)


def _shares(x: torch.Tensor, segments: int) -> torch.Tensor:
    """Shares of the way, from 0 to 1, `[segments + 1, 1, ...]`."""
    shares = torch.linspace(0, 1, segments + 1, dtype=torch.float64, device=x.device)
    return shares.reshape(-1, *[1] * x.dim())


def _exact(points: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Points `[segments + 1, B, *x_shape]` in the dtype of the ends, which are exact."""
    return torch.cat([start.detach()[None], points[1:-1].to(start.dtype), end.detach()[None]])
