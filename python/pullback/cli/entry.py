"""Where the `pullback` program begins and ends: signals, streams and the exit code.

It imports nothing that takes long: a signal that comes while the rest is imported finds its
handler.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from pullback._files import discard_unfinished

INTERRUPTED = "interrupted. Finished files are complete; the same command goes on from them."

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Entry point of the `pullback` command."""
    # What a shell or nohup has made us ignore stays ignored.
    heeded = [one for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    for one in heeded:
        signal.signal(one, _end)
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal does not know must not cost the results.
        if stream is not None:  # as where it was closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
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


def _end(number: int, _frame: FrameType | None) -> None:
    """End the process at once.

    Raising here would not do: an exception inside a callback of another library, or in a
    destructor, is dropped, and the run goes on. Results are moved to their places when they are
    complete, so nothing is lost.
    """
    discard_unfinished()
    name = signal.Signals(number).name
    said = INTERRUPTED if number == signal.SIGINT else INTERRUPTED.replace(
        "interrupted", f"ended by {name}"
    )  # fmt: skip
    # Progress bars hide the cursor. Streams may be in the midst of a write, the descriptor is not.
    shown = "\x1b[?25h\n" if os.isatty(2) else ""
    os.write(2, f"{shown}pullback: {said}\n".encode())
    os._exit(128 + number)


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
