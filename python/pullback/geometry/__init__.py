"""The geometry that a map induces on latents: local latent bases, subspaces, and transport."""

from pullback.geometry import grassmann, transport
from pullback.geometry.bases import LocalBasis, basis, local_basis
from pullback.geometry.options import Options, StepOptions

__all__ = [
    "LocalBasis",
    "Options",
    "StepOptions",
    "basis",
    "grassmann",
    "local_basis",
    "transport",
]
