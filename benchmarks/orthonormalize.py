"""Orthonormal blocks and block steps against what torch offers for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import pullback_ext
from benchmarks import kernel_model
from benchmarks.gram import copy_bandwidth
from benchmarks.timing import interleaved
from pullback.testing import orthogonality_loss, with_spectrum

#: Condition numbers of the blocks; None for Gaussian rows.
_CONDITIONS = (None, 1e4, 1e6)

#: What must be shown on the CPU: times faster than torch.linalg.qr on random blocks with AVX-512,
#: and on any block and instruction set.
RANDOM, NEVER_SLOWER = 3.0, 1.0


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        shapes: B, k, N of the blocks.
        steps: B, k, d, N of the block steps: k rows against d earlier ones.
        rounds: turns of each function.
        copied: bytes of the buffer whose copying measures the bandwidth, far beyond any cache.
    """

    shapes: tuple[tuple[int, int, int], ...]
    steps: tuple[tuple[int, int, int, int], ...] = (
        (8, 5, 40, 256),
        (8, 5, 40, 16384),
        (4, 10, 100, 16384),
    )
    rounds: int = 15
    copied: int = 256 << 20

    @classmethod
    def on(cls, device: torch.device) -> Settings:
        """The shapes that are asked for on a device."""
        if device.type == "cuda":
            return cls(shapes=((64, 50, 16384), (16, 10, 16384), (4, 50, 196608)), copied=1 << 30)
        return cls(shapes=((1, 10, 16384), (8, 50, 16384), (64, 20, 1024), (4, 50, 196608)))

    @classmethod
    def quick(cls) -> Settings:
        """A moment's work, which shows that everything runs and measures nothing."""
        return cls(shapes=((1, 10, 2048),), steps=((2, 5, 20, 256),), rounds=2, copied=8 << 20)


def block_of_condition(
    shape: tuple[int, int, int], condition: float | None, device: torch.device
) -> torch.Tensor:
    """Float32 rows [B, k, N] with singular values spaced evenly in their logarithm."""
    batch, k, columns = shape
    if condition is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=generator).to(device)
    values = torch.logspace(0.0, -math.log10(condition), k, dtype=torch.float64)
    return with_spectrum(values, k, columns, batch, torch.float32, seed=0).to(device)


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure every shape and condition.

    torch.linalg.qr is given the columns of the transposed block, as one who wants orthonormal rows
    must; torch.linalg.svd runs on CUDA only, where it is the published choice. The fraction of the
    bandwidth counts what a pass must move at least: two reads and one write of the block.

    Args:
        settings: what to measure.
        device: on which device.
        tell: called with a line on what comes next.

    Returns:
        JSON values: the bandwidth, rows of blocks and of steps, the targets on the CPU, and what
        `kernel_model` has for the shapes that the CUDA kernels are judged by.
    """
    tell("copy bandwidth")
    bandwidth = copy_bandwidth(settings.copied, device, max(settings.rounds // 3, 2))
    blocks = []
    for shape in settings.shapes:
        for condition in _CONDITIONS:
            tell(f"orthonormalize {' x '.join(map(str, shape))}, condition {condition or 'random'}")
            blocks.append(_block(shape, condition, device, settings.rounds, bandwidth))
    steps = []
    for size in settings.steps:
        tell(f"block_step {' x '.join(map(str, size))}")
        steps.append(_step(size, device, settings.rounds))
    targets = _targets(blocks) if device.type == "cpu" and pullback_ext.available() else []
    return {
        "native": pullback_ext.available(),
        "copy_bytes_per_s": bandwidth,
        "blocks": blocks,
        "steps": steps,
        "targets": targets,
        "model": kernel_model.table(),
    }


def _block(
    shape: tuple[int, int, int],
    condition: float | None,
    device: torch.device,
    rounds: int,
    bandwidth: float,
) -> dict[str, Any]:
    block = block_of_condition(shape, condition, device)
    cases: dict[str, Callable[[], Any]] = {
        "ours": lambda: pullback_ext.orthonormalize(block),
        "qr": lambda: torch.linalg.qr(block.mT),
    }
    if device.type == "cuda":
        cases["svd"] = lambda: torch.linalg.svd(block, full_matrices=False)
    times = interleaved(cases, device, rounds=rounds)
    found = pullback_ext.orthonormalize(block)
    passes = int(found.passes.max())
    least = 3 * block.nbytes * passes
    batch, k, columns = shape
    return {
        "shape": list(shape),
        "condition": condition,
        "passes": found.passes.tolist(),
        "seconds": times,
        "ratio_to_ours": {
            name: {key: time[key] / times["ours"][key] for key in time}
            for name, time in times.items()
        },
        "model_of_h100_seconds": kernel_model.seconds(
            kernel_model.Shape(batch, k, columns), min(passes, 3)
        ),
        "bandwidth_fraction": least / times["ours"]["min"] / bandwidth,
        "loss": {
            "ours": float(orthogonality_loss(found.q).max()),
            "qr": float(orthogonality_loss(torch.linalg.qr(block.mT)[0].mT).max()),
        },
    }


def _projection_and_qr(w: torch.Tensor, v_old: torch.Tensor, basis: torch.Tensor) -> Any:
    """What a block step takes in torch's own functions: two projections, each with a QR."""
    whole = torch.cat([basis, v_old], dim=1)
    projection = whole @ w.mT
    rest = w - projection.mT @ whole
    q = torch.linalg.qr(rest.mT)[0].mT
    q = torch.linalg.qr((q - (q @ whole.mT) @ whole).mT)[0].mT
    return q, projection, w @ q.mT


def _step(size: tuple[int, int, int, int], device: torch.device, rounds: int) -> dict[str, Any]:
    batch, k, d, columns = size
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(batch, columns, d + k, generator=generator, dtype=torch.float64)
    whole = torch.linalg.qr(whole)[0].mT.float().to(device).contiguous()
    w = torch.randn(batch, k, columns, generator=generator).to(device)
    basis, v_old = whole[:, :d], whole[:, d:]
    times = interleaved(
        {
            "ours": lambda: pullback_ext.block_step(w, v_old, basis),
            "torch": lambda: _projection_and_qr(w, v_old, basis),
        },
        device,
        rounds=rounds,
    )
    ratio = {key: times["torch"][key] / times["ours"][key] for key in times["torch"]}
    model = kernel_model.seconds(kernel_model.Shape(batch, k, columns, d + k))
    return {
        "size": list(size),
        "seconds": times,
        "ratio_to_ours": ratio,
        "model_of_h100_seconds": model,
    }


def _targets(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must be shown, and what was seen; nothing fails by it."""
    wide = pullback_ext.build_info()["isa_in_use"] == "avx512"

    def least(rows: list[dict[str, Any]]) -> float:
        return min(row["ratio_to_ours"]["qr"]["min"] for row in rows)

    targets = []
    for name, rows, asked in (
        ("random blocks", [row for row in blocks if row["condition"] is None], RANDOM),
        ("ill-conditioned blocks", [row for row in blocks if row["condition"]], NEVER_SLOWER),
    ):
        asked = asked if wide else NEVER_SLOWER
        targets.append(
            {
                "name": f"times faster than torch.linalg.qr, least of the {name}",
                "asked": f">= {asked:g}",
                "value": least(rows),
                "met": least(rows) >= asked,
                "note": "",
            }
        )
    return targets
