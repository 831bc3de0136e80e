"""For tests, ours and users': operators whose truth is known, and the truth about others.

`MatrixOperator` makes an operator of explicit matrices, `with_spectrum` matrices with prescribed
singular values. `dense_jacobian` and `map_jacobian` write out the Jacobian of a function or a map
in float64, `leading` takes its singular triplets, and `sine`, `residuals` and `orthogonality_loss`
say how far an answer is from them.

Nothing here uses the products or the solver of the library, so that neither can hide an error of
its own. `dense` alone multiplies with an operator, to show what it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pullback.operators import BlockOperator
from pullback_ext.intercept import forward_mode_ready

if TYPE_CHECKING:
    from pullback.maps import Map
    from pullback.models import Condition, LatentModel

# ------------------------------------------------------------------- operators with a known truth


class MatrixOperator(BlockOperator):
    """Explicit matrices as an operator that counts its products.

    Args:
        matrices: `[B, m, n]`, of any floating dtype and on any device; products run there.
        x_shape: shape of an input of one sample, n entries (default: `(n,)`).
        h_shape: shape of an output of one sample, m entries (default: `(m,)`).

    Attributes:
        matrices: as given.
        columns: single-sample products made so far, with the matrices and their transposes
            together; a selection starts at 0.
    """

    def __init__(
        self,
        matrices: torch.Tensor,
        x_shape: Sequence[int] | None = None,
        h_shape: Sequence[int] | None = None,
    ) -> None:
        batch, m, n = matrices.shape
        super().__init__(
            batch,
            (n,) if x_shape is None else x_shape,
            (m,) if h_shape is None else h_shape,
            matrices.dtype,
            matrices.device,
        )
        self.matrices = matrices
        self.columns = 0

    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """A v, `[B, k, *x_shape]` to `[B, k, *h_shape]`."""
        self.columns += v.shape[0] * v.shape[1]
        image = torch.einsum("bmn,bkn->bkm", self.matrices, v.flatten(2).to(self.dtype))
        return image.unflatten(2, self.h_shape)

    def rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        """Aᵀ u, `[B, k, *h_shape]` to `[B, k, *x_shape]`."""
        self.columns += u.shape[0] * u.shape[1]
        pulled = torch.einsum("bmn,bkm->bkn", self.matrices, u.flatten(2).to(self.dtype))
        return pulled.unflatten(2, self.x_shape)

    def select(self, index: torch.Tensor) -> MatrixOperator:
        """The operator of the samples at the int64 indices `[B']`, with a count of its own."""
        return type(self)(self.matrices[index], self.x_shape, self.h_shape)


def with_spectrum(
    singular_values: Sequence[float] | torch.Tensor,
    m: int,
    n: int,
    batch: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: int = 1,
) -> torch.Tensor:
    """Random matrices with prescribed singular values.

    Args:
        singular_values: `[r]`, descending; the first min(m, n) are used, and all after them are 0.
        m: rows.
        n: columns.
        batch: B; all have the same singular values and random singular vectors of their own.
        dtype: of the result, which is computed in float64.
        seed: of the singular vectors.

    Returns:
        `[B, m, n]` on the CPU.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    kind: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    s = torch.as_tensor(singular_values, **kind)[: min(m, n)]
    left, right = (
        torch.linalg.qr(torch.randn(batch, d, len(s), generator=generator, **kind))[0]
        for d in (m, n)
    )
    return ((left * s) @ right.mT).to(dtype)


# ---------------------------------------------------------------------------- dense Jacobians


def dense(operator: BlockOperator, tol: float = 1e-12) -> torch.Tensor:
    """The matrices that an operator multiplies with, by its own products.

    Args:
        operator: any operator.
        tol: how far an entry a by the products with the operator may be from the entry b by those
            with its transpose, |a − b| <= tol (1 + |b|); the default is for float64.

    Returns:
        `[B, m, n]` in the operator's dtype.

    Raises:
        AssertionError: the products with the transpose are those of other matrices.

    Cost: B (m + n) products and 8 m n bytes a sample in float64.
    """

    def unit(shape: tuple[int, ...]) -> torch.Tensor:
        size = math.prod(shape)
        eye = torch.eye(size, dtype=operator.dtype, device=operator.device)
        return eye.expand(operator.batch, size, size).unflatten(2, shape)

    columns = operator.matmat(unit(operator.x_shape)).flatten(2)
    rows = operator.rmatmat(unit(operator.h_shape)).flatten(2)
    torch.testing.assert_close(columns.mT, rows, rtol=tol, atol=tol)
    return rows


def in_float64(model: LatentModel) -> LatentModel:
    """The same model with its network converted to float64; the original stays as it is.

    The pipeline, if there is one, is shared. The network must be a module.

    Cost: a copy of the network in 8 bytes a parameter.
    """
    double = copy.deepcopy(model, {id(model.pipeline): model.pipeline})
    double.network.double()
    return double


def sample_map(
    f: Callable[..., torch.Tensor], *args: object, sample: int = 0
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function of a batch as the function of one of its samples, for any number of copies of it.

    Args:
        f: `f(x, *args)` maps `[B, *x_shape]` to `[B, *h_shape]` and treats every sample by itself.
        *args: its further arguments, tensors `[B, ...]` or anything that is not a tensor.
        sample: which sample's.

    Returns:
        Maps `[c, *x_shape]` to `[c, *h_shape]` for any c, with the sample's `args`.
    """

    def of_copies(x: torch.Tensor) -> torch.Tensor:
        return f(
            x,
            *(
                a[sample : sample + 1].expand(len(x), *a.shape[1:])
                if isinstance(a, torch.Tensor)
                else a
                for a in args
            ),
        )

    return of_copies


def dense_jacobian(
    f: Callable[..., torch.Tensor],
    x: torch.Tensor,
    *args: object,
    mode: str | None = None,
    chunk: int = 64,
) -> torch.Tensor:
    """The Jacobian df/dx at each of B points, entry by entry.

    Args:
        f: `f(x, *args)` maps `[B, *x_shape]` to `[B, *h_shape]`, treats every sample by itself and
            computes in float64 where its arguments are.
        x: the points, `[B, *x_shape]`, of any floating dtype.
        *args: its further arguments, tensors `[B, ...]` (taken in float64 where they are floating
            point) or anything that is not a tensor.
        mode: "forward", by `torch.func.jvp`, or "reverse", by plain `torch.autograd.grad` on a
            batch of copies of a sample (default: forward where n <= m).
        chunk: columns or rows in one pass; in reverse mode the batch that `f` always gets.

    Returns:
        `[B, m, n]`, float64, on the device of x.

    Raises:
        ValueError: `f` does not compute in float64, or there is no such mode.

    Cost: n products a sample in forward mode, m in reverse mode, and 8 m n bytes.
    """
    if mode not in (None, "forward", "reverse"):
        raise ValueError(f'Expected mode to be "forward", "reverse" or None, got {mode!r}.')
    args = tuple(
        a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args
    )
    jacobians = []
    for sample in range(len(x)):
        one = sample_map(_checked(f), *args, sample=sample)
        point = x[sample : sample + 1].detach().double()
        forward = mode == "forward"
        if mode is None:
            with torch.no_grad():
                forward = point.numel() <= one(point).numel()
        jacobians.append((_columns if forward else _rows)(one, point, chunk))
    return torch.stack(jacobians)


def _checked(f: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The same function, which raises where it does not compute in float64."""

    def checked(*args: object) -> torch.Tensor:
        value = f(*args)
        if value.dtype != torch.float64:
            raise ValueError(
                f"Expected a function that computes in float64, got {value.dtype}: the truth must "
                "be known far better than what is compared with it. Convert its weights with "
                "network.double(), or a model with in_float64(model)."
            )
        return value

    return checked


def _columns(
    f: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor, chunk: int
) -> torch.Tensor:
    """The Jacobian [m, n] column by column, some at a time, which torch.func.jacfwd cannot do."""

    def push(tangent: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(f, (point,), (tangent,))[1].flatten()

    unit = torch.eye(point.numel(), dtype=point.dtype, device=point.device)
    with forward_mode_ready(), torch.no_grad():
        columns = torch.func.vmap(push, out_dims=1, chunk_size=chunk)
        return columns(unit.view(-1, *point.shape))


def _rows(
    f: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor, chunk: int
) -> torch.Tensor:
    """The Jacobian [m, n] row by row: each copy of the point answers for another row."""
    found = []
    with torch.enable_grad():
        copies = point.expand(chunk, *point.shape[1:]).contiguous().requires_grad_()
        value = f(copies).flatten(1)
        for first in range(0, value.shape[1], chunk):
            unit = torch.zeros_like(value)
            rows = torch.arange(min(chunk, value.shape[1] - first), device=value.device)
            unit[rows, first + rows] = 1
            (gradient,) = torch.autograd.grad(value, copies, unit, retain_graph=True)
            found.append(gradient.flatten(1)[: len(rows)])
    return torch.cat(found)


def map_jacobian(
    map: Map, x: torch.Tensor, t: int | torch.Tensor, cond: Condition | None = None
) -> torch.Tensor:
    """The Jacobian of a map of a model at each of B latents, entry by entry.

    Args:
        map: a map of a model whose network is in float64, such as
            `maps.encoder(in_float64(model))`.
        x: latents `[B, *x_shape]`, of any floating dtype.
        t: their timestep in training units: one for all, or int64 `[B]`.
        cond: the network's further arguments, batch first; None is the null condition.

    Returns:
        `[B, m, n]`, float64, on the model's device; n counts the entries of what the map is
        differentiated with respect to.

    Raises:
        ValueError: the network is not in float64, or x, t or cond is not what the model takes.

    Cost: as for `dense_jacobian`.
    """
    if map.model.dtype != torch.float64:
        raise ValueError(
            f"Expected a map of a network in float64, got {map.model.dtype}: the truth must be "
            "known far better than what is compared with it. Make it of in_float64(model)."
        )
    bound = map.at(x.detach().to(map.model.device, torch.float64), t, cond)
    return dense_jacobian(bound.f, bound.point, *bound.args)


# ------------------------------------------------------------------- how far an answer is from it


def leading(matrices: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The leading singular triplets of dense matrices.

    Args:
        matrices: `[B, m, n]`, any floating dtype.
        rank: k, how many.

    Returns:
        u `[B, k, m]`, s `[B, k]` descending, v `[B, k, n]`; orthonormal rows, float64.
    """
    u, s, vh = torch.linalg.svd(matrices.double(), full_matrices=False)
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


def residuals(
    matrices: torch.Tensor, u: torch.Tensor, s: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """The residuals ‖Aᵀu_i − s_i v_i‖ / s_1 of singular triplets, in float64.

    Args:
        matrices: A, `[B, m, n]`.
        u: `[B, k, m]` or `[B, k, *h_shape]`.
        s: `[B, k]`, descending.
        v: `[B, k, n]` or `[B, k, *x_shape]`.

    Returns:
        `[B, k]`, float64.
    """
    pulled = torch.einsum("bmn,bkm->bkn", matrices.double(), u.double().flatten(2))
    gap = pulled - s.double().unsqueeze(2) * v.double().flatten(2)
    s1 = s[:, :1].double().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.linalg.vector_norm(gap, dim=2) / s1


def orthogonality_loss(rows: torch.Tensor) -> torch.Tensor:
    """How far rows are from orthonormal: ‖I − QQᵀ‖ in the Frobenius norm, in float64.

    Args:
        rows: Q, `[B, k, n]` or `[B, k, *x_shape]`.

    Returns:
        `[B]`, float64.
    """
    q = rows.double().flatten(2)
    eye = torch.eye(q.shape[1], dtype=torch.float64, device=q.device)
    return torch.linalg.matrix_norm(q @ q.mT - eye)
