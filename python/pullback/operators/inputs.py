"""What must hold of the arguments of an operator before anything is computed."""

from __future__ import annotations

import torch

from pullback._numbers import whole


def check_function(f: object) -> None:
    """Raise TypeError unless f can be called."""
    if not callable(f):
        raise TypeError(
            f"Expected f as a function of x and args, got {type(f).__name__}. Pass a function or "
            "a module that maps [B, *x_shape] to [B, *h_shape]."
        )


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError unless a value is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"Expected {name} as a tensor, got {type(value).__name__}. Convert it with "
            "torch.as_tensor."
        )


def check_point(x: torch.Tensor) -> None:
    """Raise unless x is a finite, floating-point batch of points."""
    check_tensor("x", x)
    if not x.is_floating_point():
        raise TypeError(
            f"Expected x in a floating dtype, got {x.dtype}. Convert it with x.to(torch.float32)."
        )
    if x.layout != torch.strided:
        raise TypeError(
            f"Expected x as a dense tensor, got one of layout {x.layout}. Convert it with "
            "x.to_dense()."
        )
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(
            f"Expected x of shape [B, *x_shape] with at least one sample, got {tuple(x.shape)}. "
            "Add a batch dimension with x.unsqueeze(0)."
        )
    if not torch.isfinite(x).all():
        bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"x contains NaN or Inf in samples {bad}. Expected finite points; the usual causes "
            "are a half-precision overflow while sampling and a wrong scaling of the input."
        )


def check_args(args: tuple[object, ...], batch: int) -> None:
    """Raise ValueError unless every tensor of args has the batch as its first size."""
    for position, value in enumerate(args):
        if isinstance(value, torch.Tensor) and (value.dim() == 0 or value.shape[0] != batch):
            raise ValueError(
                f"Expected every tensor of args to have the batch of x, {batch}, as its "
                f"first size; argument {position} has shape {tuple(value.shape)}. Expand it "
                "to one row per sample."
            )


def check_chunk(chunk: object) -> None:
    """Raise ValueError unless chunk is "auto" or a positive integer."""
    if chunk != "auto" and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
        raise ValueError(f'Expected chunk to be "auto" or a positive integer, got {chunk!r}.')


def check_memory(memory: object) -> int | None:
    """A memory budget as an int; raises ValueError unless it is a positive number of bytes."""
    if memory is None:
        return None
    if isinstance(memory, float) and memory.is_integer():
        memory = int(memory)  # 1e9 is how some people write a number of bytes
    try:
        return whole("memory", memory, low=1)
    except ValueError:
        raise ValueError(
            f"Expected a positive memory budget in bytes, a whole number such as 4 * 2**30, got "
            f"{memory!r}."
        ) from None


def check_block(
    block: torch.Tensor, batch: int, shape: tuple[int, ...], name: str, shape_name: str
) -> None:
    """Raise unless a block is `[batch, k, *shape]` in a floating dtype.

    Args:
        block: what was given.
        batch: samples of the operator.
        shape: shape of one vector.
        name: what messages call the block.
        shape_name: what messages call the shape.
    """
    check_tensor(name, block)
    if block.dim() != len(shape) + 2 or (block.shape[0], *block.shape[2:]) != (batch, *shape):
        expected = ", ".join(map(str, (batch, "k", *shape)))
        raise ValueError(
            f"Expected {name} of shape [B, k, *{shape_name}] = [{expected}], got "
            f"{list(block.shape)}."
        )
    if not block.is_floating_point():
        raise TypeError(
            f"Expected {name} in a floating dtype, got {block.dtype}. Convert it with "
            f"{name}.to(torch.float32)."
        )
