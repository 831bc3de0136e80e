"""The geometry that a map induces on latents: local latent bases, and what samples share."""

from pullback.geometry.averaging import GlobalDirections, global_directions, mean_metric
from pullback.geometry.bases import LocalBasis, basis, local_basis
from pullback.geometry.options import Options

__all__ = [
    "GlobalDirections",
    "LocalBasis",
    "Options",
    "basis",
    "global_directions",
    "local_basis",
    "mean_metric",
]
