"""A profile that several tests read, and small models whose work is of one kind."""

import pytest
from diffusers import DDPMScheduler
from torch import nn

from pullback import LatentModel, maps, profiling


class Convolutions(nn.Module):
    """Nothing but wide convolutions."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Conv2d(c, d, 3, padding=1) for c, d in self.sizes()])

    @staticmethod
    def sizes():
        return [(2, 96), (96, 96), (96, 96), (96, 2)]

    def forward(self, x, t):
        return self.layers(x)


class Attention(nn.Module):
    """Nothing but attention of every position to every other."""

    def forward(self, x, t):
        rows = x.flatten(2).mT.unsqueeze(1)
        for _ in range(2):
            rows = nn.functional.scaled_dot_product_attention(rows, rows, rows)
        return rows.squeeze(1).mT.reshape(x.shape)


def model_of(network, shape):
    """A network of one's own as a model."""
    return LatentModel(network.eval(), DDPMScheduler(), latent_shape=shape)


@pytest.fixture(scope="session")
def profiled(digits):
    """A profile of bases of the digit model."""
    x = digits.sample_latents(2, 500, seed=3, steps=4)
    return profiling.profile(
        maps.encoder(digits), x, 500, 3, repeats=1, quality="draft", seed=1, max_products=200
    )
