"""What the checks of the twins share: the texts of errors, and which dtype goes with which."""

from __future__ import annotations

from typing import NoReturn

import torch

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def fail(text: str) -> NoReturn:
    """Raises what the native operators raise."""
    raise RuntimeError(text)


def shape_text(tensor: torch.Tensor) -> str:
    """``[8, 50, 16384]``."""
    return "[" + ", ".join(str(size) for size in tensor.shape) + "]"


def dtype_text(tensor: torch.Tensor) -> str:
    """``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the orthonormal rows: float64 for a float64 block, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
