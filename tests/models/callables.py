"""Denoisers that are plain functions."""

import torch
from diffusers import DDPMScheduler

from pullback import LatentModel

SHAPE, N, T = (2, 3, 2), 12, 300


def denoiser(weight):
    """A function whose Jacobian is known: tanh(W x + t / 1000 + word)."""

    def f(x, t, word=None):
        h = x.flatten(1) @ weight.to(x).T + (t / 1000).to(x)[:, None]
        return torch.tanh(h if word is None else h + word).unflatten(1, SHAPE)

    return f


def model_of(f, scheduler=None, dtype=torch.float64, **options):
    return LatentModel(f, scheduler or DDPMScheduler(), latent_shape=SHAPE, dtype=dtype, **options)
