"""Algebra of batched linear operators: sums, multiples, averages, Gram operators, estimates.

`Algebra` gives it to every class with the members of `krylov.BlockOperator`, `JacobianOperator`
above all; the results have those members too, so that `krylov.svd` takes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, cast

import torch
from scipy.special import stdtrit

if TYPE_CHECKING:
    from pullback.krylov import BlockOperator


@dataclass(frozen=True)
class Estimate:
    """A randomised estimate with its confidence interval.

    Attributes:
        value: the estimate, `[B]` or `[B, *x_shape]`, float64.
        low: lower end of the interval, of the same shape.
        high: upper end of the interval.
        confidence: probability with which the interval holds the truth, entry by entry.
        samples: random vectors that were used.
    """

    value: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    confidence: float
    samples: int


class Algebra:
    """Sums, differences, multiples, averages and estimates of batched linear operators.

    For classes that have the members of `krylov.BlockOperator`. Operators that are combined must
    agree in batch, shapes, dtype and device.
    """

    def __add__(self, other: BlockOperator) -> Combination:
        """A + B."""
        if not hasattr(other, "rmatmat"):
            return NotImplemented
        return Combination([(1.0, _operator(self)), (1.0, other)])

    def __sub__(self, other: BlockOperator) -> Combination:
        """A - B, for example of two conditions at the same latents."""
        if not hasattr(other, "rmatmat"):
            return NotImplemented
        return Combination([(1.0, _operator(self)), (-1.0, other)])

    def __mul__(self, factor: float) -> Combination:
        """A times a number."""
        try:
            return Combination([(float(factor), _operator(self))])
        except (TypeError, ValueError):
            return NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Combination:
        """A divided by a number."""
        return self * (1 / divisor)

    def __neg__(self) -> Combination:
        """-A."""
        return self * -1.0

    def gram(self) -> Gram:
        """AᵀA: for a Jacobian the pullback metric."""
        return Gram(_operator(self))

    def mean(self, samples: int | None = None) -> Mean:
        """All samples as one, whose Gram operator is E[AᵀA]; see `Mean`."""
        return Mean(_operator(self), samples)

    def trace(self, samples: int = 32, *, seed: int = 0, confidence: float = 0.95) -> Estimate:
        """Hutchinson's estimate of tr A for a square operator: the mean of zᵀAz, z random signs.

        tr AᵀA, the sum of the squared singular values, is `operator.gram().trace()`.

        Args:
            samples: random vectors, two or more; the interval shrinks with their square root.
            seed: of the vectors, the same for every sample of the batch.
            confidence: of the interval, that of Student's t: it takes the estimates of single
                vectors as normally distributed.

        Returns:
            An `Estimate` of shape `[B]`.

        Raises:
            ValueError: the operator is not square, or fewer than two vectors are asked for.

        Cost: B `samples` products.
        Source: Hutchinson 1990.
        """
        operator = _operator(self)
        return _estimate(operator, samples, seed, confidence, lambda z, image: (z * image).sum(2))

    def diag(self, samples: int = 32, *, seed: int = 0, confidence: float = 0.95) -> Estimate:
        """Estimate of the diagonal of a square operator: the mean of z ⊙ Az, z random signs.

        That of `operator.gram()` tells how strongly each entry of x moves the features.

        Args:
            samples: random vectors, two or more.
            seed: of the vectors.
            confidence: of the interval of each entry, as for `trace`.

        Returns:
            An `Estimate` of shape `[B, *x_shape]`.

        Raises:
            ValueError: the operator is not square, or fewer than two vectors are asked for.

        Cost: B `samples` products.
        Source: Bekas, Kokiopoulou, Saad 2007.
        """
        operator = _operator(self)
        found = _estimate(operator, samples, seed, confidence, lambda z, image: z * image)
        shape = operator.x_shape
        value, low, high = (
            part.unflatten(1, shape) for part in (found.value, found.low, found.high)
        )
        return Estimate(value, low, high, found.confidence, found.samples)


def _operator(mixed: Algebra) -> BlockOperator:
    """The same object under the type that it has as well."""
    return cast("BlockOperator", mixed)


class Combination(Algebra):
    """Σ_i c_i A_i of operators with the same batch, shapes, dtype and device.

    Args:
        terms: pairs of a number c_i and an operator A_i.

    Raises:
        ValueError: there is no term, or two operators differ in shape, batch, dtype or device.
    """

    def __init__(self, terms: Sequence[tuple[float, BlockOperator]]) -> None:
        if not terms:
            raise ValueError("Expected one or more operators to combine, got none.")
        first = terms[0][1]
        for _, other in terms[1:]:
            for name in ("batch", "x_shape", "h_shape", "dtype", "device"):
                ours, theirs = getattr(first, name), getattr(other, name)
                if ours != theirs:
                    raise ValueError(
                        f"Expected operators of one {name}, got {ours} and {theirs}. Operators can "
                        "be added where they map the same space to the same space."
                    )
        self.terms = tuple((float(factor), operator) for factor, operator in terms)
        self.batch, self.x_shape, self.h_shape = first.batch, first.x_shape, first.h_shape
        self.dtype, self.device = first.dtype, first.device

    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """Σ c_i A_i v, `[B, k, *x_shape]` to `[B, k, *h_shape]`."""
        return _sum(factor * operator.matmat(v) for factor, operator in self.terms)

    def rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        """Σ c_i A_iᵀ u, `[B, k, *h_shape]` to `[B, k, *x_shape]`."""
        return _sum(factor * operator.rmatmat(u) for factor, operator in self.terms)

    def select(self, index: torch.Tensor) -> Combination:
        """The combination for some of the samples."""
        return Combination([(factor, operator.select(index)) for factor, operator in self.terms])

    def release(self) -> None:
        """Free what the operators keep between products."""
        for _, operator in self.terms:
            _call(operator, "release")

    def prepare(self, columns: int) -> None:
        """Let the operators get ready for many products of one width."""
        for _, operator in self.terms:
            _call(operator, "prepare", columns)


class Mean(Algebra):
    """All samples of an operator as one: its Gram operator is E[AᵀA], the mean over the batch.

    As a linear map it stacks A_b / √B, so that its singular values and right singular vectors are
    those of the mean metric: the directions that matter for all samples together. Products go
    through the samples a few at a time, of which nothing is kept in between; `gram()`, E[AᵀA]
    itself, never holds the images of more than `samples` of them.

    Args:
        operator: the operator, of any batch.
        samples: samples in one product; all by default.
    """

    def __init__(self, operator: BlockOperator, samples: int | None = None) -> None:
        self.operator = operator
        self.samples = operator.batch if samples is None else samples
        if self.samples < 1:
            raise ValueError(f"Expected one or more samples in a product, got {samples}.")
        self.batch, self.x_shape = 1, operator.x_shape
        self.h_shape = (operator.batch, *operator.h_shape)
        self.dtype, self.device = operator.dtype, operator.device
        whole = torch.arange(operator.batch, device=operator.device)
        self._parts = [
            operator if len(part) == operator.batch else operator.select(part)
            for part in whole.split(self.samples)
        ]
        self._scale = 1 / math.sqrt(operator.batch)

    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """`[1, k, *x_shape]` to `[1, k, B, *h_shape]`."""
        images = [self._image(part, v).movedim(0, 1) for part in self._parts]
        return torch.cat(images, dim=1).unsqueeze(0) * self._scale

    def rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        """`[1, k, B, *h_shape]` to `[1, k, *x_shape]`."""
        blocks = u[0].movedim(1, 0).split(self.samples)
        total = _sum(map(self._pulled, self._parts, blocks))
        return (total * self._scale).to(self.dtype).unsqueeze(0)

    def normal(self, v: torch.Tensor) -> torch.Tensor:
        """E[AᵀA] v, `[1, k, *x_shape]` to the same. Cost: two products of A a column and sample."""
        total = _sum(self._pulled(part, self._image(part, v)) for part in self._parts)
        return (total * self._scale**2).to(self.dtype).unsqueeze(0)

    def _image(self, part: BlockOperator, v: torch.Tensor) -> torch.Tensor:
        return part.matmat(v.expand(part.batch, *v.shape[1:]))

    def _pulled(self, part: BlockOperator, u: torch.Tensor) -> torch.Tensor:
        """The sum over the samples of a part, in float64."""
        pulled = part.rmatmat(u).double().sum(0)
        if len(self._parts) > 1:
            _call(part, "release")  # or the activations of all samples would add up
        return pulled

    def select(self, index: torch.Tensor) -> Mean:
        """Itself: there is one sample."""
        if index.tolist() != [0]:
            raise IndexError(f"Expected the one sample of a mean, [0], got {index.tolist()}.")
        return self

    def release(self) -> None:
        """Free what the operators keep between products."""
        for part in self._parts:
            _call(part, "release")


class Gram(Algebra):
    """AᵀA, the pullback metric as a symmetric operator on x.

    Args:
        operator: A.
    """

    def __init__(self, operator: BlockOperator) -> None:
        self.operator = operator
        self.batch, self.x_shape, self.h_shape = operator.batch, operator.x_shape, operator.x_shape
        self.dtype, self.device = operator.dtype, operator.device

    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """AᵀA v, `[B, k, *x_shape]` to `[B, k, *x_shape]`. Cost: two products of A a column."""
        if isinstance(self.operator, Mean):
            return self.operator.normal(v)
        return self.operator.rmatmat(self.operator.matmat(v))

    def rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        """The same as `matmat`."""
        return self.matmat(u)

    def select(self, index: torch.Tensor) -> Gram:
        """The operator of some of the samples."""
        return Gram(self.operator.select(index))

    def release(self) -> None:
        """Free what A keeps between products."""
        _call(self.operator, "release")

    def prepare(self, columns: int) -> None:
        """Let A get ready for many products of one width."""
        _call(self.operator, "prepare", columns)


def _estimate(
    operator: BlockOperator,
    samples: int,
    seed: int,
    confidence: float,
    of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Estimate:
    n = math.prod(operator.x_shape)
    if n != math.prod(operator.h_shape):
        raise ValueError(
            f"Expected a square operator, got one from {operator.x_shape} to {operator.h_shape}. "
            "The trace and diagonal of AᵀA are those of operator.gram()."
        )
    if samples < 2 or not 0 < confidence < 1:
        raise ValueError(
            f"Expected two or more samples and a confidence between 0 and 1, got {samples} and "
            f"{confidence}."
        )
    generator = torch.Generator("cpu").manual_seed(seed)
    width = max(1, min(samples, 16))
    mean: torch.Tensor | None = None
    squares: torch.Tensor | None = None
    count = 0
    while count < samples:
        rows = min(width, samples - count)
        signs = torch.randint(0, 2, (rows, n), generator=generator) * 2.0 - 1.0
        z = signs.to(operator.device, operator.dtype).expand(operator.batch, rows, n)
        image = operator.matmat(z.unflatten(2, operator.x_shape)).flatten(2)
        drawn = of(z.double(), image.double())  # [B, rows, ...]
        for one in drawn.unbind(1):  # Welford's running mean and sum of squares
            count += 1
            if mean is None or squares is None:
                mean, squares = one.clone(), torch.zeros_like(one)
                continue
            change = one - mean
            mean = mean + change / count
            squares = squares + change * (one - mean)
    assert mean is not None
    assert squares is not None
    width_of_error = float(stdtrit(count - 1, 0.5 + confidence / 2))
    error = (squares / (count - 1) / count).sqrt() * width_of_error
    return Estimate(mean, mean - error, mean + error, confidence, count)


def _sum(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum, one part at a time."""
    return reduce(torch.add, parts)


def _call(operator: object, name: str, *args: object) -> None:
    method = getattr(operator, name, None)
    if method is not None:
        method(*args)
