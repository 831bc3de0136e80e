"""Tensor cores on the host (emulation/tensor_cores.h): each lane's part, sums and conversions."""

import ctypes

import numpy as np
import pytest

from tests.pullback_ext.emulation import emulated
from tests.pullback_ext.emulation.emulated import (
    BFLOAT16,
    FLOAT16,
    SCHEDULES,
    address,
    narrow,
    wide,
)

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler")

TF32 = 0
KINDS = {"tf32": TF32, "float16": FLOAT16, "bfloat16": BFLOAT16}
LANES = np.arange(32)
G, T = LANES // 4, LANES % 4  # groupID and threadID_in_group of the PTX ISA, 9.7.14
# Rows and columns of every lane's entries, as the PTX ISA tells them: [32, entries].
SUMS = [np.stack(x, 1) for x in ((G, G, G + 8, G + 8), (2 * T, 2 * T + 1, 2 * T, 2 * T + 1))]


def places(kind):
    """Of the left factor and of the right one: rows, columns."""
    if kind == TF32:  # m16n8k8
        left = (G, G + 8, G, G + 8), (T, T, T + 4, T + 4)
        right = (T, T + 4), (G, G)
    else:  # m16n8k16
        row, low = (G, G, G + 8, G + 8) * 2, (2 * T, 2 * T + 1) * 2
        left = row, (*low, *(x + 8 for x in low))
        right = (2 * T, 2 * T + 1, 2 * T + 8, 2 * T + 9), (G,) * 4
    return [[np.stack(x, 1) for x in factor] for factor in (left, right)]


def draw(rng, kind, *shape):
    """Entries of this kind, as they lie in memory."""
    x = rng.standard_normal(shape).astype(np.float32)
    return (x.view(np.uint32) & 0xFFFFE000).view(np.float32) if kind == TF32 else narrow(kind, x)


def exact(kind, x):
    return x.astype(np.float64) if kind == TF32 else wide(kind, x)


def fragments(x, at):
    """[warps, 32, registers]"""
    return np.ascontiguousarray(x[:, at[0], at[1]]).view(np.uint32)


def product(kind, a, b, c, threads=64, schedule="ascending"):
    """a b + c of [warps, 16, k], [warps, k, 8] and [warps, 16, 8]."""
    left, right = places(kind)
    sums = np.ascontiguousarray(c[:, SUMS[0], SUMS[1]])
    of_a, of_b = fragments(a, left), fragments(b, right)
    function = emulated.library().multiply_fragments
    function.restype = ctypes.c_char_p
    arguments = [ctypes.c_void_p(address(x)) for x in (of_a, of_b, sums)]
    emulated.launch(function, kind, len(a), threads, *arguments, schedule=schedule)
    out = np.full_like(c, np.nan)
    out[:, SUMS[0], SUMS[1]] = sums
    return out


def matrices(kind, warps=4):
    rng = np.random.default_rng()
    k = 8 if kind == TF32 else 16
    c = rng.standard_normal((warps, 16, 8)).astype(np.float32)
    return draw(rng, kind, warps, 16, k), draw(rng, kind, warps, k, 8), c


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_fragments_make_the_product(kind, schedule):
    a, b, c = matrices(kind)
    got = product(kind, a, b, c, schedule=schedule)
    left, right = exact(kind, a), exact(kind, b)
    most = np.maximum(np.abs(left[..., None] * right[:, None]).max(2), np.abs(c))
    error = np.abs(got - (left @ right + c))
    assert (error <= (a.shape[2] + 2) * 2.0**-23 * np.maximum(most, np.abs(got))).all()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_entry_of_every_lane_is_in_its_place(kind):
    """Unit matrices: each row and column of the product names one entry of each factor."""
    k = 8 if kind == TF32 else 16
    rows, columns = np.arange(1.0, 16 * k + 1).reshape(1, 16, k), np.zeros((k, k, 8))
    columns[np.arange(k), np.arange(k), np.arange(k) % 8] = 1
    numbers = rows.astype(np.float32) if kind == TF32 else narrow(kind, rows)
    ones = columns.astype(np.float32) if kind == TF32 else narrow(kind, columns)
    got = product(kind, numbers.repeat(k, 0), ones, np.zeros((k, 16, 8), np.float32))
    for s in range(k):
        np.testing.assert_array_equal(got[s, :, s % 8], exact(kind, numbers)[0, :, s])
        assert not got[s, :, np.arange(8) != s % 8].any()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_doubles_lie_as_tf32_does_and_are_rounded_to_the_nearest(schedule):
    rng = np.random.default_rng()
    a, b, c = (rng.standard_normal((3, *shape)) for shape in ((16, 8), (8, 8), (16, 8)))
    parts = [
        np.ascontiguousarray(x[:, at[0], at[1]]) for x, at in zip((a, b), places(TF32), strict=True)
    ]
    sums = np.ascontiguousarray(c[:, SUMS[0], SUMS[1]])
    function = emulated.library().multiply_doubles
    function.restype = ctypes.c_char_p
    arguments = [ctypes.c_void_p(address(x)) for x in (*parts, sums)]
    emulated.launch(function, 3, 32, *arguments, schedule=schedule)
    want = c.copy()
    for s in range(8):
        want += a[:, :, s, None] * b[:, None, s]
    np.testing.assert_array_equal(sums, want[:, SUMS[0], SUMS[1]])


def test_sums_are_cut_and_not_rounded():
    a, b, c = (np.zeros(s, np.float32) for s in ((1, 16, 8), (1, 8, 8), (1, 16, 8)))
    a[0, :, :3], b[0, :3] = [1, 1, 1], np.float32([1, 2.0**-24, 1.5 * 2.0**-23])[:, None]
    for sign in (1, -1):
        assert (product(TF32, sign * a, b, c, 32) == sign * (1 + 2.0**-23)).all()
    c[:] = np.inf
    assert (product(TF32, a, b, c, 32) == np.inf).all()
    a[0, 3, 0] = np.nan
    assert np.isnan(product(TF32, a, b, c, 32)[0, 3]).all()


def test_lower_digits_of_a_float_do_not_count_as_tf32():
    a, b, c = matrices(TF32)
    more = (a.view(np.uint32) | 0x1FFF).view(np.float32)
    np.testing.assert_array_equal(product(TF32, more, b, c), product(TF32, a, b, c))


def test_a_product_that_is_left_out_is_missed():
    a, b, c = matrices(BFLOAT16)
    want = product(BFLOAT16, a, b, c)
    site = next(s for s in emulated.passed() if s.function == "of_fragments")
    emulated.library().set_skipped(site.number)
    try:
        got = product(BFLOAT16, a, b, c)
    finally:
        emulated.library().set_skipped(-1)
    assert not np.array_equal(got, want)


def test_a_part_of_a_warp_waits_for_ever():
    a, b, c = matrices(BFLOAT16, 1)
    with pytest.raises(emulated.EmulationError, match=r"16 at tensor_cores\.cpp"):
        product(BFLOAT16, a, b, c, 16)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_matrices_by_way_of_shared_memory(schedule):
    rng = np.random.default_rng()
    a, b = draw(rng, BFLOAT16, 16, 16), draw(rng, BFLOAT16, 16, 8)
    c = np.full((16, 8), np.nan, np.float32)
    function = emulated.library().multiply_matrices
    function.restype = ctypes.c_char_p
    arguments = [ctypes.c_void_p(address(x)) for x in (a, b, c)]
    emulated.launch(function, *arguments, schedule=schedule)
    want = wide(BFLOAT16, a) @ wide(BFLOAT16, b)
    assert np.abs(c - want).max() < 1e-5


def test_conversions():
    lib = emulated.library()
    lib.to_tf32.restype = lib.pack.restype = ctypes.c_uint32
    lib.to_tf32.argtypes = [ctypes.c_float]
    lib.pack.argtypes = [ctypes.c_int, ctypes.c_float, ctypes.c_float]
    lib.split_tf32.argtypes = [ctypes.c_float, ctypes.c_void_p]
    rng = np.random.default_rng()
    for x in np.float32(rng.standard_normal(200) * 10.0 ** rng.uniform(-30, 30, 200)):
        parts = np.zeros(2, np.float32)
        lib.split_tf32(x, address(parts))
        assert not (parts.view(np.uint32) & 0x1FFF).any()
        big, small = parts.astype(np.float64)
        assert abs(big - x) <= 2.0**-11 * abs(x)
        assert abs(big + small - x) <= 2.0**-22 * abs(x)
        y = np.float32(rng.standard_normal())
        assert lib.pack(FLOAT16, y, -y) == int(np.float16(y).view(np.uint16)) | (
            int(np.float16(-y).view(np.uint16)) << 16
        )
    ties = np.float32([1 + 2.0**-11, -1 - 2.0**-11, 1 + 2.0**-11 - 2.0**-23, np.inf, np.nan])
    got = np.uint32([lib.to_tf32(x) for x in ties]).view(np.float32)
    away = np.float32([1 + 2.0**-10, -1 - 2.0**-10, 1, np.inf, np.nan])
    np.testing.assert_array_equal(got, away)
