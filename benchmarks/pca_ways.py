"""What `benchmarks.pca` compares: the stream, for a process of its own, and the dense oracle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import scipy.linalg
import torch

from benchmarks.resident import resident_bytes
from pullback import LatentModel, directions, load
from pullback._files import write_safetensors

#: Rows whose products are added to the covariance at a time.
_BLOCK = 512


def streamed(
    *,
    model: str,
    count: int,
    steps: int,
    rank: int,
    batch: int,
    seed: int,
    device: str,
    extra: int | None,
    file: str,
) -> dict[str, Any]:
    """Components by `directions.pca`, written to a file.

    Args:
        model: its name.
        count: trajectories.
        steps: of each.
        rank: components.
        batch: trajectories walked together.
        seed: of the first one.
        device: where they are walked.
        extra: directions kept beyond the rank.
        file: to write.

    Returns:
        JSON values: the seconds, the share of the variance that was lost, and what the process held
        at most, and before.
    """
    loaded = load(model, device=device)
    found: list[directions.PrincipalComponents] = []

    def stream() -> None:
        found.append(
            directions.pca(
                loaded, count, rank, steps=steps, joint=True, extra=extra, batch=batch, seed=seed
            )
        )

    start = time.perf_counter()
    memory = resident_bytes(stream)
    seconds = time.perf_counter() - start
    components = found[0]
    write_safetensors(
        Path(file),
        {
            "components": components.components.flatten(1),
            "deviations": components.deviations,
            "variance": components.variance,
            "mean": components.mean.flatten(),
        },
        {},
    )
    return {
        "extra": extra,
        "seconds": seconds,
        "lost": float(components.lost),
        "memory": memory,
    }


def dense(
    model: LatentModel, *, count: int, steps: int, rank: int, batch: int, seed: int
) -> dict[str, torch.Tensor]:
    """Leading eigenvectors of the covariance of all rows, in float64 on the CPU.

    Args:
        model: the model.
        count: as for `streamed`.
        steps: likewise.
        rank: likewise; one more is found, for the gap after the last.
        batch: likewise: passes of the same rows round alike.
        seed: likewise.

    Returns:
        The largest "variances" `[k + 1]`, falling, and their "axes" `[k + 1, d]`; the "variance" of
        all entries together `[]`; and the "mean" `[d]`.

    Cost: the trajectories, d² operations a row of d numbers, and 8 d² bytes.
    """
    shift: torch.Tensor | None = None
    for block in _blocks(model, count, steps, batch, seed):
        if shift is None:  # near the mean, so that its square takes no digits of the covariance
            shift = block.mean(0)
            total = torch.zeros_like(shift)
            squares = torch.zeros(len(shift), len(shift), dtype=torch.float64)
        rows = block - shift
        total += rows.sum(0)
        squares.addmm_(rows.T, rows)
    assert shift is not None
    total /= count
    squares.addr_(total, total, alpha=-count).div_(count - 1)
    size = len(shift)
    variance = squares.trace()
    values, vectors = scipy.linalg.eigh(
        squares.numpy(), subset_by_index=[size - rank - 1, size - 1], overwrite_a=True
    )
    return {
        "variances": torch.tensor(values[::-1].copy()),
        "axes": torch.tensor(vectors[:, ::-1].T.copy()),
        "variance": variance,
        "mean": shift + total,
    }


def _blocks(
    model: LatentModel, count: int, steps: int, batch: int, seed: int
) -> Iterator[torch.Tensor]:
    """The rows of all trajectories `[n, d]`, float64 on the CPU, some at a time."""
    top = model.schedule.max_timestep
    held: list[torch.Tensor] = []
    for first in range(0, count, batch):
        seeds = range(seed + first, seed + min(first + batch, count))
        x = model.sample_latents(len(seeds), top, seeds, steps=steps)
        walk = directions.trajectory(model, x, top, steps=steps, seed=seeds)
        held.append(walk.features.flatten(1).cpu().double())
        if sum(map(len, held)) >= _BLOCK or seeds[-1] == seed + count - 1:
            yield torch.cat(held)
            held = []
