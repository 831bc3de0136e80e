"""Pictures of local latent bases, with matplotlib."""

from pullback.figures.pages import Walk, directions, overview, save, spectrum, strips

__all__ = ["Walk", "directions", "overview", "save", "spectrum", "strips"]
