"""Directions in a feature in order of what they do: measured gains, eigenvalues, overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pullback import maps
from pullback.directions import comparing
from pullback.directions.comparing import Several
from pullback.directions.direction import Direction
from pullback.geometry import LocalBasis
from pullback.models import Condition, LatentModel, check_model


@dataclass(frozen=True, eq=False)
class Ranking:
    """What directions in a feature do at latents, as a table: made by `rank_by`.

    Attributes:
        names: of the D directions.
        gain: `[D, B]`, float64: ‖J_dec v‖ of each at each of B latents, how far the output moves
            with a unit step along it.
        eigenvalue: `[D]`, float64, of the weights; None where one of them is of no weights.
        retained: `[D, B]` or `[D, 1]`, float64, 0 to 1: how much lies in the subspace; None where
            none was given.
    """

    names: tuple[str, ...]
    gain: torch.Tensor
    eigenvalue: torch.Tensor | None = None
    retained: torch.Tensor | None = None

    def order(self, by: str = "gain") -> list[int]:
        """Indices of the directions, the first in the order first.

        Args:
            by: "gain" or "retained", by the mean over the samples; or "eigenvalue", by magnitude.

        Raises:
            ValueError: the table has no such column.
        """
        columns = self._columns()
        if by not in columns:
            raise ValueError(f"Expected by as one of {', '.join(columns)}, got {by!r:.60}.")
        order = columns[by].abs().argsort(descending=True, stable=True)
        return [int(index) for index in order]

    def _columns(self) -> dict[str, torch.Tensor]:
        """One number `[D]` for each direction, by the name of the column."""
        found = {"gain": self.gain.mean(1)}
        if self.eigenvalue is not None:
            found["eigenvalue"] = self.eigenvalue
        if self.retained is not None:
            found["retained"] = self.retained.mean(1)
        return found

    def __str__(self) -> str:
        columns, width = self._columns(), max(max(map(len, self.names)), 9)
        lines = [f"{'direction':{width}} " + " ".join(f"{name:>10}" for name in columns)]
        for index in self.order():
            numbers = " ".join(f"{float(column[index]):10.4g}" for column in columns.values())
            lines.append(f"{self.names[index]:{width}} {numbers}")
        return "\n".join(lines)


def rank_by(
    model: LatentModel,
    x: torch.Tensor,
    t: int,
    directions: Several,
    *,
    cond: Condition | None = None,
    kind: str = "noise",
    subspace: LocalBasis | Several | None = None,
) -> Ranking:
    """What directions in a feature do at latents, measured by one product each.

    The product is with the Jacobian of the decoder h → output, with all skip connections held.
    Pooled directions are repeated at every place and made of norm 1 again, so that their gains can
    be compared with those of whole ones and with singular values.

    Args:
        model: the model.
        x: latents at t, `[B, *x_shape]`.
        t: their timestep, in training units.
        directions: D of them in "h", at one tap, of one shape: a list, or what `attention` found.
        cond: the network's further arguments, batch first; None is the null condition.
        kind: the output: "noise", "denoised" or "score".
        subspace: what to measure the overlap with: a local basis of features at the tap (u of
            `maps.encoder`, or v of `maps.decoder`), or directions, such as principal components.

    Returns:
        The table.

    Raises:
        TypeError: the model is none, or one of them is no direction.
        ValueError: the directions do not lie in one feature of the model; x, t, cond or kind is not
            what the model takes; or the subspace lies elsewhere.

    Cost: D products with the decoder's Jacobian for each sample, and the checks of
    `JacobianOperator`; one forward pass up to the tap twice.
    """
    check_model(model)
    found = comparing.checked(directions)
    comparing.check_alike(found)
    first = found[0]
    if first.space != "h":
        raise ValueError(
            f'Expected directions in a feature ("h"), got "{first.space}": what is measured is '
            "their way from the feature to the output."
        )
    overlap = None if subspace is None else comparing.retained(found, subspace)
    first.check_fits(model)
    bound = maps.decoder(model, first.tap, kind).at(x, t, cond)
    gain = gains_of(bound, found)
    values = [one.provenance.get("eigenvalue") for one in found]
    return Ranking(
        tuple(comparing.label(one, place) for place, one in enumerate(found)),
        gain,
        None if None in values else torch.tensor(values, dtype=torch.float64, device="cpu"),
        overlap,
    )


def gains_of(bound: maps.Bound, directions: Sequence[Direction]) -> torch.Tensor:
    """‖J v‖ of unit directions at the points of a map, `[D, B]`, float64, on the CPU.

    Args:
        bound: the map at B points.
        directions: D of them, in the space of its variable; pooled ones are repeated at every
            place and made of norm 1 again.

    Raises:
        ValueError: a direction has another shape than the variable.
    """
    point = bound.point
    shape = tuple(point.shape[1:])
    rows = torch.stack([comparing.whole_feature(one, shape) for one in directions])
    block = rows.to(point).expand(len(point), *rows.shape).contiguous()
    images = bound.operator().matmat(block)
    return torch.linalg.vector_norm(images.flatten(2).double(), dim=2).mT.cpu()
