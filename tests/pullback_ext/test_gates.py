"""Gates with rules for many tangents, and what holds of every differentiable function."""

import importlib
import inspect
import pkgutil
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

import pullback_ext
from tests.pullback_ext.derivatives import FIRST, FUNCTIONS, HIGHER, case, pull, push, relative

GATES = {
    "silu": (pullback_ext.silu, F.silu),
    "gelu": (pullback_ext.gelu, F.gelu),
    "gelu tanh": (
        lambda x: pullback_ext.gelu(x, approximate="tanh"),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "geglu": (pullback_ext.geglu, FUNCTIONS["geglu"][1]),
}


def drawn(truth, *shape, dtype=torch.float64):
    x = 3 * torch.randn(shape, dtype=dtype)
    u = torch.randn(3, *truth(x).shape, dtype=dtype)
    return x, torch.randn(3, *shape, dtype=dtype), u


@pytest.mark.parametrize("way", {**FIRST, **HIGHER})
@pytest.mark.parametrize("name", GATES)
def test_derivatives_of_every_order(name, way):
    ours, truth = GATES[name]
    at = drawn(truth, 2, 3, 6)
    differentiate = {**FIRST, **HIGHER}[way]
    assert relative(differentiate(ours, *at), differentiate(truth, *at)) < 1e-12


@pytest.mark.parametrize("name", GATES)
def test_gradcheck(name):
    ours, truth = GATES[name]
    x = drawn(truth, 2, 6)[0].requires_grad_()
    assert torch.autograd.gradcheck(
        ours, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(ours, x, check_batched_grad=True)


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.movedim(-3, -1).contiguous().movedim(-1, -3),
    "transposed": lambda x: x.mT.contiguous().mT,
    "strided": lambda x: torch.stack([x, x.neg()], dim=-1)[..., 0],
}


def expanded(x):
    """As a sum makes cotangents; torch takes no tangents of primals that are."""
    return x[..., :1].expand(x.shape)


ROUNDING = {torch.float32: 2e-6, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", GATES)
def test_every_layout_and_precision(name, layout, dtype):
    ours, truth = GATES[name]
    x, v, u = drawn(truth, 2, 4, 5, 6, dtype=dtype)
    x = LAYOUTS[layout](x)
    assert torch.equal(ours(x), truth(x))
    for other in (*LAYOUTS.values(), expanded):
        for product, block in ((push, other(v)), (pull, other(u))):
            got = product(ours, x, block)
            assert got.dtype == dtype
            want = product(truth, x.double().contiguous(), block.double().contiguous())
            assert relative(got.double(), want) < ROUNDING[dtype]
            if product is pull and name != "geglu" and other is not expanded:
                assert got.stride() == torch.empty_like(block).stride()


@pytest.mark.parametrize("name", GATES)
def test_a_tangent_does_not_depend_on_what_else_is_in_the_call(name):
    ours, truth = GATES[name]
    x, v, u = drawn(truth, 5, 6, dtype=torch.float32)
    for product, block in ((push, v), (pull, u)):
        parts = [product(ours, x, part) for part in block.split(1)]
        assert torch.equal(torch.cat(parts), product(ours, x, block))


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu tanh"])
def test_all_tangents_are_multiplied_at_once_by_what_is_computed_once(name):
    ours, truth = GATES[name]
    x, v, u = drawn(truth, 5, 6)
    for product, block in ((push, v), (pull, u)):
        graph = make_fx(partial(product, ours))(x, block).graph
        made = [n for n in graph.nodes if n.op == "call_function" and n.meta["val"].dim() == 3]
        views = ("alias", "permute", "view", "unsqueeze", "expand", "detach")
        work = [str(n.target) for n in made if not any(view in str(n.target) for view in views)]
        assert work == ["aten.mul.Tensor"]


@pytest.mark.parametrize("name", GATES)
def test_extreme_entries(name):
    """Of 30 and more, zero, and the largest that float32 holds: no NaN where torch has none."""
    ours, truth = GATES[name]
    x = torch.tensor([[0.0, -0.0, 30.0, -30.0, 100.0, -100.0, 1e4, -1e4, 1e-30, 1e-45]])
    one = torch.ones(1, *truth(x).shape)
    want, got = pull(truth, x, one), pull(ours, x, one)
    assert torch.allclose(got, want, rtol=2e-6, atol=1e-30)
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("shape", [(0, 4), (1, 2), (2, 0, 2)])
def test_empty_and_tiny_shapes(name, shape):
    ours, truth = GATES[name]
    x, v, u = drawn(truth, *shape)
    assert push(ours, x, v).shape == u.shape
    assert pull(ours, x, u).shape == v.shape


def test_geglu_needs_halves():
    for x in (torch.randn(2, 5), torch.randn(())):
        with pytest.raises(ValueError, match="expected a last dimension of even size"):
            pullback_ext.geglu(x)


# --------------------------------------------------------- what holds of every function of its own


def own_functions():
    """Every `autograd.Function` of the package."""
    for found in pkgutil.iter_modules(pullback_ext.__path__):
        if found.name in ("_native", "__main__"):
            continue
        module = importlib.import_module(f"pullback_ext.{found.name}")
        for value in vars(module).values():
            if (
                inspect.isclass(value)
                and issubclass(value, torch.autograd.Function)
                and value.__module__ == module.__name__
            ):
                yield value


def lacking(function):
    """Rules that a function does not define."""
    return [
        rule
        for rule in ("setup_context", "jvp", "backward", "vmap")
        if getattr(function, rule) is getattr(torch.autograd.Function, rule)
    ]


def test_every_function_has_all_rules():
    found = list(own_functions())
    assert len(found) >= 5
    assert not {f.__name__: lacking(f) for f in found if lacking(f)}


def test_a_missing_rule_is_noticed():
    class Half(torch.autograd.Function):
        @staticmethod
        def jvp(ctx, tangent):
            return tangent

    assert lacking(Half) == ["setup_context", "backward", "vmap"]


def test_every_public_differentiable_function_is_tested():
    public = {
        name
        for name in pullback_ext.__all__
        if inspect.isfunction(getattr(pullback_ext, name))
        and getattr(pullback_ext, name).__module__
        not in ("pullback_ext", "pullback_ext._attention")
    }
    assert public == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tangents_are_never_zero_and_are_finite_differences(name):
    ours, _, x, v, u = case(name)
    step = 1e-6
    tangents = push(ours, x, v)
    numeric = torch.stack([(ours(x + step * t) - ours(x - step * t)) / (2 * step) for t in v])
    assert relative(tangents, numeric) < 1e-7
    adjoint = (pull(ours, x, u) * v).sum()
    assert float((tangents * u).sum()) == pytest.approx(float(adjoint), rel=1e-10)


COMPILED = """
import sys
import torch
import pullback_ext

assert "torch._dynamo" not in sys.modules  # importing it takes longer than all the rest
mode, full = sys.argv[1], sys.argv[2] == "full"
norm = lambda x: pullback_ext.group_norm_silu(x, 2)
gate = lambda x: pullback_ext.geglu(x)
attention = lambda x: pullback_ext.scaled_dot_product_attention(x, x, x)
for f in (norm, gate, attention):
    product = {
        "jvp": lambda x, v: torch.func.jvp(f, (x,), (v,))[1],
        "vjp": lambda x, v: torch.func.vjp(f, x)[1](f(v))[0],
        "plain": lambda x, v: f(x),
    }[mode]
    x, v = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    want = product(x, v)
    assert want.abs().max() > 0
    try:
        got = torch.compile(product, backend="eager", fullgraph=full)(x, v)
    except Exception as error:
        print("refused", type(error).__name__)
    else:
        print("right" if torch.allclose(got, want, atol=1e-6) else "WRONG")
"""


@pytest.mark.parametrize("full", ["full", "any"])
@pytest.mark.parametrize("mode", ["jvp", "vjp", "plain"])
def test_compiled_they_are_right_or_refused(python, tmp_path, mode, full):
    """Dynamo drops the forward rule of a function of one's own (pytorch#192985).

    So they are not to be compiled: Dynamo leaves them as they stand, or says that it cannot.
    """
    script = tmp_path / "compiled.py"
    script.write_text(COMPILED)
    code = f"import sys; sys.argv = ['', '{mode}', '{full}']; exec(open({str(script)!r}).read())"
    expected = {"refused"} if full == "full" else {"right"}
    said = python(code).stdout.split("\n")
    assert {line.split()[0] for line in said if line} == expected, said
