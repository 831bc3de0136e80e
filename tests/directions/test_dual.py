"""Exact machines, against another solver of the primal and the conditions of optimality."""

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear, minimize

from pullback.directions import boundary, dual
from tests.directions.planted import planted, sine

WHERE = {"tap": "mid_block", "t": 500, "folds": 0}


def primal(features, labels, C):
    """Normal and intercept in float64, by sequential quadratic programming with slacks."""
    rows = features.flatten(1).double()
    mean = rows.mean(0)
    axes = torch.linalg.svd(rows - mean, full_matrices=False).Vh[: len(rows) - 1]
    points, sides = ((rows - mean) @ axes.T).numpy(), (2.0 * labels - 1).numpy()
    count, dims = points.shape
    edges = np.hstack([sides[:, None] * points, sides[:, None], np.eye(count)])
    prices = np.full(count, C)
    found = minimize(
        lambda z: z[:dims] @ z[:dims] / 2 + prices @ z[dims + 1 :],
        np.zeros(dims + 1 + count),
        jac=lambda z: np.concatenate([z[:dims], [0.0], prices]),
        bounds=[(None, None)] * (dims + 1) + [(0, None)] * count,
        constraints=[{"type": "ineq", "fun": lambda z: edges @ z - 1, "jac": lambda _z: edges}],
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 500},
    ).x
    normal = torch.from_numpy(found[:dims]) @ axes
    length = float(normal.norm())
    return normal / length, found[dims] / length - float(mean @ normal) / length


@pytest.mark.parametrize("offset", [0.0, 2.0, 100.0])
@pytest.mark.parametrize(
    ("count", "shape", "gap", "C"),
    [
        (60, (5,), 2.0, 1.0),
        (60, (5,), 1.0, 0.01),
        (61, (2,), 0.5, 1.0),
        (80, (3,), 6.0, 1.0),
        (40, (40, 6), 3.0, 1.0),
        (40, (40, 6), 0.0, 0.003),
    ],
)
def test_the_normal_is_that_of_the_primal_to_a_millionth(count, shape, gap, C, offset):
    features, labels, _ = planted(count, shape, gap, offset=offset)
    found = boundary(features, labels, C=C, **WHERE)
    normal, intercept = primal(features, labels, C)
    assert sine(found.normal, normal) < 1e-6
    if C == 1.0:  # below, no sample is on its margin, and several intercepts are as good
        assert found.intercept == pytest.approx(intercept, abs=1e-6 * (1 + offset))


def broken(features, labels, found, C):
    """How far a boundary is from the conditions of optimality, 0 to 1, in float64.

    The normal must be a sum of samples with weights from 0 to C: C inside the margins, 0 outside.
    """
    rows, sides = features.flatten(1).double(), 2.0 * labels.double() - 1
    margins = sides * (rows @ found.normal.flatten() + found.intercept)
    # The length of the weights' sum is the inverse of the margin, where samples are on it.
    worst = 1.0
    for margin in margins[margins > 0].tolist():
        on = (margins - margin).abs() < 1e-9 * margins.abs().max()
        inside = margins < margin
        fixed = C * (sides * inside.double() * ~on) @ rows
        total = C * (sides * inside.double() * ~on).sum()
        columns = torch.cat([(sides[:, None] * rows)[on], sides[on, None]], 1).T
        wanted = torch.cat([found.normal.flatten() / margin - fixed, -total[None]])
        fit = lsq_linear(columns.numpy(), wanted.numpy(), (0, C * (1 + 1e-9)), tol=1e-15)
        worst = min(worst, float(np.linalg.norm(fit.fun)) * margin)
    return worst


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("count", "shape", "gap", "C"),
    [
        (30, (3,), 1.0, 0.1),
        (60, (5,), 1.0, 100.0),
        (60, (2,), 3.0, 1e4),
        (120, (4,), 0.0, 1.0),
        (60, (200,), 3.0, 1e4),
    ],
)
def test_the_conditions_of_optimality_hold(count, shape, gap, C, seed):
    features, labels, _ = planted(count, shape, gap, offset=1.0, seed=seed)
    found = boundary(features, labels, C=C, **WHERE)
    assert broken(features, labels, found, C) < 1e-7


@pytest.mark.parametrize("C", [0.1, 10.0])
def test_the_start_makes_no_difference(C, monkeypatch):
    monkeypatch.setattr(dual, "_STEPS", 1000)  # from far away it takes more of them
    for seed in range(15):
        features, labels, _ = planted(40, (4,), 1.0, seed=seed)
        gram = features @ features.T
        random = C * torch.rand(40, dtype=torch.float64) * (2 * labels - 1)
        (first, offset), (second, other) = (
            dual.solved(gram, labels == 1, C, start)
            for start in (torch.zeros(40, dtype=torch.float64), random - random.mean())
        )
        assert sine(first @ features, second @ features) < 1e-10
        assert offset == pytest.approx(other, abs=1e-9)
        assert abs(float(first.sum())) < 1e-10 * C
        assert bool(((2 * labels - 1) * first >= 0).all())
        assert float(first.abs().max()) <= C * (1 + 1e-12)


def test_samples_that_are_all_the_same():
    positive = torch.tensor([True, False] * 3)
    weights, intercept = dual.solved(
        torch.zeros(6, 6).double(), positive, 2.0, torch.zeros(6).double()
    )
    assert weights.tolist() == [2.0, -2.0] * 3
    assert intercept == 0


def test_points_that_come_several_times():
    features, labels, _ = planted(30, (3,), 2.0)
    once = boundary(features, labels, C=1.0, **WHERE)
    thrice = boundary(features.repeat(3, 1), labels.repeat(3), C=1 / 3, **WHERE)
    assert sine(once.normal, thrice.normal) < 1e-10
    assert once.intercept == pytest.approx(thrice.intercept, abs=1e-9)


def test_two_points_of_each_class_on_a_line():
    features = torch.tensor([[-3.0], [-1.0], [1.5], [4.0]])
    found = boundary(features, [0, 0, 1, 1], C=1e3, **WHERE)
    assert float(found.normal[0]) == pytest.approx(1.0)
    assert found.intercept == pytest.approx(-0.25)
    assert found.support == 2


def test_where_no_set_is_found_the_machine_is_taken_as_it_is(monkeypatch):
    features, labels, _ = planted(60, (5,), 2.0)
    exact = boundary(features, labels, **WHERE)
    monkeypatch.setattr(dual, "_STEPS", 0)
    plain = boundary(features, labels, **WHERE)
    assert 0 < sine(plain.normal, exact.normal) < 1e-5
    assert plain.accuracy is None
