"""What is true: dense Jacobians in float64, their singular vectors, and the sine to them.

Nothing here uses the products or the solver of the library, so that neither can hide an error of
its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch

from pullback import maps
from pullback.models.model import Condition, LatentModel
from pullback.models.taps import TapName
from pullback_ext.intercept import forward_mode_ready


def in_float64(model: LatentModel) -> LatentModel:
    """The same model with its network converted to float64; the original stays as it is."""
    double = copy.copy(model)
    double.network = copy.deepcopy(model.network).double()
    return double


def sample_map(
    model: LatentModel,
    t: int,
    cond: Condition | None = None,
    tap: TapName | None = None,
    sample: int = 0,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The map x -> h of one sample, for any number of copies of it in the batch.

    Args:
        model: the model.
        t: timestep in training units.
        cond: the network's further arguments, batch first; None is the null condition.
        tap: where h is read (default: the middle block).
        sample: which row of `cond` belongs to the sample.
    """
    one = None if cond is None else {name: row[sample : sample + 1] for name, row in cond.items()}
    condition = model.condition(one, 1)
    encoder = maps.encoder(model, tap)
    timestep = torch.full((1,), t, dtype=torch.int64, device=model.device)

    def f(x: torch.Tensor) -> torch.Tensor:
        count = len(x)
        wide = {name: row.expand(count, *row.shape[1:]) for name, row in condition.items()}
        bound = encoder.bind(x, timestep.expand(count), wide)
        return bound.f(bound.point, *bound.args)

    return f


def dense_jacobian(
    model64: LatentModel,
    x: torch.Tensor,
    t: int,
    cond: Condition | None = None,
    tap: TapName | None = None,
) -> torch.Tensor:
    """The Jacobian of x -> h at each of B latents, entry by entry.

    Args:
        model64: a model whose network is in float64, such as `in_float64(model)`.
        x: latents `[B, C, H, W]`, of any floating dtype.
        t: timestep in training units.
        cond: the network's further arguments, batch first; None is the null condition.
        tap: where h is read (default: the middle block).

    Returns:
        `[B, m, n]`, float64, on the model's device.

    Raises:
        ValueError: the network is not in float64.

    Cost: n or m products per sample, whichever is fewer, and 8 m n bytes.
    """
    if model64.dtype != torch.float64:
        raise ValueError(
            f"Expected a network in float64, got {model64.dtype}: the truth must be known far "
            "better than what is compared with it. Pass in_float64(model)."
        )
    # A known condition of one row stands for all samples.
    wide = None if cond is None else model64.condition(cond, len(x))
    jacobians = []
    with forward_mode_ready():
        for sample in range(len(x)):
            f = sample_map(model64, t, wide, tap, sample)
            point = x[sample : sample + 1].detach().to(model64.device, torch.float64)
            with torch.no_grad():
                shape = f(point).shape
            n, m = point.numel(), math.prod(shape)
            with torch.no_grad():
                jacobian = (
                    _columns(f, point) if n <= m else torch.func.jacrev(f, chunk_size=64)(point)
                )
            jacobians.append(jacobian.reshape(m, n))
    return torch.stack(jacobians)


def _columns(f: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor) -> torch.Tensor:
    """The Jacobian column by column, some at a time, which torch.func.jacfwd cannot do."""

    def push(tangent: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(f, (point,), (tangent,))[1].flatten()

    unit = torch.eye(point.numel(), dtype=point.dtype, device=point.device)
    return torch.func.vmap(push, out_dims=1, chunk_size=64)(unit.view(-1, *point.shape))


def leading(jacobian: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The leading singular triplets of dense matrices.

    Args:
        jacobian: `[B, m, n]`.
        rank: k, how many.

    Returns:
        u `[B, k, m]`, s `[B, k]` descending, v `[B, k, n]`; orthonormal rows, float64.
    """
    u, s, vh = torch.linalg.svd(jacobian.double(), full_matrices=False)
    return u[:, :, :rank].mT, s[:, :rank], vh[:, :rank]


def sine(v: torch.Tensor, v_true: torch.Tensor) -> torch.Tensor:
    """How far true directions lie outside the span of the ones that were found.

    ‖(I − QQᵀ) V_trueᵀ‖₂, with Q the rows of v made orthonormal again in float64: the sine of the
    largest principal angle where both have as many rows. It resolves angles down to 1e-15, where
    the square root of 1 − cos² would end at 1e-8, and at 1e-3 for rows of float32.

    Args:
        v: `[B, k, n]` or `[B, k, *x_shape]`, independent rows, any floating dtype.
        v_true: `[B, j, n]` or `[B, j, *x_shape]`, orthonormal rows in float64.

    Returns:
        `[B]`, float64, between 0 and 1.
    """
    q = torch.linalg.qr(v.double().flatten(2).mT).Q
    true = v_true.double().flatten(2).to(q.device)
    outside = true - (true @ q) @ q.mT
    return torch.linalg.matrix_norm(outside, ord=2)
