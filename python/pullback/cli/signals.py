"""What Ctrl-C and its like do to the program."""

from __future__ import annotations

import os
import signal
from types import FrameType

from pullback._files import discard_unfinished

INTERRUPTED = "interrupted. Finished files are complete; the same command goes on from them."

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heed() -> list[signal.Signals]:
    """End the process at these signals from now on; those that it was made to ignore it ignores."""
    heeded = [one for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    for one in heeded:
        signal.signal(one, _end)
    return heeded


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
