"""Normalisation layers with rules for many tangents, against torch's own arithmetic."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

import pullback_ext
from tests.pullback_ext.derivatives import FIRST, FUNCTIONS, HIGHER, case, pull, push, relative

func = torch.func
NORMS = [name for name, function in FUNCTIONS.items() if function[3]]


@pytest.mark.parametrize("way", FIRST)
@pytest.mark.parametrize("name", NORMS)
def test_first_derivatives(name, way):
    ours, truth, *at = case(name)
    assert relative(FIRST[way](ours, *at), FIRST[way](truth, *at)) < 1e-12


@pytest.mark.parametrize("way", HIGHER)
@pytest.mark.parametrize("name", NORMS)
def test_higher_derivatives(name, way):
    ours, truth, *at = case(name)
    assert relative(HIGHER[way](ours, *at), HIGHER[way](truth, *at)) < 1e-12


@pytest.mark.parametrize("way", {**FIRST, **HIGHER})
@pytest.mark.parametrize("name", NORMS)
def test_derivatives_with_respect_to_weight_and_bias(name, way):
    ours, truth, shape, sizes = FUNCTIONS[name]
    x = torch.randn(shape, dtype=torch.float64)
    for i in range(len(sizes)):
        others = [torch.randn(size, dtype=torch.float64) for size in sizes]

        def of_one(function, others=others, i=i):
            return lambda w: function(x, *others[:i], w, *others[i + 1 :])

        v = torch.randn(3, *sizes[i], dtype=torch.float64)
        u = torch.randn(3, *shape, dtype=torch.float64)
        if way == "graph":  # needs a batch
            continue
        want = {**FIRST, **HIGHER}[way](of_one(truth), others[i], v, u)
        got = {**FIRST, **HIGHER}[way](of_one(ours), others[i], v, u)
        if way in HIGHER and name != "group_norm_silu":  # linear in these
            assert got.abs().max() <= 1e-12
            assert want.abs().max() <= 1e-12
        else:
            assert relative(got, want) < 1e-12


@pytest.mark.parametrize("name", NORMS)
def test_mixed_derivatives_of_input_and_weight(name):
    ours, truth, shape, sizes = FUNCTIONS[name]
    x, v, u = torch.randn(3, *shape, dtype=torch.float64)
    w, dw = torch.randn(2, *sizes[0], dtype=torch.float64)
    rest = [torch.randn(size, dtype=torch.float64) for size in sizes[1:]]

    def mixed(f):
        def pushed(w):
            return func.jvp(lambda x: f(x, w, *rest), (x,), (v,))[1]

        def pulled(w):
            return func.vjp(lambda x: f(x, w, *rest), x)[1](u)[0]

        both = func.jvp(lambda x, w: f(x, w, *rest), (x, w), (v, dw))[1]
        found = [both, func.jvp(pushed, (w,), (dw,))[1], func.jvp(pulled, (w,), (dw,))[1]]
        found += [func.vjp(pushed, w)[1](u)[0], func.vjp(pulled, w)[1](v)[0]]
        found.append(func.vmap(lambda w: push(lambda x: f(x, w, *rest), x, v[None]))(w[None]))
        return found

    for got, want in zip(mixed(ours), mixed(truth), strict=True):
        assert relative(got, want) < 1e-12


@pytest.mark.parametrize("name", NORMS)
def test_gradcheck(name):
    ours, _, shape, sizes = FUNCTIONS[name]
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in (shape, *sizes)]
    assert torch.autograd.gradcheck(
        ours,
        inputs,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        fast_mode=True,
    )
    assert torch.autograd.gradgradcheck(ours, inputs, check_batched_grad=True, fast_mode=True)


STOCK = {
    "group_norm": (
        lambda x, w, b: pullback_ext.group_norm(x, 8, w, b),
        lambda x, w, b: F.group_norm(x, 8, w, b),
    ),
    "group_norm_silu": (
        lambda x, w, b: pullback_ext.group_norm_silu(x, 8, w, b),
        lambda x, w, b: F.silu(F.group_norm(x, 8, w, b)),
    ),
    "layer_norm": (
        lambda x, w, b: pullback_ext.layer_norm(x, w.shape, w, b),
        lambda x, w, b: F.layer_norm(x, w.shape, w, b),
    ),
    "rms_norm": (
        lambda x, w, _: pullback_ext.rms_norm(x, w.shape, w),
        lambda x, w, _: F.rms_norm(x, w.shape, w),
    ),
}
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.movedim(-3, -1).contiguous().movedim(-1, -3),
    "transposed": lambda x: x.mT.contiguous().mT,
    "batch last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "strided": lambda x: torch.stack([x, x.neg()], dim=-1)[..., 0],
}
ROUNDING = {torch.float32: 2e-6, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", STOCK)
def test_every_layout_and_precision(name, layout, dtype):
    """Of the primal, with tangents in every layout, against torch in contiguous float64."""
    ours, stock = STOCK[name]
    x = LAYOUTS[layout](torch.randn(2, 16, 9, 11).to(dtype))
    size = 16 if name.startswith("group") else 11
    w, b = torch.randn(2, size).to(dtype)
    exact = [value.double().contiguous() for value in (x, w, b)]
    assert torch.equal(ours(x, w, b), stock(x, w, b))
    for other in LAYOUTS.values():
        v = other(torch.randn(3, *x.shape).to(dtype))
        for product in (push, pull):
            got = product(lambda x: ours(x, w, b), x, v)
            want = product(lambda x: stock(x, *exact[1:]), exact[0], v.double().contiguous())
            assert got.dtype == dtype
            assert relative(got.double(), want) < ROUNDING[dtype]


@pytest.mark.parametrize("shape", [(1, 6, 4, 5), (2, 6, 1, 5), (2, 6, 5, 1), (1, 12, 1, 1)])
def test_sizes_of_one_whose_strides_say_nothing(shape):
    """They may be any number in a tensor that is contiguous all the same."""
    v = torch.randn(3, *shape, dtype=torch.float64)
    plain = torch.randn(shape, dtype=torch.float64)
    want = (
        push(lambda x: F.silu(F.group_norm(x, 3)), plain, v),
        pull(lambda x: F.silu(F.group_norm(x, 3)), plain, v),
    )
    for layout in ("contiguous", "channels last"):
        x = LAYOUTS[layout](plain)
        for odd in (1, 3, 7, 1000):
            strides = [
                odd if size == 1 else stride
                for size, stride in zip(x.shape, x.stride(), strict=True)
            ]
            point = x.as_strided(x.shape, strides)
            got = [p(lambda x: pullback_ext.group_norm_silu(x, 3), point, v) for p in (push, pull)]
            assert relative(got[0], want[0]) < 1e-12
            assert relative(got[1], want[1]) < 1e-12


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_cotangents_come_back_in_their_layout(layout):
    x = torch.randn(2, 16, 9, 11)
    u = LAYOUTS[layout](torch.randn(3, *x.shape))
    for f in (pullback_ext.group_norm, pullback_ext.group_norm_silu):
        for primal in LAYOUTS.values():
            got = pull(lambda x, f=f: f(x, 4), primal(x), u)
            assert got.stride() == u.stride()
            assert func.vjp(lambda x, f=f: f(x, 4), primal(x))[1](u[0])[0].stride() == u[0].stride()


@pytest.mark.parametrize("name", NORMS)
def test_expanded_cotangents(name):
    """As `sum` makes them, with all strides zero."""
    ours, truth, x, _, u = case(name)
    one = torch.randn((), dtype=torch.float64)
    for cotangents in (one.expand(u.shape), u[:1].expand(u.shape), u[..., :1].expand(u.shape)):
        want = pull(truth, x, cotangents.contiguous())
        scale = pull(truth, x, u).abs().max()
        assert (pull(ours, x, cotangents) - want).abs().max() < 1e-12 * scale
    x.requires_grad_()
    (got,) = torch.autograd.grad(ours(x.clone()).square().sum(), x)
    (want,) = torch.autograd.grad(truth(x.clone()).square().sum(), x)
    assert (got - want).abs().max() < 1e-12 * (1 + want.abs().max())


@pytest.mark.parametrize("name", NORMS)
def test_a_tangent_does_not_depend_on_what_else_is_in_the_call(name):
    ours, _, shape, sizes = FUNCTIONS[name]
    others = [torch.randn(size) for size in sizes]
    x = torch.randn(5, *shape[1:])
    v = torch.randn(7, *x.shape)

    def f(x):
        return ours(x, *others)

    for product in (push, pull):
        whole = product(f, x, v)
        for width in (1, 2, 4):
            parts = [product(f, x, part) for part in v.split(width)]
            assert torch.equal(torch.cat(parts), whole)
        alone = [product(f, x[i : i + 1], v[:, i : i + 1]) for i in range(len(x))]
        if name == "group_norm_silu":  # torch's own SiLU has other bits at the end of a tensor
            assert relative(torch.cat(alone, dim=1), whole) < 1e-6
        else:
            assert torch.equal(torch.cat(alone, dim=1), whole)
    one = torch.stack([func.jvp(f, (x,), (t,))[1] for t in v])
    assert torch.equal(one, push(f, x, v))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_constant_tangent_vanishes(dtype):
    x = torch.randn(2, 6, 33, dtype=dtype) + 5
    v = torch.randn(4, 2, 3, 1, dtype=dtype).expand(4, 2, 3, 66).reshape(4, 2, 6, 33)
    eps = torch.finfo(dtype).eps
    for f in (pullback_ext.group_norm, pullback_ext.group_norm_silu):
        assert push(lambda x, f=f: f(x, 3), x, v).abs().max() < 100 * eps
    assert push(lambda x: pullback_ext.layer_norm(x, (33,)), x, v).abs().max() < 100 * eps
    assert push(lambda x: pullback_ext.rms_norm(x, (33,)), x, v).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["group_norm", "group_norm_silu"])
@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e10])
def test_inputs_of_any_size(size, name):
    """Against float64: tiny variances are eps, and large ones are no reason to lose digits."""
    ours, stock = STOCK[name]
    x, v = size * torch.randn(2, 16, 33), torch.randn(3, 2, 16, 33)
    w, b = torch.randn(2, 16)
    for product in (push, pull):
        got = product(lambda x: ours(x, w, b), x, v)
        want = product(lambda x: stock(x, w.double(), b.double()), x.double(), v.double())
        assert relative(got.double(), want) < 2e-6


def test_constant_and_zero_rows():
    x = torch.zeros(2, 4, 6, dtype=torch.float64)
    x[1] = 3.0
    v = torch.randn(3, 2, 4, 6, dtype=torch.float64)
    w, b = torch.randn(2, 4, dtype=torch.float64)
    for f, truth in (
        (pullback_ext.group_norm_silu, lambda x: F.silu(F.group_norm(x, 2, w, b))),
        (pullback_ext.group_norm, lambda x: F.group_norm(x, 2, w, b)),
    ):
        got = push(lambda x, f=f: f(x, 2, w, b), x, v)
        assert relative(got, push(truth, x, v)) < 1e-12
    got = pull(lambda x: pullback_ext.rms_norm(x, (6,), eps=1e-6), x[:1], v[:, :1])
    assert relative(got, pull(lambda x: F.rms_norm(x, (6,), eps=1e-6), x[:1], v[:, :1])) < 1e-12


@pytest.mark.parametrize("shape", [(0, 6, 5), (2, 6, 0), (2, 6), (1, 6, 1)])
def test_empty_and_tiny_shapes(shape):
    x, v = torch.randn(shape), torch.randn(3, *shape)
    for f in (pullback_ext.group_norm, pullback_ext.group_norm_silu):
        for product in (push, pull):
            got = product(lambda x, f=f: f(x, 3), x, v)
            assert got.shape == v.shape
            assert torch.isfinite(got).all()
    got = push(lambda x: pullback_ext.layer_norm(x, shape[1:]), x, v)
    assert got.shape == v.shape


@pytest.mark.parametrize("given", ["", "weight", "bias"])
def test_without_weight_or_bias(given):
    x, v = torch.randn(2, 6, 5).double(), torch.randn(3, 2, 6, 5).double()
    affine = {name: torch.randn(6).double() for name in given.split()}
    for product in (push, pull):
        want = product(lambda x: F.group_norm(x, 3, **affine), x, v)
        assert (
            relative(product(lambda x: pullback_ext.group_norm(x, 3, **affine), x, v), want) < 1e-12
        )
        want = product(lambda x: F.silu(F.group_norm(x, 3, **affine)), x, v)
        got = product(lambda x: pullback_ext.group_norm_silu(x, 3, **affine), x, v)
        assert relative(got, want) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rms_norm_without_eps_takes_that_of_torch(dtype):
    x = (1e-4 * torch.randn(3, 64)).to(dtype)
    assert torch.equal(pullback_ext.rms_norm(x, (64,)), F.rms_norm(x, (64,)))
    v = torch.randn(2, 3, 64).to(dtype)
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    want = push(lambda x: F.rms_norm(x, (64,), eps=eps), x.double(), v.double())
    got = push(lambda x: pullback_ext.rms_norm(x, (64,)), x, v)
    assert relative(got.double(), want) < {torch.float64: 1e-12}.get(dtype, ROUNDING.get(dtype))


def test_weights_in_training():
    """Gradients of all parameters, as an optimiser sees them, in mixed precision too."""
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(4, 6, 9).to(dtype)
        w, b = torch.randn(2, 6)
        found = []
        for f in (pullback_ext.group_norm, F.group_norm):
            inputs = [value.detach().clone().requires_grad_() for value in (x, w, b)]
            y = f(inputs[0], 3, *inputs[1:])
            y.float().pow(3).sum().backward()
            found.append([value.grad for value in inputs])
        for got, want in zip(*found, strict=True):
            assert got.dtype == want.dtype
            assert relative(got.float(), want.float()) < (1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("name", NORMS)
def test_one_node_for_all_tangents(name):
    ours, _, x, v, u = case(name)
    for product, block in ((push, v), (pull, u)):
        graph = make_fx(partial(product, ours))(x, block).graph
        targets = [str(node.target) for node in graph.nodes]
        assert targets.count("pullback.normalize_tangents.default") == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("name", NORMS)
def test_derivatives_in_every_grad_mode(name, mode, request):
    ours, truth, x, v, u = case(name)
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    lost = mode is torch.inference_mode and release < (2, 12)
    want = push(truth, x, v), pull(truth, x, u)
    with mode():
        if lost:
            with pytest.raises(RuntimeError, match="silent zeros"):
                push(ours, x, v)
            return
        assert relative(push(ours, x, v), want[0]) < 1e-12
        assert relative(pull(ours, x, u), want[1]) < 1e-12


def test_autocast_decides_the_dtype_as_it_does_for_torch():
    x, v = torch.randn(2, 6, 9).bfloat16(), torch.randn(3, 2, 6, 9).bfloat16()
    w, b = torch.randn(2, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want = F.group_norm(x, 3, w, b)
        assert pullback_ext.group_norm(x, 3, w, b).dtype == want.dtype
        assert push(lambda x: pullback_ext.group_norm(x, 3, w, b), x, v).dtype == want.dtype
        assert pull(lambda x: pullback_ext.group_norm(x, 3, w, b), x, v.to(want)).dtype == x.dtype


@pytest.mark.parametrize("name", STOCK)
def test_other_dtypes_are_refused(name):
    ours, _ = STOCK[name]
    with pytest.raises(RuntimeError, match=r"expected float64, .* got torch.int64"):
        ours(torch.ones(2, 16, 16, dtype=torch.int64), torch.ones(16), torch.ones(16))


def test_a_product_through_a_graph_asks_for_no_second_derivative(monkeypatch):
    """They would be computed, and thrown away, in every product."""
    from pullback_ext._norm import Norm

    x = torch.randn(2, 6, 5).double().requires_grad_()
    y = pullback_ext.group_norm(x.clone(), 3)
    u = torch.zeros_like(y).requires_grad_()
    (g,) = torch.autograd.grad(y, x, u, create_graph=True)

    def linearized(*args, **kwargs):
        raise AssertionError("a second derivative was asked for")

    with monkeypatch.context() as patch:
        patch.setattr(Norm, "linearized", linearized)
        (got,) = torch.autograd.grad(g, u, x.detach(), retain_graph=True)
    assert got.abs().max() > 0
    monkeypatch.setattr(Norm, "linearized", linearized)
    with pytest.raises(AssertionError, match="second derivative"):
        torch.autograd.grad(g, x, torch.ones_like(g))
