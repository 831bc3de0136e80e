"""Radii of trajectories against walks by hand, and the rules on numbers that were made up."""

import pytest
import torch

import pullback
from pullback.directions import Boundary, Radii, boundary, mixing_step, radii
from tests.directions.planted import planted

TIMES = [799, 499, 199]
QUICK = {"steps": 10}


def test_sampled_radii_are_norms_of_the_walk(digits):
    found = radii(digits, [5, 6, 7], [999, *TIMES], **QUICK)
    assert (found.kind, found.times, found.samples) == ("sampled", (999, *TIMES), 3)
    assert found.root == 16
    for place, t in enumerate(found.times):
        x = digits.sample_latents(3, t, seed=[5, 6, 7], steps=10)
        norms = x.flatten(1).double().norm(dim=1)
        assert float(found.mean[place]) == pytest.approx(float(norms.mean()), rel=1e-4)
        assert float(found.deviation[place]) == pytest.approx(float(norms.std()), rel=1e-2)


def test_noise_lies_at_the_root_of_the_dimension(digits):
    found = radii(digits, range(64), [999], **QUICK)
    assert float(found.mean[0]) == pytest.approx(16, abs=0.3)
    assert float(found.deviation[0]) == pytest.approx(0.5**0.5, rel=0.3)


def test_inverted_radii_are_norms_on_the_way_up(digits):
    data = digits.images_of(pullback.denoise(digits, digits.sample_latents(3, 999), 999, **QUICK))
    found = radii(digits, data, TIMES, batch=2, **QUICK)
    assert (found.kind, found.samples) == ("inverted", 3)
    exact = pullback.invert(digits, data, 799, check=False, **QUICK).x.flatten(1).norm(dim=1)
    assert float(found.mean[0]) == pytest.approx(float(exact.mean()), rel=1e-4)
    lower = pullback.invert(digits, data, 199, check=False, **QUICK).x.flatten(1).norm(dim=1)
    assert float(found.mean[2]) == pytest.approx(float(lower.mean()), rel=1e-4)


def test_inverted_trajectories_fall_behind_the_further_the_nearer_they_come_to_noise(digits):
    labels = list(range(10)) * 2
    x = digits.sample_latents(20, 999, seed=50)
    cond = digits.encode(class_label=labels)
    data = digits.images_of(pullback.denoise(digits, x, 999, cond=cond, **QUICK))
    times = [999, *TIMES, 99]
    sampled, inverted = (radii(digits, one, times, **QUICK) for one in (range(20), data))
    found = mixing_step("radius", sampled=sampled, inverted=inverted, tol=0.1)
    assert found.t in (199, 99)
    assert found.seen[0] > 0.3
    assert list(found.seen[1:]) == sorted(found.seen[1:], reverse=True)


def test_batches_change_nothing_and_tell_how_far_they_are(digits):
    told = []
    whole = radii(digits, range(5), TIMES, eta=1.0, seed=3, **QUICK)
    parts = radii(
        digits, range(5), TIMES, eta=1.0, seed=3, batch=2,
        progress=lambda *one: told.append(one), **QUICK,
    )  # fmt: skip
    assert torch.allclose(whole.mean, parts.mean, rtol=1e-3)
    assert told == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"source": 5}, ValueError, "seeds as a list"),
        ({"source": [5]}, ValueError, "two samples"),
        ({"source": torch.randn(3, 4)}, ValueError, "shape"),
        ({"times": [199, 499]}, ValueError, "go down"),
        ({"times": [499, 450]}, ValueError, r"comes by.*\[450\]"),
        ({"times": []}, ValueError, "one or more"),
        ({"source": torch.zeros(2, 1, 16, 16), "eta": 1.0}, ValueError, "without noise"),
        ({"batch": 0}, ValueError, "batch"),
        ({"model": None}, TypeError, "LatentModel"),
    ],
)
def test_what_does_not_fit_is_named(digits, given, kind, words):
    usual = {"model": digits, "source": [1, 2], "times": TIMES, **QUICK}
    with pytest.raises(kind, match=words):
        radii(**{**usual, **given})


def of(kind, means, times=(800, 600, 400, 200), root=16.0):
    means = torch.tensor(means, dtype=torch.float64)
    return Radii(kind, times, means, torch.zeros_like(means), root, 10)


SAMPLED = of("sampled", [16.0, 15.9, 15.0, 12.0])
INVERTED = of("inverted", [14.0, 15.85, 15.0, 11.0])


def test_the_radius_rule_takes_the_largest_t_without_a_gap():
    found = mixing_step("radius", sampled=SAMPLED, inverted=INVERTED)
    assert (found.t, found.rule, found.times) == (600, "radius", (800, 600, 400, 200))
    assert found.seen == pytest.approx((2 / 16, 0.05 / 15.9, 0.0, 1 / 12))
    wide = mixing_step("radius", sampled=SAMPLED, inverted=INVERTED, tol=0.13)
    assert wide.t == 800
    with pytest.raises(ValueError, match=r"got 0.125 at best"):
        mixing_step(
            "radius", sampled=of("sampled", [16.0], (800,)), inverted=of("inverted", [14.0], (800,))
        )


def test_the_convergence_rule_takes_the_step_from_which_nothing_changes():
    found = mixing_step("convergence", sampled=SAMPLED)
    assert (found.t, found.times) == (600, (600, 400, 200))
    assert found.seen == pytest.approx((0.1 / 15.9, 0.9 / 15, 3 / 12))
    assert mixing_step("convergence", sampled=SAMPLED, tol=0.07).t == 400
    # A change that is small by chance, further down, does not count.
    again = of("sampled", [16.0, 15.9, 12.0, 12.0])
    assert mixing_step("convergence", sampled=again).t == 600
    with pytest.raises(ValueError, match="change of the mean radii is within"):
        mixing_step("convergence", sampled=of("sampled", [16.0, 12.0], (800, 600)))


def at(t, accuracy):
    features, labels, _ = planted(10)
    found = boundary(features, labels, tap="mid_block", t=t, folds=0)
    values = {name: getattr(found, name) for name in Boundary.__dataclass_fields__}
    return Boundary(**{**values, "accuracy": accuracy})


def test_the_separability_rule_takes_the_best_boundary():
    found = mixing_step("separability", boundaries=[at(200, 0.8), at(600, 0.9), at(400, 0.9)])
    assert found.t == 600
    assert found.times == (600, 400, 200)
    assert found.seen == (0.9, 0.9, 0.8)
    assert found.tol is None


def test_separability_of_planted_features_is_where_the_gap_is():
    found = []
    for t, gap in ((700, 0.5), (500, 4.0), (300, 1.5)):
        features, labels, _ = planted(60, gap=gap)
        found.append(boundary(features, labels, tap="mid_block", t=t))
    assert mixing_step("separability", boundaries=found).t == 500


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"rule": "paper"}, ValueError, "radius, convergence, separability"),
        ({"rule": "radius", "sampled": SAMPLED}, ValueError, "got no inverted"),
        ({"rule": "convergence", "sampled": SAMPLED, "inverted": INVERTED}, ValueError, "inverted"),
        ({"rule": "separability"}, ValueError, "got no boundaries"),
        ({"rule": "separability", "boundaries": []}, ValueError, "several timesteps"),
        ({"rule": "separability", "boundaries": [SAMPLED]}, TypeError, "got Radii"),
        ({"rule": "separability", "boundaries": [at(1, None)]}, ValueError, "got one without"),
        ({"rule": "separability", "boundaries": [at(1, 0.5)] * 2}, ValueError, "one at each"),
        ({"rule": "convergence", "sampled": INVERTED}, ValueError, "got inverted ones"),
        ({"rule": "convergence", "sampled": [16.0]}, TypeError, "got list"),
        ({"rule": "convergence", "sampled": SAMPLED, "tol": 0}, ValueError, "between 0 and 1"),
        (
            {"rule": "convergence", "sampled": of("sampled", [16.0], (800,))},
            ValueError,
            "two times",
        ),
        (
            {"rule": "radius", "sampled": SAMPLED, "inverted": of("inverted", [1.0], (800,))},
            ValueError,
            "one set of times",
        ),
    ],
)
def test_rules_without_what_they_look_at_say_so(given, kind, words):
    with pytest.raises(kind, match=words):
        mixing_step(**given)
