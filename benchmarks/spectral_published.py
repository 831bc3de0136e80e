"""The baseline of `spectral`: the power iteration that was published for ∂ε/∂h.

Haas et al. 2023 (arXiv:2303.11073) find the leading singular vectors of J = dε/dh one after the
other. This is our own implementation of that algorithm, faithful also in what it spends and in when
it stops, since that is what is compared:

* every iteration makes one product with the transpose, q = Jᵀu, by a backward pass through a graph
  that is kept, and one with J, by the derivative of f(h − q + a q) in the scalar a at 1, which
  recomputes f;
* what lies along the earlier vectors U is taken off J q by U (UᵀU)⁻¹ Uᵀ, with an explicit inverse;
* a vector is done at the 11th iteration, not necessarily in a row, at which λ = ‖J q‖ has changed
  by less than `tol`, which is absolute, or after `max_iter`;
* each further vector starts from the one before, of which the first deflation leaves only what
  rounding adds;
* the vector of h is q of the last iteration, divided by its σ = √λ.

Given to it for free: f is the part of the network behind the tap, where the published code runs the
whole network, and the forward derivative runs on today's torch (`pullback_ext.intercept`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pullback_ext.intercept import forward_mode_ready

#: Iterations with little change after which one more ends a vector.
_HITS = 10


@dataclass(frozen=True)
class DeflatedPowerIteration:
    """What the loop returns.

    Attributes:
        u: left singular vectors, `[k, m]`.
        s: singular values, `[k]`, in the order in which they were found.
        v: right singular vectors, `[k, n]`, each by its s of norm 1 as far as it has converged.
        iterations: those of each vector.
        products: products with J and with its transpose together: 2 per iteration.
    """

    u: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor
    iterations: tuple[int, ...]
    products: int


def deflated_power_iteration(
    f: Callable[[torch.Tensor], torch.Tensor],
    h: torch.Tensor,
    rank: int,
    *,
    max_iter: int = 50,
    tol: float = 1e-5,
    seed: int = 42,
) -> DeflatedPowerIteration:
    """The leading singular vectors of df/dh at one point, as published, with its defaults.

    Args:
        f: maps `[1, *h_shape]` to `[1, *shape]`.
        h: the point, `[1, *h_shape]`.
        rank: k, vectors.
        max_iter: iterations of a vector at most.
        tol: absolute change of λ that counts as small.
        seed: seed of the random start.

    Cost: per iteration one backward pass, and one product with J with its own primal; per vector
    one primal more.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[torch.Tensor] = []
    rows: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    iterations: list[int] = []
    one = torch.ones((), dtype=h.dtype, device=h.device)
    with forward_mode_ready():
        for _ in range(rank):
            with torch.enable_grad():
                point = h.detach().clone().requires_grad_()
                value = f(point)
            if found:
                u = found[-1]
            else:
                u = torch.randn(value.numel(), generator=generator, dtype=h.dtype).to(h.device)
                u = u / u.norm()
            earlier = torch.stack(found, dim=1) if found else None
            size, hits, iteration = u.new_zeros(()), 0, 0
            while iteration < max_iter:
                (q,) = torch.autograd.grad(value, point, u.view_as(value), retain_graph=True)
                rest = h - q
                with torch.no_grad():
                    image = torch.func.jvp(lambda a, r=rest, q=q: f(r + a * q), (one,), (one,))[1]
                image = image.flatten()
                if earlier is not None:
                    inverse = torch.linalg.inv(earlier.T @ earlier)
                    image = image - earlier @ (inverse @ (earlier.T @ image))
                before, size = size, image.norm()
                u = image / size
                iteration += 1
                hits += bool((size - before).abs() < tol)
                if hits > _HITS:
                    break
            found.append(u)
            values.append(size.sqrt())
            rows.append(q.flatten() / size.sqrt())
            iterations.append(iteration)
    return DeflatedPowerIteration(
        torch.stack(found), torch.stack(values), torch.stack(rows), tuple(iterations),
        2 * sum(iterations),
    )  # fmt: skip
