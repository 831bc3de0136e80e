"""What differs between the networks of diffusers."""

from pullback.models.families.base import FAMILIES, Argument, Custom, Family, flat, nested

__all__ = ["FAMILIES", "Argument", "Custom", "Family", "flat", "nested"]
