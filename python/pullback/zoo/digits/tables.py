"""Tables of results on pages of the documentation, each between marks that say what wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Results = dict[str, Any]
_END = "<!-- end of table -->"
_TEXT = ("what", "value", "way", "difference")


def write_page(
    page: Path, command: str, tables: Mapping[str, Callable[[Results], str]], found: Results
) -> None:
    """Write the tables of a page anew, where its marks are.

    Raises:
        ValueError: the page lacks the mark of a table.
    """
    page.write_text(replaced(page.read_text("utf-8"), command, tables, found), "utf-8")


def mark(command: str, name: str) -> str:
    """What stands before a table on the page."""
    return f"<!-- table: {command} ({name}) -->"


def replaced(
    page: str, command: str, tables: Mapping[str, Callable[[Results], str]], found: Results
) -> str:
    """The text of a page with its tables written anew."""
    for name, table in tables.items():
        begin = mark(command, name)
        before, seen, rest = page.partition(begin)
        if not seen or _END not in rest:
            raise ValueError(f"The page has no table between {begin!r} and {_END!r}.")
        page = f"{before}{begin}\n\n{table(found)}\n{_END}{rest.partition(_END)[2]}"
    return page


def table_of(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; columns of numbers stand to the right."""
    names = list(names)
    lines = [names, ["---" if name in _TEXT else "---:" for name in names], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def interval(value: dict[str, float]) -> str:
    """A mean with its interval."""
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def verdict(value: dict[str, float] | None) -> str:
    """A difference with its interval: bold where it is not zero, and marked where it is below."""
    if value is None:
        return "not reached"
    if value["low"] > 0:
        return f"**+{interval(value)}**"
    if value["high"] < 0:
        return f"**{interval(value)}** (below)"
    return f"{interval(value)} (none shown)"
