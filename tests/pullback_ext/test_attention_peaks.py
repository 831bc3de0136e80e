"""Attention where one key outweighs all others: what the others make must be left."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pullback_ext import attention, attention_cotangents, attention_tangents
from tests.pullback_ext.test_attention import (
    dense,
    draw,
    normal,
    on,
    want_cotangents,
    want_tangents,
)

pytestmark = pytest.mark.usefixtures("native")


def sharp(rng, dtype, factor, shape=(65, 130, 40, 24)):
    """Logits as large as 10 `factor`, some of them equal."""
    primal, tangents, g = draw(rng, dtype, shape)
    primal[0] = primal[0] * factor
    primal[1][:, :, 7] = primal[1][:, :, 3]
    return primal, tangents, g


def distance(got, want):
    """Of scores that large the rounding of these is most of it: by chance more, or less."""
    return float(torch.linalg.vector_norm(got.cpu().double() - want))


def mathematical(q, k, v):
    with sdpa_kernel(SDPBackend.MATH):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("factor", [1.0, 10.0, 60.0, 400.0])
def test_it_is_as_exact_as_the_dense_form(rng, device, factor):
    primal, tangents, g = sharp(rng, torch.float32, factor)
    here = on(device, primal)
    attended = attention(*here)
    f = dense()
    got = attention_tangents(*here, *attended, *on(device, tangents))
    theirs = torch.func.vmap(lambda *t: torch.func.jvp(mathematical, tuple(primal), t)[1])(
        *tangents
    )
    want = want_tangents(f, primal, tangents)
    assert distance(got, want) < 2 * distance(theirs, want)
    back = attention_cotangents(*here, *attended, g.to(device))
    pulled = torch.func.vmap(torch.func.vjp(mathematical, *primal)[1])(g)
    for mine, other, exact in zip(back, pulled, want_cotangents(f, primal, g), strict=True):
        assert distance(mine, exact) < 2 * distance(other, exact)


def test_a_weight_of_one_has_no_derivative(rng, device):
    """Its terms cancel to the last digit: nothing is left but what a tangent of v brings."""
    primal, tangents, g = draw(rng, torch.float32, (40, 70, 40, 24))
    chosen = torch.randint(70, (40,), generator=rng)
    primal[1] = torch.nn.functional.normalize(primal[1], dim=-1)
    primal[0] = 3e4 * primal[1][:, :, chosen]  # logits of the others are a thousand less
    here = on(device, primal)
    attended = attention(*here)
    assert torch.equal(attended.o.cpu(), primal[2][:, :, chosen])
    turned = [*on(device, tangents[:2]), None]
    assert float(attention_tangents(*here, *attended, *turned).abs().max()) < 1e-6
    back = attention_cotangents(*here, *attended, g.to(device))
    assert not bool(back.dq.any())
    assert not bool(back.dk.any())
    assert bool(back.dv.any())


def test_a_peak_that_is_hidden_or_in_any_tile(rng, device):
    """The largest logit may be masked, the last, or in a causal row's future."""
    primal, tangents, g = sharp(rng, torch.float32, 60.0, (70, 70, 16, 16))
    bias = torch.zeros(1, 1, 70, 70).masked_fill(
        torch.rand(70, 70, generator=rng) < 0.5, -torch.inf
    )
    bias[..., 0] = 0
    exact = torch.float64
    for options in ({"bias": bias}, {"causal": True}):
        wide = [x.to(exact) for x in primal]
        f = dense(**options)
        there = {name: x.to(device) if name == "bias" else x for name, x in options.items()}
        here = on(device, wide)
        wide_options = {name: x.to(exact) if name == "bias" else x for name, x in there.items()}
        attended = attention(*here, **wide_options)
        want = want_tangents(f, wide, tangents)
        moved = on(device, [x.to(exact) for x in tangents])
        got = attention_tangents(*here, *attended, *moved, **wide_options).cpu()
        assert float((got - want).abs().max()) < 1e-11 * float(want.abs().max())
        back = attention_cotangents(*here, *attended, g.to(exact).to(device), **wide_options)
        for x, y in zip(back, want_cotangents(f, wide, g), strict=True):
            assert float((x.cpu() - y).abs().max()) < 1e-11 * float(y.abs().max())


def test_values_with_a_large_offset(rng, device):
    """Products of cotangents with them lose digits, which centers must not lose twice."""
    primal, _, _ = sharp(rng, torch.float32, 10.0)
    primal[2] = primal[2] + 100
    g = normal(rng, torch.float32, 3, *primal[0].shape[:3], primal[2].shape[3])
    here = on(device, primal)
    back = attention_cotangents(*here, *attention(*here), g.to(device))
    pulled = torch.func.vmap(torch.func.vjp(mathematical, *primal)[1])(g)
    for mine, other, exact in zip(back, pulled, want_cotangents(dense(), primal, g), strict=True):
        assert distance(mine, exact) < 2 * distance(other, exact)
