"""The geometry that a map induces on latents: local latent bases."""

from pullback.geometry.bases import LocalBasis, basis, local_basis

__all__ = ["LocalBasis", "basis", "local_basis"]
