"""What the solver can be asked for: its options, their defaults and their checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pullback import _numbers
from pullback.krylov.blocks import MOST_ROWS
from pullback.operators import BlockOperator

#: Bounds on the sine of the largest principal angle between the answer and the truth.
QUALITIES = {"draft": 5e-2, "standard": 2e-3, "tight": 1e-4}

#: Products per sample after which to stop, by default, for every direction asked for.
PRODUCTS_PER_DIRECTION = 100


@dataclass(frozen=True)
class Progress:
    """What a `progress=` callback is told after every step.

    `products` is the sum over samples so far, `active` the samples still running and
    `angle_bound` the largest bound among them (inf until there is one).
    """

    products: int
    samples: int
    active: int
    angle_bound: float
    tol: float


#: Called after every step.
Report = Callable[[Progress], None]


def tolerance(quality: str, tol: float | None) -> float:
    """The bound on the sine that a quality or an explicit tol stands for.

    Raises:
        ValueError: unknown quality, or tol outside (0, 1).
    """
    if tol is not None:
        if not 0 < tol < 1:
            raise ValueError(
                f"Expected tol between 0 and 1 (a bound on the sine of an angle), got {tol}."
            )
        return float(tol)
    if quality not in QUALITIES:
        known = ", ".join(f'"{name}" ({bound:g})' for name, bound in QUALITIES.items())
        raise ValueError(f"Expected quality to be one of {known}, got {quality!r}.")
    return QUALITIES[quality]


def whole(name: str, value: object) -> int:
    """A value as an int, whatever integer type it has.

    Raises:
        ValueError: it is not a whole number of 64 bits; the solver compares it with such.
    """
    return _numbers.whole(name, value, -(2**63), 2**63 - 1)


def check_rank(rank: int, n: int, m: int) -> int:
    """The rank as an int; raises ValueError unless 1 <= rank <= min(n, m)."""
    if not 1 <= whole("rank", rank) <= min(n, m):
        raise ValueError(
            f"Expected rank to be a whole number between 1 and min(n, m) = min({n}, {m}) = "
            f"{min(n, m)}, got {rank!r}."
        )
    return whole("rank", rank)


def check_block(block: int) -> int:
    """The rows of a block as an int; raises ValueError unless they are 2 to `MOST_ROWS`."""
    rows = whole("block", block)
    if not 2 <= rows <= MOST_ROWS:
        raise ValueError(
            f"Expected block to be at least 2 and at most {MOST_ROWS}, got {block}: from one row "
            "at a time a singular value that occurs twice cannot be told from one that occurs "
            "once, and larger blocks only take more products."
        )
    return rows


def default_block(rank: int) -> int:
    """Rows of one block: small blocks need the fewest products.

    It depends on the rank alone and not on the number of samples, so that a sample's answer does
    not depend on its batch.
    """
    block = max(2, math.ceil(rank / 2) if rank <= 16 else math.ceil(rank / 5))
    return min(block, MOST_ROWS)


def check_init(init: torch.Tensor, operator: BlockOperator) -> None:
    """Raise unless init is a finite tensor `[B, p, *x_shape]` for the operator."""
    if not isinstance(init, torch.Tensor):
        raise TypeError(
            f"Expected init as a tensor, got {type(init).__name__}. Convert it with "
            "torch.as_tensor."
        )
    shape = operator.x_shape
    if init.dim() != len(shape) + 2 or (init.shape[0], *init.shape[2:]) != (
        operator.batch,
        *shape,
    ):
        expected = ", ".join(map(str, (operator.batch, "p", *shape)))
        raise ValueError(
            f"Expected init of shape [B, p, *x_shape] = [{expected}], got {list(init.shape)}."
        )
    if not torch.isfinite(init).all():
        raise ValueError(
            "init contains NaN or Inf. Expected finite vectors: pass the v of a basis, or leave "
            "init out for a random start."
        )
