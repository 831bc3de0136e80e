"""The geometry that a map induces on latents: local latent bases."""

from pullback.geometry.bases import LocalBasis, basis, local_basis
from pullback.geometry.options import Options

__all__ = ["LocalBasis", "Options", "basis", "local_basis"]
