"""Option values that are more than one number or word."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path

import typer
from PIL import Image, ImageOps, UnidentifiedImageError

_UNITS = {
    "": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip


#: What a value of --call may be, tried in this order; all else is a text.
_NUMBERS = ((r"[+-]?\d+", int), (r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", float))
_WORDS = {"true": True, "false": False}

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


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """Finite numbers separated by commas.

    Raises:
        typer.BadParameter: it is no such list.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)) or len(numbers) > _MOST:
        raise typer.BadParameter(
            f"expected finite numbers such as -8,0,8, got {text!r:.60}", param_hint=option
        )
    return numbers


def parse_words(text: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(part.strip() for part in text.split(","))


def parse_window(text: str) -> tuple[int, int]:
    """Two timesteps in training units, from the larger to the smaller, such as 500,300.

    Raises:
        typer.BadParameter: they are none.
    """
    numbers = parse_list(text, "--window")
    if len(numbers) != 2 or numbers[0] < numbers[1]:
        raise typer.BadParameter(
            f"expected two timesteps downwards such as 500,300, got {text!r}", param_hint="--window"
        )
    return numbers[0], numbers[1]


def parse_seeds(samples: int | None, seeds: str | None) -> tuple[int, ...]:
    """Seeds of the samples: those that are listed, or 0, 1, ... for a number of samples.

    Raises:
        typer.BadParameter: both are given, or seeds is no list of whole numbers.
    """
    if samples is not None and seeds is not None:
        raise typer.BadParameter("give --samples or --seeds, not both", param_hint="--seeds")
    return tuple(range(samples or 4)) if seeds is None else parse_list(seeds, "--seeds")


def parse_share(text: str | None) -> tuple[int, int] | None:
    """Which of n workers this one is, as i/n with i from 0; None where nothing is given.

    Raises:
        typer.BadParameter: it is no such share.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise typer.BadParameter(
            f"expected i/n with i from 0 to n - 1, such as 0/8, got {text!r}", param_hint="--worker"
        )
    return int(match[1]), int(match[2])


def parse_prompts(given: Sequence[str] | None, path: Path | None) -> dict[str, object]:
    """Prompts of options, or of a text file with one a line, whose empty lines do not count.

    Returns:
        "prompts" of a `BatchPlan` and the hash of the file, "prompts_hash"; nothing where neither
        is given.

    Raises:
        typer.BadParameter: both are given, or the file cannot be read or has none.
    """
    if path is None:
        return {"prompts": tuple(given), "prompts_hash": None} if given else {}
    if given:
        raise typer.BadParameter("give --prompt or --prompts, not both", param_hint="--prompts")
    try:
        written = path.read_bytes()
        lines = written.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(
            f"{path} cannot be read: {error}", param_hint="--prompts"
        ) from None
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise typer.BadParameter(f"{path} has no prompts", param_hint="--prompts")
    return {"prompts": prompts, "prompts_hash": hashlib.sha256(written).hexdigest()}


def parse_call(pairs: Sequence[str] | None) -> dict[str, object]:
    """Keyword arguments of a pipeline's call, from pairs such as height=64 or image=edges.png.

    Args:
        pairs: name=value each, or None. A value is a whole number, a number, true, false, the path
            of an image, which is opened in RGB and turned as it is to be seen, or else a text.

    Raises:
        typer.BadParameter: one is no such pair, a name comes twice, is no name of an argument or
            is that of an option, or an image cannot be read.
    """
    found: dict[str, object] = {}
    for pair in pairs or ():
        name, sign, value = pair.partition("=")
        name = name.strip()
        if not sign or not name.isidentifier():
            raise _no_call(f"expected name=value such as height=64, got {pair!r}")
        if name in found:
            raise _no_call(f"expected {name} once, got it again: {pair!r}")
        if name == "prompt":
            raise _no_call("a prompt is given by --prompt")
        found[name] = _value(value)
    return found


def _value(text: str) -> object:
    for pattern, kind in _NUMBERS:
        if re.fullmatch(pattern, text):
            return kind(text)
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    path = Path(text).expanduser()
    named = path.suffix.lower() in Image.registered_extensions()
    try:
        if named or path.is_file():
            return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except UnidentifiedImageError:
        if named:
            raise _no_call(f"{text} is no image that can be read") from None
    except OSError as error:
        raise _no_call(f"the image {text} cannot be read: {error.strerror or error}") from None
    return text


def _no_call(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--call")
