"""The dual of a linear support vector machine, solved exactly from near its solution."""

from __future__ import annotations

import torch

_STEPS = 200  # of the set of samples on their margins; from a machine's solution 23 were the most


def solved(
    gram: torch.Tensor, positive: torch.Tensor, C: float, weights: torch.Tensor
) -> tuple[torch.Tensor, float] | None:
    """The exact weights of samples, by the active-set method from approximate ones.

    For the samples that lie on their margins the dual is a linear system. It is solved, and samples
    join them or leave until the conditions of optimality hold for all, up to rounding.

    Args:
        gram: products of all samples `[N, N]`, float64, on the CPU.
        positive: the classes, bool `[N]`.
        C: the price of a sample on the wrong side of its margin.
        weights: `[N]`, float64, above 0 for the second class and below for the first, 0 to C in
            magnitude.

    Returns:
        Weights `[N]` and the intercept, of which several will do where no sample lies on its
        margin: then the middle of them. None where no set was found for which all holds.

    Cost: one system of as many equations as there are samples on their margins, for each step.

    Source: Nocedal and Wright 2006, Numerical Optimization, algorithm 16.3.
    """
    level = float(gram.diagonal().mean()) or 1.0
    gram, top = gram / level, C * level  # so that rounding does not depend on the scale
    sides = torch.where(positive, 1.0, -1.0).double()
    low, high = (sides * top).clamp(max=0), (sides * top).clamp(min=0)
    weights = torch.minimum(torch.maximum(weights * level, low), high)
    free = (weights > low) & (weights < high)
    for _ in range(_STEPS):
        slope = sides - gram @ weights
        rounding = float((gram.abs() @ weights.abs()).max().clamp(min=1))
        room = len(weights) * torch.finfo(weights.dtype).eps * rounding
        place = torch.nonzero(free).flatten()
        step = weights.new_zeros(len(weights))
        part, most = _step(gram[place][:, place], slope[place], float(weights.sum()), room)
        step[place] = part
        # As far as the first one comes to an end of what it may be.
        bound = torch.where(step > 0, high, low)
        ratio = torch.where(step != 0, (bound - weights) / step, torch.inf)
        share = min(most, float(ratio.min()))
        weights = weights + share * step
        if share < most:
            blocked = ratio <= share
            weights, free = torch.where(blocked, bound, weights), free & ~blocked
            continue
        slope = sides - gram @ weights
        rises = torch.where(weights < high, slope, -torch.inf)
        falls = torch.where(weights > low, slope, torch.inf)
        up, down = int(rises.argmax()), int(falls.argmin())
        some = bool(free.any())
        on = float(slope[free].mean() if some else (rises[up] + falls[down]) / 2)
        above, below = float(rises[up]) - on, on - float(falls[down])
        if above + below <= room:
            return weights / level, on
        # One at a time moves inwards for certain. Without others to move against, two do.
        free[up] = free[up] | (not some) | (above >= below)
        free[down] = free[down] | (not some) | (above < below)
    return None


def _step(
    gram: torch.Tensor, slope: torch.Tensor, excess: float, room: float
) -> tuple[torch.Tensor, float]:
    """Where weights `[F]` are to go, and how often this may be added.

    To where their slopes are one number and the sum of all weights is 0, once. Where samples depend
    on each other and their slopes cannot agree, along what changes no product: without end.
    """
    count = len(slope)
    if not count:
        return slope, 1.0
    system = gram.new_ones(count + 1, count + 1)
    system[:count, :count], system[count, count] = gram, 0
    right = torch.cat([slope, slope.new_tensor([-excess])])
    found = torch.linalg.lstsq(system, right[:, None], driver="gelsy").solution[:, 0]
    left = (right - system @ found)[:count]
    if float(left.abs().max()) > room:
        return left, torch.inf
    return found[:count], 1.0
