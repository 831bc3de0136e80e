"""Power spectral density of latent directions: coarse or fine, over timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pullback.analysis.findings import Analysis, compare
from pullback.analysis.trends import check_rows, check_times, over_time

_SOURCE = "Park et al. 2023, arXiv:2307.12868"


@dataclass(frozen=True, eq=False)
class Frequencies(Analysis):
    """Densities of N samples' directions at T timesteps: made by `frequencies`.

    Attributes:
        frequency: of the K rings, ascending, in cycles per place; 0.5 is the finest along an axis.
        density: `[N, T, K]`, float64, the mean power in each ring: that of white noise is 1.
        centroid: the mean frequency, weighted by the power, `[N, T]`, in cycles per place.
        noise: that of isotropic noise.
    """

    frequency: tuple[float, ...]
    density: torch.Tensor
    centroid: torch.Tensor
    noise: float


def frequencies(v: torch.Tensor, times: Sequence[int]) -> Frequencies:
    """The power spectral density of latent directions, averaged over rings of equal frequency.

    |F|² of every direction's last two dimensions (of the last one for signals `[C, L]`), mean over
    channels, directions and rings one cycle per image wide.

    Args:
        v: directions `[N, T, k, C, ..., H, W]` or `[N, T, k, C, L]`; of any norm but 0.
        times: timesteps in training units, T of them, descending.

    Returns:
        `Frequencies`, whose controls are isotropic noise of the same shape, and shuffled timesteps.

    Raises:
        TypeError: v is no tensor of floating numbers.
        ValueError: it has another shape, NaN or Inf, or a direction is zero.

    Cost: one Fourier transform of each direction.
    Source: Park et al. 2023, arXiv:2307.12868, section 4, who plot such densities.
    """
    times = check_times(times)
    v = check_rows("v", v, times, 5).cpu()
    sizes = tuple(v.shape[-2:]) if v.dim() > 5 else tuple(v.shape[-1:])
    where = _radius(sizes)
    power = torch.stack([_power(sample, len(sizes)) for sample in v])  # [N, T, *sizes]
    noise = _power(_noise_like(v), len(sizes))[0]
    centroid = _centroid(power, where)
    # Rings begin at half a cycle per image, and the constant part is a ring of its own.
    ring = (where * max(sizes)).round().long().flatten()
    count = int(ring.max()) + 1
    cells = torch.bincount(ring, minlength=count)
    flat = power.flatten(2)
    held = flat.new_zeros(*flat.shape[:2], count).index_add_(2, ring, flat)
    middle = where.flatten().new_zeros(count).index_add_(0, ring, where.flatten()) / cells
    white = _centroid(noise, where)
    return Frequencies(
        times=times,
        findings=(
            over_time(
                "directions become finer as t falls", _SOURCE, "Mean frequency", centroid, times
            ),
            compare(
                "at the noisiest timestep directions are coarse", _SOURCE,
                f"Mean frequency at t = {times[0]}", centroid[:, 0], "of isotropic noise",
                white.expand(len(v)), less=True,
            ),
        ),
        frequency=tuple(middle.tolist()),
        density=held / cells,
        centroid=centroid,
        noise=float(white),
    )  # fmt: skip


def _power(v: torch.Tensor, axes: int) -> torch.Tensor:
    """Mean power `[T, *sizes]` of directions `[T, k, ...]` of norm 1, that of white noise 1."""
    rows = v.double()
    norms = rows.flatten(2).norm(dim=2)
    if not bool((norms > 0).all()):
        raise ValueError("Expected directions other than zero, got one that is. Lower the rank.")
    rows = rows / norms.reshape(*norms.shape, *[1] * (rows.dim() - 2))
    dims = tuple(range(-axes, 0))
    found = torch.fft.fftn(rows, dim=dims, norm="ortho").abs().square()
    entries = rows[0, 0].numel()
    return found.flatten(1, -1 - axes).mean(1) * entries


def _noise_like(v: torch.Tensor) -> torch.Tensor:
    """Isotropic noise `[1, 256, ...]` of the directions' shape."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(1, 256, *v.shape[3:], generator=generator, device="cpu")


def _radius(sizes: tuple[int, ...]) -> torch.Tensor:
    """The frequency of each place of a transform `[*sizes]`, in cycles per place."""
    axes = [torch.fft.fftfreq(size, dtype=torch.float64, device="cpu") for size in sizes]
    grid = torch.meshgrid(*axes, indexing="ij")
    return torch.stack(grid).square().sum(0).sqrt()


def _centroid(power: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    flat = power.flatten(-where.dim())
    return (flat * where.flatten()).sum(-1) / flat.sum(-1)
