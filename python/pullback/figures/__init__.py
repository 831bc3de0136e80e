"""Pictures of local latent bases, with matplotlib."""

from pullback.figures.pages import Walk, directions, overview, strips
from pullback.figures.spectra import spectrum
from pullback.figures.style import save

__all__ = ["Walk", "directions", "overview", "save", "spectrum", "strips"]
