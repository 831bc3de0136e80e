"""Principal components of features along trajectories, as edits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pullback._numbers import whole
from pullback.directions.direction import Direction


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Principal components of features along N trajectories of T steps: made by `pca`.

    Attributes:
        components: `[k, T, *h_shape]`, in float32 or float64, by falling deviation. Joint ones have
            norm 1 over all steps together, and the entry of largest magnitude of each is positive.
            Of those of single steps each has norm 1, that entry is positive at the first step, and
            the sign at the others is that of the component of the step before.
        deviations: standard deviations of the trajectories along them, `[k]`, or `[k, T]` for those
            of single steps, float64.
        ratios: their shares of the variance, `[k]` or `[k, T]`, float64.
        variance: of the features, summed over their entries, `[]` or `[T]`, float64.
        lost: share of the variance that was dropped on the way, `[]` or `[T]`, float64, which
            bounds the error as `StreamingPCA` says.
        mean: of the features, `[T, *h_shape]`.
        times: timesteps in training units at which the steps begin, T of them, descending.
        stop: the timestep in training units at which the last one ends.
        joint: whether components are of all steps together.
        tap: where h is read.
        pool: "space" for pooled features, else None.
        provenance: how it was found, with all settings, as JSON holds it.
    """

    components: torch.Tensor
    deviations: torch.Tensor
    ratios: torch.Tensor
    variance: torch.Tensor
    lost: torch.Tensor
    mean: torch.Tensor
    times: tuple[int, ...]
    stop: int
    joint: bool
    tap: str
    pool: str | None
    provenance: dict[str, Any]

    def __len__(self) -> int:
        """Number of components k."""
        return len(self.components)

    def entry(self, index: int) -> tuple[Direction, ...]:
        """A component as an edit, which `pullback.edit` takes: a direction for each step.

        Strength 1 moves the features by one standard deviation. Each direction has the window of
        its step, from where it begins down to just above where the next one does; so edit with the
        steps of the trajectories. `pullback.directions.save` keeps all of them in one file.

        Args:
            index: which component, from 0.

        Returns:
            T directions; one at which a joint component does not move the feature is left out.

        Raises:
            ValueError: there is no such component.
        """
        index = whole("index", index, 0, len(self) - 1)
        ends = [*self.times[1:], self.stop]
        found = []
        for step, (t, end) in enumerate(zip(self.times, ends, strict=True)):
            vector = self.components[index, step]
            norm = float(torch.linalg.vector_norm(vector.double()))
            if not norm:
                continue
            at = (index,) if self.joint else (index, step)
            deviation = float(self.deviations[at])
            found.append(
                Direction.of(
                    vector,
                    "h",
                    tap=self.tap,
                    pool=self.pool,
                    t=t,
                    window=(t, end + 1),
                    unit=deviation * norm,
                    name=f"pca {index}",
                    provenance={
                        **self.provenance,
                        "t": t,
                        "index": index,
                        "deviation": deviation,
                        "ratio": float(self.ratios[at]),
                    },
                )
            )
        return tuple(found)

    def __repr__(self) -> str:
        known = self.provenance
        kind = "joint" if self.joint else "per timestep"
        return (
            f"PrincipalComponents({len(self)}, {kind}, of {known['samples']} trajectories, h at "
            f"{self.tap}, {list(self.components.shape[2:])}, {len(self.times)} steps from "
            f"t={self.times[0]} to {self.stop}, lost {float(self.lost.max()):.1e})"
        )
