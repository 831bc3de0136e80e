"""Products with J and with A = JᵀJ in units of its size, and whether they can be what they seem."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pullback.operators import BlockOperator


def image_of(operator: BlockOperator, rows: torch.Tensor) -> torch.Tensor:
    """J rows, `[B, r, n]` to `[B, r, m]`."""
    return operator.matmat(rows.unflatten(2, operator.x_shape)).flatten(2)


def power_of_two(image: torch.Tensor) -> torch.Tensor:
    """Per sample the power of two just above the largest row norm of `image` (1 for zeros)."""
    image = image.double()
    peak = image.abs().amax((1, 2))
    # Squares of what is far from 1 are zero or infinite in float64. Zeros have the exponent of ½.
    peak = torch.where((peak > 0) & peak.isfinite(), peak, 0.5)
    norms = torch.linalg.vector_norm(image / peak[:, None, None], dim=2)
    (fraction, high), (_, low) = torch.frexp(norms.amax(1)), torch.frexp(peak)
    exponent = torch.frexp(fraction * torch.frexp(peak).mantissa).exponent + high + low
    return torch.ldexp(torch.ones_like(peak), exponent)


def pulled(operator: BlockOperator, image: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Jᵀ `image`, `[B, r, m]` to `[B, r, n]`, both in units `[B]` of J; in the dtype of `image`."""
    product = operator.rmatmat(image.unflatten(2, operator.h_shape)).flatten(2)
    return (product.double() / unit[:, None, None]).to(image.dtype)


def pulled_apart(
    operators: Sequence[BlockOperator], images: Sequence[torch.Tensor], unit: torch.Tensor
) -> list[torch.Tensor]:
    """Jᵀ `images`, `[B, r, m]` each, of several operators of B samples, with one unit for all."""
    every = operators[0]._beside(operators[1:])
    if every is None:
        return [pulled(each, image, unit) for each, image in zip(operators, images, strict=True)]
    products = pulled(every, torch.cat(list(images)), unit.repeat(len(operators)))
    return list(products.split(len(unit)))


def check_finite(finite: torch.Tensor, index: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise FloatingPointError, naming the samples, unless all are finite.

    Args:
        finite: `[A]`, bool.
        index: `[A]`, int64 on the CPU, the places of the samples in the batch.
        dtype: of the products.
    """
    if bool(finite.all()):
        return
    samples = index[~finite.cpu()].tolist()
    named = ", ".join(map(str, samples[:5])) + (", ..." if len(samples) > 5 else "")
    raise FloatingPointError(
        f"A product with the Jacobian contains NaN or Inf although x is finite, in "
        f"{'sample' if len(samples) == 1 else 'samples'} {named}. The usual cause is an overflow "
        f"in {dtype}: run the network in float32, or in bfloat16 instead of float16."
    )


def check_symmetric(asymmetry: torch.Tensor, size: torch.Tensor, eps: float) -> None:
    """Raise ValueError unless the projection of A is symmetric, as far as rounding lets it.

    Args:
        asymmetry: `[A]`, largest difference of an entry to its mirror image.
        size: `[A]`, largest entry on the diagonal.
        eps: rounding of the products.
    """
    if bool((asymmetry > 64 * eps**0.5 * size).any()):
        raise ValueError(
            "matmat and rmatmat do not belong to one operator: the projection of JᵀJ is not "
            f"symmetric (by {float(asymmetry.max()):.1e} where its size is "
            f"{float(size.max()):.1e}). Check that rmatmat is the transpose of matmat and "
            "that both are linear and deterministic."
        )
