"""The exact hyperplane: its optimality, and what it says of the others."""

import pytest
import torch
from scipy.optimize import minimize_scalar

from benchmarks.boundary_published import machine_on_rows
from benchmarks.exact_machine import exact_normal
from pullback.directions import boundary
from tests.directions.planted import planted, sine


def objective(features, y, weights, C):
    """‖w‖² / 2 + C Σ hinge at the best offset, which is at one of the kinks."""
    along = features @ weights
    offsets = y - along
    hinge = (1 - y * (along + offsets[:, None])).clamp(min=0).sum(1)
    return float(weights @ weights / 2 + C * hinge.min())


@pytest.mark.parametrize("C", [1.0, 0.01])
@pytest.mark.parametrize("gap", [1.0, 3.0])
def test_no_other_hyperplane_is_better(gap, C, rng):
    features, labels, _ = planted(40, (5,), gap, offset=1.0)
    y = labels * 2.0 - 1
    normal = exact_normal(features, labels, C)
    # The length that belongs to the normal is found by a search.
    found = minimize_scalar(
        lambda size: objective(features, y, size * normal, C),
        bounds=(1e-3, 10),
        method="bounded",
        options={"xatol": 1e-9},
    )
    for step in (1e-3, 1e-2, 0.1):
        for _ in range(20):
            other = found.x * normal + step * torch.randn(5, generator=rng, dtype=torch.float64)
            assert objective(features, y, other, C) > found.fun * (1 - 1e-9)


@pytest.mark.parametrize(("shape", "gap"), [((5,), 1.0), ((5,), 3.0), ((40, 6), 3.0)])
def test_ours_is_close_to_it_and_the_published_one_less(shape, gap):
    features, labels, _ = planted(60, shape, gap)
    exact = exact_normal(features, labels)
    ours = sine(boundary(features, labels, folds=0, tap="mid_block").normal, exact)
    published = sine(machine_on_rows(features, labels).normal, exact)
    assert ours < 1e-5
    assert ours < published < 2e-2


def test_two_samples_have_a_known_boundary():
    features = torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 2.0]])
    exact = exact_normal(features, torch.tensor([0, 1]))
    torch.testing.assert_close(exact, torch.tensor([2.0, -1.0, 2.0]).double() / 3)
    torch.testing.assert_close(exact_normal(features, torch.tensor([1, 0])), -exact)
