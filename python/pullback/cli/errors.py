"""Errors of a command, as its user reads them."""

from __future__ import annotations

import functools
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import typer

from pullback.cli.signals import INTERRUPTED

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
        except (BrokenPipeError, typer.Exit):
            raise  # the reader of the output has left, and typer ends quietly; or all is said
        except _USER_ERRORS as error:
            if debug:
                raise
            tell(_said(error))
            raise typer.Exit(1) from None

    return run


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror is not None:  # in the words of the system
        return (
            f"{error.filename or 'The output'} cannot be read or written: {error.strerror}. Files "
            "that were finished before are kept: mend that, and call this again."
        )
    return " ".join(str(error).split()) or type(error).__name__


def tell(message: str) -> None:
    """One paragraph on stderr."""
    # Names of files stay whole, to be copied.
    text = textwrap.fill(f"pullback: {message}", 96, break_on_hyphens=False, break_long_words=False)
    print(text, file=sys.stderr)
