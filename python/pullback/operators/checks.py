"""What must hold of a map before its derivatives mean anything, found by one product each way."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pullback.operators import memory as _memory
from pullback.operators.tangent_graph import TangentGraph
from pullback_ext.intercept import forward_mode_ready

#: Bounds on the relative disagreement of two results that should agree: well above rounding
#: along different code paths, well below what dropout or a missing rule does.
_AGREEMENT = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


def check_map(
    f: Callable[..., torch.Tensor], x: torch.Tensor, args: tuple[object, ...], value: torch.Tensor
) -> bool:
    """One product with J and one with its transpose, and what must hold between them.

    Args:
        f: the map.
        x: one or two points `[B, *x_shape]`.
        args: the further arguments of f for these points.
        value: f(x, *args).

    Returns:
        Whether two reverse passes give J as well, so that a `TangentGraph` may be used.

    Raises:
        ValueError: f is not finite or deterministic, mixes samples, or has a wrong derivative.

    Cost: one product of each kind per point, and the same once more through graphs.
    """
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, device="cpu").to(like)

    def at(x: torch.Tensor) -> torch.Tensor:
        return f(x, *args)

    if not torch.isfinite(value).all():
        raise ValueError(
            "f(x) is not finite: it contains NaN or Inf. Expected a finite feature; check "
            f"the weights, and whether {x.dtype} is wide enough for this network."
        )
    # The tangent lives in the first sample alone, so the others must answer with zeros.
    v, u = torch.zeros_like(x), torch.zeros_like(value)
    v[0] = draw(x[0])
    with torch.no_grad(), forward_mode_ready():
        again, jv = torch.func.jvp(at, (x,), (v,))[:2]
        # <J v, J v> = <J^T J v, v> is far from zero; with a random u both sides nearly were.
        u[0] = jv[0] if _norm(jv[0]) > 0 else draw(value[0])
        (ju,) = torch.func.vjp(at, x)[1](u)
    tolerance = _AGREEMENT[x.dtype]
    difference = _norm(again - value) / max(_norm(value), torch.finfo(torch.float64).tiny)
    if not difference <= tolerance:
        raise ValueError(
            f"f is not deterministic: two evaluations at the same x differ by "
            f"{difference:.1e} relative. Expected the same value twice; call .eval() on the "
            "network and switch off dropout and any noise that is drawn inside."
        )
    leak = max((float(rest.abs().max()) for rest in (jv[1:], ju[1:]) if len(rest)), default=0.0)
    if leak > 0:
        raise ValueError(
            "The samples are not independent: a tangent that lives in one sample changed "
            f"another one by {leak:.1e}. Expected f to treat every row of the batch by "
            "itself; remove batch normalisation in training mode and other operations "
            "across the batch, or pass one sample at a time."
        )
    forward = torch.dot(u.double().flatten(), jv.double().flatten()).item()
    backward = torch.dot(ju.double().flatten(), v.double().flatten()).item()
    size = max(_norm(u) * _norm(jv), _norm(v) * _norm(ju))
    if not abs(forward - backward) <= tolerance * size:
        raise ValueError(
            f"Forward and reverse mode disagree: <u, J v> = {forward:.6e} but <J^T u, v> = "
            f"{backward:.6e}. Some operation inside f has a wrong or missing derivative rule "
            "(a custom operator without a forward rule gives a silent zero); compare f's "
            "parts with finite differences to find it."
        )
    twice = _same_by_graph(f, x, args, v, jv, tolerance)
    if _norm(jv) == 0 and _norm(ju) == 0:
        step = 1e-2 * max(_norm(x[0]), 1.0) / _norm(v)
        with torch.no_grad(), forward_mode_ready():
            change = _norm(at(x + step * v) - value)
        if change > tolerance * _norm(value):
            raise ValueError(
                "Both products with the Jacobian are zero, but f itself changes when x does "
                f"(by {change:.1e}). Some operation inside f drops its derivative: look for "
                ".detach(), torch.no_grad(), rounding, or a custom operator without rules."
            )
    return twice


def _same_by_graph(
    f: Callable[..., torch.Tensor],
    x: torch.Tensor,
    args: tuple[object, ...],
    v: torch.Tensor,
    jv: torch.Tensor,
    tolerance: float,
) -> bool:
    """Whether two reverse passes give the product that forward mode gave.

    They do not where a backward rule cannot be differentiated, or drops its own derivative.
    """
    try:
        product = TangentGraph(f, x, args, 1).push(v.unsqueeze(1)).squeeze(1)
    except RuntimeError as error:
        if _memory.is_out_of_memory(error):
            raise
        return False
    return _norm(product - jv) <= tolerance * _norm(jv)


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError unless a value is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"Expected {name} as a tensor, got {type(value).__name__}. Convert it with "
            "torch.as_tensor."
        )


def check_point(x: torch.Tensor) -> None:
    """Raise unless x is a finite, floating-point batch of points."""
    check_tensor("x", x)
    if not x.is_floating_point():
        raise TypeError(
            f"Expected x in a floating dtype, got {x.dtype}. Convert it with x.to(torch.float32)."
        )
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(
            f"Expected x of shape [B, *x_shape] with at least one sample, got {tuple(x.shape)}. "
            "Add a batch dimension with x.unsqueeze(0)."
        )
    if not torch.isfinite(x).all():
        bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"x contains NaN or Inf in samples {bad}. Expected finite points; the usual causes "
            "are a half-precision overflow while sampling and a wrong scaling of the input."
        )


def _norm(tensor: torch.Tensor) -> float:
    return torch.linalg.vector_norm(tensor.double()).item()
