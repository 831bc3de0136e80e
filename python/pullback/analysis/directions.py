"""Directions put to the test: edits of samples, scored, and strengths of equal change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from typing_extensions import Unpack

from pullback.analysis.cost import counted
from pullback.analysis.evaluation import Evaluation, linearity_of
from pullback.directions import Score, scored
from pullback.editing import Entry, Own, Way, sweep
from pullback.models import LatentModel, WalkOptions, check_model, with_walk_options

#: Strengths that `matched` tries: from a 4,096th of the directions' units to 4,096 of them.
_TRIED = tuple(4.0**power for power in range(-6, 7))


@with_walk_options
def evaluate(
    model: LatentModel,
    x: torch.Tensor,
    t: int,
    directions: Own | Sequence[Entry],
    strengths: Sequence[float],
    score: Score,
    *,
    scale: torch.Tensor | None = None,
    region: torch.Tensor | None = None,
    way: Way | None = None,
    window: tuple[int, int] | None = None,
    memory: int | None = None,
    **options: Unpack[WalkOptions],
) -> Evaluation:
    """What directions do to samples, by scores of the images before and after the edits.

    Take samples that the directions were not found from. As controls, take noise of the same norm
    (`random_like`) and directions found from labels that say nothing (`shuffled`); `summary` has
    means over samples with their intervals, also of differences.

    Args:
        model: the model.
        x: latents at t, `[B, *x_shape]`.
        t: the timestep of the edit, in training units.
        directions: as for `pullback.sweep`: D edits for all samples, or own ones of each.
        strengths: K of them, not zero; some below zero show whether there are two sides.
        score: of images `[B, C, H, W]` from −1 to 1 (for a model with an autoencoder those that it
            decodes) gives `[B, A]` numbers, one for each attribute.
        scale: the unit of each attribute, `[A]`, above 0, by default its standard deviation over
            the images before any edit.
        region: bool `[H, W]` of the images' size, in which the change is looked for.
        way: as for `pullback.edit`.
        window: as for `pullback.edit`, timesteps in training units.
        memory: bytes that one pass of the network may use.
        **options: as for `pullback.denoise`.

    Returns:
        The `Evaluation`, on the CPU; images are scored sample by sample, and not kept.

    Raises:
        TypeError: an argument of another type.
        ValueError: as `pullback.sweep`; a strength is zero or not finite; scores have another
            shape or are not finite; an attribute does not differ between the samples and has no
            scale; or the region is not bool, of another size or empty.

    Cost: B D (K + 1) walks from t to the data, as many decodings and scores, and that of
    `Direction.check_fits` for each direction.
    """
    check_model(model)
    values = _strengths_of(strengths)
    if not callable(score):
        raise TypeError(f"Expected score as a function of images, got {type(score).__name__}.")
    if region is not None and (not isinstance(region, torch.Tensor) or region.dtype != torch.bool):
        raise ValueError("Expected the region as a tensor of bool [H, W].")
    with counted(model) as cost:
        # Without an edit: of strength 0, by the same walk and the same noise.
        edits = sweep(
            model, x, t, directions, [0.0, *values], way=way, window=window, memory=memory,
            **options,
        )  # fmt: skip
    before, changes, energies, shares, straight = [], [], [], [], []
    for sample in edits.latents:
        found = _scores_of(model, score, sample.flatten(0, 1))
        images = found[0].unflatten(0, sample.shape[:2])
        scores = found[1].unflatten(0, sample.shape[:2])
        change = (images[:, 1:] - images[:, :1]).flatten(2)  # [D, K, pixels]
        squares = change.square()
        before.append(scores[0, 0])
        changes.append(scores[:, 1:] - scores[:, :1])
        energies.append(squares.mean(2).sqrt())
        straight.append(linearity_of(change, values))
        if region is not None:
            shares.append(_share(squares, region, images.shape[2:]))
    told = torch.stack(before)
    scale = _scale_of(told, scale)
    return Evaluation(
        names=edits.names,
        strengths=values,
        before=told,
        changes=torch.stack(changes) / scale,
        scale=scale,
        energy=torch.stack(energies),
        inside=torch.stack(shares) if shares else None,
        linearity=torch.stack(straight),
        passes=cost.rows,
    )


@with_walk_options
def matched(
    model: LatentModel,
    x: torch.Tensor,
    t: int,
    directions: Own | Sequence[Entry],
    energy: float,
    *,
    way: Way | None = None,
    window: tuple[int, int] | None = None,
    memory: int | None = None,
    **options: Unpack[WalkOptions],
) -> torch.Tensor:
    """The strengths at which directions change images equally much, so that they can be compared.

    Args:
        model: the model.
        x: latents at t, `[B, *x_shape]`; a few are enough.
        t: the timestep of the edit, in training units.
        directions: as for `evaluate`.
        energy: the root mean square change of images from −1 to 1 that is asked for, over samples,
            pixels, and both signs of the strength.
        way: as for `pullback.edit`.
        window: as for `pullback.edit`, timesteps in training units.
        memory: bytes that one pass of the network may use.
        **options: as for `pullback.denoise`.

    Returns:
        Strengths `[D]`, float64, between two powers of 4 by a power law; NaN where 4,096 units
        change less, or as many as the network takes without NaN or Inf. Multiply the directions'
        units by them.

    Raises:
        TypeError: an argument of another type.
        ValueError: as `pullback.sweep`; or the energy is not above 0.

    Cost: 27 B D walks from t to the data.
    """
    check_model(model)
    energy = float(energy)
    if not 0 < energy < math.inf:
        raise ValueError(f"Expected energy as a finite number above 0, got {energy}.")
    both = [sign * value for value in _TRIED for sign in (1.0, -1.0)]
    edits = sweep(
        model, x, t, directions, [0.0, *both], way=way, window=window, memory=memory, **options
    )
    squares = []
    for sample in edits.latents:
        model.check_latents(sample[:, 0])  # those without an edit
        # The strongest edits are beyond what half precision holds, and are not asked for.
        finite = torch.isfinite(sample).flatten(2).all(2)
        images = _images_of(model, sample.nan_to_num(0, 0, 0).flatten(0, 1)).double().cpu()
        images = images.unflatten(0, sample.shape[:2]).flatten(2)
        changes = (images[:, 1:] - images[:, :1]).square().mean(2)
        squares.append(torch.where(finite[:, 1:].cpu(), changes, math.nan))
    means = torch.stack(squares).mean(0).unflatten(1, (-1, 2)).mean(2).sqrt()  # [D, tried]
    return torch.stack([_crossing(curve, energy) for curve in means])


def _crossing(curve: torch.Tensor, energy: float) -> torch.Tensor:
    """The strength at which a curve over the strengths tried first reaches an energy."""
    reached = torch.nonzero(curve >= energy).flatten()
    if not len(reached):
        return torch.tensor(math.nan, dtype=torch.float64, device="cpu")
    by = torch.tensor(_TRIED, dtype=torch.float64, device="cpu").log()
    after = int(reached[0])
    if not after or not curve[after - 1]:
        # Below, images change in proportion, as far as anybody knows.
        return by[after].exp() * energy / curve[after]
    logs = curve.log()
    share = (math.log(energy) - logs[after - 1]) / (logs[after] - logs[after - 1])
    return (by[after - 1] + share * (by[after] - by[after - 1])).exp()


def _strengths_of(strengths: Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(one) for one in strengths)
    if not values or not all(math.isfinite(one) and one for one in values):
        raise ValueError(
            f"Expected finite strengths other than 0, at least one, got {list(strengths)}."
        )
    return values


def _images_of(model: LatentModel, latents: torch.Tensor) -> torch.Tensor:
    """Images of latents `[N, ...]`, decoded one by one: an autoencoder takes much memory."""
    return torch.cat([model.images_of(one) for one in latents.split(1)])


def _scores_of(
    model: LatentModel, score: Score, latents: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[N, ...]` in float64 on the CPU, and their scores `[N, A]`."""
    images = _images_of(model, latents)
    found = scored(score, images)
    return images.double().cpu(), found if found.dim() == 2 else found[:, None]


def _scale_of(before: torch.Tensor, scale: Any) -> torch.Tensor:
    """The units of attributes `[A]`, those given or the deviations of scores `[B, A]`."""
    count = before.shape[1]
    if scale is None:
        found = before.std(0) if len(before) > 1 else before.new_zeros(count)
        # The mean of equal numbers may be another one, by rounding.
        rounding = len(before) * torch.finfo(before.dtype).eps * before.abs().amax(0)
        flat = torch.nonzero(found <= rounding).flatten().tolist()
        if flat:
            raise ValueError(
                f"Expected attributes that differ between samples, got the same score of "
                f"{flat} for all {len(before)}. Give their units as scale, or take more samples."
            )
        return found
    found = torch.as_tensor(scale, device="cpu").detach().double()
    if tuple(found.shape) != (count,) or not bool((torch.isfinite(found) & (found > 0)).all()):
        raise ValueError(
            f"Expected scale as {count} finite numbers above 0, one for each attribute, got "
            f"{scale!r:.80}."
        )
    return found


def _share(squares: torch.Tensor, region: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The share of squares `[D, K, pixels]` of images of a shape that lies in a region."""
    if tuple(region.shape) != tuple(shape[-2:]) or not bool(region.any()):
        raise ValueError(
            f"Expected a region {list(shape[-2:])} that selects something, got "
            f"{list(region.shape)} with {int(region.sum())} places selected."
        )
    inside = squares.unflatten(2, shape)[..., region.cpu()].flatten(2).sum(2)
    total = squares.sum(2)
    return torch.where(total > 0, inside / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
