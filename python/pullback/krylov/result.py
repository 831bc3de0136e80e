"""What a singular value decomposition of a batch of operators gives, with how well and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch

ResultT = TypeVar("ResultT", bound="SVDResult")


@dataclass(frozen=True, eq=False)
class SVDResult:
    """The leading singular triplets of B operators, A ≈ Σ s_i u_i v_iᵀ, with how well and why.

    Attributes:
        u: left singular vectors, `[B, k, m]`, orthonormal rows.
        s: singular values, `[B, k]`, descending; exact zeros beyond the numerical rank.
        v: right singular vectors, `[B, k, n]`, orthonormal rows; in each the entry of largest
            magnitude is positive.
        residual: `[B, k]`, ‖Aᵀu_i − s_i v_i‖ / s_1.
        angle_bound: `[B]`, bound on the sine of the largest principal angle between the span of
            v (its first `rank` rows) and the true leading right singular space. After
            "max_products" it supposes that no leading direction was missed.
        converged: `[B]`, bool: the bound is at most `tol`.
        rank: `[B]`, int64: singular values above 1e-4 s_1 (1e-8 s_1 in float64); products in half
            precision resolve less, and may count fewer.
        products: `[B]`, int64: products with A and Aᵀ together.
        stopped: per sample "converged", "floor" (the products' own rounding allows no more, or a
            tie s_k = s_{k+1} leaves the space undetermined) or "max_products".
        tol: the bound that was asked for.
    """

    #: Names of the tensors, all batch first.
    TENSORS: ClassVar[tuple[str, ...]] = (
        "u",
        "s",
        "v",
        "residual",
        "angle_bound",
        "converged",
        "rank",
        "products",
    )

    u: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor
    residual: torch.Tensor
    angle_bound: torch.Tensor
    converged: torch.Tensor
    rank: torch.Tensor
    products: torch.Tensor
    stopped: tuple[str, ...]
    tol: float

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.s)

    def __getitem__(self: ResultT, index: int | slice | list[int] | torch.Tensor) -> ResultT:
        """The result of some of the samples; an int keeps the batch dimension, with one sample."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"Expected a sample below {len(self)}, got {index}.")
            index = [index % len(self)]
        if isinstance(index, torch.Tensor):
            index = index.cpu()
        return self._select(torch.arange(len(self), device="cpu")[index].reshape(-1))

    def _select(self: ResultT, rows: torch.Tensor) -> ResultT:
        """The samples at the int64 indices `[B']` on the CPU."""
        chosen: dict[str, Any] = {
            name: value[rows.to(value.device)] for name, value in self.tensors().items()
        }
        stopped = tuple(self.stopped[row] for row in rows.tolist())
        return replace(self, **chosen, stopped=stopped)

    def to(self: ResultT, *args: Any, **kwargs: Any) -> ResultT:
        """The result on another device or with u, s, v and residual in another floating dtype.

        Takes what `torch.Tensor.to` takes.
        """
        moved: dict[str, Any] = {
            name: value.to(*args, **kwargs) for name, value in self.tensors().items()
        }
        for name in moved.keys() - {"u", "s", "v", "residual"}:
            moved[name] = moved[name].to(getattr(self, name).dtype)
        return replace(self, **moved)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by their names, each with the batch first, `[B, ...]`."""
        return {name: getattr(self, name) for name in self.TENSORS}
