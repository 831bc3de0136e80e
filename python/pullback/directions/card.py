"""The model card of a direction: what the hub reads at its head, and what people read below."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

_SPACES = {
    "x": "latents x_t",
    "h": "the feature h at a tap of the network",
    "prompt": "the embedding of the prompt",
}

_LONGEST = 200  # characters of a value in the table


def text(fields: Mapping[str, Any], source: str, pictures: Iterable[str]) -> str:
    """A README.md in Markdown.

    Args:
        fields: of the direction.
        source: what `from_pretrained` is to be given to read it.
        pictures: names of the pictures beside the card.
    """
    head = ModelCardData(
        library_name="pullback",
        tags=["pullback", "diffusion", "latent-direction"],
        base_model=_hub_id(fields["provenance"].get("model")),
    )
    name = _plain(fields["name"]) or "A direction"
    shape = list(fields["vector"].shape)
    parts = [
        f"---\n{head.to_yaml()}\n---",
        f"# {name}",
        "A semantic direction of a diffusion model: one unit vector in "
        f"{_SPACES[fields['space']]}. Read and applied with the Python library pullback.",
        *(f"![{_plain(picture)}]({picture})" for picture in pictures),
        "## Use",
        "```python\nimport pullback\n\n"
        f"direction = pullback.Direction.from_pretrained({json.dumps(source)})\n"
        f"change = direction.displacement(1.0)  # {shape}, to be added in its space\n```",
        "`direction.check_fits(model)` raises where a model cannot take it, and warns where it was "
        "found with other weights.",
        "## Fields",
        _table(_rows(fields)),
        "## Provenance",
        _table(fields["provenance"]) if fields["provenance"] else "Not known.",
    ]
    return "\n\n".join(parts) + "\n"


def _rows(fields: Mapping[str, Any]) -> dict[str, Any]:
    vector, window = fields["vector"], fields["window"]
    return {
        "space": fields["space"],
        "tap": fields["tap"],
        "pool": fields["pool"],
        "shape": list(vector.shape),
        "dtype": str(vector.dtype).removeprefix("torch."),
        "found at t (training units)": fields["t"],
        "applied from, to (training units)": None if window is None else list(window),
        "unit (norm that strength 1 adds)": fields["unit"],
    }


def _table(rows: Mapping[str, Any]) -> str:
    lines = ["| field | value |", "|---|---|"]
    for name, value in rows.items():
        told = value if isinstance(value, str) else json.dumps(value)
        told = told if len(told) <= _LONGEST else told[:_LONGEST] + "…"
        lines.append(f"| {_plain(name)} | {'—' if value is None else _plain(told)} |")
    return "\n".join(lines)


def _plain(words: str) -> str:
    """Words of others as one line of Markdown that shows them and does nothing else."""
    line = "".join(letter if letter.isprintable() else " " for letter in words)
    return re.sub(r"([\\`*_{}\[\]()<>|#!~&:])", r"\\\1", line)


def _hub_id(model: str | None) -> str | None:
    """The model's name where it is a hub id, and not a folder of two parts that lies here."""
    if model is None or model.count("/") != 1 or Path(model).exists():
        return None
    try:
        validate_repo_id(model)
    except HFValidationError:
        return None
    return model
