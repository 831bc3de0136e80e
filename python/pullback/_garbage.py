"""When Python looks for garbage: not while modules are imported, since what they make stays.

torch and diffusers make a million objects, and looking through all that is there again and again
takes a third of the time in which they are imported.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_usual: tuple[int, int, int] | None = None


@contextmanager
def paused() -> Iterator[None]:
    """Do not look inside, nor where it was off already outside."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def loading() -> None:
    """Look rarely, until `loaded`: for a program that imports as it goes."""
    global _usual
    if _usual is None:
        _usual = gc.get_threshold()
        gc.set_threshold(100_000)


def loaded() -> None:
    """Look as often as before `loading`, but no more at what is there now; without it nothing."""
    global _usual
    if _usual is not None:
        gc.freeze()
        gc.set_threshold(*_usual)
        _usual = None
