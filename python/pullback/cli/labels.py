"""Scores of samples that a command is given as a file."""

from __future__ import annotations

import math
from pathlib import Path

_HEADS = (["score"], ["label"], ["seed", "score"], ["seed", "label"])


def read_scores(path: Path, seed: int, samples: int | None) -> tuple[float, ...]:
    """The scores of samples of consecutive seeds.

    Args:
        path: a text of one score a line, in the order of the seeds, or of `seed,score` in any
            order; a first line with these words is left out.
        seed: the first one.
        samples: how many there must be; None for as many as the file has.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is no number, there are more or fewer, or a seed is missing, not among
            those that are asked for, or there twice.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text. Expected {_EXPECTED}.") from None
    rows = [line.replace(",", " ").split() for line in lines if line.strip()]
    if rows and [word.lower() for word in rows[0]] in _HEADS:
        rows = rows[1:]
    numbers = [_numbers(path, row) for row in rows]
    if not numbers or len({len(row) for row in numbers}) > 1:
        raise ValueError(f"Expected {_EXPECTED} in {path}, got {len(numbers)} lines unlike that.")
    seeds = range(seed, seed + (len(numbers) if samples is None else samples))
    if len(numbers) != len(seeds):
        raise ValueError(
            f"Expected {len(seeds)} scores in {path}, one for each of the seeds {seeds[0]} to "
            f"{seeds[-1]}, got {len(numbers)}. Score the others too, or ask for {len(numbers)} "
            "samples."
        )
    if len(numbers[0]) == 1:
        return tuple(row[0] for row in numbers)
    found = {row[0]: row[1] for row in numbers}
    unknown = [f"{one:g}" for one in found if one not in seeds]
    if unknown or len(found) < len(seeds):
        what = f"got {', '.join(unknown[:8])} too" if unknown else "got a seed twice"
        raise ValueError(
            f"Expected the seeds {seeds[0]} to {seeds[-1]} in {path}, one line for each, {what}. "
            "Say with --seed which one is the first."
        )
    return tuple(found[one] for one in seeds)


_EXPECTED = "one score a line, or a seed and a score, separated by a comma"


def _numbers(path: Path, words: list[str]) -> list[float]:
    try:
        found = [float(word) for word in words]
    except ValueError:
        found = []
    if len(found) not in (1, 2) or not all(map(math.isfinite, found)):
        raise ValueError(f"Expected {_EXPECTED} in {path}, got {' '.join(words)!r:.60}.")
    return found
