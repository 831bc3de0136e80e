"""Pictures of local latent bases, with matplotlib."""

from pullback.figures.gallery import Gallery, clear
from pullback.figures.pages import Walk, directions, overview, strips
from pullback.figures.spectra import spectrum
from pullback.figures.style import save

__all__ = [
    "Gallery",
    "Walk",
    "clear",
    "directions",
    "overview",
    "save",
    "spectrum",
    "strips",
]
