"""Difficult blocks for `orthonormalize` and `block_step`, and what must hold for every one.

``python tests/pullback_ext/fuzz.py --blocks 5000`` prints what was seen as JSON: tests run it in a
process of its own for every backend (``PULLBACK_ISA``, ``PULLBACK_EXT_DISABLE``).
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from dataclasses import dataclass

import torch

import pullback_ext

KINDS = (
    "condition", "random", "zero rows", "duplicates", "near duplicates", "all equal", "low rank",
    "huge", "tiny", "row scales", "half", "bfloat16", "inside", "near inside",
)  # fmt: skip


@dataclass
class Drawn:
    """A batch of blocks of one kind.

    Attributes:
        block: [B, k, N], in some layout.
        against: [B, p, N] or None.
        replaced: [B, k], which rows must be replaced; None where rounding decides.
    """

    kind: str
    block: torch.Tensor
    against: torch.Tensor | None
    replaced: torch.Tensor | None


def pick(rng: torch.Generator, *values):
    return values[int(torch.randint(len(values), (), generator=rng))]


def uniform(rng: torch.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(*shape, generator=rng, dtype=torch.float64)


def normal(rng: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def orthonormal(rng: torch.Generator, batch: int, rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(normal(rng, batch, columns, rows))[0].mT


def draw(rng: torch.Generator) -> Drawn:
    """A batch of one to four blocks."""
    kind = KINDS[int(torch.randint(len(KINDS), (), generator=rng))]
    batch = pick(rng, 1, 2, 4)
    k = pick(rng, 1, 2, 3, 4, 5, 7, 10, 13, 16, 20, 33, 50)
    if float(torch.rand((), generator=rng)) < 0.03:
        k = pick(rng, 64, 100, 129, 200, 255, 256)
    p = pick(rng, 0, 0, 1, 6, 31)
    if kind in ("inside", "near inside"):
        p = pick(rng, 1, 6, 31)
    n = k + p + pick(rng, 0, 1, 2, 9, 64, 257, 600)
    dtype = pick(rng, torch.float32, torch.float32, torch.float64)
    others = orthonormal(rng, batch, p, n)
    rows = normal(rng, batch, k, n)
    replaced = torch.zeros(batch, k, dtype=torch.bool)
    some = torch.rand(batch, k, generator=rng) < 0.3
    if kind == "condition":
        spread = -torch.linspace(0, 1, k, dtype=torch.float64) * uniform(rng, 0, 10, batch, 1)
        left, right = orthonormal(rng, batch, k, k), orthonormal(rng, batch, k, n)
        rows = (left * (10**spread).unsqueeze(1)) @ right
        replaced = None
    elif kind == "zero rows":
        rows[some], replaced = 0.0, some
    elif kind == "duplicates":
        first = torch.arange(k).expand(batch, k)
        first = torch.where(some, first // 2, first)
        rows = rows.gather(1, first.unsqueeze(2).expand(-1, -1, n))
        same = first.unsqueeze(2) == first.unsqueeze(1)
        replaced = same.tril(-1).any(2)
    elif kind == "near duplicates":
        rows[:, 1:] = rows[:, :1] + 10 ** uniform(rng, -9, -1, batch, k - 1, 1) * rows[:, 1:]
        replaced = None
    elif kind == "all equal":
        rows = rows[:, :1].expand(batch, k, n)
        replaced[:, 1:] = True
    elif kind == "low rank":
        rank = int(torch.randint(0, k + 1, (), generator=rng))
        rows = normal(rng, batch, k, rank) @ normal(rng, batch, rank, n)
        replaced = None
    elif kind == "huge":
        rows, dtype = rows * 1e37, torch.float32
    elif kind == "tiny":
        rows, dtype, replaced = rows * 1e-41, torch.float32, None
    elif kind == "row scales":
        rows = rows * 10 ** uniform(rng, -30, 30, batch, k, 1)
    elif kind in ("half", "bfloat16"):
        dtype = torch.float16 if kind == "half" else torch.bfloat16
    elif kind in ("inside", "near inside"):
        inside = normal(rng, batch, k, p) @ others
        if kind == "near inside":
            inside = inside + 10 ** uniform(rng, -8, -2, batch, k, 1) * rows
        rows = torch.where(some.unsqueeze(2), inside, rows)
        replaced = some if kind == "inside" else None
    work = torch.float64 if dtype == torch.float64 else torch.float32
    if n - p - k < 8 or k > 64:
        # In a narrow space even random rows are close to the span of the rows before them, and
        # float64 rows that are to depend on others do so only as well as float32 tells them apart.
        replaced = None if replaced is not None and bool(replaced.any()) else replaced
    against = others.to(work) if p or pick(rng, True, False) else None
    return Drawn(kind, lay_out(rng, rows.to(dtype)), against, replaced)


def lay_out(rng: torch.Generator, rows: torch.Tensor) -> torch.Tensor:
    """The same numbers in some other layout."""
    batch, k, n = rows.shape
    layout = pick(rng, "dense", "dense", "transposed", "batch inside", "padded", "expanded")
    if layout == "transposed":
        return rows.mT.contiguous().mT
    if layout == "batch inside":
        return rows.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "padded":
        wide = rows.new_full((batch, k + 1, 3 * n), float("nan"))
        wide[:, 1:, ::3] = rows
        return wide[:, 1:, ::3]
    if layout == "expanded" and batch > 1 and bool((rows == rows[:1]).all()):
        return rows[:1].expand(batch, k, n)
    return rows.contiguous()


@dataclass
class Seen:
    """The worst of everything, each as a share of what is allowed."""

    blocks: int = 0
    loss: float = 0.0
    span: float = 0.0
    identity: float = 0.0
    spans: int = 0
    ranks: int = 0
    passes: Counter = None  # type: ignore[assignment]
    failures: list = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.passes, self.failures = Counter(), []


def examine(drawn: Drawn, seen: Seen, seed: int) -> None:
    """Run one batch and note what came of it."""
    block, against = drawn.block, drawn.against
    batch, k, n = block.shape
    single = block.dtype != torch.float64
    if seed % 2:
        got = pullback_ext.orthonormalize(block, against, seed)
        identity = None
    else:
        empty = block.new_empty(batch, 0, n, dtype=torch.float32 if single else torch.float64)
        others = empty if against is None else against
        half = others.shape[1] // 2
        step = pullback_ext.block_step(block, others[:, half:], others[:, :half], seed)
        got = pullback_ext.Orthonormalized(step.q, step.rank, step.replaced, step.passes)
        whole = step.residual @ step.q.double() + step.projection.mT @ others.double()
        wide = block.double()
        norms = wide.norm(dim=2).clamp_min(1e-300)
        identity = float(((whole - wide).norm(dim=2) / norms).max())

    def fail(what: str, value: object) -> None:
        seen.failures.append(
            f"{drawn.kind} {block.dtype} {list(block.shape)} stride {block.stride()} against "
            f"{0 if against is None else against.shape[1]} seed {seed}: {what} {value}"
        )

    q = got.q.double()
    stack = q if against is None else torch.cat([against.double(), q], dim=1)
    overlap = q @ stack.mT
    overlap[:, :, -k:] -= torch.eye(k, dtype=torch.float64)
    loss = float(torch.linalg.matrix_norm(overlap).max()) / (1e-5 if single else 1e-12)
    if not loss <= 1:
        fail("loss of orthogonality, as a share of what is allowed:", loss)
    seen.blocks += batch
    seen.loss = max(seen.loss, loss)
    seen.passes.update(got.passes.tolist())
    if not torch.equal(got.rank, (~got.replaced).sum(1)):
        fail("rank", (got.rank, got.replaced))
    if drawn.replaced is not None:
        seen.ranks += batch
        if not torch.equal(got.replaced, drawn.replaced):
            fail("replaced", (got.replaced ^ drawn.replaced).nonzero().tolist())
    if drawn.kind != "tiny":  # whose norms are not those that the kernel scales by
        spans(drawn, got, stack, seen, fail)
    if identity is not None:
        limit = 3e-5 if single else 1e-9
        seen.identity = max(seen.identity, identity / limit)
        if not identity <= limit and drawn.kind != "tiny":
            fail("block - (residual q + projection^T against), relative:", identity)


def spans(drawn: Drawn, got, stack: torch.Tensor, seen: Seen, fail) -> None:
    """Rows must lie in the span of the result where the condition number is at most 1e6."""
    rows = drawn.block.double()
    rows = rows / rows.norm(dim=2, keepdim=True).clamp_min(1e-300)
    given = rows if drawn.against is None else torch.cat([drawn.against.double(), rows], dim=1)
    values = torch.linalg.eigvalsh(given @ given.mT)
    sound = values[:, 0] > 1e-12 * values[:, -1]
    if not bool(sound.any()):
        return
    q = torch.linalg.qr(stack[sound].mT)[0].mT
    rows = rows[sound]
    rest = rows - (rows @ q.mT) @ q
    span = float(rest.norm(dim=2).max()) / 1e-5
    seen.spans += int(sound.sum())
    seen.span = max(seen.span, span)
    if not span <= 1:
        fail("span, as a share of what is allowed:", span)
    if bool(got.replaced[sound].any()):
        fail("replaced rows of a block that is well conditioned", got.replaced.sum(1).tolist())


def run(blocks: int, seed: int) -> Seen:
    """Examine at least `blocks` blocks."""
    rng = torch.Generator().manual_seed(seed)
    seen, calls = Seen(), 0
    while seen.blocks < blocks:
        examine(draw(rng), seen, calls)
        calls += 1
    return seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # the plain-torch twin says that it is slow
    torch.set_num_threads(1)
    result = run(arguments.blocks, arguments.seed)
    isa = pullback_ext.build_info()["isa_in_use"] if pullback_ext.available() else None
    print(json.dumps({"isa": isa, **vars(result)}))
