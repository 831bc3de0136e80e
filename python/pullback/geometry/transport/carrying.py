"""Directions carried from the tangent spaces of some samples to those of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

# Directions and edits stand above this room: they are reached by the front door, when asked for.
import pullback
from pullback._numbers import whole
from pullback.geometry.bases import LocalBasis
from pullback.geometry.transport.checks import (
    check_alike,
    check_basis,
    check_something,
    warn_little,
    warn_of_bases,
)
from pullback.geometry.transport.tangents import Origins, in_frame, tangents_of

#: How a tangent û of the features goes back to the latents: powers of s that its coordinates are
#: multiplied by.
BACK = {"isometric": 0, "pullback": -1, "vjp": 1}


@dataclass(frozen=True, eq=False)
class Transported:
    """D directions carried to B samples: see `transport`.

    Attributes:
        coordinates: `[D, B, k]`, float64, of norm 1: in the rows v of the target.
        retained: `[D, B]`, float64, from 0 to 1: the norm of what the projection on the target's
            tangent space kept of the unit vector u, before it was made a unit vector again.
        target: the local bases of the B samples.
        back: "isometric", "pullback" or "vjp".
        origins: what is known of each of the D directions; empty where nothing is.
    """

    coordinates: torch.Tensor
    retained: torch.Tensor
    target: LocalBasis
    back: str
    origins: Origins = ()

    def __len__(self) -> int:
        """Number of directions, D."""
        return len(self.coordinates)

    @property
    def v(self) -> torch.Tensor:
        """The directions in the latents, `[D, B, *x_shape]`, unit rows, in the target's dtype."""
        return _combined(self.coordinates, self.target.v)

    @property
    def u(self) -> torch.Tensor:
        """The unit tangents Û in the features, `[D, B, *h_shape]`, in the target's dtype."""
        s = self.target.s.double()
        used = torch.where(s > 0, s, 1.0) ** -BACK[self.back]
        return _combined(self.coordinates * used, self.target.u)

    def direction(
        self, sample: int, index: int = 0, space: str | None = None
    ) -> pullback.Direction:
        """One direction at one sample, to be applied, saved and shared.

        Args:
            sample: which sample of the target, from 0.
            index: which of the D directions, from 0.
            space: the space of the map's variable, such as "x", for v (the default), or "h" for u.

        Returns:
            The direction, with the target's t; its provenance says how ("transport"), back,
            retained, and where it comes from (source).

        Raises:
            ValueError: no such sample or index, or no vector in that space.
        """
        index = whole("index", index, 0, len(self) - 1)
        there = self.target.direction(0, sample, space)
        one = replace(
            self,
            coordinates=self.coordinates[index : index + 1, sample : sample + 1],
            target=self.target[sample],
        )
        side = there.provenance["vector"]
        known = {name: there.provenance[name] for name in there.provenance.keys() - {"s"}}
        return replace(
            there,
            vector=(one.v if side == "v" else one.u)[0, 0],
            name=f"{side} carried to sample {sample}",
            provenance={
                **known,
                "how": "transport",
                "index": index,
                "back": self.back,
                "retained": float(self.retained[index, sample]),
                "source": self.origins[index] if self.origins else {},
            },
        )

    def edit(self, strengths: Sequence[float], **options: Any) -> pullback.editing.Sweep:
        """The target's samples edited along what was carried to each: see `pullback.sweep`.

        Args:
            strengths: K strengths.
            **options: as for `pullback.sweep`; the condition is that of the target by default.

        Returns:
            A sweep, with an edit for each of the D directions, or of `indices`.

        Raises:
            RuntimeError: the target was read from a file and no longer knows its samples.
            ValueError: its samples are at several timesteps, or as `pullback.sweep`.
        """
        return self.target._sweep(self, strengths, options)


def transport(
    direction: int | Sequence[int] | torch.Tensor | pullback.Direction,
    source: LocalBasis | None,
    target: LocalBasis,
    *,
    back: str = "isometric",
) -> Transported:
    """Directions carried from the tangent spaces of some samples to those of others.

    The tangents over the features are projected: of a unit vector u, the coordinates in the
    tangent basis U' of the target are c = U'ᵀu, of norm `retained`, and the unit tangent there is
    û = U'c / ‖c‖. Back in the latents, its coordinates in the local basis V' are, of norm 1:

    - "isometric": c, as in the published code, which takes V' and U' for each other;
    - "pullback": Σ'⁻¹c, of the shortest v with Jv along û, as the geometry has it;
    - "vjp": Σ'c, of Jᵀû, the steepest ascent of ⟨û, h⟩. The published "inverse Jacobian" is its
      negative.

    All three scale coordinates; no products of the network are needed. Source and target may be
    of different samples, timesteps, conditions and ranks.

    Args:
        direction: the index i of a direction of each source sample (D source samples, each to all
            target samples); several indices (D = samples × indices, the samples in the outer
            order); tangents in the features, `[D, *h_shape]` or `[*h_shape]`; or a
            `pullback.Direction`, in "h", or in "x" of a source of one sample. Of the last, the
            tangent is Σ ⟨v_i, v⟩ u_i, whatever `back` is.
        source: the local bases that directions are taken from; needed for indices, and for "x".
        target: the local bases of the B samples to carry them to.
        back: "isometric", "pullback" or "vjp".

    Returns:
        The directions at each sample, with what was retained. Beyond a sample's numerical rank
        their coordinates are zeros.

    Raises:
        TypeError: an argument of another type.
        ValueError: source, target and direction differ in model, map, variable, tap or shape; an
            index beyond the numerical rank; NaN or Inf; a zero singular value in the target with
            "pullback"; or nothing of a direction lies in a sample's tangent space.

    Warns:
        UserWarning: a basis did not converge, or so little of a direction is retained that it may
            mean something else: less than 0.1, or than 1 in 1000 random directions retain.

    Cost: no products of the network; B decompositions of k rows, and D B products of k m.
    Source: Park et al. 2023, arXiv:2307.12868.
    """
    if back not in BACK:
        raise ValueError(f"Expected back as one of {', '.join(BACK)}, got {back!r}.")
    check_basis("target", target)
    if source is not None:
        check_basis("source", source)
        check_alike(source, target)
    if back == "pullback":
        _check_invertible(target)
    tangents, origins = tangents_of(direction, source, target)
    kept = torch.zeros(len(tangents), *target.s.shape, dtype=torch.float64, device=tangents.device)
    for sample, rank in enumerate(target.rank.tolist()):
        kept[:, sample, :rank] = in_frame(target.u[sample, :rank], tangents)
    retained = kept.norm(dim=2)
    check_something(retained, target.u.dtype, "the tangent space")
    warn_of_bases(source, target)
    warn_little(retained, target.rank, target.u[0, 0].numel(), "the target's tangent spaces")
    s = torch.where(target.s > 0, target.s.double(), 1.0)
    scaled = kept * (s / s[:, :1]) ** BACK[back]
    coordinates = scaled / scaled.norm(dim=2, keepdim=True)
    return Transported(coordinates, retained.clamp(max=1), target, back, origins)


def _check_invertible(target: LocalBasis) -> None:
    k = target.s.shape[1]
    short = torch.nonzero(target.rank < k).flatten().tolist()
    if short:
        rank = int(target.rank[short[0]])
        raise ValueError(
            f'Expected singular values above zero for back="pullback", which divides by them, and '
            f"sample {short[0]} of the target has numerical rank {rank} of {k}. Compute the target "
            f'at rank {rank}, or carry with "isometric" or "vjp".'
        )


def _combined(coordinates: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Unit rows Σ_i c_i rows_i in the dtype of the rows, `[D, B, *shape]`, sample by sample."""
    found = torch.empty(
        *coordinates.shape[:2], *rows.shape[2:], dtype=rows.dtype, device=rows.device
    )
    for sample in range(len(rows)):
        sums = coordinates[:, sample] @ rows[sample].double().flatten(1)
        sums = sums / sums.norm(dim=1, keepdim=True)
        found[:, sample] = sums.reshape(-1, *rows.shape[2:]).to(rows.dtype)
    return found
