"""A small network, what diffusion networks are made of, and points of it."""

import torch
import torch.nn.functional as F
from torch import nn


def small_net(dtype=torch.float64):
    """Convolution, normalisation, attention: what a diffusion network is made of."""
    torch.manual_seed(5)
    conv, out = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 3, 3, stride=2, padding=1)
    norm = nn.GroupNorm(4, 8)
    parts = nn.ModuleList([conv, norm, out]).to(dtype).requires_grad_(False)

    def f(x, shift):
        h = F.silu(parts[1](parts[0](x) + shift[:, :, None, None]))
        tokens = h.flatten(2).transpose(1, 2)
        h = h + F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).view(h.shape)
        return parts[2](h)

    return f


def points(batch=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(batch, 2, 5, 7, generator=generator, dtype=torch.float64)
    shift = torch.randn(batch, 8, generator=generator, dtype=torch.float64)
    return x.to(dtype), shift.to(dtype)


def counting(f):
    """The same function, and a list that grows by one with every call of it."""
    calls = []

    def counted(*args):
        calls.append(1)
        return f(*args)

    return counted, calls
