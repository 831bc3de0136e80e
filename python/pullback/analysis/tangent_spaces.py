"""Distances between tangent spaces: across samples, and across timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pullback.analysis.findings import Analysis, compare
from pullback.analysis.trends import (
    check_rows,
    check_times,
    over_time,
    rank_correlation,
    with_shuffled,
)
from pullback.geometry import grassmann

_SOURCE = "Park et al. 2023, arXiv:2307.12868"


@dataclass(frozen=True, eq=False)
class AcrossSamples(Analysis):
    """How far apart the tangent spaces of different samples are: made by `across_samples`.

    Attributes:
        distance: of each sample's space from those of the others, the mean, `[N, T]`, float64:
            geodesic, in radians.
        chance: that of random subspaces.
    """

    distance: torch.Tensor
    chance: float


@dataclass(frozen=True, eq=False)
class AcrossTimes(Analysis):
    """How far apart one sample's tangent spaces are at two timesteps: made by `across_times`.

    Attributes:
        distance: geodesic, in radians, `[N, T, T]`, float64.
        chance: that of random subspaces.
    """

    distance: torch.Tensor
    chance: float


def across_samples(rows: torch.Tensor, times: Sequence[int]) -> AcrossSamples:
    """Distances between the tangent spaces of different samples, at each timestep.

    Args:
        rows: that span the spaces, `[N, T, k, ...]`: u for those of features, v for those of
            latents.
        times: timesteps in training units, T of them, descending.

    Returns:
        `AcrossSamples`, whose controls are random subspaces, and shuffled timesteps.

    Raises:
        TypeError: rows are no tensor of floating numbers.
        ValueError: they have another shape, NaN or Inf, or are dependent.

    Cost: as `grassmann.all_pairs` at each timestep.
    Source: Park et al. 2023, arXiv:2307.12868, section 4.
    """
    times = check_times(times)
    frames = check_rows("rows", rows, times, 4).flatten(3)
    found = torch.stack([_from_others(frames[:, place]) for place in range(len(times))], 1)
    random = _from_others(random_rows(frames[:, 0]))
    return AcrossSamples(
        times=times,
        findings=(
            over_time(
                "the tangent spaces of different samples move apart as t falls", _SOURCE,
                "Distance to other samples", found, times,
            ),
            compare(
                "at the noisiest timestep different samples share tangent spaces", _SOURCE,
                f"Distance at t = {times[0]} in radians", found[:, 0], "of random subspaces",
                random, less=True,
            ),
        ),
        distance=found,
        chance=chance_of(frames),
    )  # fmt: skip


def across_times(rows: torch.Tensor, times: Sequence[int]) -> AcrossTimes:
    """Distances between one sample's tangent spaces at two timesteps.

    Args:
        rows: as for `across_samples`, `[N, T, k, ...]`.
        times: timesteps in training units, T of them, three or more, descending.

    Returns:
        `AcrossTimes`, whose control has the timesteps shuffled.

    Raises:
        TypeError, ValueError: as `across_samples`.

    Cost: as `grassmann.all_pairs` for each sample.
    Source: Park et al. 2023, arXiv:2307.12868, section 4.
    """
    times = check_times(times)
    frames = check_rows("rows", rows, times, 4).flatten(3)
    found = torch.stack([grassmann.all_pairs(one).distance.cpu() for one in frames])
    at = torch.tensor(times, dtype=torch.float64, device="cpu").expand(len(found), -1)
    i, j = torch.triu_indices(len(times), len(times), 1, device="cpu")
    apart = found[:, i, j]

    def agreement(order: torch.Tensor) -> torch.Tensor:
        mixed = at.gather(1, order)
        return rank_correlation(apart, (mixed[:, i] - mixed[:, j]).abs())

    whole = torch.arange(len(times), device="cpu").expand(len(found), -1)
    return AcrossTimes(
        times=times,
        findings=(
            compare(
                "the tangent spaces of one sample are the farther apart the more its timesteps "
                "differ", _SOURCE, "Rank correlation of their distance with |t − t'|",
                agreement(whole), "with shuffled timesteps", with_shuffled(agreement, *at.shape),
            ),
        ),
        distance=found,
        chance=chance_of(frames),
    )  # fmt: skip


def chance_of(frames: torch.Tensor) -> float:
    """The mean geodesic distance of random subspaces like those of frames `[..., k, n]`."""
    return grassmann.random_distance(*frames.shape[-2:])


def random_rows(rows: torch.Tensor) -> torch.Tensor:
    """Isotropic noise in the place of rows `[...]`, always the same."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(rows.shape, generator=generator, device="cpu")


def _from_others(frames: torch.Tensor) -> torch.Tensor:
    """The mean distance of each of the spaces `[N, k, n]` from the others, `[N]`, on the CPU."""
    found = grassmann.all_pairs(frames).distance.cpu()
    return found.sum(1) / (len(found) - 1)
