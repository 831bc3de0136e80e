"""Pictures of local latent bases and of edits, with matplotlib."""

from pullback.figures.album import Album
from pullback.figures.edits import edit_frames, edit_grid, edit_strip, edit_timesteps
from pullback.figures.gallery import Gallery, clear
from pullback.figures.pages import Walk, directions, overview, strips
from pullback.figures.shown import pictured, shown
from pullback.figures.spectra import spectrum
from pullback.figures.style import save, save_film

__all__ = [
    "Album",
    "Gallery",
    "Walk",
    "clear",
    "directions",
    "edit_frames",
    "edit_grid",
    "edit_strip",
    "edit_timesteps",
    "overview",
    "pictured",
    "save",
    "save_film",
    "shown",
    "spectrum",
    "strips",
]
