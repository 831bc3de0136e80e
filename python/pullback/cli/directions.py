"""`pullback directions`: the table of methods, each of them, and comparisons of what they found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pullback.cli import find
from pullback.cli.errors import reported
from pullback.cli.options import AsJson, Debug


def methods(
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """Every way to find directions: what it needs, what it costs, and its source."""
    from pullback.cli.directions_execution import list_methods

    list_methods(find.COMMANDS, as_json=as_json)


def compare(
    files: Annotated[list[Path], typer.Argument(help="Files of directions, two or more in all.")],
    subspace: Annotated[
        Path | None,
        typer.Option(help="File of local bases: how much of each direction lies in them."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "--out", "-o", help="PNG of their angles.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """Cosines between directions, and how much of them lies in a tangent space."""
    from pullback.cli.directions_execution import execute_compare

    execute_compare(files, subspace, output, as_json=as_json)


directions = typer.Typer(help="Directions by every method, and comparisons.", no_args_is_help=True)
finding = typer.Typer(help="Find directions by a method.", no_args_is_help=True)
for name, command in find.COMMANDS.items():
    finding.command(name)(reported(command))
directions.command("list")(reported(methods))
directions.add_typer(finding, name="find")
directions.command("compare")(reported(compare))
