"""The gram kernel against torch.bmm, and against the bandwidth of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import pullback_ext
from benchmarks.timing import interleaved, peak_bytes


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        shapes: B, k, N of the blocks: one sample and many; rank 10 and 50; a digit, a 64×64
            latent, a 256×256 image.
        rounds: turns of each function.
        copied: bytes of the buffer whose copying measures the bandwidth, far beyond any cache.
    """

    shapes: tuple[tuple[int, int, int], ...] = (
        (1, 10, 16384),
        (8, 50, 16384),
        (8, 10, 256),
        (4, 50, 196608),
    )
    rounds: int = 30
    copied: int = 256 << 20

    @classmethod
    def quick(cls) -> Settings:
        """A moment's work, which shows that everything runs and measures nothing."""
        return cls(shapes=((1, 10, 16384), (8, 10, 256)), rounds=2, copied=8 << 20)


def copy_bandwidth(size: int, device: torch.device, rounds: int) -> float:
    """Bytes read and written per second by a copy of `size` bytes, at its fastest."""
    count = size // 4
    source = torch.ones(count, device=device)
    target = torch.zeros_like(source)
    times = interleaved({"copy": lambda: target.copy_(source)}, device, rounds=rounds)
    return 2 * 4 * count / times["copy"]["min"]


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure a bᵀ and a aᵀ on float32 rows for every shape.

    torch.bmm in float64 converts its inputs first, as a caller who wants the accuracy of gram
    must. The fraction of the bandwidth counts one read of the input; inputs that fit the cache
    can exceed 1.

    Args:
        settings: what to measure.
        device: on which device.
        tell: called with a line on what comes next.

    Returns:
        JSON values: the bandwidth, and a row per shape and product.
    """
    tell("copy bandwidth")
    bandwidth = copy_bandwidth(settings.copied, device, max(settings.rounds // 3, 2))
    generator = torch.Generator().manual_seed(0)
    rows = []
    for shape in settings.shapes:
        tell(f"gram of {' x '.join(map(str, shape))}")
        a, b = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
        for product, left, right in (("a b^T", a, b), ("a a^T", a, None)):
            rows.append(_measure(product, left, right, device, settings.rounds, bandwidth))
    return {"native": pullback_ext.available(), "copy_bytes_per_s": bandwidth, "rows": rows}


def _measure(
    product: str,
    a: torch.Tensor,
    b: torch.Tensor | None,
    device: torch.device,
    rounds: int,
    bandwidth: float,
) -> dict[str, Any]:
    other = a if b is None else b
    cases: dict[str, Callable[[], torch.Tensor]] = {
        "gram": lambda: pullback_ext.gram(a, b),
        "bmm_float32": lambda: torch.bmm(a, other.mT),
        "bmm_float64": lambda: torch.bmm(a.double(), other.double().mT),
    }
    truth = cases["bmm_float64"]()
    norms = [torch.linalg.vector_norm(rows.double(), dim=2) for rows in (a, other)]
    scale = norms[0].unsqueeze(2) * norms[1].unsqueeze(1)
    times = interleaved(cases, device, rounds=rounds)
    read = a.nbytes + (0 if b is None else b.nbytes)
    ours = times["gram"]
    return {
        "product": product,
        "shape": list(a.shape),
        "seconds": times,
        "ratio_to_gram": {
            name: {key: time[key] / ours[key] for key in ours} for name, time in times.items()
        },
        "bandwidth_fraction": read / ours["min"] / bandwidth,
        "error": {
            name: float(((case() - truth).abs() / scale).max()) for name, case in cases.items()
        },
        "peak_bytes": {name: peak_bytes(case, device) for name, case in cases.items()},
    }
