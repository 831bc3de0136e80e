"""`normalize_tangents` beside dense float64 derivatives of torch's own layers."""

import pytest
import torch
from torch.nn import functional

from pullback_ext import normalize_tangents
from tests.pullback_ext.tangents import DTYPES, allowed, error_of, normal, work

pytestmark = pytest.mark.usefixtures("native")


def layers():
    """name -> shape of the input, the layer of x and its weight, (G, Cg, P), eps, centered."""
    return {
        "group norm": ((3, 12, 5, 7), 4, True),
        "group norm of one group": ((2, 6, 11), 1, True),
        "instance norm": ((2, 5, 9, 3), 5, True),
        "layer norm": ((19, 33), None, True),
        "rms norm": ((19, 33), None, False),
    }


@pytest.mark.parametrize("gate", [False, True], ids=["plain", "silu"])
@pytest.mark.parametrize("weighted", [False, True], ids=["without weight", "with weight"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", layers())
def test_it_is_the_derivative_of_torchs_layers(rng, device, name, dtype, weighted, gate):
    """Of group, layer and RMS norm, with a gate behind, against dense float64 derivatives."""
    shape, groups, centered = layers()[name]
    eps, count = 1e-5, 6
    x = normal(rng, device, *shape) * 2 + 0.3
    channels = shape[1]
    weight = normal(rng, device, channels) + 1 if weighted else None
    bias = normal(rng, device, channels) if weighted and centered else None

    def layer(y):
        if groups is not None:
            out = functional.group_norm(y, groups, weight, bias, eps)
        elif centered:
            out = functional.layer_norm(y, (channels,), weight, bias, eps)
        else:
            out = functional.rms_norm(y, (channels,), weight, eps)
        return functional.silu(out) if gate else out

    size = (shape[0], groups, channels // groups, -1) if groups else (shape[0], 1, 1, channels)
    grouped = x.reshape(size)
    mean = grouped.mean((2, 3), keepdim=True) if centered else 0.0
    scale = ((grouped - mean).square().mean((2, 3)) + eps).rsqrt()
    xh = (grouped - mean) * scale[:, :, None, None]
    gain = None
    if weighted:
        sizes = (1, groups, channels // groups, 1) if groups else (1, 1, 1, channels)
        gain = weight.reshape(sizes)
    if gate:
        ones = [1] * (len(shape) - 2)
        z = xh.reshape(shape)
        if weighted:
            z = z * weight.view(-1, *ones) + (0 if bias is None else bias.view(-1, *ones))
        slope = torch.sigmoid(z) * (1 + z * (1 - torch.sigmoid(z)))
        gain = slope.reshape(grouped.shape) * (1 if gain is None else gain)

    t = normal(rng, device, count, *shape).to(dtype)
    _, vjp = torch.func.vjp(layer, x)
    wanted = {
        False: torch.func.vmap(lambda v: torch.func.jvp(layer, (x,), (v,))[1])(t.double()),
        True: torch.func.vmap(lambda u: vjp(u)[0])(t.double()),
    }
    gain = None if gain is None else gain.to(work(dtype))
    for transposed, want in wanted.items():
        got = normalize_tangents(
            t.reshape(count, *grouped.shape), xh.to(work(dtype)), scale.to(work(dtype)), gain,
            centered, transposed,
        )  # fmt: skip
        assert got.dtype == dtype
        assert bool(want.abs().amax() > 0)
        largest = (scale.abs().amax() * t.double().abs().amax()) * (
            1 if gain is None else gain.double().abs().amax()
        )
        assert error_of(got.reshape(want.shape), want, largest) <= allowed(dtype)
