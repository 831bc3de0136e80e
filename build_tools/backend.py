"""PEP 517 build backend: setuptools, plus a say in what an isolated build installs first.

A list of build requirements fixed in pyproject.toml would have to name torch, and every isolated
build would then download its own copy of it, a copy that need not be the one in use. The hooks
below ask for torch only where the target environment has none; see ``toolchain.py``.
"""

from __future__ import annotations

import sys

from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

import toolchain

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """What to install before building a wheel, beyond pyproject.toml's own list."""
    del config_settings
    try:
        return toolchain.build_requirements()
    except toolchain.BuildError as problem:
        sys.exit(f"pullback: {problem}")


get_requires_for_build_editable = get_requires_for_build_wheel
