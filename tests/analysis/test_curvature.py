"""Lengths of paths whose curvedness is given."""

import math

import pytest
import torch

from pullback.analysis import curvature


def paths(rng, lerp, slerp, shooting, samples=8):
    """Distances `[N, 2, 10]` by kind around given ones."""
    kinds = {"lerp": lerp, "slerp": slerp, "shooting": shooting}
    return {
        kind: torch.as_tensor(one).expand(samples, 2, 10)
        + 0.01 * torch.rand(samples, 2, 10, generator=rng)
        for kind, one in kinds.items()
    }


def test_lengths_are_sums_and_their_order_is_found(rng):
    bent = torch.tensor([0.9, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 0.9])
    given = paths(rng, bent, 0.5, 0.3)
    found = curvature(given, (900, 500), rank=4, size=10_000)
    torch.testing.assert_close(found.length[:, 1, 0], given["lerp"][:, 1].double().sum(1))
    assert found.kinds == ("lerp", "slerp", "shooting")
    assert found.curvedness.shape == (8, 2, 3, 10)
    assert [one.verdict for one in found.findings] == ["seen"] * 3
    # Random subspaces of a large space are at right angles.
    assert found.chance == pytest.approx(10 * math.sqrt(4) * math.pi / 2, rel=0.02)


def test_the_opposite_order_is_told(rng):
    straight = torch.tensor([0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1])
    found = curvature(paths(rng, straight, 0.6, 0.9), (900, 500), rank=4, size=100)
    assert [one.verdict for one in found.findings] == ["opposite"] * 3
    same = curvature(paths(rng, straight, straight, 0.9), (900, 500), rank=4, size=100)
    assert same.findings[0].verdict == "not shown"


def test_kinds_that_are_missing_are_not_compared(rng):
    given = paths(rng, 0.5, 0.4, 0.3)
    del given["slerp"]
    found = curvature(given, (900, 500), rank=4, size=100)
    assert [one.claim for one in found.findings] == [
        "lerp bends at both ends, and less in the middle"
    ]


def test_distances_of_other_shapes_are_refused(rng):
    given = paths(rng, 0.5, 0.4, 0.3)
    with pytest.raises(ValueError, match="one shape"):
        curvature({**given, "lerp": given["lerp"][..., :5]}, (900, 500), rank=4, size=100)
    with pytest.raises(ValueError, match="one shape"):
        curvature({}, (900, 500), rank=4, size=100)
