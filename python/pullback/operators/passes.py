"""How products are cut into passes that fit the memory, and how many were made."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pullback.operators.memory import default_budget, heap_rows

#: What a pass needs, in units of the plain forward pass of one sample: a tangent some times the
#: most bytes alive at once, and what is kept of the point at most all bytes made. Of recordings
#: 0.5 to 1.6 and 0.3 to 0.5 on nine networks, 0.6 while one is made; by `torch.func` a tangent goes
#: through rules that make several temporaries each.
_NEED_RECORDED = (2, 1)
_NEED_TRANSFORMED = (4, 1)


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
    from what its forward pass has alive at one time, and makes in all. `rows` limits the product
    of samples and tangents where larger passes would fit but be slower; it takes samples away and
    leaves the tangents of one sample together, since they share its primal.
    """

    samples: int
    tangents: int
    budget: int
    bytes_per_tangent: int
    bytes_per_closure: int
    rows: int | None = None

    def cut(self, columns: int) -> tuple[int, int]:
        """Samples and tangents in a pass of a product with that many columns."""
        tangents = max(1, min(self.tangents, columns))
        if self.rows is None:
            return self.samples, tangents
        return max(1, min(self.samples, self.rows // tangents)), tangents

    def keeps(self, batch: int, columns: int) -> bool:
        """Whether the activations of a batch may stay between products with that many columns."""
        samples, tangents = self.cut(columns)
        activations = batch * self.bytes_per_closure
        need = activations + samples * tangents * self.bytes_per_tangent
        # Several passes share a batch either for speed, or since the memory takes no more at once.
        room = samples >= batch or (self.rows is not None and need <= self.budget)
        return activations <= self.budget // 2 and room

    def width(self, samples: int) -> int:
        """Columns in a pass of some samples, whatever their number was planned for."""
        if self.rows is None or samples == 1:
            return self.tangents
        return max(1, min(self.tangents, self.rows // samples))

    def room(self, samples: int) -> bool:
        """Whether a pass may have so many samples, with a tangent each."""
        need = samples * (self.bytes_per_tangent + self.bytes_per_closure)
        return need <= self.budget and (self.rows is None or samples <= self.rows)

    def halve(self) -> bool:
        """Ask for half as much in one pass; False when there is nothing left to halve."""
        if self.tangents > 1:
            self.tangents = (self.tangents + 1) // 2
        elif self.samples > 1:
            self.samples = (self.samples + 1) // 2
        else:
            return False
        if self.rows is not None:
            self.rows = (self.rows + 1) // 2  # or fewer tangents would make room for more samples
        return True

    def __str__(self) -> str:
        mib = 2.0**20
        kept = self.keeps(self.samples, self.tangents)
        return (
            f"{self.samples} samples x {self.tangents} tangents a pass within "
            f"{self.budget / mib:.0f} MiB (about {self.bytes_per_tangent / mib:.2f} MiB a tangent "
            f"and sample; activations {self.bytes_per_closure / mib:.2f} MiB a sample, "
            f"{'kept' if kept else 'recomputed'} between products)"
        )


def plan(
    batch: int,
    chunk: int | str,
    memory: int | None,
    usage: tuple[int, int],
    device: torch.device,
    *,
    recorded: bool = True,
) -> Chunk:
    """Passes within a budget.

    Args:
        batch: number of samples.
        chunk: tangents in a pass, or "auto".
        memory: the budget in bytes; None for a share of what is free.
        usage: bytes of one sample's forward pass: the most alive at once, and all that are made.
        device: where the passes run.
        recorded: whether products run recorded linear maps, and not `torch.func`.
    """
    budget = default_budget(device) if memory is None else memory
    factors = _NEED_RECORDED if recorded else _NEED_TRANSFORMED
    tangent, closure = (max(1, factor * size) for factor, size in zip(factors, usage, strict=True))
    rows = heap_rows(usage[0], device)
    most = batch if rows is None else min(batch, rows)
    samples = max(1, min(most, budget // (tangent + closure)))
    left = budget - samples * closure
    tangents = int(chunk) if chunk != "auto" else max(1, left // (samples * tangent))
    return Chunk(samples, tangents, budget, tangent, closure, rows)


def too_large(device: torch.device, reason: str) -> MemoryError:
    """The error for a pass that cannot be made any smaller."""
    first = (reason.strip() or "out of memory.").splitlines()[0]
    return MemoryError(
        f"One tangent of one sample does not fit the memory of {device}: {first} Use a smaller "
        "dtype, an earlier tap, or a device with more memory."
    )
