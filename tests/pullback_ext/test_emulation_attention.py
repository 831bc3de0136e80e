"""Attention on CUDA, run thread by thread, and its portable version for the CPU."""

import numpy as np
import pytest

from tests.pullback_ext.emulation import attending, emulated
from tests.pullback_ext.emulation.attending import attend, cotangents, tangents
from tests.pullback_ext.emulation.emulated import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    ITEM,
    SCHEDULES,
    narrow,
    recorded,
    wide,
)
from tests.pullback_ext.portable import portable

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler")

BOUND = {FLOAT32: 2e-6, FLOAT64: 1e-13, FLOAT16: 6e-4, BFLOAT16: 8e-3}  # narrow() cuts bfloat16
NAMES = ["float32", "float64", "float16", "bfloat16"]
# T, B, H, Hk, Sq, Sk, d, e: around strips of 16, tiles of 64 and results of 64 and 128 columns.
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, 1),
    (3, 2, 2, 2, 15, 77, 40, 40),
    (2, 1, 4, 2, 70, 65, 16, 24),
    (1, 1, 2, 1, 66, 130, 17, 72),
    (3, 1, 1, 1, 9, 20, 130, 140),
]


def case(rng, dtype, shape, offset=0.0):
    """q, k, v; dq, dk, dv; g."""
    count, batch, heads, key_heads, queries, keys, d, e = shape
    sizes = [(batch, heads, queries, d), (batch, key_heads, keys, d), (batch, key_heads, keys, e)]

    def draw(*size):
        return narrow(dtype, rng.standard_normal(size))

    primal = [draw(*size) for size in sizes]
    if offset:
        primal[2] = narrow(dtype, wide(dtype, primal[2]) + offset)
    return primal, [draw(count, *size) for size in sizes], draw(count, *sizes[0][:3], e)


def weights(q, k, bias, causal, scale):
    s = q @ k.swapaxes(-1, -2) * scale
    s = s if bias is None else s + bias
    if causal:
        s = np.where(np.triu(np.ones(s.shape[-2:], bool), 1), -np.inf, s)
    most = s.max(-1, keepdims=True, initial=-1e300)
    p = np.exp(s - most)
    total = p.sum(-1, keepdims=True)
    return p / np.where(total == 0, 1, total), (most + np.log(np.maximum(total, 1e-300)))[..., 0]


def expected(dtype, primal, turned, g, bias=None, causal=False):
    """o, lse, its tangents, and the cotangents of q, k and v, in float64."""
    q, k, v = (wide(dtype, x) for x in primal)
    share, scale = q.shape[1] // k.shape[1], q.shape[3] ** -0.5
    k, v = (x.repeat(share, 1) for x in (k, v))
    dq, dk, dv = (wide(dtype, x) for x in turned)
    dk, dv, g = dk.repeat(share, 2), dv.repeat(share, 2), wide(dtype, g)
    bias = None if bias is None else wide(dtype, bias)
    p, lse = weights(q, k, bias, causal, scale)
    o = p @ v
    h = p * scale * (dq @ k.swapaxes(-1, -2) + q @ dk.swapaxes(-1, -2))
    out = h @ v + p @ dv - h.sum(-1, keepdims=True) * o
    ds = scale * p * (g @ v.swapaxes(-1, -2) - (g * o).sum(-1, keepdims=True))

    def together(x):
        return x.reshape(*x.shape[:2], -1, share, *x.shape[3:]).sum(3)

    back = ds @ k, together(ds.swapaxes(-1, -2) @ q), together(p.swapaxes(-1, -2) @ g)
    return o, lse, out, *back


def everything(dtype, primal, turned, g, bias=None, causal=False, **how):
    """What the kernels give, in the order of expected()."""
    o, lse = attend(dtype, *primal, bias, causal=causal, **how)
    out = tangents(dtype, *primal, o, lse, *turned, bias, causal=causal, **how)
    back = cotangents(dtype, *primal, o, lse, g, bias, causal=causal, **how)
    return o, lse, out, *back


def close(dtype, got, want, bound=None):
    for i, (x, y) in enumerate(zip(got, want, strict=True)):
        entries = x.astype(np.float64) if i == 1 else wide(dtype, x)
        assert entries.shape == y.shape
        assert np.abs(entries - y).max() <= (bound or BOUND[dtype]) * max(np.abs(y).max(), 1e-30)


def rows():
    return [
        pytest.param(dtype, shape, (i + dtype) % 2 == 1, id=f"{NAMES[dtype]}-{shape}")
        for i, shape in enumerate(SHAPES)
        for dtype in ITEM
    ]


@pytest.mark.parametrize(("dtype", "shape", "causal"), rows())
def test_under_every_schedule(dtype, shape, causal):
    drawn = case(np.random.default_rng(shape[4]), dtype, shape)
    results = [everything(dtype, *drawn, causal=causal, schedule=s) for s in SCHEDULES]
    close(dtype, results[0], expected(dtype, *drawn, causal=causal))
    for other in results[1:]:
        assert all(np.array_equal(x, y) for x, y in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("dtype", "shape", "causal"), rows())
def test_portable_kernels_of_the_cpu(dtype, shape, causal):
    drawn = case(np.random.default_rng(shape[5]), dtype, shape)
    got = everything(dtype, *drawn, causal=causal, kernels=portable.library())
    close(dtype, got, expected(dtype, *drawn, causal=causal))


@pytest.fixture(params=["cuda", "portable"])
def kernels(request):
    return emulated.library() if request.param == "cuda" else portable.library()


@pytest.mark.parametrize("dtype", ITEM, ids=NAMES)
def test_a_bias_by_its_strides(kernels, dtype):
    rng = np.random.default_rng(3)
    drawn = case(rng, dtype, (2, 2, 2, 1, 20, 70, 8, 12))
    for size in [(1, 1, 1, 70), (2, 2, 20, 70), (1, 2, 20, 1)]:
        bias = rng.standard_normal(size)
        bias[rng.random(size) < (0.3 if size[3] > 1 else 0)] = -np.inf
        bias[..., -1] = 0
        bias = narrow(dtype, bias)
        close(dtype, everything(dtype, *drawn, bias, kernels=kernels),
              expected(dtype, *drawn, bias))  # fmt: skip


def test_queries_that_see_nothing_give_zeros(kernels):
    primal, turned, g = case(np.random.default_rng(4), FLOAT32, (2, 1, 2, 2, 20, 70, 8, 12))
    bias = np.zeros((1, 1, 20, 1), np.float32)
    bias[0, 0, [0, 19]] = -np.inf
    o, lse, out, dq, dk, dv = everything(FLOAT32, primal, turned, g, bias, kernels=kernels)
    assert (lse[:, :, [0, 19]] == -np.inf).all()
    for x in (o, out, dq):
        assert (x[..., [0, 19], :] == 0).all()
        assert np.isfinite(x).all()
    assert np.isfinite(dk).all()
    assert np.isfinite(dv).all()


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=lambda d: NAMES[d])
def test_a_weight_of_one_has_no_derivative(kernels, dtype):
    """Its terms cancel to the last digit; the key, the query's peak, may be in any tile."""
    rng = np.random.default_rng(9)
    primal, turned, g = case(rng, dtype, (3, 1, 4, 2, 70, 130, 24, 20))
    chosen = rng.integers(130, size=70)
    k = wide(dtype, primal[1])
    primal[1] = narrow(dtype, k / np.linalg.norm(k, axis=-1, keepdims=True))
    primal[0] = narrow(dtype, 3e4 * wide(dtype, primal[1])[:, [0, 0, 1, 1]][:, :, chosen])
    o, lse = attend(dtype, *primal, kernels=kernels)
    assert np.array_equal(o, primal[2][:, [0, 0, 1, 1]][:, :, chosen])
    out = tangents(dtype, *primal, o, lse, *turned[:2], None, kernels=kernels)
    assert np.abs(wide(dtype, out)).max() < 1e-6
    dq, dk, dv = (wide(dtype, x) for x in cotangents(dtype, *primal, o, lse, g, kernels=kernels))
    assert not dq.any()
    assert not dk.any()
    assert dv.any()


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16], ids=lambda d: NAMES[d])
@pytest.mark.parametrize("given", range(1, 7), ids=lambda g: f"{g:03b}")
def test_missing_tangents_count_as_zeros(kernels, given, dtype):
    primal, turned, g = case(np.random.default_rng(5), dtype, (2, 1, 1, 1, 20, 30, 8, 12))
    o, lse = attend(dtype, *primal, kernels=kernels)
    some = [x if given >> i & 1 else None for i, x in enumerate(turned)]
    zeros = [np.zeros_like(x) if y is None else x for x, y in zip(turned, some, strict=True)]
    want = expected(dtype, primal, zeros, g)[2]
    got = wide(dtype, tangents(dtype, *primal, o, lse, *some, kernels=kernels))
    assert np.abs(got - want).max() < BOUND[dtype] * np.abs(want).max()


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=NAMES[2:])
def test_an_offset_that_values_have_in_common_does_not_matter(kernels, dtype):
    primal, turned, g = case(np.random.default_rng(6), dtype, (2, 1, 1, 1, 33, 70, 16, 24), 20.0)
    turned[2][:] = 0
    got = everything(dtype, primal, turned, g, kernels=kernels)
    close(dtype, got, expected(dtype, primal, turned, g))


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=lambda d: NAMES[d])
def test_a_tangent_is_computed_alike_in_any_company(kernels, dtype):
    primal, turned, g = case(np.random.default_rng(7), dtype, (5, 2, 2, 1, 20, 70, 8, 12))
    o, lse, out, *back = everything(dtype, primal, turned, g, kernels=kernels)
    one = [np.ascontiguousarray(x[1:]) for x in primal]
    few = [np.ascontiguousarray(x[3:4, 1:]) for x in turned]
    alone = everything(dtype, one, few, np.ascontiguousarray(g[3:4, 1:]), kernels=kernels)
    whole = [o[1:], lse[1:], out[3:4, 1:], *(x[3:4, 1:] for x in back)]
    assert all(np.array_equal(x, y) for x, y in zip(alone, whole, strict=True))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16], ids=lambda d: NAMES[d])
def test_strides_between_rows_heads_and_tangents(kernels, dtype):
    primal, turned, g = case(np.random.default_rng(8), dtype, (2, 2, 2, 2, 20, 30, 8, 12))
    apart = [np.ascontiguousarray(x.swapaxes(-2, -3)).swapaxes(-2, -3) for x in (*primal, *turned)]
    want = everything(dtype, primal, turned, g, kernels=kernels)
    got = everything(dtype, apart[:3], apart[3:], g, kernels=kernels)
    assert all(np.array_equal(x, y) for x, y in zip(got, want, strict=True))


@pytest.mark.parametrize(
    ("dtype", "rows", "suffix"), [(FLOAT32, 64, ""), (BFLOAT16, 128, "_of_warps")]
)
def test_launches(dtype, rows, suffix):
    """As csrc/README.md tells them."""
    params = attending.AttentionParams(dtype=dtype, kind=attending.FORWARD)
    params.tangents, params.batch, params.heads, params.key_heads = 5, 2, 8, 4
    params.queries, params.keys, params.depth, params.width = 1000, 77, 40, 160
    launches = recorded(emulated.library().attention, params)
    assert [one.kernel for one in launches] == [f"attention_{x}{suffix}" for x in ("rows", "sums")]
    assert launches[0].grid == 2 * 8 * -(-1000 // rows)
    assert all(one.block == 256 for one in launches)
    assert all(one.shared <= 99 * 1024 for one in launches)
