"""The local bases that analyses take: of N samples, each at T timesteps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pullback.geometry import LocalBasis, local_basis
from pullback.models import Condition, LatentModel


@dataclass(frozen=True, eq=False)
class Bases:
    """Leading singular triplets at N samples' latents and T timesteps, on the CPU.

    Attributes:
        times: timesteps in training units, T of them, descending.
        x: latents `[N, T, *x_shape]`.
        s: singular values `[N, T, k]`.
        v: latent directions `[N, T, k, *x_shape]`.
        u: directions of the features `[N, T, k, *h_shape]`; None where they were not kept.
    """

    times: tuple[int, ...]
    x: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor
    u: torch.Tensor | None = None

    @classmethod
    def of(cls, times: Sequence[int], x: torch.Tensor, bases: Sequence[LocalBasis]) -> Bases:
        """From a `LocalBasis` of N samples at each of the T timesteps.

        Args:
            times: timesteps in training units, T of them, descending.
            x: latents `[N, T, *x_shape]`.
            bases: of the same samples at each timestep.
        """
        parts = {name: torch.stack([getattr(b, name).cpu() for b in bases], 1) for name in "suv"}
        return cls(times=tuple(times), x=x.cpu(), **parts)

    @property
    def tangents(self) -> torch.Tensor:
        """Rows that span the tangent spaces: u, or v where no u were kept, `[N, T, k, ...]`."""
        return self.v if self.u is None else self.u

    def few(self, samples: int, step: int = 1) -> Bases:
        """The first samples, at every `step`-th timestep."""
        return Bases(
            times=self.times[::step],
            x=self.x[:samples, ::step],
            s=self.s[:samples, ::step],
            v=self.v[:samples, ::step],
            u=None if self.u is None else self.u[:samples, ::step],
        )


def sampled(
    model: LatentModel,
    seeds: Sequence[int],
    times: Sequence[int],
    cond: Condition | None = None,
    *,
    steps: int = 50,
) -> torch.Tensor:
    """Latents of samples on their way from noise to data, `[N, T, *x_shape]`.

    Args:
        model: the model.
        seeds: one for each of the N samples.
        times: timesteps in training units, T of them.
        cond: the network's further arguments, batch first; None is the null condition.
        steps: DDIM steps over the whole schedule.

    Cost: T walks from noise.
    """
    found = [model.sample_latents(len(seeds), t, seeds, cond, steps=steps) for t in times]
    return torch.stack(found, 1)


def walked(
    model: LatentModel,
    x: torch.Tensor,
    times: Sequence[int],
    rank: int,
    cond: Condition | None = None,
    *,
    told: Sequence[int] | None = None,
    progress: Callable[[], None] | None = None,
    **options: Any,
) -> Bases:
    """The local bases of samples at each timestep.

    Args:
        model: the model.
        x: latents `[N, T, *x_shape]`.
        times: timesteps in training units, T of them, descending.
        rank: directions of each.
        cond: the network's further arguments, batch first; None is the null condition.
        told: timesteps that the network is told instead, in training units.
        progress: called after each timestep.
        **options: further ones of `local_basis`.

    Returns:
        `Bases`, with u.

    Raises:
        As `local_basis`.

    Cost: as `local_basis`, N T times.
    """
    found = []
    for place, t in enumerate(times if told is None else told):
        part = x[:, place].to(model.device)
        found.append(local_basis(model, part, t, rank, cond=cond, **options).to("cpu"))
        if progress is not None:
            progress()
    return Bases.of(times, x, found)
