"""The emulation itself, and gram: CUDA kernels run thread by thread (emulation/emulation.h)."""

import numpy as np
import pytest

from tests.pullback_ext.emulation import emulated
from tests.pullback_ext.emulation.emulated import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    ITEM,
    SCHEDULES,
    gram,
    narrow,
    wide,
)

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("how", "message"),
    [
        (0, r"wait for ever: 40 at misuse.cpp:\d+, 24 of 64 have left"),
        (1, r"wait for ever: 32 at misuse.cpp:\d+, 32 at misuse.cpp:\d+, 0 of 64 have left"),
        (2, r"wait for ever: 62 at misuse.cpp:\d+, 2 of 64 have left"),
        (3, r"wait for ever: (2|62) at misuse.cpp:\d+, (2|62) at misuse.cpp:\d+, 0 of 64"),
        (4, "write behind shared memory"),
    ],
    ids=["some have left", "two barriers", "left a warp", "barrier and shuffle", "too far"],
)
def test_wrong_kernels_are_reported(how, message, schedule):
    with pytest.raises(emulated.EmulationError, match=message):
        emulated.launch(emulated.library().misuse, how, schedule=schedule)
    emulated.launch(emulated.library().misuse, -1)  # and the next one runs


def draw(rng, dtype, *shape):
    return narrow(dtype, rng.standard_normal(shape).astype(np.float32))


def error_of(dtype, got, a, b=None):
    left = wide(dtype, a)
    right = left if b is None else wide(dtype, b)
    norms = np.linalg.norm(left, axis=2)[:, :, None] * np.linalg.norm(right, axis=2)[:, None, :]
    return np.abs((got - left @ right.transpose(0, 2, 1)) / norms).max()


def bound(dtype):
    """15 roundings of float32, the most that a product takes part in, are less than a millionth."""
    return 1e-14 if dtype == FLOAT64 else 1e-6


@pytest.mark.parametrize("dtype", ITEM, ids=["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("batch", "k", "p", "columns"),
    [
        (2, 1, None, 1),
        (1, 16, None, 65),
        (2, 10, 3, 257),
        (1, 31, None, 600),
        (1, 17, 33, 300),  # 2 x 2 tiles would do, one of 64 is taken
        (1, 70, None, 130),  # 2 x 2 tiles, three of them computed
        (1, 5, 66, 2100),  # two tiles, two parts
        (1, 3, None, 9000),  # five parts
    ],
)
def test_the_kernel_is_right_under_every_schedule(dtype, batch, k, p, columns):
    rng = np.random.default_rng(0)
    a = draw(rng, dtype, batch, k, columns)
    b = None if p is None else draw(rng, dtype, batch, p, columns)
    before = sum(emulated.passed().values())
    results = [gram(dtype, a, b, schedule=schedule) for schedule in SCHEDULES]
    assert sum(emulated.passed().values()) > before
    assert error_of(dtype, results[0], a, b) < bound(dtype)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    if b is None:
        np.testing.assert_array_equal(results[0], results[0].transpose(0, 2, 1))


def test_strides_and_the_rest_of_the_batch_change_no_bit():
    rng = np.random.default_rng(1)
    dense = draw(rng, FLOAT32, 3, 6, 700)
    want = gram(FLOAT32, dense)
    padded = np.full((3, 12, 2100), np.nan, np.float32)
    padded[:, ::2, ::3] = dense
    for other in (
        padded[:, ::2, ::3],
        np.ascontiguousarray(dense.transpose(2, 1, 0)).transpose(2, 1, 0),
        np.ascontiguousarray(dense.transpose(1, 0, 2)).transpose(1, 0, 2),
    ):
        assert other.strides != dense.strides
        np.testing.assert_array_equal(gram(FLOAT32, other), want)
    np.testing.assert_array_equal(gram(FLOAT32, dense[1:2]), want[1:2])
    np.testing.assert_array_equal(gram(FLOAT32, dense, dense), want)
    expanded = np.broadcast_to(dense[:1, :1], (3, 6, 700))
    assert expanded.strides[:2] == (0, 0)
    np.testing.assert_array_equal(
        gram(FLOAT32, expanded), np.broadcast_to(want[0, 0, 0], (3, 6, 6))
    )


def test_every_16_bit_number_is_widened_exactly():
    for dtype in (FLOAT16, BFLOAT16):
        bits = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
        numbers = bits.view(ITEM[dtype])
        values = wide(dtype, numbers)
        kept = np.isfinite(values)
        numbers, values = numbers[kept], values[kept]
        rows = 64 * (len(numbers) // 64)
        a = numbers[:rows].reshape(-1, 64, 1)[:8]  # the smallest: zero and subnormal
        a = np.concatenate([a, numbers[:rows].reshape(-1, 64, 1)[::97]])
        one = narrow(dtype, np.ones((len(a), 1, 1), np.float32))
        np.testing.assert_array_equal(gram(dtype, a, one), wide(dtype, a))


def test_an_empty_product_is_not_launched():
    with pytest.raises(emulated.EmulationError, match="needs no launch"):
        gram(FLOAT32, np.zeros((1, 3, 0), np.float32))
