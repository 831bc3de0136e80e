"""The maps whose Jacobians are studied: x → h, h → ε, x → ε, x → x̂₀, x → score."""

from pullback.maps.features import decoder, encoder
from pullback.maps.map import Map
from pullback.maps.outputs import OUTPUTS, output
from pullback.maps.variables import Bound

__all__ = ["OUTPUTS", "Bound", "Map", "decoder", "encoder", "output"]
