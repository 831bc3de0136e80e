"""The map of one sample as scipy knows linear maps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator


def as_linear_operator(
    matmat: Callable[[torch.Tensor], torch.Tensor],
    rmatmat: Callable[[torch.Tensor], torch.Tensor],
    x_shape: tuple[int, ...],
    h_shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> LinearOperator:
    """A `scipy.sparse.linalg.LinearOperator` (m, n) of an operator with one sample.

    Args:
        matmat: A v, `[1, k, *x_shape]` to `[1, k, *h_shape]`.
        rmatmat: Aᵀ u, `[1, k, *h_shape]` to `[1, k, *x_shape]`.
        x_shape: shape of an input.
        h_shape: shape of an output.
        device: where the products run.
        dtype: in which they run.
    """

    def product(
        columns: np.ndarray,
        shape: tuple[int, ...],
        multiply: Callable[[torch.Tensor], torch.Tensor],
    ) -> np.ndarray:
        rows = np.ascontiguousarray(columns.T, dtype=np.float64)
        block = torch.as_tensor(rows, device=device, dtype=dtype).reshape(1, -1, *shape)
        return multiply(block)[0].flatten(1).T.double().cpu().numpy()

    def forward(columns: np.ndarray) -> np.ndarray:
        return product(columns, x_shape, matmat)

    def transposed(columns: np.ndarray) -> np.ndarray:
        return product(columns, h_shape, rmatmat)

    return LinearOperator(
        shape=(math.prod(h_shape), math.prod(x_shape)),
        matvec=lambda v: forward(v.reshape(-1, 1)).ravel(),
        rmatvec=lambda u: transposed(u.reshape(-1, 1)).ravel(),
        matmat=forward,
        rmatmat=transposed,
        dtype=np.float64,
    )
