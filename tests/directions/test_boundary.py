"""Boundaries of linear support vector machines, against scikit-learn on the rows themselves."""

import builtins
from itertools import pairwise

import numpy as np
import pytest
import torch

from pullback.directions import boundary, dual
from tests.directions.planted import planted, sine

WHERE = {"tap": "mid_block", "t": 500}


# The oracle's kernel is in float32, which far from the origin leaves fewer digits.
@pytest.mark.parametrize(("offset", "room"), [(0.0, 1e-6), (2.0, 1e-5)])
@pytest.mark.parametrize(
    ("shape", "gap", "C"), [((5,), 2.0, 1.0), ((5,), 1.0, 0.01), ((40, 6), 3.0, 1.0)]
)
def test_the_dual_is_the_machine_on_the_rows(shape, gap, C, offset, room):
    from sklearn.svm import SVC

    features, labels, _ = planted(60, shape, gap, offset=offset)
    oracle = SVC(kernel="linear", C=C, tol=1e-10)
    oracle.fit(features.flatten(1).numpy(), labels.numpy())
    exact = torch.tensor(oracle.coef_[0])
    found = boundary(features, labels, C=C, **WHERE)
    assert found.normal.shape == shape
    assert sine(found.normal, exact) < room
    assert found.intercept == pytest.approx(
        float(oracle.intercept_[0]) / float(exact.norm()), abs=10 * room
    )
    far = torch.from_numpy(oracle.decision_function(features.flatten(1).numpy()))
    distance = found.distance(features) * found.deviation * float(exact.norm())
    assert torch.allclose(distance, far, atol=10 * room)
    assert found.support == len(oracle.support_)


def test_a_planted_hyperplane_is_found_the_better_the_more_samples_there_are():
    angles = []
    for count in (60, 240, 960):
        features, labels, normal = planted(count, (5, 4), 3.0, offset=1.0)
        found = boundary(features, labels, C=0.001, folds=2, **WHERE)
        angles.append(sine(found.normal, normal))
    assert angles[0] > 1.3 * angles[1] > 1.3**2 * angles[2]
    assert angles[2] < 0.2
    assert found.accuracy > 0.9
    # The middle of the classes lies at ⟨offset, normal⟩.
    middle = torch.ones(1, 5, 4, dtype=torch.float64)
    assert abs(float(found.distance(middle)) * found.deviation) < 0.5


@pytest.mark.parametrize("dims", [5, 20])
@pytest.mark.parametrize("C", [1e-5, 1.0])
def test_the_angle_to_a_planted_hyperplane_falls_with_the_root_of_the_samples(C, dims):
    """By a half for four times as many; for C near 0 the normal is the difference of the means."""
    gap, counts, squares = 3.0, (100, 400, 1600), []
    for count in counts:
        found = []
        for seed in range(12):
            features, labels, normal = planted(count, (dims,), gap, seed=seed)
            found.append(sine(boundary(features, labels, C=C, folds=0, **WHERE).normal, normal))
        squares.append(float(torch.tensor(found).square().mean()))
    for before, after in pairwise(squares):
        assert 0.3 < (after / before) ** 0.5 < 0.7
    law = [4 * (dims - 1) / (count * gap**2) for count in counts]
    for square, known in zip(squares, law, strict=True):
        # A machine with narrow margins looks at fewer samples, and does worse than the means.
        assert 0.7 * known < square < (1.4 if C < 1 else 10) * known


def test_accuracy_is_of_samples_that_were_held_out():
    features, labels, _ = planted(80, (300,), gap=0.0)
    found = boundary(features, labels, **WHERE)
    assert abs(found.accuracy - 0.5) < 0.2
    side = found.distance(features) > 0
    assert torch.equal(side, labels == 1)  # of the samples it learnt from, all are right
    assert boundary(features, labels, folds=0, **WHERE).accuracy is None


def test_distances_are_in_deviations_and_moves_arrive():
    features, labels, _ = planted(50, offset=7.0)
    found = boundary(features, labels, **WHERE)
    along = (features * found.normal).sum((1, 2))
    assert found.deviation == pytest.approx(float(along.std()))
    far = found.distance(features)
    assert far.shape == (50,)
    assert float(far[labels == 1].mean()) > 0 > float(far[labels == 0].mean())
    x = features[:4]
    moved = found.move(x, 1.5)
    assert torch.allclose(found.distance(moved), torch.tensor(1.5).double(), atol=1e-10)
    step = (moved - x).flatten(1)
    rest = step - (step @ found.normal.flatten())[:, None] * found.normal.flatten()
    assert float(rest.norm()) < 1e-12
    each = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    assert torch.allclose(found.distance(found.move(x, each)), each.double(), atol=1e-10)
    half = found.move(x.half(), 0.0)
    assert half.dtype == torch.float16
    assert float(found.distance(half).abs().max()) < 0.05


def test_the_direction_adds_a_deviation_and_tells_how_it_was_found(digits):
    features, labels, _ = planted(40, (96, 4, 4), dtype=torch.float32)
    found = boundary(
        features, labels, model=digits, name="b", provenance={"samples": "drawn"}, **WHERE
    )
    direction = found.direction()
    assert direction.unit == pytest.approx(found.deviation)
    assert direction.vector.dtype == torch.float32
    there = found.distance(features[:3] + direction.displacement(1.0))
    assert torch.allclose(there - found.distance(features[:3]), torch.ones(3).double(), atol=1e-4)
    known = direction.provenance
    assert known["intercept"] == found.intercept
    assert (known["C"], known["samples"]) == (1.0, "drawn")
    assert known["fingerprint"] == digits.seen_fingerprint
    direction.check_fits(digits, 500)


def test_latents_have_boundaries_too():
    features, labels, _ = planted(40, (1, 16, 16))
    direction = boundary(features, labels, space="x", t=500).direction()
    assert (direction.space, direction.tap, direction.t) == ("x", None, 500)


def test_where_the_origin_lies_and_the_scale_of_features_do_not_matter():
    features, labels, _ = planted(40)
    found = boundary(features, labels, **WHERE)
    far = found.distance(features)
    shifted = boundary(features + 100, labels, **WHERE)
    assert torch.allclose(shifted.distance(features + 100), far, atol=1e-6)
    scaled = boundary(10 * features, labels, C=0.01, **WHERE)
    assert torch.allclose(scaled.distance(10 * features), far, atol=1e-5)


def test_of_scores_the_highest_and_the_lowest_are_the_classes():
    features, labels, _ = planted(60)
    scores = torch.rand(60, dtype=torch.float64) + torch.as_tensor(labels)
    found = boundary(features, scores, top=12, **WHERE)
    order = scores.argsort()
    index = torch.cat([order[:12], order[-12:]])
    alone = boundary(features[index], [0] * 12 + [1] * 12, **WHERE)
    assert torch.allclose(found.normal, alone.normal, atol=1e-6)
    assert found.intercept == pytest.approx(alone.intercept, abs=1e-6)
    assert found.counts == (12, 12)
    assert found.direction().provenance["top"] == 12
    with pytest.raises(ValueError, match="top up to half of the 60 samples, got 31"):
        boundary(features, scores, top=31, **WHERE)


def test_scikit_learn_is_asked_for(monkeypatch):
    features, labels, _ = planted(20)
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        boundary(features, labels, **WHERE)


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"labels": [-1] * 20}, ValueError, "two classes, got -1 for all 20"),
        ({"labels": [0, 1, 2, 3] * 5}, ValueError, "got 4 values"),
        ({"labels": [0, 1] * 9}, ValueError, r"labels \[20\]"),
        ({"labels": [1] + [0] * 19}, ValueError, "19 and 1"),
        ({"features": torch.randn(2, 6, 4), "labels": [0, 1], "folds": 0}, ValueError, "1 and 1"),
        ({"features": torch.full((20, 3), torch.inf)}, ValueError, "NaN or Inf in samples 0, 1"),
        ({"features": torch.ones(20, 3)}, ValueError, "same for all"),
        ({"features": torch.randn(10, 3).repeat_interleave(2, 0)}, ValueError, "can tell apart"),
        ({"features": np.ones((20, 3))}, TypeError, "got ndarray"),
        ({"C": 0}, ValueError, "above 0"),
        ({"C": float("inf")}, ValueError, "finite number"),
        ({"tap": None}, ValueError, "where h is read"),
        ({"t": [500, 300]}, ValueError, "whole number"),
        ({"folds": -1}, ValueError, "folds"),
        ({"model": 3}, TypeError, "LatentModel"),
    ],
)
def test_what_does_not_fit_is_named(changed, kind, words):
    features, labels, _ = planted(20)
    given = {"features": features, "labels": labels, **WHERE, **changed}
    with pytest.raises(kind, match=words):
        boundary(**given)


@pytest.mark.parametrize(
    ("x", "to", "words"),
    [
        (torch.randn(2, 3), 0.0, r"\[B, 6, 4\]"),
        (torch.full((2, 6, 4), torch.nan), 0.0, "finite x"),
        (torch.randn(2, 6, 4), float("nan"), "finite distance"),
        (torch.randn(2, 6, 4), torch.zeros(3), r"\[2\]"),
    ],
)
def test_moves_that_do_not_fit_are_named(x, to, words):
    features, labels, _ = planted(20)
    found = boundary(features, labels, **WHERE)
    with pytest.raises(ValueError, match=words):
        found.move(x, to)


def test_whether_the_solution_is_exact_is_told(rng, monkeypatch):
    rows = torch.randn(30, 6, generator=rng, dtype=torch.float64)
    labels = (rows[:, 0] > 0).long()
    given = {"folds": 0, "space": "x"}
    exact = boundary(rows, labels, **given)
    assert exact.direction().provenance["exact"] is True
    monkeypatch.setattr(dual, "solved", lambda *_: None)
    near = boundary(rows, labels, **given)
    assert near.direction().provenance["exact"] is False
    # The machine's own, in float32 and to its tolerance.
    assert 1 - 1e-6 < float(near.normal @ exact.normal) < 1
