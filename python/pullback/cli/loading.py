"""The model that a command is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pullback import _garbage

if TYPE_CHECKING:
    import torch

    from pullback.models import LatentModel

DTYPES = ("float32", "float64", "bfloat16", "float16")


def load(
    name: str, device: str, dtype: str | None, call: Mapping[str, object] | None = None
) -> LatentModel:
    """Read a model from the zoo, a folder or the hub.

    Args:
        name: of the model.
        device: where it is put.
        dtype: in which it is read; None for float32.
        call: keyword arguments that the pipeline's call needs.

    Raises:
        ValueError: there is no such dtype or device, or the model cannot be read.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"Expected --dtype to be one of {', '.join(DTYPES)}, got {dtype!r}.")
    import torch

    from pullback import models

    kind: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
    model = models.load(name, device=device, dtype=kind, call=call or None)
    _garbage.loaded()
    return model
