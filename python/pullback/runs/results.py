"""Files of results that are no bases and no edits: tensors, with their settings in the header.

A file is written whole or not at all. It is read where all its settings are those that are asked
for now; files of other settings are never overwritten unasked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pullback._files import write_safetensors
from pullback.runs.settings import (
    check_same,
    damaged,
    header_of,
    json_of,
    mapping_of,
    settings_of_summary,
)
from pullback.runs.store import summary_path

_HEADER = "result"


def write_result(
    path: Path,
    form: str,
    tensors: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write one file of results.

    Args:
        path: the file, in a folder that exists.
        form: its format, such as "pullback.path/1".
        tensors: by name.
        settings: all that the numbers depend on.
        provenance: how they were found, as JSON has it.
    """
    told = {"format": form, "settings": settings, "provenance": provenance}
    write_safetensors(path, tensors, {_HEADER: json.dumps(told)})


def check_result(path: Path, form: str, settings: Mapping[str, Any]) -> bool:
    """Whether a file of results is there, with these settings.

    Raises:
        ValueError: it has other settings, or is damaged.
    """
    if not path.exists():
        return False
    there = mapping_of(path, "header", json_of(path, header_of(path).get(_HEADER, "null")))
    if there.get("format") != form:
        raise damaged(path, f"expected the format {form!r}")
    check_same(path, mapping_of(path, "settings", there.get("settings")), settings)
    return True


def read_result(
    path: Path, form: str, settings: Mapping[str, Any], shapes: Mapping[str, list[int]]
) -> dict[str, torch.Tensor] | None:
    """The tensors of a file of results, by name; None where there is none.

    Args:
        path: the file.
        form: its format.
        settings: all that the numbers depend on.
        shapes: of the tensors that are expected, by name.

    Raises:
        ValueError: it has other settings, or is damaged.
    """
    if not check_result(path, form, settings):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: the tensors lie in the file, which may be replaced.
            found = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise damaged(path, str(error)) from error
    got = {name: list(one.shape) for name, one in found.items()}
    if got != dict(shapes):
        raise damaged(path, f"expected tensors {dict(shapes)}, got {got}")
    if not all(bool(torch.isfinite(one).all()) for one in found.values()):
        raise damaged(path, "expected finite numbers, got NaN or Inf")
    return found


def check_command(folder: Path, form: str) -> dict[str, Any] | None:
    """The settings in the summary of a folder; None where it has no summary.

    Args:
        folder: an existing folder.
        form: the format that the summary must have.

    Raises:
        ValueError: it is the summary of another command, or is damaged.
    """
    path = summary_path(folder)
    return settings_of_summary(path, form) if path.exists() else None


def check_summary(folder: Path, form: str, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raise unless a folder has no summary, or one of this format with these settings.

    Args:
        folder: an existing folder.
        form: the format of its summary.
        settings: all that the numbers depend on.
        overwrite: whether files of other settings may be replaced.

    Raises:
        ValueError: it is the summary of another command, has other settings, or is damaged.
    """
    there = check_command(folder, form)
    if there is not None and not overwrite:
        check_same(summary_path(folder), there, settings)
