"""Recorded products of every family and every map, against `torch.func` in float64."""

import pytest
import torch

from pullback import maps
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
#: What stands in the way of a recording, by family.
REFUSED = {"FluxTransformer2DModel": "writes to a part of a tensor"}


def mask():
    found = torch.zeros(8, 8, dtype=torch.bool)
    found[1:4, 2:7] = True
    return found


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("name", families.TINY)
def test_recorded_products_are_those_of_torch_func(name, kind):
    tiny = families.TINY[name]
    if kind == "prompt" and "encoder_hidden_states" not in tiny.draw(1):
        pytest.skip("this family takes no prompt")
    model = families.model_of(name, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for t in (700, 200):  # the points of one map, one after the other
        x = model.sample_latents(2, t, seed=t).double()
        chosen = MAPS[kind](model)
        operator = chosen.at(x, t, tiny.draw(2)).operator()
        if operator.way.refused is not None:
            assert REFUSED[name] in operator.way.refused
            return
        v = torch.randn(2, 3, *operator.x_shape, generator=generator, dtype=torch.float64)
        u = torch.randn(2, 3, *operator.h_shape, generator=generator, dtype=torch.float64)
        found = operator.matmat(v), operator.rmatmat(u)
        operator._release()
        operator.way.refused = "to compare"
        for one, expected in zip(found, (operator.matmat(v), operator.rmatmat(u)), strict=True):
            assert float(expected.norm()) > 0
            assert float((one - expected).norm() / expected.norm()) <= 1e-12
