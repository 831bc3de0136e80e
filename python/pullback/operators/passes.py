"""How products are cut into passes that fit the memory, and how many were made."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pullback.operators.memory import default_budget

#: What a pass needs, in units of the plain forward pass of one sample: a tangent some times the
#: most bytes alive at once (it goes beside the primal, through rules that make several temporaries
#: each), the vjp closure at most all bytes made.
_NEED = (4, 1)

#: What a `TangentGraph` keeps per sample and column, in units of a vjp closure.
_GRAPH_NEED = 4


@dataclass
class ProductCount:
    """How many single-sample products an operator and its selections have made."""

    jvp: int = 0
    vjp: int = 0

    @property
    def total(self) -> int:
        """Products with J and with its transpose together."""
        return self.jvp + self.vjp


@dataclass
class Chunk:
    """How a product is cut into passes: samples and tangents (or cotangents) in one pass.

    `bytes_per_tangent` and `bytes_per_closure` are what one sample needs, in bytes: estimates
    from what its forward pass has alive at one time, and makes in all.
    """

    samples: int
    tangents: int
    budget: int
    bytes_per_tangent: int
    bytes_per_closure: int

    @property
    def keep_closure(self) -> bool:
        """Whether the activations of all samples may stay in memory between products."""
        return self.samples * self.bytes_per_closure <= self.budget // 2

    def keep_graph(self, batch: int, columns: int) -> bool:
        """Whether a `TangentGraph` of all samples fits half the budget."""
        need = _GRAPH_NEED * batch * columns * self.bytes_per_closure
        return columns <= self.tangents and need <= self.budget // 2

    def halve(self) -> bool:
        """Ask for half as much in one pass; False when there is nothing left to halve."""
        if self.tangents > 1:
            self.tangents = (self.tangents + 1) // 2
        elif self.samples > 1:
            self.samples = (self.samples + 1) // 2
        else:
            return False
        return True

    def __str__(self) -> str:
        mib = 2.0**20
        return (
            f"{self.samples} samples x {self.tangents} tangents a pass within "
            f"{self.budget / mib:.0f} MiB (about {self.bytes_per_tangent / mib:.2f} MiB a tangent "
            f"and sample; activations {self.bytes_per_closure / mib:.2f} MiB a sample, "
            f"{'kept' if self.keep_closure else 'recomputed'} between products)"
        )


def plan(
    batch: int, chunk: int | str, memory: int | None, usage: tuple[int, int], device: torch.device
) -> Chunk:
    """Passes within a budget.

    Args:
        batch: number of samples.
        chunk: tangents in a pass, or "auto".
        memory: the budget in bytes; None for a share of what is free.
        usage: bytes of one sample's forward pass: the most alive at once, and all that are made.
        device: where the passes run.

    Raises:
        ValueError: the budget is not positive.
    """
    budget = default_budget(device) if memory is None else int(memory)
    if budget <= 0:
        raise ValueError(f"Expected a positive memory budget in bytes, got {memory}.")
    tangent, closure = (max(1, factor * size) for factor, size in zip(_NEED, usage, strict=True))
    samples = max(1, min(batch, budget // (tangent + closure)))
    left = budget - samples * closure
    tangents = int(chunk) if chunk != "auto" else max(1, left // (samples * tangent))
    return Chunk(samples, tangents, budget, tangent, closure)


def too_large(device: torch.device, reason: str) -> MemoryError:
    """The error for a pass that cannot be made any smaller."""
    first = (reason.strip() or "out of memory.").splitlines()[0]
    return MemoryError(
        f"One tangent of one sample does not fit the memory of {device}: {first} Use a smaller "
        "dtype, an earlier tap, or a device with more memory."
    )
