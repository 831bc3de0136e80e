"""Whole numbers from users: whatever integer type they have, and nothing that would be cut off."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

#: Seeds that the generators of torch on the CPU tell apart; of larger ones they see the lowest
#: 32 bits.
SEEDS = 2**32


def whole(name: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """A value as an int, whatever integer type it has.

    Args:
        name: what messages call it.
        value: what was given; a float or a text is no whole number, whatever its value.
        low: the least value allowed.
        high: the largest.

    Raises:
        ValueError: it is not a whole number, or lies outside the limits.
    """
    number: int | None = None
    try:
        if not isinstance(value, bool):
            number = index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    if number is None:
        raise ValueError(
            f"Expected {name} to be a whole number, got {value!r}. Convert it with int() if that "
            "is what is meant."
        )
    if (low is not None and number < low) or (high is not None and number > high):
        limits = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"Expected {name} to be {limits}, got {number}.")
    return number


def seed_of(value: object, name: str = "seed") -> int:
    """A seed as an int; raises ValueError unless it is a whole number from 0 to 2³² − 1.

    The generators of torch would take others, and draw the same for those that differ by 2³².
    """
    return whole(name, value, 0, SEEDS - 1)


def is_several(value: object) -> bool:
    """Whether a value is a list, array or tensor of numbers, and not one alone or a text."""
    if isinstance(value, (str, bytes)):
        return False
    # Arrays and tensors without sizes have a length by name only.
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def seeds_of(seed: int | Sequence[int], count: int) -> list[int]:
    """The seeds of a number of samples, from the first one or one for each.

    Raises:
        ValueError: they are of another number, or one of them is no seed.
    """
    if not is_several(seed):
        first = seed_of(seed)
        return [seed_of(first + sample) for sample in range(count)]
    given: Sequence[int] = seed  # type: ignore[assignment]
    if len(given) != count:
        raise ValueError(f"Expected one seed per sample, {count}, got {len(given)}.")
    return [seed_of(one) for one in given]
