"""Option values that are more than one number or word."""

from __future__ import annotations

import re

import typer

_UNITS = {
    "": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip


_MOST = 100_000  # numbers in a list; a slip of the finger must not fill the memory


def parse_memory(text: str) -> int:
    """Bytes of a budget such as 4GiB, 512 MiB or 2.5GB.

    Raises:
        typer.BadParameter: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    sizes = {unit.lower(): size for unit, size in _UNITS.items()}
    if match is None or match[2].lower() not in sizes or float(match[1]) <= 0:
        raise typer.BadParameter(
            f"expected a size such as 4GiB, 512MiB or 2GB, got {text!r}", param_hint="--memory"
        )
    return max(1, int(float(match[1]) * sizes[match[2].lower()]))


def parse_list(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers separated by commas; a-b stands for all from a to b.

    Raises:
        typer.BadParameter: it is no such list.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)\s*(?:-\s*(\d+))?\s*", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise typer.BadParameter(
                f"expected whole numbers such as 0,3,7 or 0-15, got {text!r}", param_hint=option
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if len(numbers) + last - first >= _MOST:
            raise typer.BadParameter(
                f"expected at most {_MOST} numbers, got more: {text!r}", param_hint=option
            )
        numbers.extend(range(first, last + 1))
    return tuple(numbers)


def parse_seeds(samples: int | None, seeds: str | None) -> tuple[int, ...]:
    """Seeds of the samples: those that are listed, or 0, 1, ... for a number of samples.

    Raises:
        typer.BadParameter: both are given, or seeds is no list of whole numbers.
    """
    if samples is not None and seeds is not None:
        raise typer.BadParameter("give --samples or --seeds, not both", param_hint="--seeds")
    return tuple(range(samples or 4)) if seeds is None else parse_list(seeds, "--seeds")
