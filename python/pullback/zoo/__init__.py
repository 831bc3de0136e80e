"""Small models trained by this project, with their training recipes and model cards."""

from __future__ import annotations

from pathlib import Path

import torch

_HERE = Path(__file__).parent

#: Folder of each model in diffusers format, and its null condition per sample.
MODELS: dict[str, tuple[Path, dict[str, torch.Tensor]]] = {
    "digits": (_HERE / "digits" / "model", {"class_labels": torch.tensor(10, device="cpu")}),
}
