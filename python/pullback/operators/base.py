"""Batched linear operators known by their products, and their algebra.

`BlockOperator` is what `pullback.krylov.svd` takes. Sums, multiples, Gram operators and stacks of
operators are operators again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from scipy.sparse.linalg import LinearOperator

from pullback.operators.estimates import Estimate, hutchinson
from pullback.operators.scipy_adapter import as_linear_operator


class BlockOperator(ABC):
    """B independent linear maps A_b from x_shape to h_shape, known by products with blocks.

    Derive from it and give `matmat`, `rmatmat` and `select` to use `krylov.svd`, the algebra and
    the estimates on maps of your own; `JacobianOperator` is the one of this library. Operators that
    are combined must agree in batch, shapes, dtype and device.

    Args:
        batch: number of samples B.
        x_shape: shape of an input of one sample.
        h_shape: shape of an output of one sample.
        dtype: dtype of the products; its epsilon sets the floor of the solver's stopping rule.
        device: device of the products.
    """

    def __init__(
        self,
        batch: int,
        x_shape: Sequence[int],
        h_shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.batch = batch
        self.x_shape, self.h_shape = tuple(x_shape), tuple(h_shape)
        self.dtype, self.device = dtype, torch.device(device)

    @abstractmethod
    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """A v, `[B, k, *x_shape]` to `[B, k, *h_shape]`."""

    @abstractmethod
    def rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        """Aᵀ u, `[B, k, *h_shape]` to `[B, k, *x_shape]`."""

    @abstractmethod
    def select(self, index: torch.Tensor) -> BlockOperator:
        """The operator of the samples at the int64 indices `[B']`."""

    def _release(self) -> None:  # noqa: B027 - most operators keep nothing
        """Free what is kept between products; they make what they need again."""

    def nearby(self, draw: int) -> BlockOperator | None:
        """The operator once more, from inputs that differ by a few roundings.

        What its products differ by is what rounding inside them may do, which the solver lets into
        its bounds. None, as here, says that products are as exact as their dtype.

        Args:
            draw: number of the random differences, 0 or larger.
        """
        del draw
        return None

    def _beside(self, others: Sequence[BlockOperator]) -> BlockOperator | None:
        """One operator of the samples of this one, then those of the others, if that is cheaper."""
        del others
        return None

    def to_scipy(self, sample: int) -> LinearOperator:
        """The map of one sample as a `scipy.sparse.linalg.LinearOperator` of shape (m, n).

        Vectors are flattened points and features in float64 or float32 numpy arrays; products
        run on this operator's device and in its dtype.

        Args:
            sample: which one, from −B to B − 1.

        Raises:
            IndexError: there is no such sample.
        """
        if not -self.batch <= sample < self.batch:
            raise IndexError(
                f"Expected a sample between 0 and {self.batch - 1}, got {sample}: the operator "
                f"holds {self.batch} samples."
            )
        single = self.select(torch.tensor([sample % self.batch], device=self.device))
        return as_linear_operator(
            single.matmat, single.rmatmat, self.x_shape, self.h_shape, self.device, self.dtype
        )

    # -------------------------------------------------------------------------------- algebra

    def __add__(self, other: BlockOperator) -> Combination:
        """A + B."""
        if not isinstance(other, BlockOperator):
            return NotImplemented
        return Combination([(1.0, self), (1.0, other)])

    def __sub__(self, other: BlockOperator) -> Combination:
        """A - B, for example of two conditions at the same latents."""
        if not isinstance(other, BlockOperator):
            return NotImplemented
        return Combination([(1.0, self), (-1.0, other)])

    def __mul__(self, factor: float) -> Combination:
        """A times a number."""
        try:
            return Combination([(float(factor), self)])
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
        return Gram(self)

    def stacked(self, samples: int | None = None) -> Stacked:
        """All samples as one map, whose Gram operator is E[AᵀA]; see `Stacked`.

        Args:
            samples: samples in one product; all by default.
        """
        return Stacked(self, samples)

    # ------------------------------------------------------------------------------ estimates

    def trace(self, samples: int = 32, *, seed: int = 0, confidence: float = 0.95) -> Estimate:
        """Hutchinson's estimate of tr A for a square operator: the mean of zᵀAz, z random signs.

        tr AᵀA, the sum of the squared singular values, is `operator.gram().trace()`.

        Args:
            samples: random vectors, two or more; the interval shrinks with their square root.
            seed: of the vectors, 0 to 2³² − 1, the same for every sample of the batch.
            confidence: of the interval. It holds the trace as often whatever the spectrum, for
                operators of rank one too, up to 0.99 and as long as the leading eigenvectors are
                spread over many entries; it is wider than that where A is not symmetric. N vectors
                that meet an eigenvector on two entries are all alike, by chance, 2^(1 − N) of the
                time, and then say nothing.

        Returns:
            An `Estimate` of shape `[B]`.

        Raises:
            ValueError: the operator is not square, fewer than two vectors are asked for, or the
                seed is none.

        Cost: B `samples` products.
        Source: Hutchinson 1990; rank one as the worst case: Roosta-Khorasani, Ascher 2015,
        arXiv:1308.2475.
        """
        self._check_square()
        return hutchinson(
            self._flat_product, self.batch, math.prod(self.x_shape), samples, seed, confidence,
            trace=True,
        )  # fmt: skip

    def diag(self, samples: int = 32, *, seed: int = 0, confidence: float = 0.95) -> Estimate:
        """Estimate of the diagonal of a square operator: the mean of z ⊙ Az, z random signs.

        That of `operator.gram()` tells how strongly each entry of x moves the features.

        Args:
            samples: random vectors, two or more.
            seed: of the vectors, 0 to 2³² − 1.
            confidence: of the interval of each entry by itself, that of Student's t. The deviations
                of single vectors are symmetric and, where the row is spread over many entries,
                roughly normal.

        Returns:
            An `Estimate` of shape `[B, *x_shape]`.

        Raises:
            ValueError: the operator is not square, fewer than two vectors are asked for, or the
                seed is none.

        Cost: B `samples` products.
        Source: Bekas, Kokiopoulou, Saad 2007.
        """
        self._check_square()
        found = hutchinson(
            self._flat_product, self.batch, math.prod(self.x_shape), samples, seed, confidence,
            trace=False,
        )  # fmt: skip
        return found.reshaped(self.x_shape)

    def _check_square(self) -> None:
        if math.prod(self.x_shape) != math.prod(self.h_shape):
            raise ValueError(
                f"Expected a square operator, got one from {self.x_shape} to {self.h_shape}. "
                "The trace and diagonal of AᵀA are those of operator.gram()."
            )

    def _flat_product(self, z: torch.Tensor) -> torch.Tensor:
        """A z for rows `[B, k, n]` of any dtype, flat as they are."""
        rows = z.to(self.device, self.dtype).unflatten(2, self.x_shape)
        return self.matmat(rows).flatten(2)


class Combination(BlockOperator):
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
        super().__init__(first.batch, first.x_shape, first.h_shape, first.dtype, first.device)
        self.terms = tuple((float(factor), operator) for factor, operator in terms)

    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """Σ c_i A_i v, `[B, k, *x_shape]` to `[B, k, *h_shape]`."""
        return _sum(factor * operator.matmat(v) for factor, operator in self.terms)

    def rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        """Σ c_i A_iᵀ u, `[B, k, *h_shape]` to `[B, k, *x_shape]`."""
        return _sum(factor * operator.rmatmat(u) for factor, operator in self.terms)

    def select(self, index: torch.Tensor) -> Combination:
        """The combination for the samples at the int64 indices `[B']`."""
        return Combination([(factor, operator.select(index)) for factor, operator in self.terms])

    def nearby(self, draw: int) -> Combination | None:
        """The combination of the operators from inputs that differ by a few roundings."""
        # Draws of their own, or what rounding does to one would cancel what it does to another.
        count = len(self.terms)
        others = [
            operator.nearby(draw * count + place) for place, (_, operator) in enumerate(self.terms)
        ]
        if all(other is None for other in others):
            return None
        return Combination(
            [
                (factor, operator if other is None else other)
                for other, (factor, operator) in zip(others, self.terms, strict=True)
            ]
        )

    def _release(self) -> None:
        """Free what the operators keep between products."""
        for _, operator in self.terms:
            operator._release()


class Stacked(BlockOperator):
    """All samples of an operator as one: the stack of A_b / √B, one sample under the other.

    Its Gram operator is E[AᵀA], the mean over the batch, so that its singular values and right
    singular vectors are those of the mean metric: the directions that matter for all samples
    together. Products go through the samples a few at a time, of which nothing is kept in between;
    `gram()`, E[AᵀA] itself, never holds the images of more than `samples` of them.

    Args:
        operator: the operator, of any batch.
        samples: samples in one product; all by default.
    """

    def __init__(self, operator: BlockOperator, samples: int | None = None) -> None:
        self.samples = operator.batch if samples is None else samples
        if self.samples < 1:
            raise ValueError(f"Expected one or more samples in a product, got {samples}.")
        stack = (operator.batch, *operator.h_shape)
        super().__init__(1, operator.x_shape, stack, operator.dtype, operator.device)
        self.operator = operator
        whole = torch.arange(operator.batch, device=operator.device)
        self._parts = [
            operator if len(part) == operator.batch else operator.select(part)
            for part in whole.split(self.samples)
        ]
        self._scale = 1 / math.sqrt(operator.batch)

    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """`[1, k, *x_shape]` to `[1, k, B, *h_shape]`."""
        images = []
        for part in self._parts:
            images.append(self._image(part, v).movedim(0, 1))
            self._let_go(part)
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
        self._let_go(part)
        return pulled

    def _let_go(self, part: BlockOperator) -> None:
        """Free what a part keeps, or the activations of all samples would add up."""
        if len(self._parts) > 1:
            part._release()

    def select(self, index: torch.Tensor) -> Stacked:
        """Itself for the indices [0]: there is one sample."""
        if index.tolist() != [0]:
            raise IndexError(f"Expected the one sample of a stack, [0], got {index.tolist()}.")
        return self

    def nearby(self, draw: int) -> Stacked | None:
        """The stack of the operators from inputs that differ by a few roundings."""
        other = self.operator.nearby(draw)
        return None if other is None else Stacked(other, self.samples)

    def _release(self) -> None:
        """Free what the operators keep between products."""
        for part in self._parts:
            part._release()


class Gram(BlockOperator):
    """AᵀA, the pullback metric as a symmetric operator on x.

    Args:
        operator: A.
    """

    def __init__(self, operator: BlockOperator) -> None:
        shape = operator.x_shape
        super().__init__(operator.batch, shape, shape, operator.dtype, operator.device)
        self.operator = operator

    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """AᵀA v, `[B, k, *x_shape]` to `[B, k, *x_shape]`. Cost: two products of A a column."""
        if isinstance(self.operator, Stacked):
            return self.operator.normal(v)
        return self.operator.rmatmat(self.operator.matmat(v))

    def rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        """The same as `matmat`, `[B, k, *x_shape]` to `[B, k, *x_shape]`."""
        return self.matmat(u)

    def select(self, index: torch.Tensor) -> Gram:
        """The operator of the samples at the int64 indices `[B']`."""
        return Gram(self.operator.select(index))

    def nearby(self, draw: int) -> Gram | None:
        """AᵀA of the operator from inputs that differ by a few roundings."""
        other = self.operator.nearby(draw)
        return None if other is None else Gram(other)

    def _release(self) -> None:
        """Free what A keeps between products."""
        self.operator._release()


def _sum(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum, one part at a time."""
    return reduce(torch.add, parts)
