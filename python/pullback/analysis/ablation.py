"""What turns a tangent space on the way: the latents, or the timestep that the network is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pullback.analysis.findings import Analysis, compare
from pullback.analysis.tangent_spaces import chance_of
from pullback.analysis.trends import check_rows, check_times
from pullback.geometry import grassmann


@dataclass(frozen=True, eq=False)
class Ablation(Analysis):
    """How far tangent spaces turn from the first timestep on: made by `ablation`.

    Attributes:
        both: distance of the space at (x_t, t) from that at the first timestep T, `[N, T]`,
            float64: geodesic, in radians; at T it is 0.
        only_x: of that at (x_t, T), where the network is told that nothing has changed, `[N, T]`.
        only_t: of that at (x_T, t), where nothing but what it is told has, `[N, T]`.
        chance: the distance of random subspaces.
    """

    both: torch.Tensor
    only_x: torch.Tensor
    only_t: torch.Tensor
    chance: float


def ablation(
    both: torch.Tensor, only_x: torch.Tensor, only_t: torch.Tensor, times: Sequence[int]
) -> Ablation:
    """Whether x_t or t turns the tangent spaces, each of them changed alone.

    Args:
        both: rows that span the spaces at (x_t, t), `[N, T, k, ...]`.
        only_x: at (x_t, T), `[N, T, k, ...]`; T is the first timestep.
        only_t: at (x_T, t), `[N, T, k, ...]`.
        times: timesteps in training units, T of them, descending.

    Returns:
        An `Ablation`, in which each is the other's control.

    Raises:
        TypeError: rows are no tensor of floating numbers.
        ValueError: they have another shape, NaN or Inf, are dependent, or differ at the first
            timestep, where all must be the same.

    Cost: QR decompositions and angles of 3 N T subspaces.
    Source: the comparison of Park et al. 2023, arXiv:2307.12868; its outcome is not known to us.
    """
    times = check_times(times)
    found = []
    first = check_rows("rows", both, times, 4).flatten(3)[:, 0].cpu()
    for name, rows in (("both", both), ("only_x", only_x), ("only_t", only_t)):
        frames = check_rows(name, rows, times, 4).flatten(3).cpu()
        if frames.shape != both.flatten(3).shape:
            raise ValueError(
                f"Expected rows of one shape, got {list(both.shape)} and {list(rows.shape)}."
            )
        far = [grassmann.distance(first, frames[:, place]) for place in range(len(times))]
        found.append(torch.stack(far, 1))
        if float(found[-1][:, 0].max()) > 0.1:
            raise ValueError(
                f"Expected the same spaces at t = {times[0]}, where nothing has changed yet, got "
                f"{name} {float(found[-1][:, 0].max()):.2g} rad away. Compute all with one tol."
            )
    whole, by_x, by_t = found
    return Ablation(
        times=times,
        findings=(
            compare(
                "the latents x_t turn the tangent space more than the t that the network is told",
                "asked by Park et al. 2023, arXiv:2307.12868; their answer is not known to us",
                f"Distance from the space at t = {times[0]} in radians, mean over t, x_t changed "
                "alone", by_x[:, 1:].mean(1), "t alone", by_t[:, 1:].mean(1),
            ),
        ),
        both=whole,
        only_x=by_x,
        only_t=by_t,
        chance=chance_of(first),
    )  # fmt: skip
