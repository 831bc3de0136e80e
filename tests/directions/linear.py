"""Models that are linear, whose Jacobians and so whose directions are known."""

import math

import torch
from diffusers import DDPMScheduler
from torch import nn

from pullback import LatentModel
from pullback.testing import with_spectrum

X, WIDE, T = (2, 3, 4), 3, 400
N, FEATURES = math.prod(X), WIDE * 3 * 4


class LinearDecoder(nn.Module):
    """ε = A h of the feature h at the tap "first", a convolution of x."""

    def __init__(self, matrix):
        super().__init__()
        self.first = nn.Conv2d(X[0], WIDE, 1)
        self.out = nn.Linear(FEATURES, N)
        self.out.weight = nn.Parameter(matrix)

    def forward(self, x, t):
        return self.out(self.first(x).flatten(1)).view_as(x)


class LinearDenoiser(nn.Module):
    """x̂₀ = A x + K c of the mean c of the prompt's tokens, where there is one."""

    def __init__(self, matrix):
        super().__init__()
        self.mix = nn.Linear(N, N, bias=False)
        self.words = nn.Linear(5, N, bias=False)
        self.mix.weight = nn.Parameter(matrix)

    def forward(self, x, t, encoder_hidden_states=None):
        clean = self.mix(x.flatten(1))
        if encoder_hidden_states is not None:
            clean = clean + self.words(encoder_hidden_states.mean(1))
        return clean.view_as(x)


def region():
    """Five of twelve places of every channel, `[3, 4]`."""
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[:2, :2] = True
    mask[2, 3] = True
    return mask


def entries(mask):
    """Places of a region in the flat output, `[r]`."""
    return torch.nonzero(mask.expand(X).flatten()).flatten()


def decoder_model(dtype=torch.float32):
    """A model whose ∂ε/∂h is A at every point, and A `[N, FEATURES]` in float64."""
    matrix = with_spectrum(3 * 0.7 ** torch.arange(N).double(), N, FEATURES, 1)[0].to(dtype)
    network = LinearDecoder(matrix).to(dtype).eval()
    return LatentModel(network, DDPMScheduler(), latent_shape=X), matrix.double()


def denoiser_model(matrix):
    """A model whose ∂x̂₀/∂x is the matrix `[N, N]` at every point, in the matrix's dtype."""
    network = LinearDenoiser(matrix).to(matrix.dtype).eval()
    return LatentModel(network, DDPMScheduler(prediction_type="sample"), latent_shape=X)


def two_sided(inside=0.8, outside=0.7, rank=None, dtype=torch.float64):
    """A matrix `[N, N]` whose rows in `region()` and outside have geometric singular values.

    Args:
        inside: their ratio in the region, from 1.5.
        outside: that of the rest, from 2.
        rank: of the rest; full by default.
        dtype: of the matrix.
    """
    where = region().expand(X).flatten()
    first, rest = int(where.sum()), int((~where).sum())
    values = 2 * outside ** torch.arange(rest if rank is None else rank).double()
    matrix = torch.zeros(N, N, dtype=torch.float64)
    own = 1.5 * inside ** torch.arange(first).double()
    matrix[where] = with_spectrum(own, first, N, 1, seed=2)[0]
    matrix[~where] = with_spectrum(values, rest, N, 1, seed=3)[0]
    return matrix.to(dtype)
