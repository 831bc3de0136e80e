"""Gains of directions over time: how far the output moves with a unit step along each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import Unpack

from pullback import maps, sampling
from pullback._numbers import is_several, seeds_of, whole
from pullback.directions import comparing
from pullback.directions.direction import Direction
from pullback.directions.mixing import grid_by
from pullback.directions.ranking import gains_of
from pullback.directions.samples import times_of
from pullback.models import LatentModel, Walker, WalkOptions, check_model, with_walk_options

#: One direction, measured at every timestep; or an entry, of which at each timestep the one that
#: covers it.
Item = Direction | Sequence[Direction]


@dataclass(frozen=True, eq=False)
class GainOverTime:
    """Gains of directions along sampled trajectories: made by `gain_over_time`.

    Attributes:
        names: of the D directions or entries.
        times: timesteps in training units, T of them, descending.
        gain: `[D, T, B]`, float64, of each at each of B samples.
        space: "h" or "x", in which the directions lie.
        kind: the output that moves: "noise", "denoised" or "score".
    """

    names: tuple[str, ...]
    times: tuple[int, ...]
    gain: torch.Tensor
    space: str
    kind: str

    def mean(self) -> torch.Tensor:
        """Over the samples, `[D, T]`, float64."""
        return self.gain.mean(2)

    def quartiles(self) -> torch.Tensor:
        """Lower quartile, median and upper quartile over the samples, `[3, D, T]`, float64."""
        share = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, device="cpu")
        return self.gain.quantile(share, dim=2)

    def __str__(self) -> str:
        width = max(max(map(len, self.names)), 9)
        heads = " ".join(f"{f't = {t}':>9}" for t in self.times)
        rows = [
            f"{name:{width}} " + " ".join(f"{value:9.4g}" for value in row)
            for name, row in zip(self.names, self.mean().tolist(), strict=True)
        ]
        return "\n".join([f"{'direction':{width}} {heads}", *rows])


@with_walk_options
def gain_over_time(
    model: LatentModel,
    directions: comparing.Found | Sequence[Item],
    seeds: Sequence[int],
    times: Sequence[int],
    *,
    kind: str = "noise",
    batch: int = 32,
    **options: Unpack[WalkOptions],
) -> GainOverTime:
    """How far the output moves with a unit step along directions, at timesteps of sampled walks.

    For directions in a feature it is ‖J v‖ of the decoder h → output, with all skip connections
    held, as `rank_by` has it; for directions in the latents that of the map x → output. Units are
    left out, so that the gains of several ways to find directions can be compared.

    Args:
        model: the model.
        directions: D of them in "h" or "x", all in one space, at one tap and of one shape: what
            `attention` found, or a list of directions, which are measured at every timestep
            whatever their windows, and of entries, such as `PrincipalComponents.entry` makes, of
            which at each timestep the direction counts that covers it.
        seeds: of the noise that the B samples start from, one for each.
        times: timesteps in training units, descending, a whole number of strides apart.
        kind: the output: "noise", "denoised" or "score".
        batch: samples at a time.
        **options: as for `pullback.denoise`, for all B samples; `progress` is called with the
            number of samples done and of all. Guidance is the walk's alone: the gain is that of the
            conditional pass. Steps with eta above 0 need a `seed`.

    Returns:
        The gains, on the CPU.

    Raises:
        TypeError: the model is none, one of the directions is none, or an option does not exist.
        ValueError: there is no direction; they differ in space, tap, pool, shape or weights, or
            do not fit the model; none or several of an entry cover one of the times; the walk does
            not come by one of the times; seeds are no seeds; or as `pullback.denoise`.

    Cost: for each batch one walk from noise to the last of the times; at each of them D products
    with the Jacobian for each sample, and the checks of `JacobianOperator`.
    """
    check_model(model)
    times, batch = times_of(times), whole("batch", batch, 1)
    if not is_several(seeds) or not len(seeds):
        raise ValueError(f"Expected a list of seeds, one for each sample, got {seeds!r:.60}.")
    numbers = seeds_of(seeds, len(seeds))
    items = _items(directions)
    members = [one for item in items for one in _members(item)]
    comparing.check_alike(members)
    names = tuple(comparing.label(_members(item)[0], place) for place, item in enumerate(items))
    chosen_at = {
        t: [_at(item, t, name) for item, name in zip(items, names, strict=True)] for t in times
    }
    map = _map_of(model, members[0], kind)
    members[0].check_fits(model)
    chosen: dict[str, Any] = dict(options)
    progress = chosen.pop("progress", None)
    walker = Walker.of(model, len(numbers), chosen)
    grid = grid_by(walker, times, up=False)
    gain = torch.empty(len(items), len(times), len(numbers), dtype=torch.float64, device="cpu")
    for first in range(0, len(numbers), batch):
        part = list(range(first, min(first + batch, len(numbers))))
        own = walker.rows(part)

        def visit(t: float, x: torch.Tensor, part: list[int] = part, own: Walker = own) -> None:
            if t in times:
                bound = map.at(x, int(t), own.condition or None)
                gain[:, times.index(int(t)), part] = gains_of(bound, chosen_at[int(t)])

        noise = sampling.gaussian_noise(model.latent_shape, [numbers[one] for one in part])
        own.down(noise.to(model.device, model.dtype), grid, visit=visit)
        if progress is not None:
            progress(part[-1] + 1, len(numbers))
    return GainOverTime(names, times, gain, members[0].space, kind)


def _items(directions: comparing.Found | Sequence[Item]) -> list[Item]:
    """Directions and entries, all checked.

    Raises:
        TypeError: one of them is none.
        ValueError: there is none at all, or an entry is empty.
    """
    if isinstance(directions, comparing.Found):
        return list(comparing.checked(directions))
    if not isinstance(directions, (list, tuple)):
        raise TypeError(
            f"Expected directions and entries in a list, got one {type(directions).__name__}. Put "
            "directions, or what direction(i) or entry(i) give, into a list."
        )
    if not directions:
        raise ValueError("Expected at least one direction, got none.")
    return [
        tuple(comparing.checked(item))
        if isinstance(item, (list, tuple))
        else comparing.checked([item])[0]
        for item in directions
    ]


def _members(item: Item) -> Sequence[Direction]:
    return [item] if isinstance(item, Direction) else item


def _at(item: Item, t: int, name: str) -> Direction:
    """The direction of an item at t in training units."""
    if isinstance(item, Direction):
        return item
    covering = [one for one in item if one.covers(t)]
    if len(covering) != 1:
        raise ValueError(
            f"Expected one direction of the entry {name} that covers t = {t}, got "
            f"{len(covering) or 'none'}. Choose other timesteps, or say with with_window(start, "
            "stop) where its directions hold."
        )
    return covering[0]


def _map_of(model: LatentModel, direction: Direction, kind: str) -> maps.Map:
    """The map from the direction's space to a kind of output."""
    if direction.space == "h":
        return maps.decoder(model, direction.tap, kind)
    if direction.space == "x":
        return maps.output(model, kind)
    raise ValueError(
        f'Expected directions in a feature ("h") or in the latents ("x"), got '
        f'"{direction.space}": a prompt is no point of a walk.'
    )
