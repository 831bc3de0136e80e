"""Where the `pullback` program begins and ends: streams and the exit code."""

from __future__ import annotations

import os
import signal
import sys

from pullback import _garbage
from pullback.cli.signals import heed


def main() -> None:
    """Entry point of the `pullback` command."""
    heeded = heed()
    _garbage.loading()
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal does not know must not cost the results.
        if stream is not None:  # as where it was closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # Imported now, since it takes long: signals that come meanwhile find their handlers.
    from pullback.cli.application import app

    try:
        app()
    except SystemExit as ended:
        code = ended.code
    else:
        code = 0
    # What was asked for is done; the interpreter only takes itself down.
    for one in heeded:
        signal.signal(one, signal.SIG_IGN)
    sys.exit(code or _flushed())


def _flushed() -> int:
    """The exit code of writing what is left for stdout: an error where it cannot be written."""
    if sys.stdout is None:
        return 0
    try:
        sys.stdout.flush()
    except OSError as error:
        # Else the interpreter tries again, and complains in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # the reader of the output has left
            from pullback.cli.errors import tell

            tell(
                f"The output could not be written: {error.strerror}. The files are complete; call "
                "this again with an output that can be written."
            )
        return 1
    return 0
