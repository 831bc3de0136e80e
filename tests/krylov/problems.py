"""Random problems for the solver, most of them of the kind that has misled it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pullback.testing import MatrixOperator, leading, with_spectrum


@dataclass
class Problem:
    """One batch of operators with what is asked of them.

    Attributes:
        kind: what the spectrum is like, and whether the start is warm.
        matrices: `[B, m, n]`, float32 or float64.
        rank: triplets asked for.
        quality: of the answer.
        init: vectors to start from, or None.
        seed: of the solver.
    """

    kind: str
    matrices: torch.Tensor
    rank: int
    quality: str
    seed: int
    init: torch.Tensor | None = None

    def operator(self) -> MatrixOperator:
        return MatrixOperator(self.matrices)


class Drawing:
    """Draws problems, always the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def whole(self, low: int, high: int) -> int:
        """A whole number between two others, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def pick(self, *options):
        return options[self.whole(0, len(options) - 1)]

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    # ------------------------------------------------------------------------------- spectra

    def tail(self, count: int) -> torch.Tensor:
        """Descending values from 1 down, of one of the common shapes."""
        i = torch.arange(count, dtype=torch.float64)
        return self.pick(
            lambda: self.between(0.5, 0.98) ** i,
            lambda: (1 + i) ** -self.between(0.4, 2),
            lambda: 1 / (1 + torch.exp((i - self.between(2, 15)) / self.between(0.5, 3))),
            lambda: (
                torch.rand(count, generator=self.generator, dtype=torch.float64)
                .sort(descending=True)
                .values
            ),
            lambda: 0.3 + 0.7 * 0.9**i,
        )()

    def ordinary(self, count: int, rank: int) -> torch.Tensor:
        return self.tail(count)

    def gap(self, count: int, rank: int) -> torch.Tensor:
        """A gap right after the rank, or a few values away from it."""
        at = max(1, rank + self.whole(-2, 2))
        s = self.tail(count)
        s[at:] *= self.between(0.05, 0.95)
        return s

    def cluster(self, count: int, rank: int) -> torch.Tensor:
        """Copies of one value, exact or nearly so, above, across or below the rank."""
        copies = self.whole(2, 30)
        first = max(0, rank - self.whole(-3, copies))
        s = self.tail(count)
        value = float(s[min(first, count - 1)]) if first else 1.0
        spread = self.pick(0.0, 0.0, 10 ** self.between(-7, -1.5))
        i = torch.arange(copies, dtype=torch.float64)
        inside = value * (1 - spread * i / copies)
        below = inside[-1] * self.between(0.2, 0.99) * s / s[0]
        return torch.cat([s[:first], inside, below])[:count]

    def repeated(self, count: int, rank: int) -> torch.Tensor:
        """Every value the same number of times, as in maps with equal channels."""
        return self.tail(count).repeat_interleave(self.whole(2, 12))[:count]

    def tie(self, count: int, rank: int) -> torch.Tensor:
        """The value at the rank and the one after it agree, exactly or nearly."""
        s = self.tail(count)
        if rank < count:
            s[rank] = s[rank - 1] * (1 - self.pick(0.0, 10 ** self.between(-8, -2)))
            s[rank:] = s[rank:].clamp_max(float(s[rank]))
        return s

    def deficient(self, count: int, rank: int) -> torch.Tensor:
        """Some values are zero or tiny."""
        s = self.tail(count)
        s[self.whole(1, max(1, 2 * rank)) :] *= self.pick(0.0, 10 ** self.between(-6, -2))
        return s

    # ------------------------------------------------------------------------------ problems

    def blur(self, batch: int, dtype: torch.dtype) -> torch.Tensor:
        """A blur of an image with three channels, in random bases."""
        side, width = self.whole(6, 11), self.between(0.5, 2.0)
        i = torch.arange(side, dtype=torch.float64)
        distance = torch.minimum(i, side - i)
        kernel = torch.exp(-((distance / width) ** 2))
        line = torch.stack([kernel.roll(k) for k in range(side)]) / kernel.sum()
        whole = torch.kron(torch.eye(3, dtype=torch.float64), torch.kron(line, line))
        return whole.expand(batch, *whole.shape).to(dtype).contiguous()

    def problem(self, batch: int = 5) -> Problem:
        rank = self.pick(1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20)
        quality = self.pick("draft", "standard", "tight")
        dtype = self.pick(torch.float32, torch.float64)
        kind = self.pick(
            "ordinary",
            "gap",
            "cluster",
            "cluster",
            "cluster",
            "repeated",
            "tie",
            "deficient",
            "blur",
        )
        if kind == "blur":
            matrices = self.blur(batch, dtype)
        else:
            n = self.whole(rank + 1, self.pick(40, 120, 120, 300))
            m = self.whole(rank + 1, self.pick(40, 120, 120, 300))
            s = getattr(self, kind)(min(m, n), rank).sort(descending=True).values
            matrices = with_spectrum(s, m, n, batch, dtype, self.whole(0, 2**40))
        init = None
        if self.whole(0, 2) == 0:
            kind += ", warm"
            init = self.incomplete(matrices, rank)
        return Problem(kind, matrices, rank, quality, self.whole(0, 2**40), init)

    def incomplete(self, matrices: torch.Tensor, rank: int) -> torch.Tensor:
        """True directions of which some are missing, exact or disturbed."""
        more = min(rank + self.whole(0, 3), min(matrices.shape[1:]))
        v = leading(matrices, more)[2]
        kept = [i for i in range(more) if self.whole(0, 2) > 0] or [more - 1]
        v = v[:, kept]
        noise = torch.randn(v.shape, generator=self.generator, dtype=torch.float64)
        return (v + self.pick(0.0, 1e-3, 0.1) * noise / v.shape[2] ** 0.5).to(matrices.dtype)
