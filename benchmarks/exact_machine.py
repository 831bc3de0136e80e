"""The hyperplane of a linear support vector machine in float64, as exactly as it can be known.

A solver's answer only says which samples lie on their margins and which beyond it. With that known
the optimality conditions are linear equations, which are solved directly; a solution that fulfils
the other conditions, too, is the optimum, whoever said it.
"""

from __future__ import annotations

import torch

#: Violation of the optimality conditions, in parts of the margin, up to which an answer is exact.
_EXACT = 1e-9
_STEPS = 100


def exact_normal(
    features: torch.Tensor, labels: torch.Tensor, C: float = 1.0
) -> torch.Tensor | None:
    """The unit normal `[p]`, float64 on the CPU, towards the second class; None if none is found.

    Args:
        features: `[N, *shape]`.
        labels: `[N]`, of two values.
        C: the price of a sample on the wrong side of its margin.

    Cost: N² p products in float64, one machine, and linear equations of N unknowns at most, some
    times.
    """
    from sklearn.svm import SVC  # which the other benchmarks do without

    rows = features.flatten(1).double().cpu()
    centred = rows - rows.mean(0)
    labels = labels.cpu()
    y = torch.where(labels == labels.max(), 1.0, -1.0).double()
    gram = centred @ centred.T
    machine = SVC(kernel="precomputed", C=C, tol=1e-8).fit(gram.numpy(), y.numpy())
    alpha = torch.zeros_like(y)
    alpha[torch.from_numpy(machine.support_).long()] = torch.tensor(machine.dual_coef_[0]).abs()
    products = gram * y[:, None] * y
    free, full = (alpha > 0) & (alpha < C), alpha >= C
    for _ in range(_STEPS):
        alpha, offset = _solved(products, y, free, full, C)
        margin = products @ alpha + offset * y - 1
        # A Newton step on α = clip(α − margin / scale): which samples it puts where.
        moved = alpha - margin / products.diagonal()
        now_free, now_full = (moved > 0) & (moved < C), moved >= C
        if torch.equal(now_free, free) and torch.equal(now_full, full):
            break
        free, full = now_free, now_full
    wrong = (alpha - (alpha - margin).clamp(0, C)).abs().max()
    if not float(wrong) <= _EXACT:
        return None
    normal = (alpha * y) @ centred
    return normal / normal.norm()


def _solved(
    products: torch.Tensor, y: torch.Tensor, free: torch.Tensor, full: torch.Tensor, C: float
) -> tuple[torch.Tensor, float]:
    """Dual weights `[N]` and offset for which free samples lie on their margins exactly.

    Args:
        products: y_i y_j ⟨x_i, x_j⟩, `[N, N]`.
        y: ±1, `[N]`.
        free: samples on their margins, bool `[N]`.
        full: those beyond, whose weight is C; that of all others is 0.
        C: the largest weight.
    """
    size = int(free.sum())
    system = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    system[:size, :size] = products[free][:, free]
    system[:size, size] = system[size, :size] = y[free]
    right = torch.cat([1 - C * products[free][:, full].sum(1), -C * y[full].sum()[None]])
    found = torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution[:, 0]
    alpha = C * full.double()
    alpha[free] = found[:size]
    return alpha, float(found[size])
