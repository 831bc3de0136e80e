"""Tangents and primals of normalisation layers for the tests, and what must come of them."""

import torch

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# What is allowed, of the largest entry of scale * gain * t; 16-bit results are rounded once more.
BOUND = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}
ORDERS = ["contiguous", "channels last"]


def work(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def normal(rng, device, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(device, dtype)


def in_order(x, order):
    """The same numbers, with P before G and Cg in memory where channels are last."""
    if order == "contiguous":
        return x.contiguous()
    return x.movedim(-1, -3).contiguous().movedim(-3, -1)


def primal(rng, device, dtype, *shape, centered=True):
    """xh and scale of a random input [B, G, Cg, P]."""
    x = normal(rng, device, *shape) + 0.5
    if centered:
        x = x - x.mean((2, 3), keepdim=True)
    scale = (x.square().mean((2, 3)) + 1e-5).rsqrt()
    return (x * scale[:, :, None, None]).to(work(dtype)), scale.to(work(dtype))


def dense(t, xh, scale, gain=None, centered=True, transposed=False):
    """The formula in float64, and the largest entry of scale * gain * t."""
    xh, gain = xh.double(), 1.0 if gain is None else gain.double()
    z = t.double() * gain if transposed else t.double()
    out = z - xh * (z * xh).mean((3, 4), keepdim=True)
    if centered:
        out = out - z.mean((3, 4), keepdim=True)
    wide = scale.double()[:, :, None, None]
    largest = (wide * gain * t.double()).abs().amax()
    return wide * out if transposed else wide * gain * out, largest


def error_of(got, want, largest):
    assert got.shape == want.shape
    return float((got.double() - want).abs().amax() / largest)


def allowed(dtype):
    return BOUND[dtype] + (2e-6 if dtype in (torch.bfloat16, torch.float16) else 0)
