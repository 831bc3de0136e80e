"""Norms of latents over timesteps, against those of noised data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pullback.analysis.findings import Analysis, compare, within
from pullback.analysis.trends import check_rows, check_times

_SOURCE = "Zhu et al. 2023, arXiv:2302.08357"
#: By how much a radius may differ from the expected one and still count as the same.
MARGIN = 0.02


@dataclass(frozen=True, eq=False)
class Radius(Analysis):
    """Norms of N samples' latents at T timesteps over the expected ones: made by `radius`.

    Attributes:
        expected: √(a² ‖x_0‖² + σ² n), the mean over the samples, at each of the T timesteps.
        norm: ‖x_t‖ of sampled latents, `[N, T]`, float64.
        sampled: that over what is expected of the same sample, `[N, T]`.
        inverted: the same of latents that data were inverted to, `[N, T]`.
        noised: the same of data with isotropic noise, the control, `[N, T]`.
    """

    expected: tuple[float, ...]
    norm: torch.Tensor
    sampled: torch.Tensor
    inverted: torch.Tensor
    noised: torch.Tensor


def radius(
    x: torch.Tensor,
    inverted: torch.Tensor,
    clean: torch.Tensor,
    signal: torch.Tensor,
    sigma: torch.Tensor,
    times: Sequence[int],
) -> Radius:
    """Whether latents lie on the sphere on which noised data lie.

    Args:
        x: sampled latents x_t, `[N, T, ...]`.
        inverted: those that the data are inverted to, `[N, T, ...]`.
        clean: the data x_0 that the samples lead to, `[N, ...]`.
        signal: a of x_t = a x_0 + σ ε, `[T]`.
        sigma: σ, `[T]`.
        times: timesteps in training units, T of them, descending.

    Returns:
        A `Radius`.

    Raises:
        TypeError: latents are no tensors of floating numbers.
        ValueError: they have other shapes, NaN or Inf.

    Source: Zhu et al. 2023, arXiv:2302.08357: sampled x_T lie on the sphere of radius √n, inverted
    ones inside it.
    """
    times = check_times(times, 1)
    x, inverted = (
        check_rows(name, one, times, 3).flatten(2).double().cpu()
        for name, one in (("x", x), ("inverted", inverted))
    )
    clean = check_rows("clean", clean[:, None], (0,), 3).flatten(1).double().cpu()
    if inverted.shape != x.shape or clean.shape != x[:, 0].shape:
        raise ValueError(
            f"Expected inverted and clean latents of the {len(x)} samples, got "
            f"{list(inverted.shape)} and {list(clean.shape)} for x {list(x.shape)}."
        )
    a, b = (one.double().cpu() for one in (signal, sigma))
    if a.shape != b.shape or tuple(a.shape) != (len(times),):
        raise ValueError(
            f"Expected signal and sigma of shape [{len(times)}], got {list(a.shape)} and "
            f"{list(b.shape)}."
        )
    size = x.shape[2]
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64, device="cpu")
    noised = a[:, None] * clean[:, None] + b[:, None] * noise
    squares = clean.square().sum(1)[:, None]
    expected = (a.square() * squares + b.square() * size).sqrt()
    ratios = [one.norm(dim=2) / expected for one in (x, inverted, noised)]
    sampled = ratios[0]
    # The timestep at which they are farthest off: others are nearer.
    worst = int((sampled.mean(0) - 1).abs().argmax())
    return Radius(
        times=times,
        findings=(
            within(
                "sampled latents keep the radius of noised data at every t", _SOURCE,
                f"Radius over the expected one at t = {times[worst]}, where it is farthest off",
                sampled[:, worst], 1.0, MARGIN,
            ),
            compare(
                "latents that data are inverted to lie inside the sphere of sampled ones", _SOURCE,
                f"Radius over the expected one at t = {times[0]}, inverted", ratios[1][:, 0],
                "sampled", sampled[:, 0], less=True,
            ),
        ),
        expected=tuple(expected.mean(0).tolist()),
        norm=x.norm(dim=2),
        sampled=sampled,
        inverted=ratios[1],
        noised=ratios[2],
    )  # fmt: skip
