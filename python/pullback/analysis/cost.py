"""What finding a direction costs: rows that went through the network, and seconds."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pullback.models import LatentModel, check_model


@dataclass
class Cost:
    """What a block of code took: made by `counted`.

    Attributes:
        rows: samples that the network was called with, one by one, also by calls that end at a tap
            and by those whose values a product with a Jacobian needs. Tangents are not counted:
            results of bases say their products.
        calls: of the network.
        seconds: of wall clock, to the end of the work on a GPU.
    """

    rows: int = 0
    calls: int = 0
    seconds: float = 0.0


@contextmanager
def counted(model: LatentModel) -> Iterator[Cost]:
    """Count what the network of a model is called with inside a `with` block.

    Args:
        model: the model.

    Yields:
        The cost, which is whole when the block has ended.

    Raises:
        TypeError: the model is none, or its network no module.
    """
    check_model(model)
    network = model.network
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"Expected a model whose network is a module, got a {type(network).__name__}, whose "
            "calls nobody can see. Put the function into the forward of a torch.nn.Module."
        )
    signature = inspect.signature(network.forward)
    found = Cost()

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = signature.bind(*args, **kwargs)
        values = (*given.args, *given.kwargs.values())
        batch = next(one for one in values if isinstance(one, torch.Tensor) and one.dim())
        found.rows += len(batch)
        found.calls += 1

    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    _wait(model.device)
    begin = time.perf_counter()
    try:
        yield found
    finally:
        _wait(model.device)
        found.seconds = time.perf_counter() - begin
        handle.remove()


def _wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
