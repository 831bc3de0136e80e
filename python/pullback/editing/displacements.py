"""What several directions add to each sample, by the place where they add it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pullback._numbers import whole
from pullback.directions import Direction
from pullback.editing import masks
from pullback.geometry import LocalBasis
from pullback.geometry.transport import Transported
from pullback.models import LatentModel, Site

#: One edit: a direction, or several that are applied together.
Entry = Direction | Sequence[Direction]


@dataclass(frozen=True)
class PerSample:
    """Edits of its own for each of B samples, such as directions that were found at them.

    Attributes:
        entries: B rows of D edits each.

    Raises:
        TypeError: there is a direction in place of a row.
        ValueError: rows have no edits, or not as many.
    """

    entries: Sequence[Sequence[Entry]]

    def __post_init__(self) -> None:
        if any(isinstance(row, Direction) for row in self.entries):
            raise TypeError(
                "Expected a row of edits for each sample, got a direction. Put the edits of each "
                "sample into a list of their own."
            )
        counts = {len(row) for row in self.entries}
        if len(counts) != 1 or not min(counts):
            raise ValueError(
                "Expected as many edits for every sample, at least one, got "
                f"{sorted(counts) or 'no samples'}."
            )


#: Directions of their own for each of several samples.
Own = LocalBasis | Transported | PerSample


@dataclass(frozen=True)
class Place:
    """Where displacements are added.

    Attributes:
        space: "x", "h" or "prompt".
        site: the tap, of a feature.
        window: timesteps (from, to) in training units, both included; None is where the space has
            it by default: for latents the timestep of the edit, else all.
    """

    space: str
    site: Site | None
    window: tuple[int, int] | None


def displacements(
    model: LatentModel,
    t: int,
    count: int,
    directions: Own | Sequence[Entry],
    *,
    indices: Sequence[int] | None,
    mask: torch.Tensor | None,
    window: tuple[int, int] | None,
) -> dict[Place, torch.Tensor]:
    """What strength 1 of each of several edits adds to each sample, by place.

    Args:
        model: the model.
        t: timestep of the edit in training units.
        count: samples, B.
        directions: D edits for all samples; or the bases of the samples, what was carried to them,
            or a `PerSample`, each its own.
        indices: which of the directions of bases; all by default.
        mask: where, `[H, W]`.
        window: in place of the directions' own, timesteps in training units.

    Returns:
        `[B or 1, D, *shape]` by place, in the model's dtype and on its device.

    Raises:
        TypeError: an entry is no direction, or there is a direction in place of a list.
        ValueError: a direction does not fit the model, or the mask not the latents; or an edit has
            no direction.
    """
    if mask is not None:
        mask = masks.checked(mask)
    if isinstance(directions, LocalBasis | Transported):
        chosen = chosen_of(directions, indices)
        return _of_basis(model, count, directions, chosen, mask, window)
    if indices is not None:
        raise ValueError("Indices choose directions of a basis, and these are single directions.")
    if isinstance(directions, PerSample):
        if len(directions.entries) != count:
            raise ValueError(
                f"Expected edits for each of {count} samples, got those of "
                f"{len(directions.entries)}."
            )
        return _of_entries(model, t, directions.entries, mask, window)
    if isinstance(directions, Direction):
        raise TypeError("Expected edits in a list, got a direction. Put it into a list.")
    if not len(directions):
        raise ValueError("Expected at least one direction, got none.")
    return _of_entries(model, t, [directions], mask, window)


def chosen_of(directions: LocalBasis | Transported, indices: Sequence[int] | None) -> list[int]:
    """Which directions of a basis, or of those carried, are asked for, from 0."""
    count = directions.s.shape[1] if isinstance(directions, LocalBasis) else len(directions)
    return [
        whole("an index", i, 0, count - 1) for i in (range(count) if indices is None else indices)
    ]


def name_of(entry: Entry, place: int) -> str:
    """An edit's name: that of its directions, each once, or the number of its place from 1."""
    parts = [entry] if isinstance(entry, Direction) else entry
    return " + ".join(dict.fromkeys(one.name or f"{place + 1}" for one in parts))


def _of_entries(
    model: LatentModel,
    t: int,
    rows: Sequence[Sequence[Entry]],
    mask: torch.Tensor | None,
    window: tuple[int, int] | None,
) -> dict[Place, torch.Tensor]:
    """What rows of edits add, of one row for all samples or of one for each."""
    found: dict[Place, torch.Tensor] = {}
    for sample, row in enumerate(rows):
        for place, entry in enumerate(row):
            parts = [entry] if isinstance(entry, Direction) else list(entry)
            if not parts:
                raise ValueError(f"Expected a direction or several, got none in edit {place + 1}.")
            for part in parts:
                if not isinstance(part, Direction):
                    raise TypeError(
                        f"Expected directions, got {type(part).__name__}. `basis.direction(i)` "
                        "makes one of a basis, `Direction.of` of a vector."
                    )
                part.check_fits(model, t if part.space == "x" and window is None else None)
                at = _place_of(model, part, window)
                added = part.displacement(1.0).to(model.device, model.dtype)
                added = _masked(added, at, mask, model, part.pool)
                if at not in found:
                    found[at] = added.new_zeros(len(rows), len(row), *added.shape)
                elif found[at].shape[2:] != added.shape:
                    raise ValueError(
                        "Directions at one place must have one shape, got "
                        f"{list(added.shape)} and {list(found[at].shape[2:])}: pooled and whole "
                        "features cannot be mixed."
                    )
                found[at][sample, place] += added
    return found


def _of_basis(
    model: LatentModel,
    count: int,
    directions: LocalBasis | Transported,
    indices: list[int],
    mask: torch.Tensor | None,
    window: tuple[int, int] | None,
) -> dict[Place, torch.Tensor]:
    if isinstance(directions, LocalBasis):
        basis, v = directions, directions.v
    else:
        basis, v = directions.target, directions.v.transpose(0, 1)
    if len(basis) != count:
        raise ValueError(f"Expected a basis of the {count} samples, got one of {len(basis)}.")
    first = basis.direction(0)  # checks the space of v
    first.check_fits(model)
    place = _place_of(model, first, window)
    rows = v[:, indices].to(model.device, model.dtype)
    return {place: _masked(rows, place, mask, model, first.pool)}


def _place_of(model: LatentModel, part: Direction, window: tuple[int, int] | None) -> Place:
    site = model.site(part.tap) if part.tap is not None else None
    own = part.window if window is None else window
    if own is not None and own[0] < own[1]:
        raise ValueError(f"Expected a window (from, to) downwards in time, got {own}.")
    return Place(part.space, site, own)


def _masked(
    rows: torch.Tensor,
    place: Place,
    mask: torch.Tensor | None,
    model: LatentModel,
    pool: str | None,
) -> torch.Tensor:
    if mask is None:
        return rows
    mask = mask.to(model.device)
    if place.space == "x":
        return rows * masks.on_latents(mask, model.latent_shape).to(rows)
    if place.space == "prompt" or pool is not None:
        what = "a prompt" if place.space == "prompt" else "a pooled feature"
        raise ValueError(
            f"A direction of {what} has no places that a mask could choose. Leave the mask out, or "
            "choose a direction in the latents."
        )
    shape = tuple(rows.shape[-3:]) if rows.dim() in (3, 5) else tuple(rows.shape[-2:])
    return rows * masks.on_feature(mask, shape, model.latent_shape).to(rows)


def scaled(
    found: dict[Place, torch.Tensor],
    samples: torch.Tensor,
    entries: torch.Tensor,
    strengths: torch.Tensor,
) -> dict[Place, torch.Tensor]:
    """Displacements of rows of a sweep.

    Args:
        found: from `displacements`.
        samples: which sample each row is of, `[N]`.
        entries: which edit, `[N]`.
        strengths: how strong, `[N]`.

    Returns:
        `[N, *shape]` by place.

    Raises:
        ValueError: a strength overflows the dtype.
    """
    rows = {}
    for place, values in found.items():
        of_sample = samples if len(values) > 1 else torch.zeros_like(samples)
        chosen = values[of_sample.to(values.device), entries.to(values.device)]
        by = strengths.to(values.device, torch.float64).reshape(-1, *[1] * (chosen.dim() - 1))
        product = (chosen.double() * by).to(chosen.dtype)
        if not bool(torch.isfinite(product).all()):
            worst = float(strengths.abs().max())
            raise ValueError(
                f"A strength of {worst:g} overflows {chosen.dtype} in the space {place.space!r}. "
                "Expected smaller strengths, or a model in float32."
            )
        rows[place] = product
    return rows
