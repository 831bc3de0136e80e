"""Local latent bases of diffusion models: the geometry that features induce on latents."""

from pullback import krylov
from pullback._version import __version__
from pullback.basis import LocalBasis, local_basis
from pullback.jacobian import JacobianOperator
from pullback.loading import load
from pullback.model import LatentModel
from pullback.sampling import ddim

__all__ = [
    "JacobianOperator",
    "LatentModel",
    "LocalBasis",
    "__version__",
    "ddim",
    "krylov",
    "load",
    "local_basis",
]
