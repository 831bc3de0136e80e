"""Singular values over timesteps: how many directions matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pullback.analysis.findings import Analysis
from pullback.analysis.trends import check_rows, check_times, over_time


@dataclass(frozen=True, eq=False)
class Spectra(Analysis):
    """Spectra of N samples at T timesteps: made by `spectra`.

    Attributes:
        ratio: s_i / s_1, `[N, T, k]`, float64.
        effective: the effective rank of the k values, `[N, T]`, from 1 to k: that of isotropic
            Jacobians is k.
        numerical: how many of them hold the share of their squares, `[N, T]`, from 1 to k.
        share: which one.
    """

    ratio: torch.Tensor
    effective: torch.Tensor
    numerical: torch.Tensor
    share: float


def spectra(s: torch.Tensor, times: Sequence[int], *, share: float = 0.5) -> Spectra:
    """How flat the spectra of Jacobians are, and whether they flatten as t falls.

    Args:
        s: singular values, descending, `[N, T, k]`; of leading ones the ranks are of those alone.
        times: timesteps in training units, T of them, descending.
        share: of the sum of squares, for the numerical rank.

    Returns:
        `Spectra`, whose control is the same with shuffled timesteps.

    Raises:
        TypeError: s is no tensor of floating numbers.
        ValueError: it has another shape, is not descending, or has NaN or Inf; no share.

    Source: Park et al. 2023, arXiv:2302.12469, who keep the directions of half of the eigenvalues'
    sum.
    """
    times = check_times(times)
    s = check_rows("s", s, times, 3).double().cpu()
    if s.dim() != 3 or not bool((s[..., :1] > 0).all()) or bool((s.diff(dim=2) > 0).any()):
        raise ValueError("Expected s [N, T, k], descending, with a first value above 0.")
    effective = effective_rank(s)
    return Spectra(
        times=times,
        findings=(
            over_time(
                "the spectrum flattens as t falls", "Park et al. 2023, arXiv:2302.12469",
                "Effective rank", effective, times,
            ),
        ),
        ratio=s / s[..., :1],
        effective=effective,
        numerical=numerical_rank(s, share),
        share=share,
    )  # fmt: skip


def effective_rank(s: torch.Tensor) -> torch.Tensor:
    """Exp of the entropy of s² / Σs² for singular values `[..., k]`: `[...]`, float64, 1 to k.

    Source: Roy and Vetterli 2007.
    """
    squares = s.double().square()
    shares = squares / squares.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()


def numerical_rank(
    s: torch.Tensor, share: float = 0.99**2, total: torch.Tensor | None = None
) -> torch.Tensor:
    """The least r whose leading values hold a share of the sum of squares: `[...]`, float64.

    Args:
        s: singular values `[..., k]`, descending.
        share: above 0, at most 1.
        total: ‖J‖², the sum of the squares of all of them, `[...]`; by default that of these k.

    Returns:
        r, `[...]`, from 1 to k; infinity where the k values do not hold the share of the total.

    Raises:
        ValueError: there is no such share.

    Source: Chen et al. 2024, arXiv:2409.02374, whose share is 0.99².
    """
    if not 0 < share <= 1:
        raise ValueError(f"Expected a share above 0 and at most 1, got {share}.")
    held = s.double().square().cumsum(-1)
    whole_sum = held[..., -1] if total is None else total.to(held)
    # A share of 1 is reached by the last value, whatever the rounding.
    missing = held < (share - 1e-12) * whole_sum[..., None]
    count = missing.sum(-1)
    return torch.where(count < s.shape[-1], (count + 1).double(), torch.inf)
