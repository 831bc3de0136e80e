"""Operators whose matrices are known."""

import torch

from pullback import JacobianOperator
from pullback.testing import MatrixOperator

B, N, M = 3, 12, 10


def smooth(x, weight):
    """[B, 3, 4] to [B, m], every sample with a Jacobian of its own."""
    return torch.tanh(torch.einsum("bmn,bn->bm", weight, x.flatten(1)))


def smooth_operator(rng, m=M, count=B):
    weight = torch.randn(count, m, N, generator=rng, dtype=torch.float64) / 3
    x = torch.randn(count, 3, 4, generator=rng, dtype=torch.float64)
    slope = 1 - smooth(x, weight).square()
    return JacobianOperator(smooth, x, weight), slope.unsqueeze(2) * weight


def dense_operator(rng, m=M, count=B):
    matrices = torch.randn(count, m, N, generator=rng, dtype=torch.float64)
    return MatrixOperator(matrices, (3, 4)), matrices


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def wrong_by_a_percent(unit):
    """x times a unit, with a reverse-mode rule that is wrong by a percent."""

    class Scaled(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x * unit

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def jvp(ctx, tangent):
            return tangent * unit

        @staticmethod
        def backward(ctx, cotangent):
            return cotangent * (1.01 * unit)

    return Scaled.apply
