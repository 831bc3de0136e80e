"""Local bases of known matrices, and a model whose features are linear in the latents."""

import math

import torch
from diffusers import DDPMScheduler
from torch import nn

from pullback import LatentModel, LocalBasis
from pullback.testing import leading, with_spectrum

X, H = (2, 3, 4), (10, 5, 4)
N, M = math.prod(X), math.prod(H)
T = 400
PROVENANCE = {
    "model": "known", "fingerprint": "00ff", "dtype": "float64", "map": "encoder first",
    "wrt": "x", "tap": "first", "seed": 0, "pullback": "0", "torch": "2", "diffusers": "0",
}  # fmt: skip


def basis_of(jacobians, rank, t=T, **changes):
    """The local basis of dense Jacobians `[B, m, n]`, as `local_basis` would give it.

    Changes replace fields, and entries of the provenance.
    """
    u, s, v = leading(jacobians, rank)
    count = len(s)
    known = {**PROVENANCE, "t": [t] * count}
    fields = {
        "u": u.unflatten(2, H), "s": s, "v": v.unflatten(2, X), "residual": torch.zeros_like(s),
        "angle_bound": torch.full((count,), 1e-6, dtype=torch.float64),
        "converged": torch.ones(count, dtype=torch.bool), "rank": (s > 1e-12).sum(1),
        "products": torch.zeros(count, dtype=torch.int64), "stopped": ("converged",) * count,
        "tol": 1e-5,
    }  # fmt: skip
    for name, value in changes.items():
        (known if name in known else fields)[name] = value
    return LocalBasis(**fields, provenance=known)


def jacobians(count=1, seed=0, spectrum=None):
    """Jacobians `[count, M, N]` in float64 whose leading spaces are alike, as those of samples are.

    With a spectrum they are random, and have those singular values.
    """
    values = torch.linspace(3, 0.1, N, dtype=torch.float64) if spectrum is None else spectrum
    each = [with_spectrum(values, M, N, 1, seed=100 * seed + i + 1) for i in range(count)]
    shared = 0 if spectrum is not None else with_spectrum(values, M, N, 1, seed=99_999)
    return shared + torch.cat(each) * (1 if spectrum is not None else 0.5)


class Linear(nn.Module):
    """h = A x at the tap "first", in float64."""

    def __init__(self, matrix):
        super().__init__()
        mix = nn.Linear(N, M, bias=False, dtype=torch.float64)
        mix.weight = nn.Parameter(matrix.clone(), requires_grad=False)
        self.first = nn.Sequential(nn.Flatten(), mix, nn.Unflatten(1, H))

    def forward(self, x, t):
        self.first(x)
        return 1.0 * x


def linear_model(spectrum=None):
    """A model with one Jacobian everywhere, and that Jacobian `[M, N]`."""
    matrix = jacobians(1, seed=7, spectrum=spectrum)[0]
    return LatentModel(Linear(matrix).eval(), DDPMScheduler(), latent_shape=X), matrix
