"""Directions from labelled features, against closed forms and scikit-learn."""

import builtins

import numpy as np
import pytest
import torch

import pullback
from pullback.directions import from_pairs, samples, supervised
from tests.directions.planted import planted, sine

WHERE = {"tap": "mid_block", "t": 500}


def skewed(count, dims, seed=0):
    """Classes of unequal size in noise that differs from entry to entry, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dims, dims, generator=generator, dtype=torch.float64) / dims**0.5
    rows = torch.randn(count, dims, generator=generator, dtype=torch.float64) @ mixing
    labels = (torch.arange(count) % 3 == 0).long()
    shift = torch.randn(dims, generator=generator, dtype=torch.float64)
    return rows + labels[:, None] * shift + 5, labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_difference_keeps_its_length(dtype):
    features, labels, _ = planted(40, offset=3.0, dtype=dtype)
    found = supervised(features, labels, **WHERE)
    change = features[labels == 1].double().mean(0) - features[labels == 0].double().mean(0)
    direction = found.direction()
    assert direction.vector.dtype == dtype
    got = direction.displacement(1.0).double()
    assert float((got - change).norm() / change.norm()) < 8 * torch.finfo(dtype).eps
    assert (direction.space, direction.tap, direction.t) == ("h", "mid_block", 500)
    assert direction.window is None
    assert found.counts == (20, 20)


@pytest.mark.parametrize("method", ["mean", "lda", "logistic"])
def test_a_planted_factor_is_found_the_better_the_more_samples_there_are(method):
    options = {"C": 0.01} if method == "logistic" else {}
    angles = []
    for count in (60, 240, 960):
        features, labels, normal = planted(count, (10, 12))
        found = supervised(features, labels, method=method, **options, **WHERE)
        angles.append(sine(found.direction().vector, normal))
    assert angles[0] > 1.3 * angles[1] > 1.3**2 * angles[2]
    assert angles[2] < 0.3
    assert found.accuracy > 0.93


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_lda_is_that_of_scikit_learn_where_dimensions_are_few(shrinkage):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    rows, labels = skewed(90, 7)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    oracle.fit(rows.numpy(), labels.numpy())
    found = supervised(rows, labels, method="lda", shrinkage=shrinkage, **WHERE)
    assert sine(found.direction().vector, torch.from_numpy(oracle.coef_[0])) < 1e-9


@pytest.mark.parametrize("shrinkage", [0.05, 0.5, None])
def test_lda_in_the_span_of_the_samples_is_the_dense_solution(shrinkage):
    rows, labels = skewed(30, 80)
    found = supervised(rows, labels, method="lda", shrinkage=shrinkage, folds=3, **WHERE)
    means = torch.stack([rows[labels == one].mean(0) for one in (0, 1)])
    centred = rows - means[labels]
    covariance = centred.T @ centred / len(rows)
    share = found.direction().provenance["shrinkage"]
    assert shrinkage in (None, share)
    level = covariance.trace() / 80
    dense = (1 - share) * covariance + share * level * torch.eye(80, dtype=torch.float64)
    exact = torch.linalg.solve(dense, means[1] - means[0])
    assert sine(found.direction().vector, exact) < 1e-9
    assert found.direction().unit == pytest.approx(
        float((means[1] - means[0]) @ exact / exact.norm()), rel=1e-9
    )


@pytest.mark.parametrize("shape", [(50, 6), (20, 70)])
def test_shrinkage_is_that_of_ledoit_and_wolf(shape):
    from sklearn.covariance import ledoit_wolf_shrinkage

    rows = torch.randn(shape, dtype=torch.float64) * torch.rand(shape[1], dtype=torch.float64)
    rows = rows - rows.mean(0)
    exact = ledoit_wolf_shrinkage(rows.numpy(), assume_centered=True)
    assert 0 < exact < 1
    assert samples.shrinkage_of(rows, shape[1]) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize(("count", "dims"), [(60, 5), (30, 50)])
def test_logistic_regression_is_that_of_scikit_learn_on_the_rows(count, dims):
    from sklearn.linear_model import LogisticRegression

    rows, labels = skewed(count, dims)
    oracle = LogisticRegression(C=0.5, tol=1e-10, max_iter=100_000)
    oracle.fit(rows.numpy(), labels.numpy())
    found = supervised(rows, labels, method="logistic", C=0.5, **WHERE)
    assert sine(found.direction().vector, torch.from_numpy(oracle.coef_[0])) < 2e-3


def test_scores_count_at_their_ends_alone():
    features, _, _ = planted(50)
    scores = torch.randn(50)
    found = supervised(features, scores, top=10, **WHERE)
    order = scores.argsort()
    change = features[order[-10:]].mean(0) - features[order[:10]].mean(0)
    assert torch.allclose(found.direction().displacement(1.0), change, atol=1e-12)
    assert found.counts == (10, 10)
    assert found.direction().provenance["top"] == 10


def test_features_of_several_timesteps_give_a_direction_for_each_step():
    features, labels, _ = planted(40, (3, 5, 2))
    found = supervised(features, labels, tap="mid_block", t=[700, 500, 300], name="a")
    change = features[labels == 1].mean(0) - features[labels == 0].mean(0)
    entry = found.entry()
    assert [one.t for one in entry] == [700, 500, 300]
    assert [one.window for one in entry] == [(700, 501), (500, 301), (300, 101)]
    for one, part in zip(entry, change, strict=True):
        assert torch.allclose(one.displacement(1.0), part, atol=1e-12)
    with pytest.raises(ValueError, match=r"got those of 3: entry\(\)"):
        found.direction()
    single = supervised(features[:, 0], labels, tap="mid_block", t=700)
    assert single.entry() == (single.direction(),)


def test_accuracy_is_of_samples_that_were_held_out_and_separation_is_not():
    features, labels, _ = planted(60, (300,), gap=0.0)
    found = supervised(features, labels, method="lda", shrinkage=1e-3, **WHERE)
    assert found.separation > 10  # of noise, since there are more entries than samples
    assert abs(found.accuracy - 0.5) < 0.2
    without = supervised(features, labels, method="lda", shrinkage=1e-3, folds=0, **WHERE)
    assert without.accuracy is None
    assert without.separation == found.separation


def test_separation_is_in_pooled_deviations():
    rows = torch.tensor([[0.0], [2.0], [10.0], [12.0], [14.0]])
    found = supervised(rows, [0, 0, 1, 1, 1], folds=2, **WHERE)
    # Deviations: sum of squares 2 and 8 over 2 + 3 - 2.
    assert found.separation == pytest.approx(11 / (10 / 3) ** 0.5)
    assert found.accuracy == 1.0
    assert found.direction().unit == pytest.approx(11)


def test_folds_hold_every_sample_out_once_with_both_classes_in_each():
    positive = torch.arange(23) % 3 == 0  # 8 and 15
    seen = []

    def judge(train, test):
        assert not set(train.tolist()) & set(test.tolist())
        assert len(train) + len(test) == 23
        assert 1 <= int(positive[test].sum()) <= 2
        assert len(test) in (4, 5)
        seen.extend(test.tolist())
        return positive[test].double() - 0.5

    assert samples.held_out(positive, 5, 0, judge) == 1.0
    assert sorted(seen) == list(range(23))
    assert samples.held_out(positive, 5, 0, lambda train, test: torch.ones(len(test))) == 8 / 23


def test_pairs_take_out_what_the_subjects_differ_in():
    features, _, normal = planted(40, (50,), gap=0.0)
    subjects = 20 * torch.randn(40, 50, dtype=torch.float64)
    first, second = subjects, subjects + 2 * normal + 0.1 * features
    found = from_pairs(first, second, **WHERE)
    assert sine(found.direction().vector, normal) < 0.1
    assert found.accuracy == 1.0
    assert found.counts == (40, 40)
    change = (second - first).mean(0)
    assert torch.allclose(found.direction().displacement(1.0), change, atol=1e-12)
    assert found.direction().provenance["how"] == "supervised, pairs"
    unpaired = from_pairs(first, second[torch.randperm(40)], **WHERE)
    assert unpaired.accuracy < 0.9
    with pytest.raises(ValueError, match="of one shape"):
        from_pairs(first, second[:20], **WHERE)
    with pytest.raises(ValueError, match="got the same mean"):
        from_pairs(first, first, **WHERE)
    with pytest.raises(ValueError, match=r"got 1 pairs"):
        from_pairs(first[:1], second[:1], folds=0, **WHERE)


def test_provenance_tells_method_settings_model_and_more(digits, tmp_path):
    features, labels, _ = planted(40, (96, 4, 4), dtype=torch.float32)
    found = supervised(
        features, labels, method="lda", model=digits, name="smile",
        provenance={"samples": "drawn"}, **WHERE,
    )  # fmt: skip
    direction = found.direction()
    known = direction.provenance
    assert known["how"] == "supervised, lda"
    assert known["fingerprint"] == digits.seen_fingerprint
    assert known["samples"] == "drawn"
    assert 0 < known["shrinkage"] <= 1
    assert known["accuracy"] == found.accuracy
    assert known["counts"] == [20, 20]
    direction.check_fits(digits, 500)
    direction.save(tmp_path / "found.safetensors")
    again = pullback.Direction.load(tmp_path / "found.safetensors")
    assert again.provenance == known


def test_scikit_learn_is_asked_for_where_it_is_needed_alone(monkeypatch):
    features, labels, _ = planted(20)
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    supervised(features, labels, method="lda", **WHERE)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        supervised(features, labels, method="logistic", **WHERE)


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"labels": [1] * 20}, ValueError, "two classes, got 1 for all 20"),
        ({"labels": list(range(20))}, ValueError, "got 20 values.*top="),
        ({"labels": [0, 1]}, ValueError, r"labels \[20\].*\[2\]"),
        ({"labels": "abc"}, TypeError, "labels as numbers"),
        ({"labels": [float("nan")] * 20}, ValueError, "finite labels"),
        ({"labels": [1] + [0] * 19}, ValueError, "at least 5 samples of each.*19 and 1"),
        ({"labels": [1] + [0] * 19, "folds": 0}, ValueError, "at least 2 samples"),
        ({"folds": 1}, ValueError, "2 or more, got 1"),
        ({"features": np.ones((20, 3))}, TypeError, "got ndarray"),
        ({"features": torch.ones(20, 3).long()}, ValueError, "floating"),
        ({"features": torch.ones(20)}, ValueError, r"\[N, \*shape\]"),
        ({"features": torch.ones(20, 3)}, ValueError, "same mean"),
        ({"method": "svm"}, ValueError, "mean, lda, logistic"),
        ({"shrinkage": 0.1}, ValueError, 'is for "lda"'),
        ({"C": 1.0}, ValueError, 'is for "logistic"'),
        ({"method": "lda", "shrinkage": 0.0}, ValueError, "above 0 for features of 24"),
        ({"method": "lda", "shrinkage": 1.5}, ValueError, "from 0 to 1"),
        ({"method": "logistic", "C": 0.0}, ValueError, "above 0"),
        ({"top": 11}, ValueError, "half of the 20"),
        ({"top": 8, "labels": [0.0] * 10 + [1.0] * 10}, None, ""),
        ({"top": 10, "labels": [0.0] * 12 + [1.0] * 8}, ValueError, "in both groups"),
        ({"tap": None}, ValueError, "where h is read"),
        ({"space": "y"}, ValueError, "Expected space"),
        ({"t": [500, 300]}, ValueError, r"\[N, 2, \*shape\]"),
        ({"t": [1, 2, 3, 4, 5, 6]}, ValueError, "go down"),
        ({"t": 0.5}, ValueError, "whole number"),
        ({"model": "digits"}, TypeError, "LatentModel"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_what_does_not_fit_is_named(changed, kind, words):
    features, labels, _ = planted(20)
    given = {"features": features, "labels": labels, **WHERE, **changed}
    if kind is None:
        supervised(**given)
        return
    with pytest.raises(kind, match=words):
        supervised(**given)


def test_samples_that_are_not_finite_are_named():
    features, labels, _ = planted(20)
    features[[3, 7]] = torch.nan
    with pytest.raises(ValueError, match="samples 3, 7"):
        supervised(features, labels, **WHERE)
