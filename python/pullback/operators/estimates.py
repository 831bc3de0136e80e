"""Randomised estimates of the trace and the diagonal of square operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit

from pullback._numbers import seed_of, whole

#: Random vectors multiplied at a time.
_WIDTH = 16


@dataclass(frozen=True)
class Estimate:
    """A randomised estimate with its confidence interval.

    Attributes:
        value: the estimate, `[B]` or `[B, *x_shape]`, float64.
        low: lower end of the interval, `[B]` or `[B, *x_shape]` like the value.
        high: upper end of the interval, `[B]` or `[B, *x_shape]`.
        confidence: probability with which the interval holds the truth, entry by entry.
        samples: random vectors that were used.
    """

    value: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    confidence: float
    samples: int

    def reshaped(self, shape: Sequence[int]) -> Estimate:
        """The same with entries `[B, n]` as `[B, *shape]`."""
        value, low, high = (
            part.unflatten(1, tuple(shape)) for part in (self.value, self.low, self.high)
        )
        return Estimate(value, low, high, self.confidence, self.samples)


def hutchinson(
    multiply: Callable[[torch.Tensor], torch.Tensor],
    batch: int,
    size: int,
    samples: int,
    seed: int,
    confidence: float,
    *,
    trace: bool,
) -> Estimate:
    """The mean of z ⊙ A z over random signs z, or of its sum, with an interval of Student's t.

    The entries y = z ⊙ A z have mean A_ii and variance Σ_j≠i A_ij², whose estimates give the
    interval of the diagonal. That of the trace takes twice the sum of these variances, which is
    the variance of zᵀAz for a symmetric A and a bound on it for any. It is not the scatter of the
    sums themselves: where few directions dominate, a few of them are alike by chance.

    Args:
        multiply: A z, `[B, k, n]` to `[B, k, n]`.
        batch: B.
        size: n.
        samples: random vectors, two or more.
        seed: of the vectors, the same for every sample of the batch.
        confidence: of the interval, between 0 and 1.
        trace: whether the sum over the entries is asked for.

    Returns:
        An `Estimate` of shape `[B]` for the trace, `[B, n]` for the diagonal.

    Raises:
        ValueError: fewer than two vectors, another confidence, or a seed that is none.
    """
    if whole("samples", samples) < 2 or not 0 < confidence < 1:
        raise ValueError(
            f"Expected two or more samples and a confidence between 0 and 1, got {samples} and "
            f"{confidence}."
        )
    generator = torch.Generator("cpu").manual_seed(seed_of(seed))
    mean: torch.Tensor | None = None
    squares: torch.Tensor | None = None
    count = 0
    while count < samples:
        rows = min(_WIDTH, samples - count)
        z = torch.randint(0, 2, (rows, size), generator=generator, device="cpu") * 2.0 - 1.0
        image = multiply(z.expand(batch, rows, size)).double()
        drawn = z.to(image) * image
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
    variance = squares / (count - 1)
    if trace:
        mean, variance = mean.sum(1), 2 * variance.sum(1)
    quantile = float(stdtrit(count - 1, 0.5 + confidence / 2))
    error = (variance / count).sqrt() * quantile
    return Estimate(mean, mean - error, mean + error, confidence, count)
