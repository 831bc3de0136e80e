"""Reports of results: tables on a page, between marks that say what wrote them, and a picture."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import typer
from matplotlib.figure import Figure

from pullback._files import write_json
from pullback.figures import save

Results = dict[str, Any]
_END = "<!-- end of table -->"
_TEXT = ("what", "value", "way", "difference", "space", "attribute", "layer", "site")


@dataclass(frozen=True)
class Report:
    """What shows the results of one command.

    Attributes:
        command: what measures, such as "python -m pullback.zoo.digits.edits".
        tables: by the name that a page's mark has.
        curves: draws the picture.
        style: of matplotlib.
    """

    command: str
    tables: Mapping[str, Callable[[Results], str]]
    curves: Callable[[Results], Figure]
    style: Any

    def write(self, results: Path, page: Path | None, picture: Path | None) -> None:
        """Tables into a page, where its marks are, and curves into a picture, from a JSON file.

        Raises:
            ValueError: the page lacks the mark of a table.
        """
        found = json.loads(results.read_text("utf-8"))
        if page is not None:
            text = replaced(page.read_text("utf-8"), self.command, self.tables, found)
            page.write_text(text, "utf-8")
        if picture is not None:
            with matplotlib.rc_context(self.style):
                save(self.curves(found), picture)

    def run(self, measure: Callable[[Callable[[str], None]], Results], kept: Path) -> None:
        """The command line of `command`.

        Args:
            measure: measures all; called with what tells a line on what comes next.
            kept: where the results are by default.
        """

        def main(
            results: Annotated[Path, typer.Option(help="JSON file of the results.")] = kept,
            page: Annotated[
                Path | None,
                typer.Option(help="Page whose tables are written anew; see its marks."),
            ] = None,
            picture: Annotated[Path | None, typer.Option(help="PNG file of the curves.")] = None,
            again: Annotated[
                bool, typer.Option(help="Measure; else the results are read and only shown.")
            ] = True,
        ) -> None:
            """Measure, and write tables and a picture of what was found."""
            if again:
                write_json(results, measure(typer.echo))
            self.write(results, page, picture)
            typer.echo(f"The results are in {results}.")

        typer.run(main)


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
