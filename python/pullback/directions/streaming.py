"""Principal components of rows that come in batches, of which only a few are ever held."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pullback._memory import check_free
from pullback._numbers import whole

_EXTRA = 10  # rows kept beyond the rank, at least
_BLOCK = 32  # rows merged at once, at least
_ENTRIES = 1 << 21  # of the float64 copies that are worked on

#: Deviation of rows, as a share of their mean, that is nothing but rounding in float64.
_CONSTANT = 1e-13
_ROUNDING = 4.0  # steps of the dtype, that a merge may add to a singular value


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """Principal components of N rows of d numbers: made by `StreamingPCA.result`.

    Attributes:
        mean: of the rows, `[d]`, in the dtype of the components.
        components: `[k, d]`, orthonormal, in float32 or float64, by falling deviation. The entry of
            largest magnitude of each is positive.
        deviations: standard deviations of the rows along them, `[k]`, float64, with N − 1.
        ratios: their shares of the variance, `[k]`, float64.
        variance: of the rows, summed over all d numbers, with N − 1.
        lost: share of the variance that merges dropped. The true variance along each component is
            at least the one told, and the i-th largest exceeds the i-th one told by this share of
            the whole at most; 0 up to rounding where the rows lie in no more dimensions than are
            kept.
        count: rows, N.
    """

    mean: torch.Tensor
    components: torch.Tensor
    deviations: torch.Tensor
    ratios: torch.Tensor
    variance: float
    lost: float
    count: int


class StreamingPCA:
    """Principal components of rows that come in batches.

    What is kept of all rows so far is their number, their mean and `rank + extra` weighted rows,
    the leading ones of a thin SVD. A block of new rows is merged with them by the SVD of the old
    weighted rows, the new centred ones, and one for the difference of the means, which is exact as
    long as all rows lie in no more than `rank + extra` dimensions; `lost` bounds the error
    otherwise. Blocks have a fixed number of rows, whatever the batches in which these come, so that
    the result does not depend on those.

    Args:
        rank: components that can be asked for.
        extra: rows kept beyond them, for accuracy; by default as many again, at least 10. Of 20,000
            trajectories of the digit model (rank 25, 7,680 numbers each) that leaves the span of
            the components at a sine of 1e-2 to the exact one, and 1,275 leave it below 1e-5:
            `python -m benchmarks pca` measures both.

    Raises:
        ValueError: rank or extra is no whole number, or too small.

    Cost: of rows of d numbers, 12 (rank + extra) d operations each, in float64. It holds rank +
    extra rows and a block of as many (at least 32) in float32, or float64 where the rows are, and
    twice that while it merges.
    Source: Ross et al. 2008, doi:10.1007/s11263-007-0075-7, for the row of the means.
    """

    def __init__(self, rank: int, *, extra: int | None = None) -> None:
        self._rank = whole("rank", rank, 1)
        more = max(self._rank, _EXTRA) if extra is None else whole("extra", extra, 0)
        self._keep = self._rank + more
        self._kept: _Block | None = None
        self._waiting: torch.Tensor | None = None
        self._filled = 0

    def __len__(self) -> int:
        """Rows that were added."""
        return self._filled + (0 if self._kept is None else self._kept.count)

    def add(self, rows: torch.Tensor) -> None:
        """Take in rows.

        Args:
            rows: `[n, d]`, finite, in a floating dtype, of the same d every time. Those that come
                first say where the work is done, and whether in float64.

        Raises:
            TypeError: they are no tensor.
            ValueError: they are of another shape, not finite, or of fewer numbers than the rank.
            MemoryError: what is held of such rows does not fit the device.
        """
        _check(rows)
        rows = rows.detach()
        waiting = self._waiting
        if waiting is None:
            waiting = self._start(rows)
        elif rows.shape[1] != waiting.shape[1]:
            raise ValueError(
                f"Expected rows of {waiting.shape[1]} numbers, as those before, got "
                f"{rows.shape[1]}."
            )
        while len(rows):
            part = rows[: len(waiting) - self._filled]
            waiting[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            rows = rows[len(part) :]
            if self._filled == len(waiting):
                self._kept, self._filled = self._all(), 0

    def merge(self, other: StreamingPCA) -> None:
        """Take in the rows of another one, which stays as it is.

        Raises:
            TypeError: it is no `StreamingPCA`.
            ValueError: it has rows of other numbers of entries, or keeps fewer components.
        """
        if not isinstance(other, StreamingPCA):
            raise TypeError(f"Expected a StreamingPCA, got {type(other).__name__}.")
        if other._rank < self._rank:
            raise ValueError(
                f"Expected a StreamingPCA of a rank of at least {self._rank}, got {other._rank}. "
                "Merge this one into that."
            )
        if not len(other):
            return
        theirs = other._all()
        if self._waiting is None:
            self._start(theirs.rows)
        assert self._waiting is not None
        if len(theirs.mean) != self._waiting.shape[1]:
            raise ValueError(
                f"Expected a StreamingPCA of rows of {self._waiting.shape[1]} numbers, got one of "
                f"{len(theirs.mean)}."
            )
        theirs = theirs.to(self._waiting)
        if len(self):
            theirs = _merged(self._all(), theirs, self._keep)
        self._kept, self._filled = theirs, 0

    def result(self, rank: int | None = None) -> PrincipalAxes:
        """The components of all rows so far; more may be added afterwards.

        Args:
            rank: components; by default as many as were announced.

        Raises:
            ValueError: rank is larger than announced, or the rows are too few, or vary in fewer
                directions.
        """
        rank = self._rank if rank is None else whole("rank", rank, 1, self._rank)
        count = len(self)
        if count < 2:
            raise ValueError(f"Expected two rows or more, which can vary, got {count}.")
        if rank > count - 1:
            raise ValueError(
                f"Expected a rank of at most {count - 1} for {count} rows, got {rank}. Use more "
                "rows, or a smaller rank."
            )
        found = self._all()
        values, vectors = _eigen([found.rows])
        self._check_varies(found, values, rank)
        rows = _rotated(vectors[:, :rank].T, [found.rows], found.rows.dtype)
        return PrincipalAxes(
            mean=found.mean.to(rows.dtype),
            components=_signed(rows),
            deviations=(values[:rank] / (count - 1)).sqrt(),
            ratios=values[:rank] / found.total,
            variance=found.total / (count - 1),
            lost=found.lost / found.total,
            count=count,
        )

    def _start(self, rows: torch.Tensor) -> torch.Tensor:
        """Room `[n, d]` for the rows of a block, for rows `[*, d]` like these."""
        size = rows.shape[1]
        if self._rank > size:
            raise ValueError(
                f"Expected a rank of at most {size}, the numbers of a row, got {self._rank}."
            )
        self._keep = min(self._keep, size)
        dtype, block = torch.promote_types(rows.dtype, torch.float32), max(self._keep, _BLOCK)
        check_free(
            2 * (self._keep + block) * size * dtype.itemsize,
            rows.device,
            f"{self._keep + block} rows of {size} numbers, and as many while they are merged,",
            "Ask for a smaller rank, or rows of fewer numbers: features that are pooled over space "
            '(pool="space"), or of fewer steps.',
        )
        self._waiting = rows.new_empty(block, size, dtype=dtype)
        return self._waiting

    def _all(self) -> _Block:
        """All rows so far as one block, with those that wait."""
        if not self._filled:
            assert self._kept is not None
            return self._kept
        assert self._waiting is not None
        new = _centred(self._waiting[: self._filled])
        return new if self._kept is None else _merged(self._kept, new, self._keep)

    @staticmethod
    def _check_varies(found: _Block, values: torch.Tensor, rank: int) -> None:
        """Raise ValueError unless rows vary in as many directions, beyond rounding."""
        largest = math.sqrt(float(values[0]))
        if largest <= _CONSTANT * float(found.mean.norm()) * math.sqrt(found.count):
            raise ValueError(f"Expected rows that vary, got {found.count} equal ones.")
        # Products of rows resolve half the digits of float64.
        step = max(torch.finfo(found.rows.dtype).eps, math.sqrt(torch.finfo(torch.float64).eps))
        floor = _ROUNDING * step * math.sqrt(1 + found.merges) * largest
        varying = int((values.sqrt() > floor).sum())
        if rank > varying:
            raise ValueError(
                f"Expected a rank of at most {varying}, in which the {found.count} rows vary up to "
                f"rounding, got {rank}."
            )


@dataclass(frozen=True, eq=False)
class _Block:
    """What is known of some rows.

    Attributes:
        count: how many.
        mean: `[d]`, float64.
        rows: weighted rows `[r, d]`, whose products RᵀR are those of the centred rows but for what
            was lost.
        total: sum of squares of the centred rows.
        lost: the part of it that was dropped.
        merges: how often rows were rounded.
    """

    count: int
    mean: torch.Tensor
    rows: torch.Tensor
    total: float
    lost: float
    merges: int

    def to(self, like: torch.Tensor) -> _Block:
        """The same, on the device and in the dtype of a tensor `[...]`."""
        mean, rows = self.mean.to(like.device), self.rows.to(like)
        return _Block(self.count, mean, rows, self.total, self.lost, self.merges)


def _check(rows: object) -> None:
    """Raise unless they are finite rows `[n, d]`."""
    if not isinstance(rows, torch.Tensor):
        raise TypeError(f"Expected rows as a tensor [n, d], got {type(rows).__name__}.")
    if rows.dim() != 2 or not rows.numel() or not rows.is_floating_point():
        raise ValueError(
            f"Expected rows [n, d] in a floating dtype, at least one, got {list(rows.shape)} in "
            f"{rows.dtype}."
        )
    finite = torch.isfinite(rows).all(1)
    if not bool(finite.all()):
        raise ValueError(
            f"Expected finite rows, got NaN or Inf in {torch.nonzero(~finite).flatten().tolist()}."
        )


def _centred(rows: torch.Tensor) -> _Block:
    """A block of rows `[n, d]`, which are left as they are."""
    mean = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for row in rows:  # one by one, so that the float64 copy is of one
        mean += row.double()
    mean /= len(rows)
    centred, total = torch.empty_like(rows), 0.0
    for place, row in enumerate(rows):
        difference = row.double() - mean
        total += float(difference.square().sum())
        centred[place] = difference
    return _Block(len(rows), mean, centred, total, 0.0, 0)


def _merged(one: _Block, two: _Block, keep: int) -> _Block:
    """Two blocks as one, of at most `keep` weighted rows."""
    count = one.count + two.count
    change = two.mean - one.mean
    weight = one.count * two.count / count
    parts = [one.rows, two.rows, math.sqrt(weight) * change[None]]
    lost = one.lost + two.lost
    if sum(map(len, parts)) <= keep:
        rows = torch.cat([part.to(one.rows.dtype) for part in parts])
    else:
        values, vectors = _eigen(parts)
        rows = _rotated(vectors[:, :keep].T, parts, one.rows.dtype)
        lost += float(values[keep:].sum())
    return _Block(
        count=count,
        mean=one.mean + change * (two.count / count),
        rows=rows,
        total=one.total + two.total + weight * float(change.square().sum()),
        lost=lost,
        merges=max(one.merges, two.merges) + 1,
    )


def _eigen(parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared singular values `[p]`, falling, and left singular vectors `[p, p]` of stacked rows.

    Both are float64, on the CPU.
    """
    size = sum(map(len, parts))
    gram = torch.zeros(size, size, dtype=torch.float64, device=parts[0].device)
    for columns in _pieces(parts):
        piece = torch.cat([part[:, columns].double() for part in parts])
        gram += piece @ piece.T
    values, vectors = torch.linalg.eigh(gram.cpu())
    return values.flip(0).clamp_min(0), vectors.flip(1)


def _rotated(by: torch.Tensor, parts: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Combinations `[r, d]` of stacked rows, by coefficients `[r, p]`."""
    first = parts[0]
    by = by.to(first.device)
    rows = first.new_empty(len(by), first.shape[1], dtype=dtype)
    for columns in _pieces(parts):
        rows[:, columns] = (by @ torch.cat([part[:, columns].double() for part in parts])).to(dtype)
    return rows


def _pieces(parts: Sequence[torch.Tensor]) -> Iterator[slice]:
    """Columns of stacked rows `[p, d]`, a few at a time, to be copied to float64."""
    width = max(1, _ENTRIES // sum(map(len, parts)))
    size = parts[0].shape[1]
    return (slice(start, min(start + width, size)) for start in range(0, size, width))


def _signed(rows: torch.Tensor) -> torch.Tensor:
    """Rows `[k, d]` divided by their norms, their entries of largest magnitude positive."""
    for row in rows:
        wide = row.double()
        largest = wide[wide.abs().argmax()]
        row.copy_(wide / torch.linalg.vector_norm(wide) * largest.sign())
    return rows
