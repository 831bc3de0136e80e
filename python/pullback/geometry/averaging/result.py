"""What many samples have in common: directions, with how well they agree on them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

# Directions stand above this room: they are reached by the front door, when they are asked for.
import pullback
from pullback._numbers import whole
from pullback.geometry.averaging import stored
from pullback.geometry.bases import LocalBasis
from pullback.geometry.transport import Transported, transport
from pullback.geometry.transport.checks import (
    check_basis,
    check_something,
    unconverged,
    warn_little,
    warn_unconverged,
)
from pullback.geometry.transport.tangents import in_frame


@dataclass(frozen=True, eq=False)
class GlobalDirections:
    """Directions that many samples share: made by `global_directions` and `mean_metric`.

    Attributes:
        vectors: `[D, *shape]`, of norm 1, in float32 or float64.
        space: "h" (the feature at a tap), or the space of the map's variable, such as "x".
        how: "nearest", "hungarian", "frechet" or "metric".
        agreement: `[D]`, float64, 0 to 1. Of means of bases: the mean over the samples of |cos|
            between the direction and what stands for it there. Of "metric": s_i² / s_1², how much
            the features move along the direction, as a share of the leading one.
        s: `[D]`, float64, for "metric": square roots of the eigenvalues of E[JᵀJ], descending. None
            for the others.
        provenance: model, fingerprint, map, wrt, tap, t, how, samples and versions, as JSON holds
            them.
    """

    vectors: torch.Tensor
    space: str
    how: str
    agreement: torch.Tensor
    s: torch.Tensor | None
    provenance: dict[str, Any]

    def __len__(self) -> int:
        """Number of directions D."""
        return len(self.vectors)

    def __getitem__(self, index: int | slice | list[int] | torch.Tensor) -> GlobalDirections:
        """Some of the directions; an int keeps the first dimension, with one direction."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"Expected a direction below {len(self)}, got {index}.")
            index = [index % len(self)]
        if isinstance(index, torch.Tensor):
            index = index.cpu()
        rows = torch.arange(len(self), device="cpu")[index].reshape(-1)
        if not len(rows):
            raise IndexError(f"Expected one direction or more of {len(self)}, got none.")
        rows = rows.to(self.vectors.device)
        return replace(
            self,
            vectors=self.vectors[rows],
            agreement=self.agreement[rows],
            s=None if self.s is None else self.s[rows],
        )

    def localise(self, target: LocalBasis, *, back: str = "isometric") -> Transported:
        """The directions as each sample of a basis has them, to be applied there.

        In "h" they are projected on the sample's tangents and brought back to its latents,
        v = V(Uᵀū), by `pullback.geometry.transport`; otherwise on its latent basis, v = V Vᵀ v̄.

        Args:
            target: bases of the same model and tap, of any samples; also at another timestep, where
                `retained` tells how much of the directions is left.
            back: in "h", the way from tangents back to latents, as for `transport`; in the other
                spaces there is none to choose, and it must be "isometric".

        Returns:
            Coordinates `[D, B, k]` of norm 1 in the rows v of the target, with the norm `retained`
            of the projection before it was divided by it.

        Raises:
            TypeError: the target is no basis.
            ValueError: it is of another model, variable, map, tap or size, or holds NaN or Inf; a
                sample has numerical rank 0; or nothing of a direction lies in a sample's space.

        Warns:
            UserWarning: so little of a direction is retained that it may mean something else, or
                the target has not converged.

        Cost: B decompositions of k rows, and no products.

        Source: Park et al. 2023, arXiv:2307.12868.
        """
        self._check_target(target)
        if self.provenance["vector"] == "u":
            found = transport(self.vectors.to(target.u.device), None, target, back=back)
            return replace(found, origins=self._origins())
        if back != "isometric":
            raise ValueError(
                f'Expected back="isometric", got {back!r:.60}: directions in "{self.space}" are '
                "not brought back from features."
            )
        return self._on_rows(target)

    def direction(self, index: int) -> pullback.Direction:
        """One of the directions as it is, to be applied to any sample: see `pullback.Direction`.

        Args:
            index: which direction, from 0.

        Returns:
            The direction, of its space and tap, at the samples' t; its provenance is that of the
            directions, with index, agreement and s.

        Raises:
            ValueError: there is no such direction.
        """
        index = whole("index", index, 0, len(self) - 1)
        known = self.provenance
        return pullback.Direction.of(
            self.vectors[index],
            self.space,
            tap=known["tap"] if self.space == "h" else None,
            pool=known["pool"],
            t=known["t"],
            name=f"{self.how} {index} of {known['samples']} samples",
            provenance=self._origins()[index],
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the directions to a safetensors file, with their provenance in the header.

        The file appears complete or not at all. It may replace a regular file, and of a symbolic
        link the file that it leads to.

        Raises:
            OSError: the file cannot be written, or something else stands there, such as a device.
        """
        tensors = {"vectors": self.vectors, "agreement": self.agreement}
        if self.s is not None:
            tensors["s"] = self.s
        stored.write(Path(path), tensors, self.space, self.how, self.provenance)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GlobalDirections:
        """Read directions that `save` wrote, onto the CPU. Every field is checked.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged or holds something else; it says what is wrong. Pickles
                are never read.
        """
        return cls(**stored.read(Path(path)))

    def _check_target(self, target: LocalBasis) -> None:
        """Raise unless the directions and a basis lie in one space of one model."""
        check_basis("target", target)
        side = self.provenance["vector"]
        # Latents are those of the model, whatever features a map goes on to; features are not.
        names = ("fingerprint", "wrt", "map", "tap") if side == "u" else ("fingerprint", "wrt")
        for name in names:
            ours, theirs = self.provenance[name], target.provenance.get(name)
            if ours != theirs:
                raise ValueError(
                    f"Expected a basis with the {name} {ours!r} of the directions, got {theirs!r}. "
                    "Compute the basis with the model and the map that the directions are of."
                )
        shape, found = tuple(self.vectors.shape[1:]), tuple(getattr(target, side).shape[2:])
        if shape != found:
            raise ValueError(
                f"Expected a basis whose {side} are of shape {list(shape)} each, got {list(found)}."
                " Use latents of the size that the directions were found at."
            )

    def _on_rows(self, target: LocalBasis) -> Transported:
        """The directions projected on the rows v of each sample, up to its numerical rank."""
        vectors = self.vectors.flatten(1).double().to(target.v.device)
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        kept = vectors.new_zeros(len(self), *target.s.shape)
        for sample, rank in enumerate(target.rank.tolist()):
            kept[:, sample, :rank] = in_frame(target.v[sample, :rank], vectors)
        retained = kept.norm(dim=2)
        check_something(retained, target.v.dtype, "the span of v")
        warn_unconverged("the target", unconverged(target), target.tol)
        warn_little(retained, target.rank, vectors.shape[1], "the span of v")
        coordinates = kept / retained.unsqueeze(2)
        return Transported(coordinates, retained.clamp(max=1), target, "isometric", self._origins())

    def _origins(self) -> tuple[dict[str, Any], ...]:
        """What is known of each of the directions."""
        s = [None] * len(self) if self.s is None else self.s.tolist()
        return tuple(
            {**self.provenance, "index": index, "agreement": agreement, "s": s[index]}
            for index, agreement in enumerate(self.agreement.tolist())
        )

    def __repr__(self) -> str:
        known = self.provenance
        low, high = (math.floor(100 * float(x)) / 100 for x in self.agreement.aminmax())
        where = f"{self.space} at {known['tap']}" if self.space == "h" else self.space
        return (
            f"GlobalDirections({len(self)} by {self.how} of {known['samples']} samples, {where}, "
            f"{list(self.vectors.shape[1:])}, at t={known['t']}, agreement {low:.2f} to {high:.2f},"
            f" of {known['model']})"
        )
