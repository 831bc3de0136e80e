"""Modules of diffusers that run functions of `pullback_ext` where derivatives are taken."""

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.activations import GEGLU
from diffusers.models.normalization import RMSNorm
from torch.utils._python_dispatch import TorchDispatchMode

import pullback.models  # noqa: F401  (registers them)
from pullback_ext import intercept
from pullback_ext.intercept import forward_mode_ready

func = torch.func
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
#: diffusers takes the mean square in float32, also of float64.
ROUNDING = {
    torch.float64: 1e-6, torch.float32: 2e-6, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9,
}  # fmt: skip


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.append(op.overloadpacket.__name__)
        return op(*args, **(kwargs or {}))


def push(f, x, v):
    return func.vmap(lambda t: func.jvp(f, (x,), (t,))[1])(v)


def pull(f, x, u):
    return func.vmap(func.vjp(f, x)[1])(u)[0]


def relative(got, want):
    assert got.shape == want.shape
    assert want.abs().max() > 0
    return float((got - want).abs().max() / want.abs().max())


def products(f, x, v):
    y = f(x)
    u = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, push(f, x, v), pull(f, x, u)]


def compare(module, x, v, exact):
    """Inside the context against outside of it, in float64."""
    with forward_mode_ready():
        found = products(module, x, v)
    wide = products(exact, x.double(), v.double())
    stock = module(x)
    assert found[0].dtype == stock.dtype
    dtypes = {x.dtype, stock.dtype, *[p.dtype for p in module.parameters()]}
    rounding = max(ROUNDING[dtype] for dtype in dtypes)
    u_rounding = 2 * rounding  # the cotangents of `wide` are not rounded
    for got, want, limit in zip(found, wide, (rounding, rounding, u_rounding), strict=True):
        assert relative(got.double(), want) < limit


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weights", [*FLOATS, None])
@pytest.mark.parametrize("bias", [False, True])
def test_rms_norm_of_diffusers(dtype, weights, bias):
    module = RMSNorm(24, eps=1e-5, elementwise_affine=weights is not None, bias=bias)
    if weights is not None:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
        module.to(weights)
    exact = RMSNorm(24, eps=1e-5, elementwise_affine=weights is not None, bias=bias).double()
    exact.load_state_dict(module.state_dict())
    compare(module, torch.randn(2, 5, 24).to(dtype), torch.randn(3, 2, 5, 24).to(dtype), exact)


def test_rms_norm_over_the_last_dimension_with_a_larger_weight():
    module = RMSNorm((5, 24), eps=1e-5).double()
    torch.nn.init.normal_(module.weight)
    x, v = torch.randn(2, 5, 24).double(), torch.randn(3, 2, 5, 24).double()
    compare(module, x, v, module)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bias", [False, True])
def test_geglu_of_diffusers(dtype, bias):
    module = GEGLU(12, 20, bias=bias).to(dtype)
    exact = GEGLU(12, 20, bias=bias).double()
    exact.load_state_dict(module.state_dict())
    x, v = torch.randn(2, 5, 12).to(dtype), torch.randn(3, 2, 5, 12).to(dtype)
    with forward_mode_ready(), Calls() as calls:
        push(module, x, v)
    assert "addcmul" in calls.names
    compare(module, x, v, exact)


def test_gradients_of_their_parameters():
    for module, ours in ((RMSNorm(12, 1e-5, bias=True), 1), (GEGLU(12, 20), 0)):
        module.double()
        x = torch.randn(3, 12, dtype=torch.float64)

        def grads(module=module, x=x):
            return torch.autograd.grad(module(x).pow(3).sum(), list(module.parameters()))

        with forward_mode_ready(), Calls() as calls:
            found = grads()
        assert calls.names.count("addcmul") == 0
        for got, want in zip(found, grads(), strict=True):
            assert relative(got, want) < (1e-6 if ours else 1e-12)


def test_an_unmodified_network(monkeypatch):
    """diffusers' own, with attention and several layouts, in float64."""
    network = UNet2DModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    ).double()
    network.requires_grad_(False)
    monkeypatch.setattr(intercept, "_WORTHWHILE", dict.fromkeys(intercept._WORTHWHILE, 0))
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    v = torch.randn(3, 2, 2, 8, 8, dtype=torch.float64)
    t = torch.tensor([3, 700])

    def f(x):
        return network(x, t).sample

    def twice(x):
        u = torch.zeros(f(x).shape, dtype=x.dtype).requires_grad_()
        (g,) = torch.autograd.grad(f(x), x, u, create_graph=True)
        return torch.autograd.grad(g, u, v[0])[0]

    with forward_mode_ready():
        with Calls() as calls:
            value, tangents = f(x), push(f, x, v)
        cotangents = pull(f, x, v)
        through_graph = twice(x.clone().requires_grad_())
    norms = sum(isinstance(m, torch.nn.GroupNorm) for m in network.modules())
    assert calls.names.count("normalize_tangents") == norms > 10
    assert relative(value, f(x)) < 1e-13  # by another attention
    assert relative(cotangents, pull(f, x, v)) < 1e-11
    assert relative(through_graph, tangents[0]) < 1e-11
    step = 1e-5
    numeric = torch.stack([f(x + step * w) - f(x - step * w) for w in v]) / (2 * step)
    assert relative(tangents, numeric) < 1e-7
    assert float((tangents * v).sum()) == pytest.approx(float((cotangents * v).sum()), rel=1e-9)
