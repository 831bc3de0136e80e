"""What would make a computation of bases faster, each with a number that was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pullback.operators import JacobianOperator
from pullback.profiling import kinds
from pullback.profiling.clock import least
from pullback.profiling.machine import Machine

#: A smaller share of the wall time is not worth a change.
_LEAST = 0.05

#: Kinds of work that go as fast as matrices are multiplied, and as fast as tensors are moved.
_ARITHMETIC = (kinds.CONVOLUTION, kinds.LINEAR, kinds.ATTENTION)
_MOVING = (kinds.NORMALIZATION, kinds.ELEMENTWISE, kinds.COPIES)


@dataclass(frozen=True)
class Advice:
    """One change.

    Attributes:
        change: "more samples", "wider block", "smaller chunk" or "lower dtype".
        gain: the part of the wall time of a sample that it is expected to save.
        text: what to do, and the measurement behind the number.
    """

    change: str
    gain: float
    text: str


def advise(
    operator: Callable[[int, int | None], JacobianOperator],
    block: tuple[int, int],
    shares: Mapping[str, float],
    products: float,
    machine: Machine,
) -> tuple[Advice, ...]:
    """The changes that pay, the largest gain first.

    Args:
        operator: makes the operator of the samples repeated so many times, with so many tangents in
            a pass (None for as many as are planned).
        block: samples and columns of most products.
        shares: of the wall time, by kind of work.
        products: share of the products in the wall time.
        machine: what the device can do.

    Cost: some twenty products of each kind with such a block.
    """
    _, columns = block
    usual = operator(1, None)
    halved = operator(1, max(1, columns // 2)) if columns > 1 else usual
    times = least(
        {
            "usual": _both(usual, columns),
            "wide": _both(usual, 2 * columns),
            "halved": _both(halved, columns),
            "many": _both(operator(2, None), columns),
        },
        usual.device,
        rounds=2,
    )
    wide, many = (1 - times[name] / times["usual"] / 2 for name in ("wide", "many"))
    halves = 1 - times["halved"] / times["usual"]
    fixed = shares[kinds.CHECKING] / 2
    batch = usual.batch
    found = [
        Advice(
            "more samples",
            fixed + products * many,
            f"Take {2 * batch} samples at a time in place of {batch}: a product then takes "
            f"{_percent(many)} less for each, and the checks are shared by more.",
        ),
        Advice(
            "wider block",
            products * wide,
            f"Multiply {2 * columns} columns at a time in place of {columns}, with block="
            f"{2 * columns} of pullback.krylov.svd: a product then takes {_percent(wide)} less for "
            "each. The gain is smaller if more products are needed, so compare both.",
        ),
        Advice(
            "smaller chunk",
            products * halves,
            f"Pass chunk={max(1, columns // 2)}: products in passes of that many columns take "
            f"{_percent(halves)} less than with {columns} at once.",
        ),
        *_lower(shares, machine),
    ]
    worth = [one for one in found if one.gain >= _LEAST]
    return tuple(sorted(worth, key=lambda one: -one.gain))


def _lower(shares: Mapping[str, float], machine: Machine) -> list[Advice]:
    """Half precision, where the machine multiplies matrices faster in it."""
    if machine.half_rate is None or machine.half_rate <= machine.gemm_rate:
        return []
    faster = machine.half_rate / machine.gemm_rate
    arithmetic = sum(shares[kind] for kind in _ARITHMETIC)
    moving = sum(shares[kind] for kind in _MOVING)
    size = torch.finfo(getattr(torch, machine.dtype)).bits // 16
    bytes_ = {2: "half", 4: "a quarter"}[size]
    return [
        Advice(
            "lower dtype",
            arithmetic * (1 - 1 / faster) + moving * (1 - 1 / size),
            f"Run the network in {machine.half_dtype}: here it multiplies matrices {faster:.1f} "
            f"times as fast as in {machine.dtype} ({_percent(arithmetic)} of the time) and moves "
            f"{bytes_} of the bytes ({_percent(moving)}). Bounds on the "
            "error are then those of half precision.",
        )
    ]


def _both(operator: JacobianOperator, columns: int) -> Callable[[], None]:
    """A product of each kind with a random block of so many columns."""
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (operator.batch, columns, *operator.x_shape)
    v = torch.randn(shape, generator=generator, device="cpu").to(operator.device, operator.dtype)

    def run() -> None:
        operator.rmatmat(operator.matmat(v))

    return run


def _percent(part: float) -> str:
    return f"{max(part, 0.0):.0%}".replace("%", " %")
