"""The `pullback` command, put together from its commands.

What computes is imported inside the commands, so that usage errors and `--help` do not wait for
it. Results go to stdout, progress and errors to stderr. Exit codes: 0, 1 for an error, 2 for wrong
usage, 130 for Ctrl-C, 143 for SIGTERM.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

from pullback.cli.analyse import analyse
from pullback.cli.basis import basis, demo
from pullback.cli.directions import directions
from pullback.cli.edit import edit
from pullback.cli.errors import reported
from pullback.cli.global_directions import global_directions
from pullback.cli.info import info, taps
from pullback.cli.path import path
from pullback.cli.profile import profile
from pullback.cli.run import run
from pullback.cli.transport import transport

app = typer.Typer(
    name="pullback",
    help="Local latent bases of diffusion models, edits along them, and what lies between them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "basis": basis,
    "edit": edit,
    "transport": transport,
    "path": path,
    "global": global_directions,
    "analyse": analyse,
    "demo": demo,
    "profile": profile,
    "taps": taps,
    "info": info,
}
for name, command in COMMANDS.items():
    app.command(name)(reported(command))
app.add_typer(directions, name="directions")
app.add_typer(run, name="run")
