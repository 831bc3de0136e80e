"""What distances between random subspaces are."""

import math

import pytest
import torch

from pullback.geometry import grassmann


@pytest.mark.parametrize("kind", ["geodesic", "chordal", "max"])
@pytest.mark.parametrize(("rank", "size"), [(1, 2), (3, 5), (3, 9), (3, 40), (10, 31), (5, 400)])
def test_it_is_the_mean_over_random_subspaces(rng, rank, size, kind):
    a, b = torch.randn(2, 1000, rank, size, generator=rng, dtype=torch.float64)
    drawn = grassmann.distance(a, b, kind)
    spread = float(drawn.std()) * (1 / 256 + 1 / 1000) ** 0.5  # of the difference of both means
    assert abs(grassmann.random_distance(rank, size, kind) - float(drawn.mean())) < 4 * spread


def test_large_spaces_leave_nothing_in_common():
    found = grassmann.random_distance(4, 10**9)
    assert found == pytest.approx(math.pi / 2 * 4**0.5, rel=1e-3)
    assert found == grassmann.random_distance(4, 10**9), "the same draws"


def test_the_whole_space_is_at_no_distance():
    assert grassmann.random_distance(3, 3) == pytest.approx(0, abs=1e-6)


def test_what_is_refused():
    with pytest.raises(ValueError, match="rank to be at least 1"):
        grassmann.random_distance(0, 5)
    with pytest.raises(ValueError, match="size to be at least 4, got 3"):
        grassmann.random_distance(4, 3)
    with pytest.raises(ValueError, match="Expected a distance of"):
        grassmann.random_distance(2, 5, "straight")
