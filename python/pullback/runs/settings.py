"""What every file of a run carries: the settings that it was made with, read and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pullback._version import __version__
from pullback.models import LatentModel


def settings_of_model(model: LatentModel, *, labelled: bool) -> dict[str, Any]:
    """All that numbers depend on beside what is asked for: the model and the versions, as JSON.

    Args:
        model: the model.
        labelled: whether conditions are class labels, of which nothing has to be made; all else
            comes of prompts or the null condition.

    Cost: all weights of the network are read once, and those of the text encoders where there are
    no class labels.
    """
    return {
        "model": model.name,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "scheduler": model.schedule.fingerprint,
        "conditions": None if labelled else model.conditions.fingerprint,
        "call": model.given,
        "latent_shape": list(model.latent_shape),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        # Each of them decides how the numbers are rounded, and may mend what was wrong.
        "pullback": __version__,
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
    }


#: What to do about results of other settings, which may be replaced.
REPLACE = "Choose another --output folder to keep it, or replace it with --overwrite."
#: What to do about a run of another plan, which stays.
ANOTHER = "Choose another folder, or ask for what the plan says: the plan of a run does not change."


def check_same(
    path: Path, there: Mapping[str, Any], settings: Mapping[str, Any], advice: str = REPLACE
) -> None:
    """Raise ValueError, with what differs, unless a file was made with these settings."""
    changed = changes(there, settings)
    if changed:
        raise ValueError(f"{path} has other settings: {changed:.2000}. {advice}")


def changes(there: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What differs between settings that are there and those of now; empty where nothing does.

    The timestep counts where the settings have one.
    """
    names = [*settings, *(name for name in there if name not in settings and name != "t")]
    return ", ".join(
        f"{name} {there.get(name, 'unknown')} (now {settings.get(name, 'unknown')})"
        for name in names
        if name not in there or name not in settings or there[name] != settings[name]
    )


def settings_of_summary(path: Path, form: str) -> dict[str, Any]:
    """The settings in a summary of one format.

    Raises:
        As `summary_of`.
    """
    return mapping_of(path, "settings", summary_of(path, form).get("settings"))


def summary_of(path: Path, form: str) -> dict[str, Any]:
    """A summary of one format.

    Raises:
        ValueError: it is damaged, or the summary of another command, whose files lie beside it.
    """
    try:
        told = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no JSON: {error}") from None
    found = told.get("format") if isinstance(told, dict) else None
    kind = str(found).partition("/")[0]
    if kind.startswith("pullback.") and kind != form.partition("/")[0]:
        raise ValueError(
            f"{path} is of another command ({found}), whose files lie beside it. Choose another "
            "--output folder."
        )
    if found != form:
        raise damaged(path, f"expected the format {form!r}")
    return mapping_of(path, "the summary", told)


def header_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from error


def json_of(path: Path, text: str) -> Any:
    """A value of its header."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no JSON in its header: {error}") from None


def mapping_of(path: Path, name: str, value: Any) -> dict[str, Any]:
    """A value that has to be a mapping."""
    if not isinstance(value, dict):
        raise damaged(path, f"expected {name} as a mapping, got {value!r:.60}")
    return value


def damaged(path: Path, what: str) -> ValueError:
    """The error of a file that cannot be read."""
    return ValueError(f"{path} is damaged ({what}). Compute it again with --overwrite.")
