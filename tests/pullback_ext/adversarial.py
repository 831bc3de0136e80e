"""Blocks made to break the error bounds of `gram` and `orthonormalize`, and a search among them.

``python -m tests.pullback_ext.adversarial --backend native --blocks 100000`` prints the worst that
was seen as JSON, and ends with exit code 1 if a bound did not hold. Backends: ``native`` (what
``PULLBACK_ISA`` chooses), ``torch`` (the plain-torch twins), ``portable`` (the CPU kernels of other
processors) and ``cuda`` (the CUDA kernels, emulated on the host).

Rounding errors of random numbers cancel; those of equal numbers add up. Hence rows of few different
entries, in runs and with signs that repeat with the kernels' own chains, panels and parts.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tests.pullback_ext.emulation import emulated
from tests.pullback_ext.emulation.emulated import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from tests.pullback_ext.portable import portable

#: What the functions document: of gram an entry over its rows' norms, of orthonormalize
#: || I - Q Q^T ||_2, the rows of `against` included. Of float64 products nothing is said.
GRAM, LOSS = 1e-6, {True: 1e-12, False: 1e-5}
ULP = {FLOAT32: 2.0**-23, FLOAT64: 2.0**-52, FLOAT16: 2.0**-10, BFLOAT16: 2.0**-7}


class Backend(NamedTuple):
    """Both operators on arrays as emulated.narrow() gives them."""

    gram: Callable  # dtype, a -> [B, k, k]
    orthonormalize: Callable  # dtype, block, against or None -> q, passes


class Drawn(NamedTuple):
    """A block [1, k, N], orthonormal rows [1, p, N] or None, and how they were made."""

    kind: str
    dtype: int
    block: np.ndarray
    against: np.ndarray | None


# --------------------------------------------------------------------------------- adversarial rows


def named() -> list[Drawn]:
    """Rows that are known to have broken the bounds of an earlier version."""
    rows = {"equal entries": equal_entries(), "shifted rows": shifted_rows()}
    return [Drawn(kind, FLOAT32, x.astype(np.float32), None) for kind, x in rows.items()]


def equal_entries(columns=1024, k=1, steps=-16):
    """Rows of equal entries, some ulps beside one: every product is rounded the same way."""
    return np.full((1, k, columns), 1 + steps * 2.0**-23)


def shifted_rows(columns=1024, run=512, steps=14, a=0.515625):
    """c, and c - a and c + a in turn: the errors of the three products do not cancel in S."""
    c = 1 + steps * 2.0**-23
    return np.stack([np.full(columns, c), c - a * signs(1, columns, run)[0]])[None]


def kahan(k, s):
    """Lower triangular with rows of norm one; the entries of its inverse all add up."""
    c = np.sqrt(1 - s * s)
    return np.tril(np.full((k, k), -c), -1) * s ** np.arange(k) + np.diag(s ** np.arange(k))


def signs(k, columns, run):
    """Orthogonal patterns of signs [k, N] in runs, as far as there are columns for them."""
    at = np.arange(columns) // run
    parity = np.arange(k)[:, None] + 1 & at
    for shift in (32, 16, 8, 4, 2, 1):
        parity = parity ^ parity >> shift
    return 1.0 - 2.0 * (parity & 1)


def one_of_two(rng, k, columns, ulp):
    """Entries x and -y by a row's signs: x x and y y may be rounded up, and x y down."""
    run = int(rng.choice([1, 8, 16, 64, 128, 512]))
    x, y = 1 + ulp * rng.integers(-64, 65, 2)
    if rng.random() < 0.5:
        y *= 1 + rng.integers(0, 64) / 64
    return np.where(signs(k, columns, run) > 0, x, -y)


def shifted(rng, k, columns, ulp):
    """A common vector and small multiples of patterns: correlated rows."""
    run = int(rng.choice([1, 4, 8, 16, 64, 128, 256, 512, 1024]))
    c = 1 + ulp * rng.integers(-64, 65)
    a = rng.integers(1, 65, (k, 1)) / 64 * (rng.random((k, 1)) < 0.8)
    return c + a * rng.choice([-1, 1]) * signs(k, columns, run)


def large_then_small(rng, k, columns, ulp):
    """A large product, then ones a little over half an ulp of it: each is rounded up to a whole.

    So it is also with sums of `chain` products, if they are that much smaller.
    """
    width, chain = int(rng.choice([1, 8, 16])), int(rng.choice([4, 8, 16]))
    period = int(rng.choice([8, 16, 64, 128, 256, 512, 1024, 2048]))
    half = ULP[FLOAT64 if ulp == ULP[FLOAT64] else FLOAT32] / 2
    at = np.arange(columns) % period
    later = half / rng.choice([1, chain])
    product = np.where(at < width, 1.0, np.where(at < chain * width, half, later))
    steps = rng.integers(0, 9) * (at < width) + rng.integers(0, 65) * (at >= width)
    return np.sqrt(product) * (1 + ulp * steps) * np.ones((k, 1))


def ascending(rng, k, columns, ulp):
    """Magnitudes that grow or fall along the row, with signs in runs."""
    span = rng.uniform(-12, 12)
    row = 2.0 ** (span * np.arange(columns) / columns) * (1 + ulp * rng.integers(-64, 65))
    return row * signs(k, columns, int(rng.choice([1, 2, 8, 64, columns])))


def few_columns(rng, k, columns, ulp):
    """Correlated rows with no more different columns than rows: all of an error is in the span."""
    square = np.eye(k) * rng.uniform(0.2, 3) + rng.standard_normal((k, k)) / np.sqrt(k)
    square += rng.uniform(-1, 1) / np.sqrt(k)
    return np.repeat(square, -(-columns // k), axis=1)[:, :columns]


def equal(rng, k, columns, ulp):
    """Equal entries, alternating where the pattern says so."""
    row = 1 + ulp * rng.integers(-64, 65)
    return row * signs(k, columns, int(rng.choice([1, 2, 32, columns + 1])))


KINDS = (equal, one_of_two, shifted, large_then_small, ascending, few_columns)
SIZES = (7, 8, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025)
LONG = (2047, 2048, 2049, 4096, 8200)


def draw(rng: np.random.Generator) -> Drawn:
    """A block of some kind."""
    kind = KINDS[rng.integers(len(KINDS))]
    columns = int(rng.choice(SIZES if rng.random() < 0.9 else LONG))
    k = int(rng.choice([1, 2, 2, 2, 3, 4, 5, 8]))
    if rng.random() < 0.05:
        k = int(rng.choice([16, 17, 32, 33, 64]))
    p = int(rng.choice([0, 0, 0, 1, 4, 16]))
    dtype = int(rng.choice([FLOAT32, FLOAT32, FLOAT32, FLOAT64, FLOAT16, BFLOAT16]))
    k = min(k, columns)
    p = min(p, columns - k)
    rows = kind(rng, k, columns, ULP[dtype])
    item = np.float64 if dtype == FLOAT64 else np.float32
    against = None
    if p > 0 and columns % 64 == 0:
        against = (signs(p, columns, 1)[None] / np.sqrt(columns)).astype(item)
    elif p > 0:
        against = emulated.orthonormal_rows(rng, 1, p, columns, item)
    return Drawn(kind.__name__, dtype, emulated.narrow(dtype, rows[None]), against)


# ----------------------------------------------------------------------------------- what must hold


def gram_error(dtype, got, a) -> float:
    """Largest error of an entry over the norms of its rows; products of float32 are exact here."""
    rows = emulated.wide(dtype, a)
    norms = np.linalg.norm(rows, axis=2)
    error = np.abs(got - rows @ rows.transpose(0, 2, 1))
    size = norms[:, :, None] * norms[:, None, :]
    return float((error / np.where(size > 0, size, 1)).max())  # of a zero row all are zero


def loss(q, against=None) -> float:
    """|| I - Q Q^T ||_2, beside the products with `against`."""
    q = q.astype(np.float64)
    overlap = q @ q.transpose(0, 2, 1) - np.eye(q.shape[1])
    if against is not None:
        overlap = np.concatenate([q @ against.astype(np.float64).transpose(0, 2, 1), overlap], 2)
    return float(np.linalg.norm(overlap, 2, (1, 2)).max())


def away(rows, q):
    """[k], how far rows are from the span of q, over their norms."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    basis = np.linalg.qr(q.T)[0].T
    return np.linalg.norm(unit - (unit @ basis.T) @ basis, axis=1)


@dataclass
class Seen:
    """The worst of everything, and what broke a bound."""

    blocks: int = 0
    gram: float = 0.0
    loss: dict[str, float] = field(default_factory=lambda: {"float32": 0.0, "float64": 0.0})
    passes: dict[int, int] = field(default_factory=dict)
    worst: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def examine(backend: Backend, drawn: Drawn, seen: Seen) -> None:
    """Computes with one block and notes what came of it."""
    dtype, block, against = drawn.dtype, drawn.block, drawn.against
    p = 0 if against is None else against.shape[1]
    about = f"{drawn.kind}, dtype {dtype}, {list(block.shape[1:])} and {p}, block {seen.blocks}"
    if dtype != FLOAT64:
        error = gram_error(dtype, backend.gram(dtype, block), block)
        if error > seen.gram:
            seen.gram, seen.worst["gram"] = error, about
        if not error <= GRAM:
            seen.failures.append(f"gram: {error} of {about}")
    q, passes = backend.orthonormalize(dtype, block, against)
    lost, name = loss(q, against), "float64" if dtype == FLOAT64 else "float32"
    if lost > seen.loss[name]:
        seen.loss[name], seen.worst[name] = lost, about
    if not lost <= LOSS[dtype == FLOAT64]:
        seen.failures.append(f"orthonormalize: {lost} of {about}")
    for count in passes.tolist():
        seen.passes[count] = seen.passes.get(count, 0) + 1
    seen.blocks += 1


# ------------------------------------------------------------------------------------- the backends


def by_torch() -> Backend:
    """The public functions: native, or the plain-torch twins where the library is not loaded."""
    import torch

    import pullback_ext

    def tensor(dtype, x):
        if x is None or dtype != BFLOAT16 or x.dtype != np.uint16:
            return None if x is None else torch.from_numpy(x)
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)

    def orthonormalize(dtype, block, against):
        found = pullback_ext.orthonormalize(tensor(dtype, block), tensor(dtype, against))
        return found.q.numpy(), found.passes.numpy()

    torch.set_num_threads(1)
    return Backend(lambda dtype, a: pullback_ext.gram(tensor(dtype, a)).numpy(), orthonormalize)


def by_kernels(kernels) -> Backend:
    """A library with the interface of the emulation."""

    def orthonormalize(dtype, block, against):
        others = () if against is None else (against,)
        found = emulated.orthonormalize(dtype, block, *others, factors=False, kernels=kernels)
        return found.q, found.passes

    return Backend(functools.partial(emulated.gram, kernels=kernels), orthonormalize)


BACKENDS = {
    "native": by_torch,
    "torch": by_torch,
    "portable": lambda: by_kernels(portable.library()),
    "cuda": lambda: by_kernels(emulated.library()),
}


def run(backend: Backend, blocks: int, seed: int) -> Seen:
    """Examines the rows that have names, and this many blocks."""
    rng, seen = np.random.default_rng(seed), Seen()
    for drawn in named():
        examine(backend, drawn, seen)
    for _ in range(blocks):
        examine(backend, draw(rng), seen)
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=BACKENDS, default="native")
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # the plain-torch twin says that it is slow
    seen = run(BACKENDS[arguments.backend](), arguments.blocks, arguments.seed)
    isa = None
    if arguments.backend in ("native", "torch"):
        import pullback_ext

        loaded = pullback_ext.available()
        assert loaded == (arguments.backend == "native"), "PULLBACK_EXT_DISABLE=1 is for torch"
        isa = pullback_ext.build_info()["isa_in_use"] if loaded else None
    print(json.dumps({"backend": arguments.backend, "isa": isa, **vars(seen)}))
    return 1 if seen.failures else 0


if __name__ == "__main__":
    sys.exit(main())
