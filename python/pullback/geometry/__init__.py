"""The geometry that a map induces on latents: bases, subspaces, transport, what samples share."""

from pullback.geometry import grassmann, transport
from pullback.geometry.averaging import GlobalDirections, global_directions, mean_metric
from pullback.geometry.bases import LocalBasis, basis, local_basis
from pullback.geometry.options import Options, StepOptions

__all__ = [
    "GlobalDirections",
    "LocalBasis",
    "Options",
    "StepOptions",
    "basis",
    "global_directions",
    "grassmann",
    "local_basis",
    "mean_metric",
    "transport",
]
