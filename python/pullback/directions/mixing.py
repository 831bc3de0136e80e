"""Radii of trajectories, and the timestep at which to edit: three rules for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from typing_extensions import Unpack

from pullback import sampling
from pullback._numbers import is_several, seeds_of, whole
from pullback.directions.boundary import Boundary
from pullback.directions.samples import times_of
from pullback.models import (
    LatentModel,
    Walker,
    WalkOptions,
    check_model,
    with_walk_options,
)

#: Rules of `mixing_step`, with what each of them looks at.
RULES = {
    "radius": ("sampled", "inverted"),
    "convergence": ("sampled",),
    "separability": ("boundaries",),
}


@dataclass(frozen=True, eq=False)
class Radii:
    """Norms of latents along trajectories: made by `radii`.

    Attributes:
        kind: "sampled", from noise down, or "inverted", from data up.
        times: timesteps in training units, T of them, descending.
        mean: of ‖x_t‖ over the samples, `[T]`, float64.
        deviation: over the samples, `[T]`, float64.
        root: √d for latents of d entries, the radius of the annulus where Gaussian noise lies.
        samples: how many there are.
    """

    kind: str
    times: tuple[int, ...]
    mean: torch.Tensor
    deviation: torch.Tensor
    root: float
    samples: int


@with_walk_options
def radii(
    model: LatentModel,
    source: Sequence[int] | torch.Tensor,
    times: Sequence[int],
    *,
    batch: int = 32,
    **options: Unpack[WalkOptions],
) -> Radii:
    """Mean norms of x_t along sampled trajectories, or along inverted ones.

    Args:
        model: the model.
        source: seeds of noise, which is sampled down, or data `[N, *x_shape]`, such as
            `model.latents_of` makes of images, which are inverted up.
        times: timesteps in training units, descending, a whole number of strides apart.
        batch: samples at a time.
        **options: as for `pullback.denoise`, for all N samples; `progress` is called with the
            number of samples done and of all. Steps with eta above 0 need a `seed`; data are
            inverted deterministically.

    Returns:
        `Radii`.

    Raises:
        TypeError: the model is none.
        ValueError: as `pullback.denoise`; there are fewer than two samples, or the walk does not
            come by one of the times; or data are to be inverted with steps that add noise.

    Cost: for each batch one walk from noise to the last of the times, or from the data to the
    first.

    Source: Zhu et al. 2023, arXiv:2302.08357, who sampled 100 trajectories.
    """
    check_model(model)
    times, batch = times_of(times), whole("batch", batch, 1)
    data = source if isinstance(source, torch.Tensor) and source.is_floating_point() else None
    seeds: list[int] = []
    if data is not None:
        model.check_latents(data)
    elif is_several(source):
        seeds = seeds_of(source, len(source))  # type: ignore[arg-type]
    else:
        raise ValueError(f"Expected seeds as a list, or data, as the source, got {source!r:.60}.")
    count = len(seeds) if data is None else len(data)
    if count < 2:
        raise ValueError(f"Expected two samples or more, got {count}.")
    chosen: dict[str, Any] = dict(options)
    progress = chosen.pop("progress", None)
    walker = Walker.of(model, count, chosen)
    if data is not None and (walker.options["solver"] != "ddim" or walker.options["eta"] != 0.0):
        raise ValueError(
            'Expected solver="ddim" and eta = 0 for data, which are inverted without noise, got '
            f"{walker.options['solver']!r} and {walker.options['eta']!r}."
        )
    grid = grid_by(walker, times, up=data is not None)
    norms = torch.empty(len(times), count, dtype=torch.float64)
    for first in range(0, count, batch):
        part = list(range(first, min(first + batch, count)))
        own = walker.rows(part)

        def visit(t: float, x: torch.Tensor, part: list[int] = part) -> None:
            if t in times:
                norms[times.index(int(t)), part] = x.flatten(1).double().norm(dim=1).cpu()

        if data is None:
            noise = sampling.gaussian_noise(model.latent_shape, [seeds[one] for one in part])
            own.down(noise.to(model.device, model.dtype), grid, visit=visit)
        else:
            sampling.ascend(model.schedule, own.predict, data[part], grid, visit=visit)
        if progress is not None:
            progress(part[-1] + 1, count)
    return Radii(
        kind="sampled" if data is None else "inverted",
        times=times,
        mean=norms.mean(1),
        deviation=norms.std(1),
        root=math.sqrt(math.prod(model.latent_shape)),
        samples=count,
    )


def grid_by(walker: Walker, times: tuple[int, ...], *, up: bool) -> list[float]:
    """The steps of walks, downwards: by all the times, in training units, and no further.

    Args:
        walker: walks.
        times: where it is to come by, descending.
        up: whether from the data to the first of the times, and not from noise to the last.

    Raises:
        ValueError: it does not come by one of them, or as `Walker.grid`.
    """
    schedule, given = walker.model.schedule, walker.options["grid"]
    top = schedule.check_timestep(times[0])
    if not isinstance(given, str):
        grid = walker.grid(given[0], -1 if up else given[-1])
    elif up:
        grid = walker.grid(top)
    else:
        down = sampling.stride(schedule, whole("steps", walker.options["steps"]))
        grid = walker.grid(top + (schedule.max_timestep - top) // down * down)
    missing = sorted(set(times) - set(grid))
    if missing:
        raise ValueError(
            f"Expected timesteps that the walk comes by, {grid}, got {missing}. Choose others, or "
            "other steps."
        )
    return grid if up else grid[: grid.index(times[-1]) + 1]


@dataclass(frozen=True)
class MixingStep:
    """A timestep at which to edit, and what the rule for it saw.

    Attributes:
        t: the timestep, in training units.
        rule: "radius", "convergence" or "separability".
        times: timesteps in training units that the rule compared, descending.
        seen: at each of them: for "radius" the gap between the mean radii, as a share of that of
            the sampled trajectories; for "convergence" the relative change of the mean radius to
            the next larger of the times; for "separability" the accuracy.
        tol: with which gaps and changes were compared; None for "separability".
    """

    t: int
    rule: str
    times: tuple[int, ...]
    seen: tuple[float, ...]
    tol: float | None


def mixing_step(
    rule: str,
    *,
    sampled: Radii | None = None,
    inverted: Radii | None = None,
    boundaries: Sequence[Boundary] | None = None,
    tol: float = 0.01,
) -> MixingStep:
    """The timestep at which to edit, the paper's mixing step, by one of three rules of our own.

    The paper searches it automatically, but its rule is not published, and neither is the code of
    the search: these are three readings of its text, and may well give other steps. Published for
    faces is t = 500.

    "radius": the largest of the times at which sampled and inverted trajectories have the same mean
    radius up to tol, since inverted ones fall behind the further, the nearer they come to noise
    (the smallest would always be the last of the times). "convergence": the smallest from which on,
    towards noise, the mean radius of sampled trajectories changes by less than tol from one of the
    times to the next: what is seen depends on how far these are apart. "separability": the time of
    the boundary with the best cross-validated accuracy, the largest where several are as good.

    Args:
        rule: "radius", "convergence" or "separability".
        sampled: of "radius" and "convergence".
        inverted: of "radius", at the same times.
        boundaries: of "separability": several, each at its own t.
        tol: of "radius" and "convergence", relative.

    Returns:
        A `MixingStep`.

    Raises:
        TypeError: what the rule looks at is of another type.
        ValueError: there is no such rule; what it looks at is missing, or something else is given;
            radii are of another kind, of other times or of another model's size; boundaries have no
            t or no accuracy, or two have one t; or no time is within tol.

    Cost: none.

    Source: the step is of Zhu et al. 2023, arXiv:2302.08357.
    """
    if rule not in RULES:
        raise ValueError(f"Expected a rule of {', '.join(RULES)}, got {rule!r:.60}.")
    given = {"sampled": sampled, "inverted": inverted, "boundaries": boundaries}
    for name, value in given.items():
        if (value is not None) != (name in RULES[rule]):
            raise ValueError(
                f'Expected {" and ".join(RULES[rule])} for the rule "{rule}", got '
                f"{'no ' if value is None else ''}{name}."
            )
    if boundaries is not None:
        return _most_separable(boundaries)
    if isinstance(tol, bool) or not isinstance(tol, (int, float)) or not 0 < tol < 1:
        raise ValueError(f"Expected tol as a number between 0 and 1, got {tol!r:.60}.")
    _check_radii("sampled", sampled)
    assert sampled is not None
    if inverted is None:
        return _converged(sampled, tol)
    _check_radii("inverted", inverted)
    if inverted.times != sampled.times or inverted.root != sampled.root:
        raise ValueError(
            f"Expected radii of one model at one set of times, got {list(sampled.times)} at "
            f"√d = {sampled.root:.6g} and {list(inverted.times)} at √d = {inverted.root:.6g}."
        )
    gaps = tuple(((sampled.mean - inverted.mean).abs() / sampled.mean).tolist())
    within = [t for t, gap in zip(sampled.times, gaps, strict=True) if gap <= tol]
    if not within:
        raise _none_within("gap", min(gaps), tol)
    return MixingStep(within[0], "radius", sampled.times, gaps, tol)


def _converged(sampled: Radii, tol: float) -> MixingStep:
    means = sampled.mean.tolist()
    if len(means) < 2:
        raise ValueError(f"Expected radii at two times or more, got {list(sampled.times)}.")
    # From one time to the next above it; the first has none above.
    changes = tuple(abs(above - here) / here for above, here in pairwise(means))
    times = sampled.times[1:]
    steady = 0
    while steady < len(changes) and changes[steady] <= tol:
        steady += 1
    if not steady:
        raise _none_within("change", changes[0], tol)
    return MixingStep(times[steady - 1], "convergence", times, changes, tol)


def _most_separable(boundaries: Sequence[Boundary]) -> MixingStep:
    found: dict[int, float] = {}
    for one in boundaries:
        if not isinstance(one, Boundary):
            raise TypeError(f"Expected boundaries, got {type(one).__name__}. `boundary` finds one.")
        if one.t is None or one.accuracy is None:
            raise ValueError(
                "Expected boundaries with their t and a cross-validated accuracy, got one without. "
                "Give boundary(...) the timestep t, and folds of 2 or more."
            )
        found[one.t] = one.accuracy
    if not found or len(found) < len(boundaries):
        raise ValueError(
            f"Expected boundaries at several timesteps, one at each, got t = "
            f"{[one.t for one in boundaries]}."
        )
    times = tuple(sorted(found, reverse=True))
    seen = tuple(found[t] for t in times)
    best = seen.index(max(seen))  # the first is that of the largest t
    return MixingStep(times[best], "separability", times, seen, None)


def _check_radii(kind: str, found: object) -> None:
    if not isinstance(found, Radii):
        raise TypeError(
            f"Expected {kind} as Radii, got {type(found).__name__}. `radii` makes them."
        )
    if found.kind != kind:
        raise ValueError(
            f"Expected {kind} as radii of {kind} trajectories, got {found.kind} ones. Seeds give "
            "sampled trajectories, and data inverted ones."
        )


def _none_within(what: str, least: float, tol: float) -> ValueError:
    return ValueError(
        f"Expected a timestep at which the {what} of the mean radii is within tol = {tol:g}, got "
        f"{least:.3g} at best. Ask for a larger tol, or look at more timesteps."
    )
