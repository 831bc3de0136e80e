"""The maps whose Jacobians are studied: x → h, h → ε, x → ε, x → x̂₀, x → score."""

from pullback.maps.map import OUTPUTS, Bound, Map, decoder, encoder, output

__all__ = ["OUTPUTS", "Bound", "Map", "decoder", "encoder", "output"]
