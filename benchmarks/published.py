"""The baseline: the power iteration that was published for local latent bases.

Park et al. 2023 (arXiv:2307.12868) find the leading singular vectors of J = dh/dx one sample at a
time: k products with J, k with its transpose, an SVD, and so on until two successive V agree entry
by entry. This is our own implementation of that algorithm, faithful also in what it spends, since
that is what is compared:

* every chunk of tangents recomputes its primal, on a batch of identical copies of x (25 at most,
  the setting for unconditional models), because the derivative is taken by a scalar coefficient;
* one more forward pass learns the shape of h;
* the k products with the transpose are k backward passes, one after the other;
* V goes to the host and is cloned, every chunk of U goes to the host and back, and the distance
  between two iterations is taken to the host (the published code prints it; here it is not);
* the iteration stops when all entries of V agree within `atol`, signs included, and not before
  iteration `min_iter` + 2. An SVD is free to turn the sign of any vector, and nearly equal singular
  values turn within their span, so the rule seldom fires before `max_iter`.

Given to it for free: on today's torch the loop runs only with the mathematical form of attention
and with contiguous inputs of group normalisation (`pullback_ext.intercept`), the encoder stops
after the tap, and the products with J record no graph for the parameters' gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pullback_ext.intercept import forward_mode_ready


@dataclass(frozen=True)
class PowerIteration:
    """What the loop returns.

    Attributes:
        v: right singular vectors, `[k, n]`.
        s: square roots of the singular values of JᵀJV, `[k]`.
        iterations: how many were made.
        products: products with J and with its transpose together: 2 k per iteration.
        stopped: "allclose", "max_iter" or "watch".
    """

    v: torch.Tensor
    s: torch.Tensor
    iterations: int
    products: int
    stopped: str


def power_iteration(
    f: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    rank: int,
    *,
    min_iter: int = 10,
    max_iter: int = 50,
    atol: float = 1e-4,
    chunk: int = 25,
    seed: int = 0,
    watch: Callable[[torch.Tensor], bool] | None = None,
) -> PowerIteration:
    """The leading right singular vectors of df/dx at one point, as published.

    The defaults are those of the published editing calls; the published function's own are 1e-3
    for `atol` and 100 for `max_iter`.

    Args:
        f: maps `[c, *x_shape]` to `[c, *h_shape]` for any c.
        x: the point, `[1, *x_shape]`, float32.
        rank: k, directions.
        min_iter: the stopping rule is asked from the iteration with this index plus one.
        max_iter: iterations at most.
        atol: agreement of all entries of successive V that counts as converged.
        chunk: tangents in one pass.
        seed: seed of the random start.
        watch: called after every iteration with V `[k, n]`; the loop ends when it returns True.

    Cost: per iteration k products with J and ceil(k / chunk) primals, one more primal and k
    backward passes one by one, and an SVD of `[k, n]`.
    """
    n = x.numel()
    with forward_mode_ready():
        with torch.no_grad():
            h_shape = f(x).shape[1:]
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(n, rank, generator=generator, dtype=x.dtype).to(x.device)
        v = torch.linalg.qr(start).Q.T.contiguous()
        s = v.new_zeros(rank)
        coefficient = torch.zeros((), dtype=x.dtype, device=x.device)
        iteration, stopped = 0, "max_iter"
        while iteration < max_iter:
            previous = v.detach().cpu().clone()
            tangents = v.view(rank, *x.shape[1:])
            pieces = []
            for rows in tangents.chunk(math.ceil(rank / chunk)):
                with torch.no_grad():
                    piece = torch.func.jacfwd(lambda a, rows=rows: f(x + a * rows))(coefficient)
                pieces.append(piece.detach().cpu())
            u = torch.cat(pieces).to(x.device).view(rank, *h_shape)

            def products(point: torch.Tensor, u: torch.Tensor = u) -> torch.Tensor:
                """⟨u_i, f(point)⟩ for all i."""
                return (u * f(point)).flatten(1).sum(1)

            w = torch.autograd.functional.jacobian(products, x).view(rank, n)
            _, squares, v = torch.linalg.svd(w, full_matrices=False)
            s = squares.sqrt()
            now = v.detach().cpu()
            torch.dist(previous, now).item()  # what the published loop prints
            agree = torch.allclose(previous, now, atol=atol) and iteration > min_iter
            enough = watch is not None and watch(v)
            iteration += 1
            if agree or enough:
                stopped = "allclose" if agree else "watch"
                break
    return PowerIteration(v, s, iteration, 2 * rank * iteration, stopped)
