"""Edits: latents moved along directions and taken to data, one by one or in sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from typing_extensions import Unpack

from pullback._numbers import whole
from pullback.editing.displacements import (
    Entry,
    Own,
    PerSample,
    Place,
    chosen_of,
    displacements,
    name_of,
    scaled,
)
from pullback.editing.injection import Displaced, Injected
from pullback.editing.moves import default_way, moved
from pullback.editing.ways import Injection, Way
from pullback.geometry import LocalBasis
from pullback.geometry.transport import Transported
from pullback.models import (
    Inversion,
    LatentModel,
    Walker,
    WalkOptions,
    check_model,
    with_walk_options,
)
from pullback.operators import rows_at_once


@dataclass(frozen=True, eq=False)
class Sweep:
    """Edits of samples by directions at strengths.

    Attributes:
        latents: `[B, D, K, *x_shape]` at `stop`: B samples, D edits, K strengths.
        strengths: the K of them.
        names: of the D edits.
        t: the timestep of the edit, in training units.
        stop: the timestep of the latents in training units; −1 for data.
        rows: samples in one pass of the network.
    """

    latents: torch.Tensor
    strengths: tuple[float, ...]
    names: tuple[str, ...]
    t: int
    stop: int
    rows: int


@with_walk_options
def edit(
    model: LatentModel,
    x: torch.Tensor,
    t: int,
    direction: Entry,
    strength: float = 1.0,
    *,
    way: Way | None = None,
    mask: torch.Tensor | None = None,
    window: tuple[int, int] | None = None,
    boost: int | None = None,
    inversion: Inversion | None = None,
    stop: int = -1,
    **options: Unpack[WalkOptions],
) -> torch.Tensor:
    """Data edited along a direction: a sweep of one edit and one strength.

    Args:
        model: the model.
        x: latents at t, `[B, *x_shape]`.
        t: the timestep of the edit, in training units.
        direction: one direction, or several that are applied together.
        strength: how many of the directions' units are added.
        way: how: `Addition`, `Guidance` or `Shooting` for latents, `Injection` for features; by
            default Addition, or Injection.
        mask: where, `[H, W]` of numbers from 0 (keep) to 1 (edit), of the size of the latents or a
            whole multiple of it.
        window: timesteps (from, to) in training units at whose steps it is applied, in place of the
            directions' own; latents are moved once, at t, by default, and features and prompts
            displaced at every step.
        boost: timestep in training units below which steps are stochastic with eta = 1, which mends
            textures; None for none.
        inversion: of which x are the latents, whose options and residuals the walk takes.
        stop: the timestep to arrive at in training units; −1 is the data.
        **options: as for `pullback.denoise`.

    Returns:
        `[B, *x_shape]` at `stop`.

    Raises:
        TypeError: an argument of another type, or an option that does not exist.
        ValueError: the direction does not fit the model; t, mask, window or strength do not fit;
            or no step begins in the window.

    Cost: as `pullback.denoise` from t; the ways add what they say.
    Source: Park et al. 2023, arXiv:2307.12868; boosting: Kwon et al. 2023, arXiv:2210.10960.
    """
    entry: Sequence[Entry] = [direction]
    found = sweep(
        model, x, t, entry, [strength], way=way, mask=mask, window=window, boost=boost,
        inversion=inversion, stop=stop, **options,
    )  # fmt: skip
    return found.latents[:, 0, 0]


@with_walk_options
def sweep(
    model: LatentModel,
    x: torch.Tensor,
    t: int,
    directions: Own | Sequence[Entry],
    strengths: Sequence[float],
    *,
    indices: Sequence[int] | None = None,
    way: Way | None = None,
    mask: torch.Tensor | None = None,
    window: tuple[int, int] | None = None,
    boost: int | None = None,
    inversion: Inversion | None = None,
    stop: int = -1,
    rows: int | None = None,
    memory: int | None = None,
    **options: Unpack[WalkOptions],
) -> Sweep:
    """Every sample edited by every direction at every strength, in as few passes as memory allows.

    All edits of a sample get the same noise, so that they can be compared.

    Args:
        model: the model.
        x: latents at t, `[B, *x_shape]`.
        t: the timestep of the edit, in training units.
        directions: D edits, each one direction or several together, for all samples; or the local
            bases of the samples, what `pullback.transport` carried to them, or a `PerSample`, of
            which each gets its own.
        strengths: K strengths.
        indices: which of the directions of bases, or of those carried, from 0; all by default.
        way: as for `edit`.
        mask: as for `edit`, `[H, W]`.
        window: as for `edit`, timesteps in training units.
        boost: as for `edit`, a timestep in training units.
        inversion: as for `edit`.
        stop: as for `edit`, a timestep in training units.
        rows: samples in one pass of the network; by default as many as the memory allows.
        memory: bytes that one pass may use; by default a share of what is free.
        **options: as for `pullback.denoise`.

    Returns:
        A `Sweep`.

    Raises:
        As `edit`.

    Cost: B D K times that of one sample of `edit`.
    """
    walker = _walker(model, x, t, inversion, boost, dict(options))
    places = displacements(model, t, len(x), directions, indices=indices, mask=mask, window=window)
    count = next(iter(places.values())).shape[1]
    _check_windows(walker, places, t, stop)
    values = [float(one) for one in strengths]
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"Expected finite strengths, at least one, got {list(strengths)}.")
    _check_way(places, way)
    if rows is None:
        rows = rows_at_once(lambda: walker.rows([0]).predict(x[:1], t), x.device, memory)
    rows = whole("rows", rows, 1)
    sizes = (len(x), count, len(values))
    index = torch.cartesian_prod(*(torch.arange(size, device="cpu") for size in sizes))
    index = index.reshape(-1, 3)
    by = torch.tensor(values, dtype=torch.float64, device="cpu")
    done = []
    for part in index.split(rows):
        samples, entries, which = part.unbind(1)
        moves = scaled(places, samples, entries, by[which])
        own = walker.rows(samples.tolist())
        kept = None if inversion is None else inversion.residuals
        if kept is not None:
            kept = {at: one[samples.to(one.device)] for at, one in kept.items()}
        done.append(_edited(own, x[samples.to(x.device)], t, stop, moves, way, kept))
    latents = torch.cat(done).reshape(len(x), count, len(values), *x.shape[1:])
    return Sweep(latents, tuple(values), _names(directions, indices), t, stop, rows)


def _walker(
    model: LatentModel,
    x: torch.Tensor,
    t: int,
    inversion: Inversion | None,
    boost: int | None,
    options: dict[str, Any],
) -> Walker:
    check_model(model)
    model.check_latents(x)
    model.schedule.check_timestep(t)
    if inversion is not None:
        if inversion.t != t or inversion.x.shape != x.shape:
            raise ValueError(
                f"Expected latents {list(inversion.x.shape)} at t = {inversion.t}, where the "
                f"inversion arrived, got {list(x.shape)} at t = {t}."
            )
        options = {**inversion.walker.options, **options}
    walker = Walker.of(model, len(x), options)
    if boost is None:
        return walker
    below = model.schedule.check_timestep(boost)
    if walker.options["eta"] != 0.0:
        raise ValueError("Expected either eta or boost, got both.")
    seed = walker.options["seed"]
    boosted = lambda at: 1.0 if at < below else 0.0  # noqa: E731
    return walker.changed(eta=boosted, seed=0 if seed is None else seed)


def _check_way(places: Mapping[Place, torch.Tensor], way: Way | None) -> None:
    spaces = {place.space for place in places}
    if isinstance(way, Injection) and "h" not in spaces:
        raise ValueError("Injection is for directions in features, and there is none among these.")
    if way is not None and not isinstance(way, Injection) and "x" not in spaces:
        raise ValueError(
            f"{type(way).__name__} is for directions in the latents, and there is none among these."
        )


def _check_windows(walker: Walker, places: Mapping[Place, torch.Tensor], t: int, stop: int) -> None:
    """Raise where no step begins within any window of an edit, so that it would do nothing.

    Of an edit that changes over time the parts for steps before t, say, are not needed.
    """
    if stop == t:
        if not isinstance(walker.options["grid"], str):
            return  # it ends here, and nothing says how it would go on
        stop = -1
    points = walker.grid(t, stop)[:-1]
    alive: torch.Tensor | bool = False
    without: tuple[int, int] | None = None
    for place, rows in places.items():
        window = place.window
        if window is None or any(window[1] <= at <= window[0] for at in points):
            alive = alive | rows.flatten(2).any(2).cpu()
        else:
            without = window
    if without is not None and not bool(torch.as_tensor(alive).all()):
        near = ", ".join(f"{at:g}" for at in points)
        raise ValueError(
            f"Expected a window that a step begins in, got {without[0]} to {without[1]}, where "
            f"none does. Steps begin at {near}: widen the window, or take more steps."
        )


def _names(directions: Own | Sequence[Entry], indices: Sequence[int] | None) -> tuple[str, ...]:
    if isinstance(directions, LocalBasis | Transported):
        return tuple(f"v_{i + 1}" for i in chosen_of(directions, indices))
    own = isinstance(directions, PerSample)
    row = directions.entries[0] if isinstance(directions, PerSample) else directions
    return tuple(f"{place + 1}" if own else name_of(one, place) for place, one in enumerate(row))


def _edited(
    walker: Walker,
    x: torch.Tensor,
    t: int,
    stop: int,
    moves: Mapping[Place, torch.Tensor],
    way: Way | None,
    residuals: Mapping[float, torch.Tensor] | None,
) -> torch.Tensor:
    """Rows taken from t to the stop, moved and displaced on the way."""
    inside = [
        Displaced(place.site, rows, place.window)
        for place, rows in moves.items()
        if place.space != "x"
    ]
    how = way if way is not None else default_way("x")
    of_latents = default_way("x") if isinstance(how, Injection) else how
    asymmetric = isinstance(way, Injection) and way.asymmetric
    predict = Injected(walker, inside, asymmetric=asymmetric) if inside else None
    pushes = [(place.window, rows) for place, rows in moves.items() if place.space == "x"]
    grid = walker.grid(t, stop)
    # A push within a window comes before each of its steps, so that the walk is cut there.
    cuts = {0} | {
        place for window, _ in pushes if window is not None
        for place, at in enumerate(grid[:-1]) if window[1] <= at <= window[0]
    }  # fmt: skip
    for start, end in pairwise([*sorted(cuts), len(grid) - 1]):
        at = grid[start]
        for window, rows in pushes:
            now = start == 0 if window is None else window[1] <= at <= window[0]
            if now:
                x = moved(walker, x, at, rows, of_latents)
        x = walker.down(x, grid[start : end + 1], residuals=residuals, predict=predict)
    return x
