"""Loads the native library once; on failure keeps the cause and the command that cures it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
from dataclasses import dataclass
from types import ModuleType

import torch  # first: the library's undefined symbols are torch's

OLDEST_TORCH = (2, 10)

_REINSTALL = "pip install --force-reinstall --no-deps pullback (in a checkout: pip install .)"


@dataclass(frozen=True)
class Failure:
    """Why the native library is not loaded, and the command that cures it."""

    cause: str
    cure: str

    def __str__(self) -> str:
        return (
            f"the native library of pullback is not loaded: {self.cause}. To cure it: {self.cure}"
        )


def torch_release(version: str) -> tuple[int, int]:
    """``(major, minor)`` of a version string such as ``2.10.0a0+git1234`` or ``2.13.0+cpu``."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


@functools.cache
def _load() -> tuple[ModuleType | None, Failure | None]:
    if os.environ.get("PULLBACK_EXT_DISABLE") == "1":
        return None, Failure(
            "the environment variable PULLBACK_EXT_DISABLE=1 forbids it",
            "unset PULLBACK_EXT_DISABLE",
        )
    # Before the library is opened: against an older torch it would fail on a missing symbol.
    if torch_release(torch.__version__) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        return None, Failure(
            f"it needs torch {oldest} or newer and this is torch {torch.__version__}",
            f'pip install "torch>={oldest}"',
        )
    if importlib.util.find_spec("pullback_ext._native") is None:
        return None, Failure(
            f"there is no _native module for this Python in {os.path.dirname(__file__)}", _REINSTALL
        )
    try:
        return importlib.import_module("pullback_ext._native"), None
    except ImportError as error:
        return None, Failure(f"it could not be opened ({error})", _REINSTALL)


def native() -> ModuleType | None:
    """The native module, or None when it could not be loaded."""
    return _load()[0]


def failure() -> Failure | None:
    """Why there is no native module; None when there is one."""
    return _load()[1]
