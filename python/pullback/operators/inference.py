"""Products in inference mode: computed outside it, on plain tensors.

Before 2.12 `torch.func` answers with zeros in inference mode, without a word (pytorch#177318), and
tensors that were made in it cannot be differentiated with any torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def plain(value: Any) -> Any:
    """The value itself, or a copy of a tensor that was made in inference mode."""
    is_inference = isinstance(value, torch.Tensor) and value.is_inference()
    return value.clone() if is_inference else value


def outside_inference_mode(method: FunctionT) -> FunctionT:
    """Runs a method outside inference mode, with plain tensors as arguments."""

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Leaving inference mode switches gradients on, whatever they were.
        grad = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(grad):
            values = {name: plain(value) for name, value in kwargs.items()}
            return method(self, *map(plain, args), **values)

    return run  # type: ignore[return-value]
