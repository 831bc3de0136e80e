"""The `pullback` command, put together from its commands.

What computes is imported inside the commands, so that usage errors and `--help` do not wait for
it. Results go to stdout, progress and errors to stderr. Exit codes: 0, 1 for an error, 2 for wrong
usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import sys

import typer

from pullback.cli.basis import basis, demo
from pullback.cli.errors import INTERRUPTED, reported, tell
from pullback.cli.info import info, taps

app = typer.Typer(
    name="pullback",
    help="Local latent bases of diffusion models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (basis, demo, taps, info):
    app.command()(reported(command))


def main() -> None:
    """Entry point of the `pullback` command."""
    try:
        app()
    except KeyboardInterrupt:
        tell(INTERRUPTED)
        sys.exit(130)
