"""The CUDA kernels, compiled for the host and run thread by thread (emulation/emulation.h)."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent / "emulation"
COMPILER = shutil.which("g++") or shutil.which("c++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")

FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = range(4)
SCHEDULES = {"ascending": 0, "descending": 1, "warps shuffled": 2}
ITEM = {FLOAT32: np.float32, FLOAT64: np.float64, FLOAT16: np.float16, BFLOAT16: np.uint16}


def build(source, target, csrc, *flags):
    command = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    command += ["-Wno-unknown-pragmas", "-DPULLBACK_EMULATION", f"-I{csrc}", f"-I{HERE}"]
    command += [f'-DPULLBACK_KERNEL_SOURCE="{source}"', *flags, HERE / "gram.cpp", "-o", target]
    subprocess.run(command, check=True, capture_output=True, text=True)
    library = ctypes.CDLL(str(target))
    library.gram.restype = ctypes.c_char_p
    library.gram_splits.restype = ctypes.c_int64
    library.barriers.restype = ctypes.c_int64
    return library


@pytest.fixture(scope="module")
def emulated(repository, tmp_path_factory):
    """The kernels as they are, with a grid limit so small that blocks must walk."""
    csrc = repository / "csrc"
    target = tmp_path_factory.mktemp("emulation") / "gram.so"
    return build(csrc / "cuda" / "gram.cu", target, csrc, "-DPULLBACK_MOST_BLOCKS=3")


def call(library, dtype, a, b=None, schedule=0):
    """Runs the launcher on arrays of any strides; results start as NaN."""
    batch, k, columns = a.shape
    p = k if b is None else b.shape[1]
    splits = library.gram_splits(*map(ctypes.c_int64, (k, p, columns)), int(b is None))
    partial = np.full((batch, splits, k, p), np.nan)
    out = np.full((batch, k, p), np.nan)

    def operand(x):
        if x is None:
            return None, None
        strides = (ctypes.c_int64 * 3)(*(s // x.itemsize for s in x.strides))
        return ctypes.c_void_p(x.ctypes.data), strides

    sizes = map(ctypes.c_int64, (batch, k, p, columns))
    error = library.gram(
        dtype,
        schedule,
        *sizes,
        *operand(a),
        *operand(b),
        ctypes.c_void_p(partial.ctypes.data),
        ctypes.c_void_p(out.ctypes.data),
    )
    assert error is None, error.decode()
    return out


def wide(dtype, x):
    if dtype == BFLOAT16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
        return np.where(np.isfinite(x), x, np.inf).astype(np.float64)
    return x.astype(np.float64)


def draw(rng, dtype, *shape):
    x = rng.standard_normal(shape).astype(np.float32)
    if dtype == BFLOAT16:
        return (x.view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(ITEM[dtype])


def error_of(dtype, got, a, b=None):
    left = wide(dtype, a)
    right = left if b is None else wide(dtype, b)
    norms = np.linalg.norm(left, axis=2)[:, :, None] * np.linalg.norm(right, axis=2)[:, None, :]
    return np.abs((got - left @ right.transpose(0, 2, 1)) / norms).max()


def bound(dtype):
    """A chain of 128 float32 products of like sign is off by up to half a millionth."""
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
def test_the_kernel_is_right_under_every_schedule(emulated, dtype, batch, k, p, columns):
    rng = np.random.default_rng(0)
    a = draw(rng, dtype, batch, k, columns)
    b = None if p is None else draw(rng, dtype, batch, p, columns)
    before = emulated.barriers()
    results = [call(emulated, dtype, a, b, schedule) for schedule in SCHEDULES.values()]
    assert emulated.barriers() > before
    assert error_of(dtype, results[0], a, b) < bound(dtype)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    if b is None:
        np.testing.assert_array_equal(results[0], results[0].transpose(0, 2, 1))


def test_strides_and_company_change_no_bit(emulated):
    rng = np.random.default_rng(1)
    dense = draw(rng, FLOAT32, 3, 6, 700)
    want = call(emulated, FLOAT32, dense)
    padded = np.full((3, 12, 2100), np.nan, np.float32)
    padded[:, ::2, ::3] = dense
    for other in (
        padded[:, ::2, ::3],
        np.ascontiguousarray(dense.transpose(2, 1, 0)).transpose(2, 1, 0),
        np.ascontiguousarray(dense.transpose(1, 0, 2)).transpose(1, 0, 2),
    ):
        assert other.strides != dense.strides
        np.testing.assert_array_equal(call(emulated, FLOAT32, other), want)
    np.testing.assert_array_equal(call(emulated, FLOAT32, dense[1:2]), want[1:2])
    np.testing.assert_array_equal(call(emulated, FLOAT32, dense, dense), want)
    expanded = np.broadcast_to(dense[:1, :1], (3, 6, 700))
    assert expanded.strides[:2] == (0, 0)
    np.testing.assert_array_equal(
        call(emulated, FLOAT32, expanded), np.broadcast_to(want[0, 0, 0], (3, 6, 6))
    )


def test_every_16_bit_number_is_widened_exactly(emulated):
    for dtype in (FLOAT16, BFLOAT16):
        bits = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
        numbers = bits.view(ITEM[dtype])
        values = wide(dtype, numbers)
        kept = np.isfinite(values)
        numbers, values = numbers[kept], values[kept]
        rows = 64 * (len(numbers) // 64)
        a = numbers[:rows].reshape(-1, 64, 1)[:8]  # the smallest: zero and subnormal
        a = np.concatenate([a, numbers[:rows].reshape(-1, 64, 1)[::97]])
        one = np.ones((len(a), 1, 1), np.float32)
        one = (one.view(np.uint32) >> 16).astype(np.uint16) if dtype == BFLOAT16 else one
        got = call(emulated, dtype, a, one.astype(ITEM[dtype]))
        np.testing.assert_array_equal(got, wide(dtype, a))


def barriers_in(text):
    return [i for i, line in enumerate(text.splitlines()) if "__syncthreads();" in line]


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_barrier_is_caught(repository, tmp_path, which):
    """The emulation proves something only if it fails on kernels that are wrong."""
    csrc = repository / "csrc"
    text = (csrc / "cuda" / "gram.cu").read_text()
    assert len(barriers_in(text)) == 2
    lines = text.splitlines()
    lines[barriers_in(text)[which]] = ""
    mutant = tmp_path / "mutant.cu"
    mutant.write_text("\n".join(lines))
    library = build(mutant, tmp_path / "mutant.so", csrc)
    rng = np.random.default_rng(2)
    a = draw(rng, FLOAT32, 1, 20, 400)
    results = [call(library, FLOAT32, a, schedule=s) for s in SCHEDULES.values()]
    errors = [error_of(FLOAT32, result, a) for result in results]
    assert not all(error < bound(FLOAT32) for error in errors)


def test_an_empty_product_is_not_launched(emulated):
    with pytest.raises(AssertionError, match="needs no launch"):
        call(emulated, FLOAT32, np.zeros((1, 3, 0), np.float32))
