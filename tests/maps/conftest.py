"""The network of `tests.maps.denoiser`, a model of it, latents and prompts."""

import pytest
import torch

from tests.maps.denoiser import TEXT, WORDS, C, Denoiser, H, W, model_of


@pytest.fixture
def network():
    torch.manual_seed(1)
    return Denoiser().eval().double()


@pytest.fixture
def model(network):
    return model_of(network)


@pytest.fixture
def x(rng):
    return torch.randn(3, C, H, W, generator=rng, dtype=torch.float64)


@pytest.fixture
def words(rng):
    return torch.randn(3, WORDS, TEXT, generator=rng, dtype=torch.float64)
