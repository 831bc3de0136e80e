"""Recorded products of every family and every map, against `torch.func` in float64."""

import pytest
import torch
from torch.utils._pytree import tree_map

from pullback import maps
from pullback_ext import _intercepted_attention, intercept
from tests.models import families

MAPS = {
    "encoder": lambda model: maps.encoder(model),
    "pooled": lambda model: maps.encoder(model, pool="space"),
    "decoder": lambda model: maps.decoder(model),
    "noise": lambda model: maps.output(model, "noise"),
    "denoised": lambda model: maps.output(model, "denoised"),
    "score": lambda model: maps.output(model, "score"),
    "masked": lambda model: maps.output(model, "noise").restrict(mask()),
    "prompt": lambda model: maps.encoder(model, wrt="prompt"),
}
#: Rounds to float32 inside, whatever its dtype.
ROUNDS = "FluxTransformer2DModel"


def mask():
    found = torch.zeros(8, 8, dtype=torch.bool)
    found[1:4, 2:7] = True
    return found


def conditions(tiny, dtype):
    """A condition of two samples."""
    return tree_map(
        lambda value: value.to(dtype) if value.is_floating_point() else value, tiny.draw(2)
    )


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("name", families.TINY)
def test_recorded_products_are_those_of_torch_func(name, kind):
    tiny = families.TINY[name]
    if kind == "prompt" and "encoder_hidden_states" not in tiny.draw(1):
        pytest.skip("this family takes no prompt")
    dtype, tol = (torch.float32, 1e-5) if name == ROUNDS else (torch.float64, 1e-12)
    model = families.model_of(name, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for t in (700, 200):  # the points of one map, one after the other
        x = torch.randn(2, *model.latent_shape, generator=generator, dtype=dtype)
        chosen = MAPS[kind](model)
        operator = chosen.at(x, t, conditions(tiny, dtype)).operator()
        assert operator.way.refused is None
        v = torch.randn(2, 3, *operator.x_shape, generator=generator, dtype=dtype)
        u = torch.randn(2, 3, *operator.h_shape, generator=generator, dtype=dtype)
        found = operator.matmat(v), operator.rmatmat(u)
        operator._release()
        operator.way.refused = "to compare"
        for one, expected in zip(found, (operator.matmat(v), operator.rmatmat(u)), strict=True):
            assert float(expected.norm()) > 0
            assert float((one - expected).norm() / expected.norm()) <= tol


@pytest.mark.parametrize("name", families.TINY)
def test_native_attention_of_any_size_is_that_of_the_mathematical_form(name, monkeypatch):
    """The tiny networks have fewer scores than those from which the native operator is taken."""
    tiny = families.TINY[name]
    dtype, tol = (torch.float32, 1e-5) if name == ROUNDS else (torch.float64, 1e-12)
    model = families.model_of(name, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, *model.latent_shape, generator=generator, dtype=dtype)
    operator = maps.output(model, "noise").at(x, 300, conditions(tiny, dtype)).operator()
    calls = []
    native = _intercepted_attention.native
    monkeypatch.setattr(
        intercept, "native", lambda *a, **k: calls.append(native(*a, **k)) or calls[-1]
    )
    monkeypatch.setattr(_intercepted_attention, "_WORTHWHILE", 0)
    v = torch.randn(2, 3, *operator.x_shape, generator=generator, dtype=dtype)
    u = torch.randn(2, 3, *operator.h_shape, generator=generator, dtype=dtype)
    found = operator.matmat(v), operator.rmatmat(u)
    assert any(call is not None for call in calls)
    operator._release()
    monkeypatch.setattr(_intercepted_attention, "_WORTHWHILE", 2**60)
    operator.way.refused = "to compare"
    for one, expected in zip(found, (operator.matmat(v), operator.rmatmat(u)), strict=True):
        assert float(expected.norm()) > 0
        assert float((one - expected).norm() / expected.norm()) <= tol
