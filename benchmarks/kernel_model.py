"""A model of the time of the CUDA kernels of orthonormalize: bytes, multiply-adds, launches, waits.

It is arithmetic, not a measurement: `csrc/README.md` tells how kernels are launched, this counts
what they then do, and divides by what an H100 can. It is there to judge a design before a GPU is at
hand, and to be compared with what one measures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# ----------------------------------------------------------------- an H100 (SXM5, 80 GB of HBM3)

#: Multiprocessors, and multiply-adds of each in a cycle, the last by tensor cores: NVIDIA H100
#: Tensor Core GPU Architecture (white paper, 2022), table of the GH100 multiprocessor.
MULTIPROCESSORS, FLOAT32_PER_CYCLE, FLOAT64_PER_CYCLE, TENSOR64_PER_CYCLE = 132, 128, 64, 128
#: Cycles per second under load; the white paper's peak figures assume 1.83e9 to 1.98e9.
CLOCK = 1.7e9
#: Bytes per second of a copy, of the 3.35e12 of the data sheet.
BANDWIDTH = 3.0e12
#: Seconds from one kernel of a stream to the next, idle ones included. Assumed.
LAUNCH = 2.2e-6
#: Seconds until a load comes back from memory, and a barrier or a short dependent step in cycles.
#: Assumed, from published microbenchmarks of this generation (500 to 800 cycles).
LATENCY, STEP = 0.45e-6, 40.0
#: Share of the peak of multiply-adds that a tile reaches. Assumed.
EFFICIENCY = 0.75


@dataclass(frozen=True)
class Shape:
    """A block `[B, k, N]` in float32 and p orthonormal rows that it is made orthogonal to."""

    batch: int
    k: int
    columns: int
    against: int = 0


#: The shapes to judge by, and the seconds that a reading of the binary gave for two passes of the
#: kernels before these: 50 launches a call, loads of 4 bytes, k threads in the k x k part.
JUDGED: tuple[tuple[Shape, float], ...] = (
    (Shape(64, 50, 16384), 2.9e-3),
    (Shape(8, 10, 16384), 0.29e-3),
    (Shape(8, 50, 196608), 4.8e-3),
    (Shape(1, 10, 16384), 0.25e-3),
    (Shape(64, 20, 1024), 0.25e-3),
)


@dataclass(frozen=True)
class Kernel:
    """What one launch does.

    Attributes:
        name: of the kernel.
        traffic: bytes from and to memory.
        blocks: thread blocks that have work.
        cycles: of multiply-adds in each of them, at the peak of one multiprocessor.
        waits: loads that a block waits for one after the other, where no other block hides them.
        steps: short dependent steps of a block, one after the other.
    """

    name: str
    traffic: float = 0.0
    blocks: int = 0
    cycles: float = 0.0
    waits: float = 0.0
    steps: float = 0.0

    @property
    def seconds(self) -> float:
        """The launch, then what takes longest, and the waits of a block that stand alone."""
        rounds = math.ceil(self.blocks / MULTIPROCESSORS)
        work = rounds * self.cycles / (EFFICIENCY * CLOCK)
        alone = self.waits * LATENCY + self.steps * STEP / CLOCK
        if self.blocks > 2 * MULTIPROCESSORS:  # blocks hide each other's
            work, alone = max(work, rounds / 2 * alone), 0.0
        return LAUNCH + max(work, self.traffic / BANDWIDTH) + alone


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


def _column_of_tile(rows: int, columns: int, diagonal: bool) -> float:
    """Cycles that a column takes in a tile of 64 x 64 on tensor cores.

    They are those of the scheduler, of four, that has the most units of 16 x 8.
    """
    units = [0] * 4
    for warp in range(8):
        pair = warp % 4
        row = 16 * (pair // 2 if warp < 4 else 2 + pair % 2)
        column = 32 * ((pair if warp < 4 else pair ^ pair // 2) % 2)
        first = max(0, row - column) // 8 if diagonal else 0
        end = min(4, _ceil(columns - column, 8)) if row < rows else 0
        units[pair] += max(0, end - first)
    return max(units) * 16 * 8 * 4 / TENSOR64_PER_CYCLE


def _product_cycles(k: int, against: int, tile: int) -> float:
    """Cycles that a column takes in all tiles of the products."""
    down, across = _ceil(k, tile), _ceil(against, tile)
    if tile < 64:  # of a tile on the diagonal the squares of 16 on and above it
        side = tile // 16
        share = (side + 1) / (2 * side)
        tiles = down * share + down * (down - 1) / 2 + down * across
        return tiles * tile**2 / FLOAT64_PER_CYCLE
    rows = [min(tile, k - first) for first in range(0, k, tile)]
    others = [min(tile, against - first) for first in range(0, against, tile)]
    return sum(
        _column_of_tile(row, row, True)
        + sum(_column_of_tile(row, other, False) for other in (*rows[i + 1 :], *others))
        for i, row in enumerate(rows)
    )


def launches(shape: Shape, passes: int) -> list[Kernel]:
    """The kernels of a call in order, those that find nothing to do included.

    Args:
        shape: of the block.
        passes: that the samples need, 1 to 3.
    """
    batch, k, columns, p = shape.batch, shape.k, shape.columns, shape.against
    size = 4.0 * batch * k * columns
    tile = 16 if k <= 16 else 32 if k <= 32 else 64
    down, across = _ceil(k, tile), _ceil(p, tile)
    of_g = down * (down + 1) // 2
    tiles = of_g + down * across
    splits = _ceil(columns, 2048 * _ceil(_ceil(columns, max(1, 64 // tiles)), 2048))
    part = min(columns, 2048 * _ceil(_ceil(columns, max(1, 64 // tiles)), 2048))
    pieces = 4 if batch * tiles * splits < MULTIPROCESSORS else 1
    slabs = _ceil(columns, 64)

    mean = _product_cycles(k, p, tile) / tiles  # cycles of a column
    strip = 2048 // tile
    gram = Kernel(
        "block_products",
        4.0 * batch * columns * (k * (down + across) + p * down),
        batch * tiles * splits * pieces,
        part / pieces * mean,
        _ceil(part // pieces, strip) + 1.0,
        2.0 * _ceil(part // pieces, strip),
    )
    entries = k * (k + 1) // 2 + k * p
    rounds, groups = _ceil(entries, 256), _ceil(k, 16)
    serial = k * (8.0 + k / 16)  # columns of the Cholesky factor: barriers, root, division, sums
    serial += _ceil(k * k // 2, 256) * p / 8 + groups * _ceil(p, 64) * k / 2 + k / 2  # H, T H, sums
    if p > 0:
        serial += _ceil(k * _ceil(p, 4), 256) * k / 4 + groups**2 * k / 8  # what the block was
    factor = Kernel(
        "cholesky_factors",
        8.0 * batch * splits * pieces * entries,
        batch,
        0.0,
        rounds * _ceil(splits, 4) + 3.0,
        serial,
    )
    # Rows of the transform times what is on and below its diagonal, and P.
    below = sum(min(16 * (i + 1), 16 * _ceil(k, 16)) * 16 for i in range(_ceil(k, 16)))
    sums = 64.0 * (below + tile * down * 16 * _ceil(p, 16))
    depth = min(tile, 32)
    depths = sum(_ceil(min(tile * (i + 1), k), depth) for i in range(down)) + down * _ceil(p, depth)
    apply = Kernel(
        "apply_transform",
        2 * size + 4.0 * batch * p * columns * down,
        batch * slabs,
        sums / FLOAT32_PER_CYCLE,
        1.0 + depths,
        2.0 * depths,
    )
    peaks = Kernel("part_peaks", size, _ceil(batch * k * splits, 8), 0.0, 2.0)
    scales = Kernel("row_scales", 0.0, _ceil(batch * k, 256), 0.0, 1.0 + splits / 4)
    called = [peaks, scales]
    for number in range(1, 4):
        stages = [gram, factor, apply]
        called += stages if number <= passes else [Kernel(stage.name) for stage in stages]
    return [*called, Kernel("late_passes")]


def seconds(shape: Shape, passes: int = 2) -> float:
    """What a call would take on an H100, by the model."""
    return sum(kernel.seconds for kernel in launches(shape, passes))


def table() -> list[dict[str, object]]:
    """The judged shapes, before and now; block steps are taken against 2 k rows.

    Returns:
        JSON values, a row for each shape: all of it model, in seconds.
    """
    rows: list[dict[str, object]] = []
    for shape, before in JUDGED:
        step = Shape(shape.batch, shape.k, shape.columns, 2 * shape.k)
        size = 4.0 * shape.batch * shape.k * shape.columns
        rows.append(
            {
                "shape": [shape.batch, shape.k, shape.columns],
                "is_model": True,
                "before": before,
                "orthonormalize": seconds(shape),
                "block_step": seconds(step),
                "copy": 6 * size / BANDWIDTH,
                "launches": len(launches(shape, 2)),
            }
        )
    return rows
