"""Pictures of local latent bases, directions, edits, transport, paths and time, by matplotlib."""

from pullback.figures.album import Album
from pullback.figures.analyses import draw_analysis
from pullback.figures.edits import edit_frames, edit_grid, edit_strip, edit_timesteps
from pullback.figures.gains import gain_curves
from pullback.figures.gallery import Gallery, clear
from pullback.figures.matrices import angle_matrix, distance_matrix
from pullback.figures.pages import Walk, directions, overview, strips
from pullback.figures.paths import path_curves, path_images
from pullback.figures.profile import cost_curves, time_breakdown
from pullback.figures.shown import pictured, shown
from pullback.figures.spectra import spectrum
from pullback.figures.style import save, save_film
from pullback.figures.transport import TransportBlock, global_grid, transport_grid

__all__ = [
    "Album",
    "Gallery",
    "TransportBlock",
    "Walk",
    "angle_matrix",
    "clear",
    "cost_curves",
    "directions",
    "distance_matrix",
    "draw_analysis",
    "edit_frames",
    "edit_grid",
    "edit_strip",
    "edit_timesteps",
    "gain_curves",
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
    "time_breakdown",
    "transport_grid",
]
