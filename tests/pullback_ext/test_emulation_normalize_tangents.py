"""normalize_tangents on CUDA, run thread by thread, and its portable version for the CPU."""

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
    narrow,
    normalize_tangents,
    wide,
)
from tests.pullback_ext.portable import portable

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler")

# Of the largest entry of scale * gain * t: 16-bit results are rounded once, by half a digit.
BOUND = {FLOAT32: 2e-6, FLOAT64: 1e-14, FLOAT16: 5e-4, BFLOAT16: 4e-3}
NAMES = ["float32", "float64", "float16", "bfloat16"]
GAINS = ["none", "channels", "entries"]

# k, B, G, Cg, P: around a warp's 32 pieces, 1024 and 65536 entries, 2 tangents and a grid of 3.
GROUPS = [
    (1, 1, 1, 1, 1),
    (3, 2, 2, 3, 7),
    (2, 13, 1, 1, 320),
    (5, 1, 2, 4, 256),
    (3, 2, 1, 5, 205),
    (2, 1, 2, 3, 683),
    (3, 2, 1, 1, 65537),
]
CHANNELS_LAST = [
    (3, 2, 4, 4, 3),
    (2, 1, 3, 7, 50),
    (1, 2, 1, 80, 529),
    (2, 1, 5, 40, 33),
    (1, 1, 16, 2, 1100),
]


def case(rng, dtype, shape, gain="none", channels_last=False):
    """t, normalized, scale and gain in the memory orders that the kernels take."""
    batch, groups, channels = shape[1:4]
    work = np.float64 if dtype == FLOAT64 else np.float32

    def draw(*sizes):
        if channels_last:
            *rest, last = sizes
            return np.moveaxis(rng.standard_normal((*rest[:-2], last, *rest[-2:])), -3, -1)
        return rng.standard_normal(sizes)

    t = draw(*shape)
    t = narrow(dtype, t) if dtype != BFLOAT16 else bfloat16(t, channels_last)
    xh = draw(*shape[1:])
    xh -= xh.mean((2, 3), keepdims=True)
    xh /= np.sqrt((xh**2).mean((2, 3), keepdims=True)) + 1e-3
    sizes = {"none": None, "channels": (1, groups, channels, 1), "entries": shape[1:]}[gain]
    weights = None if sizes is None else draw(*sizes).astype(work)
    scale = np.abs(rng.standard_normal((batch, groups))) + 0.1
    return t, xh.astype(work), scale.astype(work), weights


def bfloat16(t, channels_last):
    if not channels_last:
        return narrow(BFLOAT16, t)
    return np.moveaxis(narrow(BFLOAT16, np.moveaxis(t, -1, -3)), -3, -1)


def expected(dtype, t, xh, scale, gain, centered, transposed):
    z, g = wide(dtype, t), 1.0 if gain is None else gain.astype(np.float64)
    z = z * g if transposed else z
    xh = xh.astype(np.float64)
    out = z - xh * (z * xh).mean((3, 4), keepdims=True)
    out = out - z.mean((3, 4), keepdims=True) if centered else out
    out = out * scale.astype(np.float64)[:, :, None, None]
    return out if transposed else out * g


def close(dtype, got, t, xh, scale, gain, centered, transposed):
    want = expected(dtype, t, xh, scale, gain, centered, transposed)
    size = np.abs(wide(dtype, t) * scale[:, :, None, None] * (1.0 if gain is None else gain)).max()
    assert got.shape == want.shape
    assert np.abs(wide(dtype, got) - want).max() <= BOUND[dtype] * size


def each(shapes):
    """Every shape with every dtype, and in turn every gain and flag."""
    rows = []
    for i, shape in enumerate(shapes):
        for dtype in ITEM:
            turn = i + dtype
            flags = (turn % 4 != 1, turn % 2 == 0)
            rows.append(
                pytest.param(dtype, shape, GAINS[turn % 3], flags, id=f"{NAMES[dtype]}-{shape}")
            )
    return rows


@pytest.mark.parametrize(("dtype", "shape", "gain", "flags"), each(GROUPS))
def test_contiguous_groups_under_every_schedule(dtype, shape, gain, flags):
    under_every_schedule(dtype, shape, gain, flags, channels_last=False)


@pytest.mark.parametrize(("dtype", "shape", "gain", "flags"), each(CHANNELS_LAST))
def test_channels_last_under_every_schedule(dtype, shape, gain, flags):
    under_every_schedule(dtype, shape, gain, flags, channels_last=True)


def under_every_schedule(dtype, shape, gain, flags, channels_last):
    rng = np.random.default_rng(shape[-1])
    arrays = case(rng, dtype, shape, gain, channels_last)
    results = [
        normalize_tangents(dtype, *arrays, *flags, channels_last=channels_last, schedule=s)
        for s in SCHEDULES
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    close(dtype, results[0], *arrays, *flags)


@pytest.mark.parametrize("dtype", ITEM, ids=NAMES)
@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [((3, 2, 2, 3, 7), False), ((2, 2, 1, 5, 411), False), ((3, 2, 4, 5, 37), True)],
)
def test_every_gain_and_the_transpose(dtype, gain, shape, channels_last):
    rng = np.random.default_rng(1)
    arrays = case(rng, dtype, shape, gain, channels_last)
    for flags in [(True, False), (False, False), (True, True), (False, True)]:
        got = normalize_tangents(dtype, *arrays, *flags, channels_last=channels_last)
        close(dtype, got, *arrays, *flags)


@pytest.mark.parametrize("dtype", ITEM, ids=NAMES)
@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [((5, 3, 2, 4, 64), False), ((5, 2, 2, 4, 512), False), ((3, 3, 4, 8, 40), True),
     ((3, 2, 1, 1, 65600), False)],
)  # fmt: skip
def test_alignment_and_the_rest_of_the_call_change_no_bit(dtype, shape, channels_last):
    rng = np.random.default_rng(2)
    t, xh, scale, gain = case(rng, dtype, shape, "entries", channels_last)
    want = normalize_tangents(dtype, t, xh, scale, gain, channels_last=channels_last)
    close(dtype, want, t, xh, scale, gain, True, False)
    for i in (0, shape[0] - 1):
        alone = normalize_tangents(
            dtype, t[i : i + 1, 1:2], xh[1:2], scale[1:2].copy(), gain[1:2],
            channels_last=channels_last,
        )  # fmt: skip
        np.testing.assert_array_equal(alone[0, 0], want[i, 1])
    order = np.argsort(t.strides)[::-1]
    shifted = np.full(t.size + 1, 1, t.dtype)[1:].reshape([t.shape[i] for i in order])
    shifted = shifted.transpose(np.argsort(order))
    shifted[...] = t
    assert shifted.ctypes.data % 16 != 0
    assert all(a == b for a, b, n in zip(shifted.strides, t.strides, shape, strict=True) if n > 1)
    got = normalize_tangents(dtype, shifted, xh, scale, gain, channels_last=channels_last)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("channels_last", [False, True])
def test_expanded_tangents_are_read_through_their_strides(channels_last):
    rng = np.random.default_rng(3)
    t, *rest = case(rng, FLOAT32, (1, 2, 2, 8, 20), "channels", channels_last)
    want = normalize_tangents(FLOAT32, t, *rest, channels_last=channels_last)
    many = np.broadcast_to(t, (3, *t.shape[1:]))
    got = normalize_tangents(FLOAT32, many, *rest, channels_last=channels_last)
    np.testing.assert_array_equal(got, np.broadcast_to(want, got.shape))


@pytest.mark.parametrize("kernels", ["cuda", "portable"])
@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=["float16", "bfloat16"])
def test_results_are_rounded_to_the_nearest_number(kernels, dtype):
    """Without a mean, and with xh = 0, the result is scale * t."""
    values = np.concatenate(
        [
            np.geomspace(1e-9, 7e4, 3000),
            2.0 ** np.arange(-26, 17),
            [0.0, 65519.9, 65520.1, 2.0**-25, 1.5 * 2.0**-24, 2.5 * 2.0**-24],
        ]
    ).astype(np.float32)
    values = np.concatenate([values, -values])
    xh = np.zeros((values.size, 1, 1, 1), np.float32)
    one = narrow(dtype, np.ones((1, values.size, 1, 1, 1), np.float32))
    got = normalize_tangents(
        dtype, one, xh, values[:, None].copy(), None, False, False,
        kernels=None if kernels == "cuda" else portable.library(),
    ).ravel()  # fmt: skip
    if dtype == FLOAT16:
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(got, values.astype(np.float16))
        return
    bits = values.view(np.uint32).astype(np.uint64)
    want = (bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
    np.testing.assert_array_equal(got, want.astype(np.uint16))


@pytest.mark.parametrize("kernels", ["cuda", "portable"])
@pytest.mark.parametrize("dtype", ITEM, ids=NAMES)
@pytest.mark.parametrize(
    ("shape", "channels_last"), [((2, 2, 3, 4, 30), False), ((2, 2, 3, 6, 30), True)]
)
def test_what_is_not_finite_stays_in_its_group(kernels, dtype, shape, channels_last):
    rng = np.random.default_rng(4)
    t, *rest = case(rng, dtype, shape, "channels", channels_last)
    bad = narrow(dtype, np.array([np.nan, np.inf], np.float32))
    t[0, 1, 2, 3, 7], t[1, 0, 0, 0, 29] = bad
    got = wide(dtype, normalize_tangents(
        dtype, t, *rest, channels_last=channels_last,
        kernels=None if kernels == "cuda" else portable.library(),
    ))  # fmt: skip
    finite = np.isfinite(got).all((3, 4))
    assert not finite[0, 1, 2]
    assert not finite[1, 0, 0]
    assert finite.sum() == finite.size - 2
    assert np.isnan(got[0, 1, 2]).all()


@pytest.mark.parametrize("dtype", ITEM, ids=NAMES)
@pytest.mark.parametrize("shape", [*GROUPS, *CHANNELS_LAST])
def test_the_portable_version(dtype, shape):
    rng = np.random.default_rng(5)
    for gain in GAINS:
        arrays = case(rng, dtype, shape, gain, shape in CHANNELS_LAST)
        for flags in [(True, False), (False, True)]:
            got = normalize_tangents(
                dtype, *arrays, *flags, channels_last=shape in CHANNELS_LAST,
                kernels=portable.library(),
            )  # fmt: skip
            close(dtype, got, *arrays, *flags)
