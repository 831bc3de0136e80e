"""Transport between tangent spaces: directions and frames carried, shooting, paths of latents.

The tangent spaces are those of local bases over the features, where samples can be compared; what
is carried there goes back to the latents of each sample by its own basis.
"""

from pullback.geometry.transport.carrying import Transported, transport
from pullback.geometry.transport.framing import transport_frame
from pullback.geometry.transport.paths import LatentPath, latent_path
from pullback.geometry.transport.shooting import Shot, shoot

__all__ = [
    "LatentPath",
    "Shot",
    "Transported",
    "latent_path",
    "shoot",
    "transport",
    "transport_frame",
]
