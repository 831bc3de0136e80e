"""The published machine on rows, against ours and against known hyperplanes."""

import pytest
import torch

from benchmarks.boundary_published import machine_on_rows
from pullback.directions import boundary
from tests.directions.planted import planted, sine


@pytest.mark.parametrize(("shape", "gap"), [((5,), 1.0), ((40, 6), 3.0)])
def test_it_is_our_boundary_up_to_its_own_tolerance(shape, gap):
    features, labels, _ = planted(60, shape, gap)
    found = machine_on_rows(features.float(), labels)
    assert float(found.normal.norm()) == pytest.approx(1)
    ours = boundary(features.float(), labels, folds=0, tap="mid_block")
    assert sine(found.normal, ours.normal) < 2e-2
    assert abs(found.support - ours.support) <= 3


def test_it_points_to_the_larger_label():
    features, labels, normal = planted(60, (5,), 6.0)
    for signed in (labels, labels * 2 - 1):
        assert float(machine_on_rows(features, signed).normal @ normal.flatten()) > 0.5
    assert float(machine_on_rows(features, 1 - labels).normal @ normal.flatten()) < -0.5


def test_two_samples_have_a_known_boundary():
    # Between two points the widest margin is along their difference.
    features = torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 2.0]])
    found = machine_on_rows(features, torch.tensor([0, 1]))
    torch.testing.assert_close(found.normal, torch.tensor([2.0, -1.0, 2.0]).double() / 3)
    assert found.support == 2
