"""What must hold of a map before its derivatives mean anything, found by one product each way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pullback.linearization import jvp
from pullback.operators.derivative import Transformed, Way, first_line
from pullback.operators.memory import is_out_of_memory
from pullback.operators.points import Points
from pullback_ext.intercept import forward_mode_ready

#: Bounds on the relative disagreement of two results that should agree: well above rounding
#: along different code paths, well below what dropout or a missing rule does.
_AGREEMENT = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


#: A network whose own rounding is larger than that may differ by this many times what it differs by
#: at a nearby point; up to a limit, beyond which nothing would be told from an error.
_ROUNDINGS = 10
_LARGEST = 3e-2


class _Limit:
    """How much two results that should agree may differ, relative: more where f rounds more.

    Args:
        points: the map at one or two points.
    """

    def __init__(self, points: Points) -> None:
        self._points = points
        self._usual = _AGREEMENT[points.x.dtype]
        self._own: float | None = None

    def exceeded(self, difference: float) -> bool:
        """Whether it is more than rounding explains; what f rounds is asked for only if need be."""
        if difference <= self._usual:
            return False
        if self._own is None:
            self._own = min(_ROUNDINGS * self._measured(), _LARGEST)
        return not difference <= self._own

    def _measured(self) -> float:
        """What f and its derivative change by, relative, where x changes by a few roundings."""
        v = torch.randn(
            self._points.x.shape, generator=torch.Generator("cpu").manual_seed(1), device="cpu"
        ).to(self._points.x)
        found = []
        with torch.no_grad(), forward_mode_ready():
            for points in (self._points, self._points.nearby(0)):
                found.append(jvp(points.at, (points.x,), (v,)))
        (value, product), (other, moved) = found
        if not torch.equal(self._points.value(), self._points.value()):
            return 0.0  # what changes by itself is no rounding
        return max(_relative(other - value, value), _relative(moved - product, product))


@dataclass(frozen=True)
class _Products:
    """One product each way at one or two points, and what the map gave on the way.

    Attributes:
        value: f(x), `[B, *h_shape]`, from a plain pass.
        again: f(x) from the pass that made J v.
        v: a tangent that lives in the first sample alone, `[B, *x_shape]`.
        jv: J v.
        u: a cotangent that lives in the first sample alone, `[B, *h_shape]`.
        ju: Jᵀ u.
    """

    value: torch.Tensor
    again: torch.Tensor
    v: torch.Tensor
    jv: torch.Tensor
    u: torch.Tensor
    ju: torch.Tensor


def check_map(points: Points, alone: torch.Tensor) -> str | None:
    """One product with J and one with its transpose, and what must hold between them.

    Nothing depends on the unit of x or f: tangents and cotangents have entries of size 1, and
    what is compared is relative.

    Args:
        points: the map at one or two points.
        alone: f at the first of them alone, `[1, *h_shape]`.

    Returns:
        Why f must not be recorded: what a recording cannot follow, or that its products differ
        from those of `torch.func`. None where it may be.

    Raises:
        ValueError: f or a product is not finite, f is not deterministic, mixes samples or depends
            on how many there are, or has a wrong derivative.

    Cost: one product of each kind per point by `torch.func`, and the same once more through a
        recording; for a single point a forward pass of two copies as well.
    """
    limit = _Limit(points)
    value = points.value()
    if not torch.isfinite(value).all():
        raise ValueError(
            "f(x) is not finite: it contains NaN or Inf. Expected a finite feature; check "
            f"the weights, and whether {points.x.dtype} is wide enough for this network."
        )
    made = _multiply(points, value)
    _check_finite(made)
    _check_deterministic(made, limit)
    _check_independent(made)
    _check_any_count(points, value, alone, limit)
    _check_adjoint(made, limit)
    _check_zero_is_true(points, made, _AGREEMENT[points.x.dtype])
    return _why_not_recorded(points, made, limit)


def _multiply(points: Points, value: torch.Tensor) -> _Products:
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, device="cpu").to(like)

    x = points.x
    # The tangent lives in the first sample alone, so the others must answer with zeros.
    v, u = torch.zeros_like(x), torch.zeros_like(value)
    v[0] = draw(x[0])
    with torch.no_grad(), forward_mode_ready():
        again, jv = jvp(points.at, (x,), (v,))
        # <J v, J v> = <J^T J v, v> is far from zero; with a random u both sides nearly were. Of
        # size 1, since J^T J v leaves the range of the dtype long before J does.
        size = _norm(jv[0]) / math.sqrt(jv[0].numel())
        u[0] = jv[0] / size if 0 < size < math.inf else draw(value[0])
        (ju,) = torch.func.vjp(points.at, x)[1](u)
    return _Products(value, again, v, jv, u, ju)


def _check_finite(made: _Products) -> None:
    for name, product in (("J v", made.jv), ("J^T u", made.ju)):
        bad = (~torch.isfinite(product)).flatten(1).any(1)
        if bool(bad.any()):
            raise ValueError(
                f"f(x) is finite, but its derivative is not: {name} contains NaN or Inf in samples "
                f"{torch.nonzero(bad).flatten().tolist()}. Expected finite products; look for a "
                "square root, norm or logarithm at zero inside f, or compute in a wider dtype than "
                f"{made.v.dtype}."
            )


def _check_deterministic(made: _Products, limit: _Limit) -> None:
    difference = _relative(made.again - made.value, made.value)
    if limit.exceeded(difference):
        raise ValueError(
            f"f is not deterministic: two evaluations at the same x differ by "
            f"{difference:.1e} relative. Expected the same value twice; call .eval() on the "
            "network and switch off dropout and any noise that is drawn inside."
        )


def _check_independent(made: _Products) -> None:
    others = (made.jv[1:], made.ju[1:])
    leak = max((float(rest.abs().max()) for rest in others if len(rest)), default=0.0)
    if leak > 0:
        raise ValueError(
            "The samples are not independent: a tangent that lives in one sample changed "
            f"another one by {leak:.1e}. Expected f to treat every row of the batch by "
            "itself; remove batch normalisation in training mode and other operations "
            "across the batch, or pass one sample at a time."
        )


def _check_any_count(
    points: Points, value: torch.Tensor, alone: torch.Tensor, limit: _Limit
) -> None:
    """The value of a sample must not depend on how many there are: passes cut the batch anyhow."""
    if len(points) == 1:
        value = points.select(torch.zeros(2, dtype=torch.int64, device="cpu")).value()
    if value.shape[1:] != alone.shape[1:]:
        what = f"has shape {list(value.shape[1:])} and not {list(alone.shape[1:])}"
    else:
        difference = _relative(value[:1] - alone, alone)
        if not limit.exceeded(difference):
            return
        what = f"differs by {difference:.1e} relative"
    raise ValueError(
        f"f depends on the number of samples: with two of them the value of the first {what} from "
        "what it is alone. Expected every row of the batch to be treated by itself, however many "
        "there are; remove factors of len(x) and what is normalised over the batch."
    )


def _check_adjoint(made: _Products, limit: _Limit) -> None:
    forward = torch.dot(made.u.double().flatten(), made.jv.double().flatten()).item()
    backward = torch.dot(made.ju.double().flatten(), made.v.double().flatten()).item()
    size = max(_norm(made.u) * _norm(made.jv), _norm(made.v) * _norm(made.ju))
    if forward != backward and limit.exceeded(abs(forward - backward) / size):
        raise ValueError(
            f"Forward and reverse mode disagree: <u, J v> = {forward:.6e} but <J^T u, v> = "
            f"{backward:.6e}. Some operation inside f has a wrong or missing derivative rule "
            "(a custom operator without a forward rule gives a silent zero); compare f's "
            "parts with finite differences to find it."
        )


def _check_zero_is_true(points: Points, made: _Products, tolerance: float) -> None:
    """Where both products are zero, f must indeed not change along v."""
    if _norm(made.jv) > 0 or _norm(made.ju) > 0:
        return
    step = 1e-2 * (_norm(points.x[0]) or 1.0) / _norm(made.v)
    with torch.no_grad(), forward_mode_ready():
        change = _norm(points.at(points.x + step * made.v) - made.value)
    if change > tolerance * _norm(made.value):
        raise ValueError(
            "Both products with the Jacobian are zero, but f itself changes when x does "
            f"(by {change:.1e}). Some operation inside f drops its derivative: look for "
            ".detach(), torch.no_grad(), rounding, or a custom operator without rules."
        )


def _why_not_recorded(points: Points, made: _Products, limit: _Limit) -> str | None:
    """Why the products of a recording are not those of f; None where they are."""
    way = Way()
    derivative = way.derivative(points)
    if isinstance(derivative, Transformed):
        return way.refused
    try:
        pushed = derivative.push(made.v.unsqueeze(1)).squeeze(1)
        pulled = derivative.pull(made.u.unsqueeze(1)).squeeze(1)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        return f"products of a recording failed: {first_line(error)}"
    for found, expected in ((pushed, made.jv), (pulled, made.ju)):
        difference = _relative(found - expected, expected)
        if limit.exceeded(difference):
            return f"products of a recording differ from those of torch.func by {difference:.1e}"
    return None


def _relative(difference: torch.Tensor, of: torch.Tensor) -> float:
    """The size of a difference beside that of the whole; 0 where there is none."""
    return _norm(difference) / max(_norm(of), torch.finfo(torch.float64).tiny)


def _norm(tensor: torch.Tensor) -> float:
    """The Euclidean norm, also where the squares of the entries leave the range of float64."""
    wide = tensor.double()
    largest = wide.abs().max().item()
    if not 0 < largest < math.inf:
        return largest
    return largest * torch.linalg.vector_norm(wide / largest).item()
