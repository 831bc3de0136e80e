"""Attention, its tangents and its cotangents through the public functions, on every device."""

import json

import pytest
import torch

import pullback_ext
from pullback_ext import (
    attention,
    attention_cotangents,
    attention_tangents,
    build_info,
)

pytestmark = pytest.mark.usefixtures("native")

BOUND = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3}
DTYPES = pytest.mark.parametrize("dtype", BOUND, ids=lambda d: str(d).removeprefix("torch."))
# Sq, Sk, d, e: around vectors of 4, 8 and 16 lanes, blocks and tiles of 64, and chains of 128.
SIZES = [
    (1, 1, 1, 1),
    (15, 15, 40, 40),
    (77, 15, 8, 24),
    (64, 128, 64, 64),
    (257, 77, 72, 80),
    (999, 257, 40, 40),
    (33, 999, 5, 7),
    (40, 65, 160, 129),
    (17, 66, 512, 300),
    (4095, 33, 8, 9),
    (33, 4095, 9, 8),
]


def normal(rng, dtype, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)


def draw(rng, dtype, shape, *, batch=2, heads=2, key_heads=2, count=3, offset=0.0):
    """q, k, v; dq, dk, dv; g."""
    queries, keys, d, e = shape
    sizes = [(batch, heads, queries, d), (batch, key_heads, keys, d), (batch, key_heads, keys, e)]
    primal = [normal(rng, dtype, *size) for size in sizes]
    primal[2] = primal[2] + offset
    tangents = [normal(rng, dtype, count, *size) for size in sizes]
    return primal, tangents, normal(rng, dtype, count, batch, heads, queries, e)


def dense(bias=None, scale=None, causal=False):
    """The dense formula, a function of q, k and v of float64."""

    def f(q, k, v):
        share = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        s = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        if bias is not None:
            s = s + bias.double()
        if causal:
            s = s.masked_fill(s.new_ones(s.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
        return torch.softmax(s, -1) @ v

    return f


def want_tangents(f, primal, tangents):
    """J applied to tangents, of which some may be None, in float64."""
    primal = tuple(x.double() for x in primal)
    count = next(len(x) for x in tangents if x is not None)
    whole = [
        torch.zeros(count, *x.shape, dtype=torch.float64) if t is None else t.double()
        for x, t in zip(primal, tangents, strict=True)
    ]
    return torch.stack([torch.func.jvp(f, primal, one)[1] for one in zip(*whole, strict=True)])


def want_cotangents(f, primal, g):
    _, pull = torch.func.vjp(f, *(x.double() for x in primal))
    return [torch.stack(x) for x in zip(*(pull(one.double()) for one in g), strict=True)]


def error(got, want):
    """Largest difference over the largest entry; infinite where one is not finite."""
    assert got.shape == want.shape
    assert got.is_contiguous()
    size = want.abs().max().clamp_min(1e-300) if want.numel() else 1
    worst = (got.cpu().double() - want).abs().max() / size if want.numel() else 0.0
    return float(worst) if worst == worst else float("inf")


def on(device, tensors):
    return [None if x is None else x.to(device) for x in tensors]


def check(device, primal, tangents, g, bound, bias=None, **options):
    """All three functions against the dense formula in float64."""
    f = dense(bias, options.get("scale"), options.get("causal", False))
    here, there = on(device, primal), None if bias is None else bias.to(device)
    o, lse = attention(*here, there, **options)
    assert o.dtype == primal[0].dtype
    assert lse.dtype == torch.float64
    assert error(o, f(*(x.double() for x in primal))) < bound
    got = attention_tangents(*here, o, lse, *on(device, tangents), there, **options)
    assert got.dtype == o.dtype
    assert error(got, want_tangents(f, primal, tangents)) < bound
    both = attention_cotangents(*here, o, lse, g.to(device), there, **options)
    for x, want in zip(both, want_cotangents(f, primal, g), strict=True):
        assert x.dtype == o.dtype
        assert error(x, want) < bound
    queries = attention_cotangents(*here, o, lse, g.to(device), there, with_kv=False, **options)
    assert torch.equal(queries.dq, both.dq)
    assert queries.dk.shape == queries.dv.shape == (0,)


@DTYPES
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_random_entries(rng, device, shape, dtype):
    check(device, *draw(rng, dtype, shape), BOUND[dtype])


def test_as_many_tokens_as_stable_diffusion_has(rng, device):
    drawn = draw(rng, torch.float32, (4095, 4095, 8, 8), batch=1, heads=1, key_heads=1, count=1)
    check(device, *drawn, BOUND[torch.float32])


@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_any_number_of_tangents(rng, device, count):
    drawn = draw(rng, torch.float32, (65, 130, 24, 40), count=count)
    check(device, *drawn, BOUND[torch.float32])


def test_more_tangents_than_a_group_of_them(rng, device):
    drawn = draw(rng, torch.float32, (19, 21, 300, 310), batch=1, heads=1, key_heads=1, count=9)
    check(device, *drawn, BOUND[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(77, 77, 40, 40), (130, 257, 64, 64)], ids=str)
def test_an_offset_that_values_have_in_common_does_not_matter(rng, device, shape, dtype):
    """Used as it is, o rounded at 20 spoils bfloat16 by 4 to 9 % and float16 by a tenth of that."""
    primal, tangents, g = draw(rng, dtype, shape, offset=20.0)
    f, here = dense(), on(device, primal)
    o, lse = attention(*here)
    for some in ((tangents[0], None, None), (tangents[0], tangents[1], None)):
        got = attention_tangents(*here, o, lse, *on(device, some))
        assert error(got, want_tangents(f, primal, some)) < 4e-3
    got = attention_cotangents(*here, o, lse, g.to(device))
    for x, want in zip(got, want_cotangents(f, primal, g), strict=True):
        assert error(x, want) < 4e-3


@DTYPES
def test_grouped_heads(rng, device, dtype):
    drawn = draw(rng, dtype, (70, 31, 16, 24), heads=6, key_heads=2)
    check(device, *drawn, BOUND[dtype])
    drawn = draw(rng, dtype, (9, 70, 16, 24), heads=3, key_heads=1)
    check(device, *drawn, BOUND[dtype], causal=True)


@pytest.mark.parametrize("shape", [(130, 130, 16, 16), (200, 70, 8, 8), (70, 200, 8, 8)], ids=str)
@DTYPES
def test_causal(rng, device, shape, dtype):
    check(device, *draw(rng, dtype, shape), BOUND[dtype], causal=True)


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.0, -0.5])
def test_scale(rng, device, scale):
    check(device, *draw(rng, torch.float32, (33, 40, 7, 9)), 2e-6, scale=scale)


BIASES = [(2, 2, 70, 90), (1, 1, 70, 90), (1, 1, 1, 90), (2, 1, 1, 90), (1, 2, 70, 1)]


@pytest.mark.parametrize("size", BIASES, ids=str)
@DTYPES
def test_bias(rng, device, size, dtype):
    drawn = draw(rng, dtype, (70, 90, 16, 24))
    bias = normal(rng, dtype, *size)
    check(device, *drawn, BOUND[dtype], bias)
    strided = normal(rng, dtype, *size[:2], *(2 * n for n in (size[3], size[2]))).mT[..., ::2, ::2]
    check(device, *drawn, BOUND[dtype], strided, causal=True)


@DTYPES
def test_hidden_keys(rng, device, dtype):
    drawn = draw(rng, dtype, (70, 90, 16, 24))
    bias = torch.zeros(2, 1, 70, 90, dtype=dtype)
    bias[torch.rand(bias.shape, generator=rng) < 0.7] = -torch.inf
    bias[..., 5] = 0.0  # everyone sees someone
    bias[:, :, 20:, :64] = -torch.inf  # of whole tiles nothing is seen
    bias[..., 71] = 0.0
    check(device, *drawn, BOUND[dtype], bias)


@DTYPES
def test_queries_that_see_nothing(rng, device, dtype):
    primal, tangents, g = draw(rng, dtype, (70, 90, 16, 24))
    bias = torch.zeros(1, 1, 70, 90, dtype=dtype)
    bias[:, :, [0, 3, 69]] = -torch.inf
    seen = torch.ones(70, dtype=torch.bool)
    seen[[0, 3, 69]] = False
    here, there = on(device, primal), bias.to(device)
    o, lse = attention(*here, there)
    stock = torch.nn.functional.scaled_dot_product_attention(*primal, attn_mask=bias)
    assert bool((stock[:, :, ~seen] == 0).all())
    assert bool((o[:, :, ~seen] == 0).all())
    assert bool((lse[:, :, ~seen] == -torch.inf).all())
    assert bool(lse[:, :, seen].isfinite().all())
    got = attention_tangents(*here, o, lse, *on(device, tangents), there).cpu()
    assert bool((got[..., ~seen, :] == 0).all())
    # The others are as they are alone; what the blind contribute to dk and dv is nothing.
    few = [primal[0][:, :, seen], *primal[1:]]
    f = dense(bias[:, :, seen])
    turned = [tangents[0][..., seen, :], *tangents[1:]]
    assert error(got[..., seen, :].contiguous(), want_tangents(f, few, turned)) < BOUND[dtype]
    dq, dk, dv = (x.cpu() for x in attention_cotangents(*here, o, lse, g.to(device), there))
    wanted = want_cotangents(f, few, g[..., seen, :])
    assert bool((dq[..., ~seen, :] == 0).all())
    for x, want in zip((dq[..., seen, :].contiguous(), dk, dv), wanted, strict=True):
        assert error(x, want) < BOUND[dtype]


@pytest.mark.parametrize("given", range(1, 7), ids=lambda g: f"{g:03b}")
@DTYPES
def test_missing_tangents_count_as_zeros(rng, device, given, dtype):
    primal, tangents, _ = draw(rng, dtype, (66, 70, 16, 24))
    some = [x if given >> i & 1 else None for i, x in enumerate(tangents)]
    here = on(device, primal)
    o, lse = attention(*here)
    got = attention_tangents(*here, o, lse, *on(device, some))
    assert error(got, want_tangents(dense(), primal, some)) < BOUND[dtype]


LAYOUTS = ["heads inside", "entries apart", "reversed", "padded", "expanded"]


def lay_out(x, layout):
    """The same numbers, or for `expanded` those of the first sample, in some other layout."""
    if layout == "heads inside":  # as linear layers give them
        return x.transpose(-2, -3).contiguous().transpose(-2, -3)
    if layout == "entries apart":  # as convolutions do
        return x.mT.contiguous().mT
    if layout == "reversed":
        order = list(range(x.dim()))[::-1]
        return x.permute(order).contiguous().permute(order)
    if layout == "padded":
        wide = x.new_full((*x.shape[:-1], x.shape[-1] + 3), float("nan"))
        wide[..., 1:-2] = x
        return wide[..., 1:-2]
    at = x.dim() - 4
    return x.narrow(at, 0, 1).expand(x.shape)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_layout_gives_the_same_bits(rng, device, layout, dtype):
    primal, tangents, g = draw(rng, dtype, (66, 70, 24, 40))
    primal, tangents, (g,) = (
        [lay_out(x.to(device), layout) for x in xs] for xs in (primal, tangents, [g])
    )
    o, lse = attention(*primal)
    plain = [x.contiguous() for x in primal]
    want = attention(*plain)
    assert torch.equal(o, want.o)
    assert torch.equal(lse, want.lse)
    apart = lay_out(o, "heads inside"), lse.mT.contiguous().mT
    turned = [x.contiguous() for x in tangents]
    assert torch.equal(
        attention_tangents(*primal, *apart, *tangents),
        attention_tangents(*plain, o, lse, *turned),
    )
    left = attention_cotangents(*primal, *apart, g)
    right = attention_cotangents(*plain, o, lse, g.contiguous())
    assert all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(66, 70, 24, 40), (300, 77, 40, 40)], ids=str)
def test_bits_depend_on_no_other_sample_and_no_other_tangent(rng, device, shape, dtype):
    primal, tangents, g = draw(rng, dtype, shape, count=30)
    primal, tangents, (g,) = on(device, primal), on(device, tangents), on(device, [g])
    o, lse = attention(*primal)
    out = attention_tangents(*primal, o, lse, *tangents)
    back = attention_cotangents(*primal, o, lse, g)
    for sample, i in [(0, 0), (1, 29), (1, 7)]:
        one = [x[sample : sample + 1] for x in primal]
        alone = attention(*one)
        assert torch.equal(alone.o[0], o[sample])
        assert torch.equal(alone.lse[0], lse[sample])
        few = [x[i : i + 1, sample : sample + 1] for x in tangents]
        assert torch.equal(attention_tangents(*one, *alone, *few)[0, 0], out[i, sample])
        mine = attention_cotangents(*one, *alone, g[i : i + 1, sample : sample + 1])
        for x, y in zip(mine, back, strict=True):
            assert torch.equal(x[0, 0], y[i, sample])


def test_bits_depend_on_no_number_of_threads(rng):
    primal, tangents, g = draw(rng, torch.float32, (300, 200, 40, 40), count=5)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            o, lse = attention(*primal)
            out = attention_tangents(*primal, o, lse, *tangents)
            results.append([o, lse, out, *attention_cotangents(*primal, o, lse, g)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_j_and_its_transpose_are_adjoint(rng, device):
    primal, tangents, g = draw(rng, torch.float64, (70, 90, 16, 24), heads=4, count=1)
    primal, tangents, (g,) = on(device, primal), on(device, tangents), on(device, [g])
    o, lse = attention(*primal, causal=True)
    out = attention_tangents(*primal, o, lse, *tangents, causal=True)
    back = attention_cotangents(*primal, o, lse, g, causal=True)
    left = (out * g).sum()
    right = sum((x * y).sum() for x, y in zip(tangents, back, strict=True))
    assert abs(float(left - right)) < 1e-11 * float((out * g).abs().sum())


def test_large_logits_do_not_overflow(rng, device):
    primal, tangents, g = draw(rng, torch.float64, (33, 70, 16, 24))
    primal[0] = primal[0] * 300  # logits to some thousands: the largest one takes all
    check(device, primal, tangents, g, 1e-10)
    single = [x.float() for x in primal]
    o, lse = attention(*on(device, single))
    assert bool(o.isfinite().all())
    want = dense()(*(x.double() for x in single))
    assert error(o, want) < 1e-3  # logits are rounded to 1e-4
    assert bool(
        attention_tangents(*on(device, single), o, lse, tangents[0].float().to(device))
        .isfinite()
        .all()
    )


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, -87.0), (torch.float64, -708.0)])
def test_small_weights_are_as_accurate_as_large_ones(rng, device, dtype, least):
    """Two keys, of which the second has a weight of exp(x) / (1 + exp(x)): itself the result."""
    x = least * torch.rand(4000, generator=rng, dtype=torch.float64)
    x[0], x[1], x[2] = 0.0, 1.5 * least, -torch.inf
    x = x.to(dtype)
    k = torch.stack([torch.zeros_like(x), x.clamp_min(2 * least)], 1)[:, None, :, None].to(device)
    v = torch.tensor([0.0, 1.0], dtype=dtype).expand(4000, 1, 2)[..., None].to(device)
    q = torch.ones(4000, 1, 1, 1, dtype=dtype, device=device)
    bias = torch.zeros(4000, 1, 1, 2, dtype=dtype)
    bias[2, 0, 0, 1] = -torch.inf
    o = attention(q, k, v, bias.to(device), scale=1.0).o.cpu()[:, 0, 0, 0].double()
    exact = torch.sigmoid(x.double())
    assert not o[1:3].any()
    exact[1:3] = o[1:3] = 1
    assert float((o / exact - 1).abs().max()) < 5 * torch.finfo(dtype).eps


@pytest.mark.parametrize("size", [1e-30, 1e15])
def test_tangents_of_any_size(rng, device, size):
    primal, tangents, g = draw(rng, torch.float32, (33, 70, 16, 24))
    check(device, primal, [size * x for x in tangents], size * g, 2e-6)


def test_nan_and_infinity_stay_in_their_row_and_tangent(rng, device):
    primal, tangents, _ = draw(rng, torch.float32, (70, 70, 16, 24))
    tangents[0][1, 0, 1, 5, 3] = torch.nan
    tangents[0][2, 1, 0, 69, 0] = torch.inf
    here = on(device, primal)
    o, lse = attention(*here)
    got = attention_tangents(*here, o, lse, tangents[0].to(device)).cpu()
    bad = torch.zeros(got.shape[:-1], dtype=torch.bool)
    bad[1, 0, 1, 5] = bad[2, 1, 0, 69] = True
    assert bool(got[bad].isnan().all())
    assert bool(got[~bad].isfinite().all())
    primal[0][0, 0, 3, 2] = torch.nan
    o, lse = attention(*on(device, primal))
    assert bool(o[0, 0, 3].isnan().all())
    assert bool(o[0, 0, 4:].isfinite().all())


@pytest.mark.parametrize(
    ("batch", "count", "queries", "keys"), [(0, 2, 5, 6), (2, 0, 5, 6), (2, 2, 0, 6), (2, 2, 5, 0)]
)
@pytest.mark.parametrize("causal", [False, True])
def test_empty(rng, device, batch, count, queries, keys, causal):
    primal, tangents, g = draw(rng, torch.float32, (queries, keys, 4, 8), batch=batch, count=count)
    primal, tangents, (g,) = on(device, primal), on(device, tangents), on(device, [g])
    o, lse = attention(*primal, causal=causal)
    assert o.shape == (batch, 2, queries, 8)
    assert lse.shape == (batch, 2, queries)
    out = attention_tangents(*primal, o, lse, *tangents, causal=causal)
    assert out.shape == (count, *o.shape)
    dq, dk, dv = attention_cotangents(*primal, o, lse, g, causal=causal)
    assert (dq.shape, dk.shape, dv.shape) == tuple(x.shape for x in tangents)
    if batch == 0 or count == 0:
        return
    if keys == 0:
        assert not o.any()
        assert bool((lse == -torch.inf).all())
    assert not out.any()
    assert not dq.any()
    assert not dk.any()
    assert not dv.any()


# ------------------------------------------------------------------------------- instruction sets

FORCED = """
import json, sys, torch
sys.path.insert(0, {root!r})
from tests.pullback_ext.test_attention import BOUND, SIZES, check, draw
rng = torch.Generator().manual_seed(3)
for shape in SIZES:
    for dtype, bound in BOUND.items():
        check("cpu", *draw(rng, dtype, shape), bound)
        check("cpu", *draw(rng, dtype, shape, heads=4), bound, causal=True)
import pullback_ext
print(json.dumps(pullback_ext.build_info()["isa_in_use"]))
"""


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_every_instruction_set(python, repository, isa):
    if isa not in {"avx2": ["avx2"], "avx512": ["avx2", "avx512"]}.get(
        build_info()["isa_in_use"], []
    ):
        pytest.skip(f"this processor runs the {build_info()['isa_in_use']} kernels only")
    where = str(next(iter(pullback_ext.__path__)))
    code = FORCED.format(root=str(repository))
    path = f"{where.rpartition('/')[0]}:{repository}"
    assert json.loads(python(code, path=path, PULLBACK_ISA=isa).stdout) == isa
