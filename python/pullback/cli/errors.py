"""Errors of a command, as its user reads them."""

from __future__ import annotations

import functools
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import typer

INTERRUPTED = "interrupted. Finished files are complete; the same command goes on from them."

#: What a user can cause and cure; anything else is a defect, and shows its traceback.
_USER_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    MemoryError,
    FloatingPointError,
    RuntimeError,
    ImportError,
)


def reported(function: Callable[..., None]) -> Callable[..., None]:
    """Errors of a command as one paragraph on stderr, and the exit code that goes with them.

    Args:
        function: the command; its option `debug` lets errors through, with their traceback.
    """

    @functools.wraps(function)
    def run(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            function(*args, debug=debug, **kwargs)
        except KeyboardInterrupt:
            tell(INTERRUPTED)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise  # the reader of the output has left: typer ends quietly
        except _USER_ERRORS as error:
            if debug:
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            tell(message)
            raise typer.Exit(1) from None

    return run


def tell(message: str) -> None:
    """One paragraph on stderr."""
    print(textwrap.fill(f"pullback: {message}", 96), file=sys.stderr)
