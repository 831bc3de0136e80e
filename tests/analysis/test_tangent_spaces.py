"""Subspaces at planted angles: across samples, times and conditions, by class, and ablated."""

import math

import pytest
import torch

from pullback.analysis import (
    ablation,
    across_conditions,
    across_samples,
    across_times,
    by_class,
    spread,
)
from tests.analysis.planted import TIMES, between_samples, turned

ANGLES = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])


def test_distances_across_samples_are_those_of_the_angles():
    found = across_samples(turned(ANGLES.expand(8, -1)), TIMES)
    expected = [between_samples(angle) for angle in ANGLES.tolist()]
    for sample in found.distance:
        assert sample.tolist() == pytest.approx(expected, abs=1e-4)
    assert [one.verdict for one in found.findings] == ["seen", "seen"]
    assert found.findings[1].control["mean"] == pytest.approx(found.chance, rel=0.02)
    back = across_samples(turned(ANGLES.flip(0).expand(8, -1)), TIMES)
    assert back.findings[0].verdict == "opposite"


def test_random_subspaces_share_nothing(rng):
    rows = torch.randn(12, 5, 3, 40, generator=rng)
    found = across_samples(rows, TIMES)
    assert found.distance.mean() == pytest.approx(found.chance, rel=0.03)
    assert found.findings[1].verdict != "seen" or found.findings[1].difference["mean"] < 0.1
    # The distances of one sample at two timesteps are alike, whatever the timesteps.
    times = across_times(rows, TIMES)
    assert abs(times.findings[0].value["mean"]) < 0.3


def test_distances_across_times_are_those_of_the_angles(rng):
    found = across_times(turned(ANGLES.expand(8, -1)), TIMES)
    expected = math.sqrt(3) * (ANGLES[:, None] - ANGLES).abs().double()
    for sample in found.distance:
        torch.testing.assert_close(sample, expected, atol=1e-4, rtol=0)
    assert found.findings[0].verdict == "seen"
    assert found.findings[0].value["mean"] > 0.9, "but for ties, which rounding breaks"
    assert abs(found.findings[0].control["mean"]) < 0.2
    # In an order that has nothing to do with time.
    order = torch.stack([torch.randperm(5, generator=rng) for _ in range(16)])
    mixed = across_times(turned(ANGLES[order]), TIMES)
    assert mixed.findings[0].value["mean"] < 0.5


def conditioned(angles, samples=8, shrink=(1.0, 0.8, 0.6, 0.4, 0.2)):
    """Rows `[N, T, P, k, m]` at angles `[P]`, which shrink with time."""
    return turned((torch.tensor(shrink)[:, None] * angles).expand(samples, -1, -1))


def test_similar_conditions_and_their_waning(rng):
    angles = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0])
    apart = (angles[:, None] - angles).abs()
    found = across_conditions(conditioned(angles), 1 - apart, TIMES)
    i, j = torch.triu_indices(5, 5, 1)
    torch.testing.assert_close(
        found.distance[0, 0], math.sqrt(3) * apart[i, j].double(), atol=1e-4, rtol=0
    )
    assert found.similarity == pytest.approx((1 - apart)[i, j].tolist())
    torch.testing.assert_close(found.mean, found.distance.mean(2))
    assert [one.verdict for one in found.findings] == ["seen", "seen"]
    assert found.findings[0].value["mean"] == pytest.approx(1.0, abs=0.02)
    unlike = across_conditions(conditioned(angles, shrink=(0.2, 0.4, 0.6, 0.8, 1)), apart, TIMES)
    assert [one.verdict for one in unlike.findings] == ["opposite", "opposite"]


def test_conditions_of_bad_shapes_are_refused():
    rows = conditioned(torch.tensor([0.0, 0.5, 1.0]))
    with pytest.raises(ValueError, match="three conditions"):
        across_conditions(rows[:, :, :2], torch.eye(2), TIMES)
    with pytest.raises(ValueError, match="three conditions"):
        across_conditions(rows, torch.eye(4), TIMES)


def classes(angles, samples=8):
    """Rows `[N, T, G, k, m]` of classes whose samples are at angles `[G]`, and the complexities."""
    return turned(angles.expand(samples, 3, -1))


def test_classes_that_agree_by_their_complexity(rng):
    angles = torch.linspace(0.2, 1.0, 9)
    found = by_class(classes(angles), angles.tolist(), TIMES[:3])
    assert found.distance[0, 0].tolist() == pytest.approx(
        [between_samples(angle) for angle in angles.tolist()], abs=1e-3
    )
    assert found.findings[0].verdict == "seen"
    assert found.correlation == pytest.approx([1.0] * 3)
    assert by_class(classes(angles.flip(0)), angles.tolist(), TIMES[:3]).findings[0].verdict == (
        "opposite"
    )
    # An order that means nothing, and an order of three, which chance has once in six times.
    mixed = angles[torch.tensor([4, 1, 6, 8, 0, 3, 7, 2, 5])]
    assert by_class(classes(mixed), angles.tolist(), TIMES[:3]).findings[0].verdict == "not shown"
    few = by_class(classes(angles[::4]), angles[::4].tolist(), TIMES[:3])
    assert few.findings[0].verdict == "not shown"
    with pytest.raises(ValueError, match="three classes"):
        by_class(classes(angles), [1.0], TIMES[:3])


def test_the_spread_of_images_is_their_variance(rng):
    images = torch.randn(50, 1, 8, 8, generator=rng)
    assert spread(images) == pytest.approx(float(images.flatten(1).var(0).sum()), rel=1e-5)
    with pytest.raises(ValueError, match="two or more"):
        spread(images[:1])


def test_what_turns_the_space_is_found():
    turns = turned(torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8]).expand(8, -1))
    stays = turned(torch.tensor([0.0, 0.02, 0.04, 0.06, 0.08]).expand(8, -1))
    found = ablation(turns, turns, stays, TIMES)
    assert found.only_x.mean(0).tolist() == pytest.approx(
        [math.sqrt(3) * angle for angle in (0.0, 0.2, 0.4, 0.6, 0.8)], abs=1e-4
    )
    assert found.findings[0].verdict == "seen"
    assert ablation(turns, stays, turns, TIMES).findings[0].verdict == "opposite"
    assert ablation(turns, turns, turns, TIMES).findings[0].verdict == "not shown"


def test_an_ablation_begins_where_nothing_has_changed():
    turns = turned(torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8]).expand(8, -1))
    with pytest.raises(ValueError, match="same spaces at t = 900"):
        ablation(turns, turns.flip(1), turns, TIMES)
    with pytest.raises(ValueError, match="one shape"):
        ablation(turns, turns[..., :2, :], turns, TIMES)
