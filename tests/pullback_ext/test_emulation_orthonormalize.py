"""orthonormalize on CUDA, run thread by thread (emulation/emulation.h)."""

import ctypes
import mmap
import os

import numpy as np
import pytest

from tests.pullback_ext.emulation import emulated
from tests.pullback_ext.emulation.emulated import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    SCHEDULES,
    narrow,
    orthonormal_rows,
    orthonormalize,
    wide,
)

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler")

LOSS = {FLOAT32: 4e-6, FLOAT64: 4e-13}  # a little more than CholeskyQrThresholds::tolerance
WORK = {FLOAT32: np.float32, FLOAT64: np.float64}


def work_of(dtype):
    return FLOAT64 if dtype == FLOAT64 else FLOAT32


def check(dtype, block, against, out):
    """Everything that must hold for any block whatsoever."""
    a = wide(dtype, block)
    q = out.q.astype(np.float64)
    p = np.concatenate([np.zeros((len(a), 0, a.shape[2])), *against], axis=1)
    loss = LOSS[work_of(dtype)]
    finite = np.isfinite(a).all(axis=2)
    assert np.linalg.norm(q @ q.transpose(0, 2, 1) - np.eye(a.shape[1]), 2, (1, 2)).max() < loss
    assert np.abs(q @ p.transpose(0, 2, 1)).max(initial=0) < loss
    np.testing.assert_array_equal(out.rank, (~out.replaced).sum(axis=1))
    np.testing.assert_array_equal(out.passes > 0, finite.all(axis=1))
    assert np.abs(out.passes).min() >= 1
    assert np.abs(out.passes).max() <= 8
    assert (np.triu(out.residual, 1) == 0).all()
    # Rows that are not finite stand for zero rows.
    a = np.where(finite[:, :, None], a, 0)
    rest = a - out.residual @ q - out.projection.transpose(0, 2, 1) @ p
    norms = np.linalg.norm(a, axis=2)
    error = np.linalg.norm(rest, axis=2) / np.where(norms > 0, norms, 1)
    assert error.max() < 8 * loss
    return out


def everywhere(dtype, block, *against, **options):
    """The result, which is right and the same under every schedule."""
    results = [orthonormalize(dtype, block, *against, schedule=s, **options) for s in SCHEDULES]
    for other in results[1:]:
        same(other, results[0])
    return check(dtype, block, against, results[0])


def same(got, want):
    for name, array in want._asdict().items():
        np.testing.assert_array_equal(getattr(got, name), array, err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "batch", "k", "p", "columns"),
    [
        (FLOAT32, 2, 1, 0, 1),
        (FLOAT32, 1, 1, 5, 37),
        (FLOAT32, 2, 3, 0, 2051),  # two parts, odd N
        (FLOAT16, 2, 3, 5, 131),
        (FLOAT32, 1, 17, 5, 4100),  # three parts, N in vectors
        (BFLOAT16, 2, 17, 0, 70),
        (FLOAT64, 2, 17, 40, 300),
        (FLOAT32, 4, 33, 40, 333),  # two tiles of P, more samples than blocks
        (FLOAT64, 1, 33, 0, 2049),
        (FLOAT16, 1, 65, 5, 200),  # two tiles of A
        (FLOAT32, 1, 96, 40, 136),  # k + p = N
        (FLOAT32, 1, 97, 40, 150),  # S in the workspace
        (FLOAT64, 1, 130, 3, 140),
    ],
)
def test_blocks_become_orthonormal_under_every_schedule(dtype, batch, k, p, columns):
    rng = np.random.default_rng(k)
    block = narrow(dtype, rng.standard_normal((batch, k, columns)))
    both = orthonormal_rows(rng, batch, p, columns, WORK[work_of(dtype)])
    out = everywhere(dtype, block, both[:, : p // 3], both[:, p // 3 :])
    assert not out.replaced.any()
    if p == 0:
        q = wide(dtype, block).transpose(0, 2, 1)
        want = np.linalg.qr(q)[1].diagonal(0, 1, 2)
        np.testing.assert_allclose(out.residual.diagonal(0, 1, 2), np.abs(want), rtol=1e-4)


def difficult(rng):
    """Five samples that need different numbers of passes, and one row that is replaced in each."""
    block = rng.standard_normal((5, 12, 301)).astype(np.float32)
    block[1, 4] = 0
    block[2, 5] = block[2, 3]
    block[3] = block[3, :1] + 1e-5 * block[3]
    block[3, 7] = block[3, 6]
    block[4] *= np.logspace(-44, 37, 12).astype(np.float32)[:, None]
    block[4, 0] = 0
    return block


def test_samples_stop_on_their_own_and_do_not_see_each_other():
    block = difficult(np.random.default_rng(2))
    out = everywhere(FLOAT32, block)
    assert len(set(out.passes)) > 2
    replaced = [[], [4], [5], [7], [0]]
    assert [list(np.flatnonzero(row)) for row in out.replaced] == replaced
    for i in range(len(block)):
        alone = orthonormalize(FLOAT32, block[i : i + 1])
        same(alone, type(out)(*(array[i : i + 1] for array in out)))
    plain = orthonormalize(FLOAT32, block, factors=False)
    np.testing.assert_array_equal(plain.q, out.q)
    assert np.isnan(plain.residual).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_replaced_and_flagged(bad):
    block = np.random.default_rng(3).standard_normal((2, 6, 2500)).astype(np.float32)
    clean = block.copy()
    clean[1, 2] = 0
    block[1, 2, 2077] = bad
    out = everywhere(FLOAT32, block)
    want = orthonormalize(FLOAT32, clean)
    assert list(np.flatnonzero(out.replaced)) == [8]
    same(out._replace(passes=np.abs(out.passes)), want)
    np.testing.assert_array_equal(np.sign(out.passes), [1, -1])


@pytest.mark.parametrize("columns", [130, 132])  # of these rows are read 16 bytes at a time
def test_the_layout_of_the_block_and_of_the_rows_changes_no_bit(columns):
    rng = np.random.default_rng(4)
    block = rng.standard_normal((2, 5, columns)).astype(np.float32)
    against = orthonormal_rows(rng, 2, 7, columns)
    want = everywhere(FLOAT32, block, against[:, :4], against[:, 4:])

    def spread(x):
        padded = np.full((x.shape[0], 2 * x.shape[1], 3 * x.shape[2]), np.nan, x.dtype)
        padded[:, ::2, ::3] = x
        return padded[:, ::2, ::3]

    def turned(x):
        return np.ascontiguousarray(x.transpose(2, 1, 0)).transpose(2, 1, 0)

    for change in (spread, turned):
        same(orthonormalize(FLOAT32, change(block), *map(change, np.split(against, [4], 1))), want)
    none = against[:, :0]
    one = np.broadcast_to(block[:1], block.shape)
    both = orthonormalize(FLOAT32, one, np.broadcast_to(against[:1], against.shape), none)
    np.testing.assert_array_equal(both.q[0], both.q[1])


def test_the_seed_chooses_the_random_rows_and_nothing_else():
    block = difficult(np.random.default_rng(5))
    first, again, other = (orthonormalize(FLOAT32, block, seed=s) for s in (1, 1, 2**63))
    same(again, first)
    np.testing.assert_array_equal(other.replaced, first.replaced)
    for i, row in enumerate(first.replaced.argmax(axis=1)):
        assert (other.q[i, row] != first.q[i, row]).any() == (i > 0)
        np.testing.assert_allclose(other.q[i, :row], first.q[i, :row], atol=1e-6)


def on_multiprocessors(count, *arguments):
    """The result of a device with as many multiprocessors."""
    library = emulated.library()
    library.set_multiprocessors(count)
    try:
        return orthonormalize(*arguments)
    finally:
        library.set_multiprocessors(132)


@pytest.mark.parametrize(("k", "columns"), [(3, 700), (20, 2500), (40, 4200)])
def test_quarters_of_their_own_change_no_bit(k, columns):
    rng = np.random.default_rng(k)
    block = rng.standard_normal((2, k, columns)).astype(np.float32)
    against = orthonormal_rows(rng, 2, 5, columns)
    want = on_multiprocessors(1, FLOAT32, block, against)  # a part is one block's work
    same(on_multiprocessors(10**6, FLOAT32, block, against), want)


def smooth(k, columns):
    """Rows that run into each other: they take many passes."""
    x = np.linspace(0, 1, columns)
    return np.stack([np.exp(-(((x - m) / 0.3) ** 2)) for m in np.linspace(0, 1, k)])


@pytest.mark.parametrize(("dtype", "k"), [(FLOAT32, 30), (FLOAT64, 16)])
def test_late_passes_are_the_same_by_any_number_of_blocks(dtype, k):
    """One sample and three blocks that share it, two samples to a block each, four that walk."""
    rng = np.random.default_rng(8)
    block = rng.standard_normal((4, k, 301))
    against = orthonormal_rows(rng, 4, 3, 301, WORK[dtype])
    hard = smooth(k, 301)
    for late in ([1], [0, 3], [0, 1, 2, 3]):
        some = block.copy()
        some[late] = hard * (1 + np.arange(len(late)))[:, None, None]
        some = narrow(dtype, some)
        out = everywhere(dtype, some, against)
        np.testing.assert_array_equal(np.flatnonzero(out.passes > 3), late)
        same(on_multiprocessors(1, dtype, some, against), out)


def test_a_call_can_be_captured():
    """Nothing of the arrays is read on the host, and so the launches are always the same."""
    library = emulated.library()
    params = emulated.OrthonormalizeParams(dtype=FLOAT32, working_dtype=FLOAT32)
    params.batch, params.columns = 5, 999
    params.block = emulated.Rows(None, 40, (ctypes.c_int64 * 3)(999 * 40, 999, 1))
    params.against[0] = emulated.Rows(None, 70, (ctypes.c_int64 * 3)(999 * 70, 999, 1))
    size = library.orthonormalize_plan(ctypes.byref(params))
    want = emulated.recorded(library.orthonormalize, params)
    memory = np.frombuffer(mmap.mmap(-1, size, prot=0), np.uint8)  # whoever reads it dies
    for name in ("q", "rank", "replaced", "passes", "residual", "projection", "workspace"):
        setattr(params, name, emulated.address(memory))
    params.block.data = params.against[0].data = emulated.address(memory)
    child = os.fork()
    if child == 0:
        os._exit(emulated.recorded(library.orthonormalize, params) != want)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(want) == 12


def test_little_shared_memory_changes_no_bit():
    rng = np.random.default_rng(6)
    block = rng.standard_normal((1, 90, 120)).astype(np.float32)
    want = orthonormalize(FLOAT32, block)
    try:
        emulated.library().set_shared_limit(ctypes.c_size_t(48 * 1024))
        same(orthonormalize(FLOAT32, block), want)
        emulated.library().set_shared_limit(ctypes.c_size_t(40 * 1024))
        with pytest.raises(emulated.EmulationError, match="more shared memory than"):
            orthonormalize(FLOAT32, rng.standard_normal((1, 250, 260)).astype(np.float32))
    finally:
        emulated.library().set_shared_limit(ctypes.c_size_t(227 * 1024))


def test_a_small_block_takes_no_shared_memory_from_a_large_one():
    rng = np.random.default_rng(7)
    library = emulated.library()
    library.least_allowed.restype = ctypes.c_size_t
    for k in (96, 80):  # as from two threads, the second between permission and launch of the first
        orthonormalize(FLOAT32, rng.standard_normal((1, k, 120)).astype(np.float32))
        assert library.least_allowed() == 227 * 1024


def drawn(rng):
    """A block of some kind, P, and its dtype."""
    batch, k = rng.integers(1, 3), rng.integers(1, 10)
    p = rng.choice([0, 0, 2, 5])
    columns = rng.integers(k + p, k + p + 60)
    dtype = rng.choice([FLOAT32, FLOAT32, FLOAT64, FLOAT16, BFLOAT16])
    against = orthonormal_rows(rng, batch, p, columns, WORK[work_of(dtype)])
    a = rng.standard_normal((batch, k, columns))
    kind = rng.integers(8)
    if kind == 1:
        a = rng.standard_normal((batch, k, k)) @ (np.logspace(0, -9, k)[:, None] * a)
    if kind == 2:
        a[rng.random((batch, k)) < 0.3] = 0
    if kind == 3:
        a[:] = a[:, rng.integers(0, k, k)]
    if kind == 4:
        a = a[:, :1] + 10.0 ** -rng.integers(3, 9) * a
    if kind == 5:
        a *= 10.0 ** rng.uniform(-40, 35, (batch, k, 1)) if dtype < FLOAT16 else 1
    if kind == 6 and p > 0:
        a = rng.standard_normal((batch, k, p)) @ against + 10.0 ** -rng.integers(2, 12) * a
    if kind == 7:
        a[rng.random(a.shape) < 0.02] = rng.choice([np.nan, np.inf])
    return dtype, narrow(dtype, a), against


@pytest.mark.parametrize("seed", range(4))
def test_no_block_is_too_difficult(seed):
    rng = np.random.default_rng(seed)
    for i in range(100):
        dtype, block, against = drawn(rng)
        half = against.shape[1] // 2
        parts = against[:, :half], against[:, half:]
        out = orthonormalize(dtype, block, *parts, schedule=i % len(SCHEDULES))
        check(dtype, block, parts, out)
