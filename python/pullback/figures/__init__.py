"""Pictures of local latent bases, edits, transported directions and paths, with matplotlib."""

from pullback.figures.album import Album
from pullback.figures.edits import edit_frames, edit_grid, edit_strip, edit_timesteps
from pullback.figures.gallery import Gallery, clear
from pullback.figures.pages import Walk, directions, overview, strips
from pullback.figures.paths import path_curves, path_images
from pullback.figures.shown import pictured, shown
from pullback.figures.spectra import spectrum
from pullback.figures.style import save, save_film
from pullback.figures.transport import (
    TransportBlock,
    distance_matrix,
    global_grid,
    transport_grid,
)

__all__ = [
    "Album",
    "Gallery",
    "TransportBlock",
    "Walk",
    "clear",
    "directions",
    "distance_matrix",
    "edit_frames",
    "edit_grid",
    "edit_strip",
    "edit_timesteps",
    "global_grid",
    "overview",
    "path_curves",
    "path_images",
    "pictured",
    "save",
    "save_film",
    "shown",
    "spectrum",
    "strips",
    "transport_grid",
]
