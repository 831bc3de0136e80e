"""Means over samples with their 95 % intervals, by the bootstrap over samples."""

from __future__ import annotations

from typing import Any

import torch

_DRAWS = 4000


def draws(count: int, seed: int = 0) -> torch.Tensor:
    """Which samples each of the bootstrap's draws holds, `[4000, count]`."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randint(count, (_DRAWS, count), generator=generator, device="cpu")


def summary(values: torch.Tensor) -> dict[str, float]:
    """The mean over samples `[B]`, with its interval of 95 % by the bootstrap over samples.

    The same count of samples is drawn in the same way everywhere, so that differences are paired.

    Raises:
        ValueError: there are no samples, or several values of each.
    """
    if values.dim() != 1 or not len(values):
        raise ValueError(
            f"Expected values [B], one for each sample, got {list(values.shape)}. Take the mean "
            "over all other dimensions first."
        )
    return _between(values.mean(), values[draws(len(values))].mean(1))


def summaries(values: torch.Tensor) -> Any:
    """The `summary` of each entry of values `[N, ...]` over the N samples, in nested lists.

    Raises:
        ValueError: there are no samples.
    """
    if not values.dim() or not len(values):
        raise ValueError(f"Expected values [N, ...] of samples, got {list(values.shape)}.")
    if values.dim() > 1:
        return [summaries(one) for one in values.unbind(1)]
    return summary(values.double().cpu())


def at_equal_energy(
    ours: tuple[torch.Tensor, torch.Tensor],
    control: tuple[torch.Tensor, torch.Tensor],
    energy: float,
) -> dict[str, float] | None:
    """How much more one curve shows than another where both have the same mean energy.

    Args:
        ours: energies and effects, `[B, K]` each, of K growing strengths.
        control: the same of other edits of the same samples, `[B, K]` each.
        energy: where the curves of means are read, between strengths and from (0, 0) on.

    Returns:
        The difference with its interval; None where a curve does not reach so far.
    """
    picks = draws(len(ours[0]))
    whole, drawn = [], []
    for curve in (ours, control):
        if float(curve[0].mean(0).max()) < energy:
            return None
        whole.append(_read(curve[0].mean(0)[None], curve[1].mean(0)[None], energy))
        drawn.append(_read(curve[0][picks].mean(1), curve[1][picks].mean(1), energy))
    return _between((whole[0] - whole[1])[0], drawn[0] - drawn[1])


def _between(mean: torch.Tensor, drawn: torch.Tensor) -> dict[str, float]:
    low, high = torch.quantile(drawn, drawn.new_tensor([0.025, 0.975]))
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def _read(energies: torch.Tensor, effects: torch.Tensor, energy: float) -> torch.Tensor:
    """Effects at an energy, on straight lines through (0, 0) and the points of curves `[N, K]`.

    Where a curve of a draw ends a little before the energy its last line is carried on.
    """
    energies, effects = (torch.nn.functional.pad(part, (1, 0)) for part in (energies, effects))
    after = torch.searchsorted(energies, torch.full_like(energies[:, :1], energy))
    after = after.clamp(1, energies.shape[1] - 1)
    (e0, e1), (f0, f1) = (
        (part.gather(1, after - 1), part.gather(1, after)) for part in (energies, effects)
    )
    slope = (f1 - f0) / (e1 - e0).clamp_min(1e-12)
    return (f0 + slope * (energy - e0))[:, 0]
