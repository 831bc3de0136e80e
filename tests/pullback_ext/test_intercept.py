"""Attention and group normalisation in forward mode, and what torch still gets wrong there."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pullback_ext.intercept import forward_mode_ready


def jvp_columns(f, x, v):
    return torch.func.vmap(lambda tangent: torch.func.jvp(f, (x,), (tangent,))[1])(v)


def test_group_norm_of_a_channels_last_primal():
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    v = torch.randn(3, 2, 8, 5, 5, dtype=torch.float64)
    weight, bias = torch.randn(8).double(), torch.randn(8).double()

    def f(x):
        return F.group_norm(x, 4, weight, bias)

    with forward_mode_ready():
        tangents = jvp_columns(f, x, v)
    step = 1e-6
    numeric = torch.stack([(f(x + step * w) - f(x - step * w)) / (2 * step) for w in v])
    assert tangents.abs().max() > 0
    assert torch.allclose(tangents, numeric, atol=1e-7)


def test_group_norm_by_keyword():
    x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
    with forward_mode_ready():
        tangent = torch.func.jvp(lambda x: F.group_norm(input=x, num_groups=2), (x,), (x,))[1]
    assert torch.isfinite(tangent).all()


def test_attention_has_a_forward_rule_inside_the_context_only():
    q = torch.randn(2, 3, 7, 4, dtype=torch.float64)
    v = torch.randn(2, 2, 3, 7, 4, dtype=torch.float64)

    def f(x):
        return F.scaled_dot_product_attention(x, x, x)

    with forward_mode_ready():
        tangents = jvp_columns(f, q, v)
    step = 1e-6
    numeric = torch.stack([(f(q + step * w) - f(q - step * w)) / (2 * step) for w in v])
    assert torch.allclose(tangents, numeric, atol=1e-7)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("backend", [b for b in SDPBackend.__members__.values() if b.value >= 0])
def test_attention_that_asks_for_a_backend_itself(backend, mode):
    """Its own context is the inner one, and would have the last word."""
    q = torch.randn(2, 3, 7, 4, dtype=torch.float64)
    v = torch.randn(2, 2, 3, 7, 4, dtype=torch.float64)

    def plain(x):
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    def f(x):
        with sdpa_kernel(backend):
            return plain(x)

    def product(f):
        with forward_mode_ready():
            if mode == "forward":
                return jvp_columns(f, q, v)
            return torch.func.vmap(torch.func.vjp(f, q)[1])(v)[0]

    assert torch.equal(product(f), product(plain))


def test_the_context_ends():
    x = torch.randn(2, 8, 5, 5)
    with forward_mode_ready():
        pass
    assert F.group_norm(x.to(memory_format=torch.channels_last), 2).shape == x.shape
    assert torch.overrides._get_current_function_mode() is None


def test_compiled_forward_mode_still_drops_custom_rules():
    """Canary for pytorch#192985: when this fails, torch.compile around jvp may be allowed."""

    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return torch.from_numpy(x.detach().numpy() ** 2)

        @staticmethod
        def setup_context(ctx, inputs, _output):
            ctx.save_for_forward(*inputs)

        @staticmethod
        def jvp(ctx, tangent):
            return 2 * ctx.saved_tensors[0] * tangent

    def push(x, v):
        return torch.func.jvp(Opaque.apply, (x,), (v,))[1]

    x, v = torch.rand(4) + 1, torch.rand(4) + 1
    assert torch.allclose(push(x, v), 2 * x * v)
    try:
        compiled = torch.compile(push, backend="eager", fullgraph=True)(x, v)
    except Exception as error:
        pytest.skip(f"torch {torch.__version__} refuses to compile it: {type(error).__name__}")
    assert not torch.allclose(compiled, 2 * x * v)
