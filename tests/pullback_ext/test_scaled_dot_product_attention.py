"""Attention with rules for many tangents, against torch's mathematical form."""

from functools import partial

import pytest
import torch

from pullback_ext import scaled_dot_product_attention
from tests.pullback_ext.derivatives import FIRST, HIGHER, pull, push, relative

func = torch.func
pytestmark = pytest.mark.usefixtures("native")
BOUND = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 4e-3}


def mathematical(query, key, value, attn_mask=None, **options):
    """By torch's own formulas, where all tensors are float64."""
    mask, seen = attn_mask, 1.0
    if mask is not None and mask.dtype == torch.bool:
        # torch's second derivatives of rows that see nothing are NaN.
        seen = mask.any(-1, keepdim=True)
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~(mask | ~seen), -torch.inf)
    op = torch.ops.aten._scaled_dot_product_attention_math
    return op(query, key, value, mask, **options)[0] * seen


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def drawn(*, queries=5, keys=7, d=4, e=3, heads=3, key_heads=3):
    return (
        normal(2, heads, queries, d),
        normal(2, key_heads, keys, d),
        normal(2, key_heads, keys, e),
    )


def hidden(*shape):
    """A boolean mask in which everyone sees the keys 1 and 4: of a single key no weight changes."""
    mask = torch.rand(shape) < 0.6
    mask[..., [1, 4]] = True
    return mask


def blind():
    mask = hidden(3, 5, 7)
    mask[:, [0, 3]] = False
    return mask


Q, K, V = drawn()
GROUPED = drawn(heads=6, key_heads=2)
MASKS = {"boolean": hidden(5, 7), "additive": normal(2, 1, 5, 7), "blind": blind()}
#: Functions of one tensor, its shape, and what they are made with: ours or torch's attention.
CASES = {
    "self": ((2, 3, 5, 4), lambda f: lambda x: f(x.sin(), x, x.cos())),
    "cross": ((2, 3, 5, 4), lambda f: lambda x: f(x, K, V)),
    "keys": ((2, 3, 7, 4), lambda f: lambda x: f(Q, x, V, scale=-0.3)),
    "values": ((2, 3, 7, 3), lambda f: lambda x: f(Q, K, x, is_causal=True)),
    "keys and values": ((2, 3, 7, 4), lambda f: lambda x: f(Q, x, x * x)),
    "causal": ((2, 3, 5, 4), lambda f: lambda x: f(x, x.sin(), x, is_causal=True)),
    "boolean": ((2, 3, 5, 4), lambda f: lambda x: f(x, K * x.sum(), V, MASKS["boolean"])),
    "additive": ((2, 3, 5, 4), lambda f: lambda x: f(x, K, V * x.mean(), MASKS["additive"])),
    "blind": ((2, 3, 5, 4), lambda f: lambda x: f(x, K, V, MASKS["blind"])),
    "blind keys": ((2, 3, 7, 4), lambda f: lambda x: f(Q, x, x, MASKS["blind"])),
    "grouped": (
        (2, 6, 5, 4),
        lambda f: lambda x: f(x, x[:, :2].sin(), x[:, 3:5], enable_gqa=True),
    ),
    "three": ((3, 5, 4), lambda f: lambda x: f(x, x.sin(), x)),
    "two": ((5, 4), lambda f: lambda x: f(x, x.sin(), x.cos())),
    "five": ((2, 2, 2, 3, 4), lambda f: lambda x: f(x, x.sin(), x[:1])),
}


def case(name):
    shape, of = CASES[name]
    x = normal(*shape)
    y = of(mathematical)(x)
    return (
        of(scaled_dot_product_attention),
        of(mathematical),
        x,
        normal(3, *shape),
        normal(3, *y.shape),
    )


def needs_a_batch(name, way):
    """Of copies in the batch, where keys or masks have a batch of their own."""
    return way == "graph" and name not in ("self", "causal", "grouped")


@pytest.mark.parametrize("way", FIRST)
@pytest.mark.parametrize("name", CASES)
def test_first_derivatives(name, way):
    if needs_a_batch(name, way):
        return
    ours, truth, *at = case(name)
    assert relative(FIRST[way](ours, *at), FIRST[way](truth, *at)) < 1e-12


@pytest.mark.parametrize("way", HIGHER)
@pytest.mark.parametrize("name", [name for name in CASES if name != "values"])  # linear in these
def test_higher_derivatives(name, way):
    ours, truth, *at = case(name)
    assert relative(HIGHER[way](ours, *at), HIGHER[way](truth, *at)) < 1e-12


def test_mixed_derivatives():
    """Of one argument after another: neither is lost on the way."""
    at, tangents = drawn(e=4), drawn(e=4)
    u = normal(2, 3, 5, 4)

    def mixed(f):
        found = []
        for i in range(3):
            for j in range(3):

                def of(z, inner, i=i, j=j):
                    every = list(at)
                    if i == j:
                        return inner(lambda x: f(*every[:i], x, *every[i + 1 :]), z)
                    every[j] = z
                    return inner(lambda x: f(*every[:i], x, *every[i + 1 :]), every[i])

                def pushed(z, of=of, i=i):
                    return of(z, lambda inner, x: func.jvp(inner, (x,), (tangents[i],))[1])

                def pulled(z, of=of):
                    return of(z, lambda inner, x: func.vjp(inner, x)[1](u)[0])

                for g, c in ((pushed, u), (pulled, tangents[i])):
                    found.append(func.jvp(g, (at[j],), (tangents[j],))[1])
                    found.append(func.vjp(g, at[j])[1](c)[0])
        return found

    for got, want in zip(mixed(scaled_dot_product_attention), mixed(mathematical), strict=True):
        if want.abs().max() < 1e-12:  # values by values
            assert got.abs().max() < 1e-12
        else:
            assert relative(got, want) < 1e-12


def test_hessian():
    x = normal(1, 4, 3)

    def of(f):
        return lambda x: f(x, x.sin(), x).square().sum()

    want = func.hessian(of(mathematical))(x)
    ours = of(scaled_dot_product_attention)
    assert relative(func.hessian(ours)(x), want) < 1e-12
    assert relative(func.jacrev(func.jacrev(ours))(x), want) < 1e-12
    assert relative(func.jacfwd(func.jacfwd(ours))(x), want) < 1e-12
    assert relative(torch.autograd.functional.hessian(ours, x), want) < 1e-12


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"attn_mask": MASKS["blind"]}],
    ids=["plain", "causal", "masked"],
)
@pytest.mark.parametrize("given", [(0, 1, 2), (0,), (1, 2)])
def test_gradcheck(given, options):
    inputs = [x.clone().requires_grad_(i in given) for i, x in enumerate((Q, K, V))]
    f = partial(scaled_dot_product_attention, **options)
    assert torch.autograd.gradcheck(
        f,
        inputs,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        fast_mode=True,
    )
    assert torch.autograd.gradgradcheck(
        f, inputs, check_batched_grad=True, check_fwd_over_rev=True, fast_mode=True
    )


# --------------------------------------------------------------- shapes, layouts and precisions


SIZES = [(1, 1, 1), (15, 15, 40), (77, 15, 8), (257, 77, 40), (77, 257, 5), (1, 77, 64)]
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "heads inside": lambda x: x.transpose(-2, -3).contiguous().transpose(-2, -3),
    "channels last": lambda x: x.movedim(-3, -1).contiguous().movedim(-1, -3),
    "entries apart": lambda x: x.mT.contiguous().mT,
    "strided": lambda x: torch.stack([x, x.neg()], dim=-1)[..., 0],
}


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("what", ["all", "queries"])
def test_every_size_and_precision(what, size, dtype):
    """All tangents and those of queries alone, against torch in float64."""
    queries, keys, d = size
    at = [x.to(dtype) for x in drawn(queries=queries, keys=keys, d=d, e=d)]
    exact = [x.double() for x in at]

    def of(f, at):
        if what == "queries":
            return lambda x: f(x, at[1] * 2, at[2])
        return lambda x: f(x, at[1] * x[..., :1, :], at[2] + x[..., :1, :])

    ours, truth = of(scaled_dot_product_attention, at), of(mathematical, exact)
    if what == "all" and dtype.itemsize == 2:  # products of the test's own are rounded
        return
    assert relative(ours(at[0]).double(), truth(exact[0])) < BOUND[dtype]
    for product, block in ((push, normal(3, *at[0].shape)), (pull, normal(3, 2, 3, queries, d))):
        block = block.to(dtype)
        got, want = product(ours, at[0], block), product(truth, exact[0], block.double())
        assert got.dtype == dtype
        if keys == 1 and what == "queries":  # all weight on the one key
            assert got.abs().max() < 1e-5
        else:
            assert relative(got.double(), want) < 2 * BOUND[dtype]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts_do_not_matter(layout, dtype):
    at = [x.to(dtype) for x in drawn(queries=33, keys=40, d=24, e=24)]
    turned = [LAYOUTS[layout](x) for x in at]
    for product in (push, pull):
        block = normal(4, 2, 3, 33, 24).to(dtype)
        want = product(lambda x: scaled_dot_product_attention(x, *at[1:]), at[0], block)
        got = product(
            lambda x: scaled_dot_product_attention(x, *turned[1:]),
            turned[0],
            LAYOUTS[layout](block),
        )
        assert torch.equal(got, want)


SHAPES = [
    ((5, 4), (7, 4), (7, 3)),
    ((3, 5, 4), (3, 7, 4), (3, 7, 3)),
    ((3, 5, 4), (7, 4), (7, 3)),
    ((5, 4), (2, 3, 7, 4), (3, 7, 3)),
    ((2, 1, 5, 4), (1, 3, 7, 4), (2, 3, 7, 3)),
    ((2, 3, 5, 4), (2, 1, 7, 4), (2, 1, 7, 3)),
    ((2, 3, 5, 4), (2, 1, 7, 4), (2, 3, 7, 3)),
    ((2, 1, 3, 5, 4), (1, 2, 3, 7, 4), (3, 7, 3)),
    ((2, 2, 2, 3, 5, 4), (2, 2, 2, 3, 7, 4), (1, 2, 2, 3, 7, 3)),
]


@pytest.mark.parametrize("mask", [None, (7,), (5, 1), (1, 7), (5, 7), ()], ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_dimensions_before_the_last_two_broadcast(shapes, mask):
    at = tuple(normal(*shape) for shape in shapes)
    tangents = tuple(normal(*shape) for shape in shapes)
    masks = [None] if mask is None else [normal(*mask)]
    if mask:
        masks.append(hidden(*mask) if mask[-1] > 1 else torch.ones(mask, dtype=torch.bool))
    for bias in masks:
        value, tangent = func.jvp(
            lambda *x, b=bias: scaled_dot_product_attention(*x, b), at, tangents
        )
        wanted = func.jvp(lambda *x, b=bias: mathematical(*x, b), at, tangents)
        assert relative(value, wanted[0]) < 1e-12
        assert relative(tangent, wanted[1]) < 1e-12
        back = func.vjp(lambda *x, b=bias: scaled_dot_product_attention(*x, b), *at)[1](tangent)
        want = func.vjp(lambda *x, b=bias: mathematical(*x, b), *at)[1](tangent)
        for got, one in zip(back, want, strict=True):
            assert relative(got, one) < 1e-12


@pytest.mark.parametrize(
    "size", [(2, 1, 1, 7), (2, 3, 5, 1), (1, 3, 1, 7), (3, 1, 7), (2, 3, 5, 7)], ids=str
)
def test_masks_of_any_size(size):
    for mask in (normal(*size), hidden(*size) if size[-1] > 1 else normal(*size).sign()):
        at = [mask.movedim(-1, -2).contiguous().movedim(-2, -1)]
        got = push(
            lambda x, m=at[0]: scaled_dot_product_attention(x, K, V, m), Q, normal(2, *Q.shape)
        )
        assert got.abs().max() > 0
        v = normal(2, *Q.shape)
        got = push(lambda x, m=at[0]: scaled_dot_product_attention(x, K, V, m), Q, v)
        assert relative(got, push(lambda x, m=mask: mathematical(x, K, V, m), Q, v)) < 1e-12
    with torch.no_grad():  # one mask for each sample that is mapped
        masks = normal(4, *size)
        got = func.vmap(lambda m: scaled_dot_product_attention(Q, K, V, m))(masks)
    want = torch.stack([mathematical(Q, K, V, m) for m in masks])
    assert relative(got, want) < 1e-12


@pytest.mark.parametrize("heads", [(6, 2, 2), (6, 3, 2), (6, 6, 1), (4, 1, 1)], ids=str)
def test_grouped_heads(heads):
    of_q, of_k, of_v = heads
    at = normal(2, of_q, 5, 4), normal(2, of_k, 7, 4), normal(2, of_v, 7, 3)
    tangents = tuple(torch.randn_like(x) for x in at)
    f = partial(scaled_dot_product_attention, enable_gqa=True)

    def truth(q, k, v):
        return mathematical(
            q, k.repeat_interleave(of_q // of_k, 1), v.repeat_interleave(of_q // of_v, 1)
        )

    got, want = func.jvp(f, at, tangents), func.jvp(truth, at, tangents)
    assert relative(got[0], want[0]) < 1e-12
    assert relative(got[1], want[1]) < 1e-12
    pulled = zip(func.vjp(f, *at)[1](got[1]), func.vjp(truth, *at)[1](got[1]), strict=True)
    for got, want in pulled:
        assert relative(got, want) < 1e-12
    three = [x[0] for x in at]
    assert relative(f(*three), truth(*(x[:1] for x in at))[0]) < 1e-12


@pytest.mark.parametrize(
    "shapes",
    [
        ((0, 3, 5, 4), (0, 3, 7, 4), (0, 3, 7, 3)),
        ((2, 0, 5, 4), (2, 0, 7, 4), (2, 0, 7, 3)),
        ((2, 3, 0, 4), (2, 3, 7, 4), (2, 3, 7, 3)),
        ((2, 3, 5, 4), (2, 3, 0, 4), (2, 3, 0, 3)),
        ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 0)),
        ((2, 3, 5, 0), (2, 3, 7, 0), (2, 3, 7, 3)),
        ((0, 4), (7, 4), (7, 3)),
    ],
    ids=str,
)
def test_sizes_of_zero(shapes):
    at = tuple(normal(*shape) for shape in shapes)
    tangents = tuple(torch.randn_like(x) for x in at)
    value, tangent = func.jvp(scaled_dot_product_attention, at, tangents)
    want = func.jvp(partial(mathematical, scale=0.5), at, tangents)
    scale = 1 if shapes[0][-1] == 0 else None  # of a mean no factor matters
    value, tangent = func.jvp(
        partial(scaled_dot_product_attention, scale=scale or 0.5), at, tangents
    )
    torch.testing.assert_close(value, want[0])
    torch.testing.assert_close(tangent, want[1])
    torch.testing.assert_close(scaled_dot_product_attention(*at), mathematical(*at))
    found = func.vjp(scaled_dot_product_attention, *at)[1](tangent)
    for got, one in zip(found, at, strict=True):
        assert got.shape == one.shape
        assert got.isfinite().all()


# ------------------------------------------------------------------------------ values of masks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_of_more_digits_keeps_them(dtype):
    q, k, v = (x.to(dtype) for x in drawn())
    mask = 8 * torch.randn(5, 7)
    v1 = normal(2, *q.shape).to(dtype)
    got = push(lambda x: scaled_dot_product_attention(x, k, v, mask), q, v1)
    want = push(
        lambda x: mathematical(x, k.double(), v.double(), mask.double()), q.double(), v1.double()
    )
    assert got.dtype == dtype
    assert relative(got.double(), want) < BOUND[dtype]


@pytest.mark.parametrize("size", [-1e4, 3e4, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_a_row_of_a_mask_has_in_common_does_not_matter(size, dtype):
    """Padding that is hidden by large numbers: derivatives of a row that sees nothing else."""
    q, k, v = (x.to(dtype) for x in drawn())
    size = torch.finfo(dtype).min if size is None else size
    mask = torch.zeros(5, 7, dtype=dtype)
    mask[3:] = size
    mask[0, 3:] = -abs(size)
    plain = torch.zeros(5, 7, dtype=torch.float64)
    plain[0, 3:] = -torch.inf
    for product, block in ((push, normal(2, *q.shape)), (pull, normal(2, 2, 3, 5, 3))):
        block = block.to(dtype)
        got = product(lambda x: scaled_dot_product_attention(x, k, v, mask), q, block)
        want = product(
            lambda x: mathematical(x, k.double(), v.double(), plain), q.double(), block.double()
        )
        assert relative(got.double(), want) < BOUND[dtype]


def test_queries_that_see_nothing_are_zero_and_so_are_their_derivatives():
    v = normal(3, *Q.shape)
    mask = MASKS["blind"]
    value = scaled_dot_product_attention(Q, K, V, mask)
    tangents = push(lambda x: scaled_dot_product_attention(x, K, V, mask), Q, v)
    cotangents = pull(
        lambda x: scaled_dot_product_attention(x, K, V, mask), Q, normal(2, *V.shape[:2], 5, 3)
    )
    for found in (value, tangents, cotangents):
        assert (found[..., [0, 3], :] == 0).all()
        assert found[..., 1, :].abs().min() > 0


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15])
def test_rows_and_tangents_of_any_size(size):
    q, k, v = (x.float() for x in drawn(queries=33, keys=40, d=16, e=16))
    q[:, :, 3] = 0
    q[:, :, 4] *= 1e-30
    for product in (push, pull):
        block = torch.randn(3, 2, 3, 33, 16)
        got = product(lambda x: scaled_dot_product_attention(x, k, v), q, size * block)
        want = product(
            lambda x: mathematical(x, k.double(), v.double()), q.double(), size * block.double()
        )
        assert (got.double() - want).abs().max() <= 2e-6 * want.abs().max()
