"""A function linearised at a point: products with its Jacobian and the transpose, many times."""

from pullback.linearization.forward import jvp
from pullback.linearization.tape import Tape, UnrecordableError

__all__ = ["Tape", "UnrecordableError", "jvp"]
