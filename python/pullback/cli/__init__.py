"""The command line: `pullback basis`, `edit`, `directions` and others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pullback.cli.entry import main

if TYPE_CHECKING:
    from pullback.cli.application import app

__all__ = ["app", "main"]


def __getattr__(name: str) -> object:
    # Loaded when it is used, so that `main` runs, and heeds signals, before anything else.
    if name == "app":
        from pullback.cli.application import app

        return app
    raise AttributeError(f"module 'pullback.cli' has no attribute {name!r}")
