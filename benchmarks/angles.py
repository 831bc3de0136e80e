"""Angles between the spans of many frames: squared singular values, and products of all pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import pullback_ext
from benchmarks.timing import interleaved
from pullback.geometry.grassmann.pairs import blocks


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        ranks: k of the k x k matrices.
        entries: of all matrices of one rank, about: their number is this over k^2.
        looped: matrices that `torch.linalg.svdvals` is timed on, which takes much longer.
        frames: S of the products of all pairs.
        rank: rows of a frame of these.
        columns: N of these.
        rounds: turns of each function.
    """

    ranks: tuple[int, ...] = (4, 10, 16, 32, 50)
    entries: int = 2_000_000
    looped: int = 200
    frames: int = 500
    rank: int = 16
    columns: tuple[int, ...] = (256, 1536)
    rounds: int = 7

    @classmethod
    def quick(cls) -> Settings:
        """A moment's work, which shows that everything runs and measures nothing."""
        return cls(ranks=(4, 16), entries=20_000, looped=20, frames=25, columns=(256,), rounds=2)


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure squared_singular_values for every rank, and the products that come before it.

    The matrices are pieces of one product of all frames with all, read through its strides; those
    given to svdvals are float64 and contiguous. Batched svdvals and the loop are timed in the same
    rounds, on the first `looped` matrices.

    Args:
        settings: what to measure.
        device: on which device.
        tell: called with a line on what comes next.

    Returns:
        JSON values: a row per rank, and a row per length of the rows of products.
    """
    generator = torch.Generator().manual_seed(0)
    values, products = [], []
    for k in settings.ranks:
        tell(f"squared singular values of {k} x {k} matrices")
        values.append(_values(settings, k, device, generator))
    for columns in settings.columns:
        tell(f"products of {settings.frames * settings.rank} rows of {columns}")
        products.append(_products(settings, columns, device, generator))
    return {"native": pullback_ext.available(), "values": values, "products": products}


def _values(
    settings: Settings, k: int, device: torch.device, generator: torch.Generator
) -> dict[str, Any]:
    frames = max(2, round((settings.entries / k**2) ** 0.5))
    rows = torch.randn(frames, 4 * k, k, generator=generator)
    flat = torch.linalg.qr(rows)[0].mT.reshape(frames * k, 4 * k).to(device)
    pieces = (flat @ flat.mT).view(frames, k, frames, k).movedim(2, 1)  # [S, S, k, k], strided
    few = pieces.reshape(-1, k, k)[: settings.looped].double()
    times = interleaved(
        {
            "ours": lambda: [pullback_ext.squared_singular_values(row) for row in pieces],
            "batched": lambda: torch.linalg.svdvals(few),
            "loop": lambda: [torch.linalg.svdvals(matrix) for matrix in few],
        },
        device,
        rounds=settings.rounds,
    )
    each = {
        name: {key: value / (frames**2 if name == "ours" else len(few)) for key, value in t.items()}
        for name, t in times.items()
    }
    # Not svdvals: near the identity LAPACK's are off by up to 90 roundings, Gram's by a few.
    truth = torch.linalg.eigvalsh(few @ few.mT).flip(1)
    error = (pullback_ext.squared_singular_values(few) - truth).abs().amax(1) / truth[:, 0]
    return {
        "k": k,
        "matrices": frames**2,
        "seconds_per_matrix": each,
        "ratio_to_ours": {
            name: {key: value / each["ours"][key] for key, value in t.items()}
            for name, t in each.items()
        },
        "error_in_eps": float(error.max()) * 2**52,
    }


def _products(
    settings: Settings, columns: int, device: torch.device, generator: torch.Generator
) -> dict[str, Any]:
    frames = torch.randn(settings.frames, settings.rank, columns, generator=generator).to(device)
    rows = frames.flatten(0, 1)
    cases: dict[str, Callable[[], Any]] = {
        "gram": lambda: [part for _, _, part in blocks(frames, len(frames))],
        "matmul_float32": lambda: rows @ rows.mT,
        "matmul_float64": lambda: rows.double() @ rows.double().mT,
    }
    times = interleaved(cases, device, rounds=min(settings.rounds, 3))  # seconds each
    truth = cases["matmul_float64"]()
    norms = torch.linalg.vector_norm(rows.double(), dim=1)
    scale = norms.unsqueeze(1) * norms
    # The first tile with itself, [b, k, b k].
    first = cases["gram"]()[0].flatten(0, 1)
    side = len(first)
    got = {
        "gram": first,
        "matmul_float32": cases["matmul_float32"]()[:side, :side],
    }
    return {
        "shape": list(rows.shape),
        "seconds": times,
        "ratio_to_gram": {
            name: {key: value / times["gram"][key] for key, value in t.items()}
            for name, t in times.items()
        },
        "error": {
            name: float(((product - truth[:side, :side]).abs() / scale[:side, :side]).max())
            for name, product in got.items()
        },
    }
