"""Rules of convolutions, matrix products, and what resamples images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pullback.linearization.linear import Both, Call, Linear, Single, Sum, rule

aten = torch.ops.aten


def _folded(tangent: torch.Tensor) -> torch.Tensor:
    """`[k, B, ...]` as `[k B, ...]`."""
    return tangent.flatten(0, 1)


def _unfolded(folded: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
    """`[k B, ...]` as `[k, B, ...]`, as the tangent was."""
    return folded.unflatten(0, tangent.shape[:2])


@rule("convolution")
def _convolution(call: Call) -> Linear | None:
    image, weight = call.args[0], call.args[1]
    options: tuple[Any, ...] = call.args[3:9]
    batched = image.dim() == weight.dim()
    if call.only != 0 or not batched:
        return None
    shape, (stride, padding, dilation, transposed, extra, groups) = image.shape, options

    def push(tangent: torch.Tensor) -> torch.Tensor:
        return _unfolded(aten.convolution(_folded(tangent), weight, None, *options), tangent)

    def pull(cotangent: torch.Tensor) -> torch.Tensor:
        rows = _folded(cotangent)
        like = rows.new_empty(len(rows), *shape[1:])  # its shape alone is asked for
        found = aten.convolution_backward(
            rows, like, weight, None, stride, padding, dilation, transposed, extra, groups,
            (True, False, False),
        )  # fmt: skip
        return _unfolded(found[0], cotangent)

    return Both(push, pull, weight)


def _times_matrix(matrix: torch.Tensor) -> Single:
    """Rows `[n, m]` times one matrix `[m, p]`, for all columns in one product."""

    def multiply(rows: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return (rows.flatten(0, 1) @ by).unflatten(0, rows.shape[:2])

    return Both(lambda t: multiply(t, matrix), lambda u: multiply(u, matrix.mT), matrix)


def _matrix_times(matrix: torch.Tensor) -> Single:
    """A matrix `[n, m]` times columns `[m, p]`."""
    return Both(lambda t: matrix @ t, lambda u: matrix.mT @ u, matrix)


@rule("mm", "addmm")
def _matrix_product(call: Call) -> Linear | None:
    plus = call.func._schema.name == "aten::addmm"
    first, second = call.args[plus : plus + 2]
    factors = (call.kwargs.get("beta", 1), call.kwargs.get("alpha", 1))
    if call.result.is_complex() or (call.depends(0) and plus) or factors != (1, 1):
        return None
    terms = []
    for position, _ in call.places:
        terms.append(_times_matrix(second) if position == plus else _matrix_times(first))
    return terms[0] if len(terms) == 1 else Sum(terms)


class _TimesMatrices(Single):
    """Rows `[b, n, m]` times matrices `[b, m, p]`; the rows of all columns in one product each.

    Args:
        matrices: `[b, m, p]`.
        scale: a number that the product is multiplied by.
    """

    def __init__(self, matrices: torch.Tensor, scale: float = 1.0) -> None:
        self.matrices, self.scale = matrices, scale

    def push_one(self, tangent: torch.Tensor) -> torch.Tensor:
        """`[k, b, n, m]` to `[k, b, n, p]`."""
        return _rows_times(tangent, self.matrices, self.scale)

    def pull_one(self, cotangent: torch.Tensor) -> torch.Tensor:
        """`[k, b, n, p]` to `[k, b, n, m]`."""
        return _rows_times(cotangent, self.matrices.mT, self.scale)


class _MatricesTimes(Single):
    """Matrices `[b, n, m]` times columns `[b, m, p]`.

    Args:
        matrices: `[b, n, m]`.
        scale: a number that the product is multiplied by.
    """

    def __init__(self, matrices: torch.Tensor, scale: float = 1.0) -> None:
        self.matrices, self.scale = matrices, scale

    def push_one(self, tangent: torch.Tensor) -> torch.Tensor:
        """`[k, b, m, p]` to `[k, b, n, p]`."""
        return _rows_times(tangent.mT, self.matrices.mT, self.scale).mT

    def pull_one(self, cotangent: torch.Tensor) -> torch.Tensor:
        """`[k, b, n, p]` to `[k, b, m, p]`."""
        return _rows_times(cotangent.mT, self.matrices, self.scale).mT


def _rows_times(rows: torch.Tensor, matrices: torch.Tensor, scale: float) -> torch.Tensor:
    """`[k, b, n, m]` times `[b, m, p]`."""
    if len(rows) == 1:
        product = torch.bmm(rows[0], matrices).unsqueeze(0)
    else:  # one product of k n rows for each b, and no copy of the matrices for every column
        columns, batch, count = rows.shape[:3]
        wide = rows.transpose(0, 1).reshape(batch, columns * count, rows.shape[3])
        product = torch.bmm(wide, matrices).unflatten(1, (columns, count)).transpose(0, 1)
    return product * scale if scale != 1.0 else product


@rule("bmm", "baddbmm")
def _batched_product(call: Call) -> Linear | None:
    plus = call.func._schema.name == "aten::baddbmm"
    first, second = call.args[plus : plus + 2]
    if call.result.is_complex() or (call.depends(0) and plus):
        return None
    scale = float(call.kwargs.get("alpha", 1))
    terms: list[Single] = []
    for position, _ in call.places:
        terms.append(
            _TimesMatrices(second, scale) if position == plus else _MatricesTimes(first, scale)
        )
    return terms[0] if len(terms) == 1 else Sum(terms)


@rule(
    "upsample_nearest2d", "upsample_nearest1d", "upsample_nearest3d", "_upsample_nearest_exact2d",
    "upsample_bilinear2d", "upsample_bicubic2d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "_adaptive_avg_pool2d", "reflection_pad2d", "replication_pad2d",
)  # fmt: skip
def _resampled(call: Call) -> Linear | None:
    if call.only != 0 or call.args[0].dim() != call.result.dim():
        return None
    shape, rest, named = call.args[0].shape, call.args[1:], call.kwargs

    def resample(rows: torch.Tensor) -> torch.Tensor:
        return call.func(rows, *rest, **named)

    def pull(cotangent: torch.Tensor) -> torch.Tensor:
        return _unfolded(transposed(resample, _folded(cotangent), shape[1:]), cotangent)

    return Both(lambda t: _unfolded(resample(_folded(t)), t), pull)


def transposed(
    linear: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, shape: torch.Size
) -> torch.Tensor:
    """The transpose of a linear function of rows `[b, *shape]`, by reverse mode."""
    with torch.enable_grad():
        at = rows.new_zeros(len(rows), *shape).requires_grad_()
        return torch.autograd.grad(linear(at), at, rows)[0]
