"""The geometry that a map induces on latents: local latent bases, what samples share, transport."""

from pullback.geometry import averaging, grassmann, transport
from pullback.geometry.averaging import GlobalDirections, global_directions, mean_metric
from pullback.geometry.bases import LocalBasis, basis, local_basis
from pullback.geometry.options import Options, StepOptions

__all__ = [
    "GlobalDirections",
    "LocalBasis",
    "Options",
    "StepOptions",
    "averaging",
    "basis",
    "global_directions",
    "grassmann",
    "local_basis",
    "mean_metric",
    "transport",
]
