"""Means of subspaces and of frames, and the matching of directions, against their definitions."""

import itertools
import math

import pytest
import torch

from pullback.geometry.grassmann import (
    chordal_mean,
    distance,
    exp,
    frame,
    frame_mean,
    karcher_mean,
    log,
    match,
    polar,
    principal_angles,
)
from tests.geometry.made import frames


def around(center, spread, count):
    """Frames near a center `[k, N]`, along random tangents of a norm below `spread`."""
    tangents = torch.randn(count, *center.shape, dtype=torch.float64)
    tangents = tangents - (tangents @ center.mT) @ center
    return exp(center, spread * tangents / tangents.flatten(1).norm(dim=1)[:, None, None])


def turned(rows):
    """The same subspaces `[S, k, N]` with other frames."""
    return frames(len(rows), rows.shape[1], rows.shape[1]) @ rows


@pytest.mark.parametrize("angles", [(0.3, 0.9, 1.5), (1e-6, 1e-3, 0.1), (0.0, 0.0, 1.2)])
def test_the_mean_of_two_subspaces_is_the_middle_of_their_geodesic(angles):
    axes = frames(1, 6, 20)[0]
    theta = torch.tensor(angles, dtype=torch.float64)[:, None]
    points = [axes[:3] * (f * theta).cos() + axes[3:] * (f * theta).sin() for f in (0, 0.5, 1)]
    pair = turned(torch.stack([points[0], points[2]]))
    for mean in (karcher_mean(pair), chordal_mean(pair)):
        assert float(distance(mean, points[1], "max")) < 1e-9
        half = principal_angles(mean, pair)
        torch.testing.assert_close(half, (theta.flatten() / 2).expand(2, 3), rtol=1e-9, atol=1e-9)


def test_the_tangents_to_all_samples_cancel_at_the_karcher_mean():
    rows = turned(around(frames(1, 4, 30)[0], 1.2, 9))
    mean = karcher_mean(rows)
    assert float(log(mean, rows).mean(0).norm()) < 1e-10
    total = float(distance(mean, rows).square().sum())
    for other in around(mean, 1e-2, 20):
        assert float(distance(other, rows).square().sum()) > total
    assert float(distance(mean, chordal_mean(rows))) > 1e-3  # another mean


def test_the_karcher_mean_of_subspaces_far_apart_is_reached():
    """Random ones, where each step takes off little of what is left."""
    rows = frames(8, 5, 40)
    mean = karcher_mean(rows)
    assert float(log(mean, rows).mean(0).norm()) < 1e-10
    assert float(principal_angles(mean, rows).max()) > 1.2
    with pytest.raises(RuntimeError, match="has not arrived after 3 steps"):
        karcher_mean(rows, steps=3)


def test_a_mean_does_not_depend_on_frames_or_order():
    rows = around(frames(1, 3, 12)[0], 0.8, 5)
    for mean in (karcher_mean, chordal_mean):
        assert float(distance(mean(rows), mean(turned(rows).flip(0)), "max")) < 1e-9


def test_subspaces_with_no_single_mean_are_refused():
    axes = torch.eye(4, dtype=torch.float64)
    for mean in (karcher_mean, chordal_mean):
        with pytest.raises(ValueError, match="no single mean"):
            mean(torch.stack([axes[:2], axes[2:]]))
    # The third pulls the mean towards the first, to which the second stays orthogonal.
    with pytest.raises(ValueError, match="principal angle is π/2"):
        karcher_mean(torch.stack([axes[:1], axes[1:2], axes[:1]]))


def test_the_frame_mean_minimises_the_distance_of_projected_frames():
    base = frames(1, 3, 10)[0]
    rows = around(base, 0.3, 6)
    subspace = frames(1, 3, 3)[0] @ base
    found = frame_mean(rows, subspace)
    assert float(distance(found, base, "max")) < 1e-12
    torch.testing.assert_close(found @ found.mT, torch.eye(3, dtype=torch.float64))
    targets = polar(rows @ base.mT) @ base  # the frame in the subspace nearest to each
    best = float((targets - found).square().sum())
    for turn in frames(200, 3, 3):
        small = torch.linalg.matrix_exp(0.1 * (turn - turn.mT))
        assert float((targets - small @ found).square().sum()) >= best - 1e-12
    # Frames inside the subspace: a rotation by the mean of their angles.
    plane = frames(1, 2, 7)[0]
    angles = torch.tensor([0.1, 0.4, 1.0], dtype=torch.float64)
    c, s = angles.cos(), angles.sin()
    spun = torch.stack([torch.stack([c, s], -1), torch.stack([-s, c], -1)], -2) @ plane
    mean = math.atan2(float(s.sum()), float(c.sum()))
    expected = math.cos(mean) * plane[0] + math.sin(mean) * plane[1]
    torch.testing.assert_close(frame_mean(spun, plane)[0], expected)


def test_the_frame_mean_refuses_frames_that_cancel():
    plane = torch.eye(3, dtype=torch.float64)[:2]
    with pytest.raises(ValueError, match="full rank"):
        frame_mean(torch.stack([plane, -plane]), plane)
    with pytest.raises(ValueError, match=r"subspace of shape \[2, 3\]"):
        frame_mean(torch.stack([plane, plane]), plane[:1])


def test_polar_is_the_nearest_matrix_with_orthonormal_rows():
    m = torch.randn(4, 3, 5, dtype=torch.float64)
    found = polar(m)
    torch.testing.assert_close(found @ found.mT, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    best = (m - found).flatten(1).norm(dim=1)
    for other in frames(50, 3, 5):
        assert bool(((m - other).flatten(1).norm(dim=1) >= best).all())


def test_matching_one_to_one_has_the_largest_sum_of_cosines():
    a, b = frames(6, 4, 9)[:, :3], frames(6, 4, 9)
    found = match(a, b)
    for sample in range(6):
        cosines = (a[sample] @ b[sample].mT).abs()
        best = max(
            sum(float(cosines[i, j]) for i, j in enumerate(order))
            for order in itertools.permutations(range(4), 3)
        )
        assert float(found.cosine[sample].sum()) == pytest.approx(best)
        assert len(set(found.order[sample].tolist())) == 3
    rows = found.apply(b)
    torch.testing.assert_close((rows * a).sum(-1), found.cosine)
    assert bool((found.cosine >= 0).all())


def test_the_nearest_of_each_may_be_the_same_twice():
    e = torch.eye(4, dtype=torch.float64)
    a = torch.stack([e[0], e[1]])
    b = frame(torch.stack([-e[0] - 0.9 * e[1], e[2]]))
    assert match(a, b, one_to_one=False).order.tolist() == [0, 0]
    assert match(a, b, one_to_one=False).sign.tolist() == [-1, -1]
    assert match(a, b).order.tolist() == [0, 1]
    # One frame for several, as means are matched.
    several = match(a, torch.stack([b, b.flip(0)]), one_to_one=False)
    assert several.order.tolist() == [[0, 0], [1, 1]]
    with pytest.raises(ValueError, match="at least 2 rows to match one to one, got 1"):
        match(a, b[:1])
