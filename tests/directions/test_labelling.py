"""Samples with features and scores, against the same thing by hand; digits end to end."""

import pytest
import torch

import pullback
from pullback import denoise, edit, maps
from pullback.directions import boundary, label_samples, supervised
from pullback.zoo.digits.judge import Judge

QUICK = {"steps": 10}
T = 499  # on the strides of ten steps from 999 down


def brightness(images):
    return images.flatten(1).mean(1)


def test_features_are_those_at_t_and_scores_those_of_the_images(digits):
    seeds = [3, 9, 4]
    found = label_samples(digits, seeds, T, brightness, **QUICK)
    x = digits.sample_latents(3, T, seed=seeds, steps=10)
    exact = maps.encoder(digits).at(x, T).value()
    assert torch.allclose(found.features, exact, rtol=1e-4, atol=1e-4)
    images = digits.images_of(denoise(digits, x, T, **QUICK))
    assert torch.allclose(found.scores, brightness(images).double(), atol=1e-4)
    assert found.seeds == (3, 9, 4)
    assert found.scores.dtype == torch.float64


def test_without_a_classifier_there_are_features_alone(digits, monkeypatch):
    """Of the same walks, which end behind the last timestep, and of no images."""
    whole = label_samples(digits, range(3), [699, T], brightness, **QUICK)
    asked = []
    output = type(digits).output
    monkeypatch.setattr(type(digits), "images_of", None)
    monkeypatch.setattr(
        type(digits), "output", lambda *args: asked.extend(args[2].tolist()) or output(*args)
    )
    found = label_samples(digits, range(3), [699, T], None, batch=2, **QUICK)
    assert torch.allclose(found.features, whole.features, rtol=1e-3, atol=1e-4)
    assert found.scores.shape == (3, 0)
    assert min(asked) == T
    assert found.place == whole.place


def test_batches_change_nothing_and_tell_how_far_they_are(digits):
    cond = digits.encode(class_label=[3, 8, 3, 8, 1])
    told = []
    given = {"cond": cond, "guidance": 2.0, "eta": 0.5, "seed": 7, **QUICK}
    whole = label_samples(digits, range(5), T, brightness, **given)
    parts = label_samples(
        digits, range(5), T, brightness, batch=2, progress=lambda *one: told.append(one), **given
    )
    assert torch.allclose(whole.features, parts.features, rtol=1e-3, atol=1e-3)
    assert torch.allclose(whole.scores, parts.scores, atol=1e-3)
    assert told == [(2, 5), (4, 5), (5, 5)]
    other = label_samples(digits, range(5), T, brightness, **{**given, "cond": None})
    assert not torch.allclose(whole.scores, other.scores, atol=1e-2)


def test_several_timesteps_and_several_attributes(digits):
    def score(images):
        return torch.stack([brightness(images), images.flatten(1).amax(1)], 1)

    found = label_samples(digits, range(6), [699, T], score, pool="space", **QUICK)
    assert found.features.shape == (6, 2, 96)
    assert found.scores.shape == (6, 2)
    alone = label_samples(digits, range(6), T, score, pool="space", **QUICK)
    assert torch.allclose(found.features[:, 1], alone.features, atol=1e-4)
    direction = supervised(found.features, found.scores[:, 0], top=3, folds=0, **found.place)
    entry = direction.entry()
    assert [(one.t, one.pool, one.tap) for one in entry] == [
        (699, "space", "mid_block"), (T, "space", "mid_block")
    ]  # fmt: skip
    assert entry[0].provenance["seeds"] == [0, 5]
    assert entry[0].provenance["fingerprint"] == digits.seen_fingerprint


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"score": "smile"}, TypeError, "function of images"),
        ({"score": lambda images: torch.zeros(1)}, ValueError, r"\[2\].*got \[1\]"),
        ({"score": lambda images: torch.full((2,), torch.nan)}, ValueError, "finite scores"),
        ({"seeds": 5}, ValueError, "list of seeds"),
        ({"seeds": [1, -1]}, ValueError, "seed"),
        ({"t": 1500}, ValueError, "training timestep"),
        ({"t": [T, 450]}, ValueError, r"steps begin at.*\[450\]"),
        ({"batch": 0}, ValueError, "batch"),
        ({"tap": "nowhere"}, ValueError, "no module"),
        ({"pool": "time"}, ValueError, "pool"),
        ({"eta": 1.0}, ValueError, "add noise"),
        ({"model": "digits"}, TypeError, "LatentModel"),
    ],
)
def test_what_does_not_fit_is_named(digits, given, kind, words):
    usual = {"model": digits, "seeds": [1, 2], "t": T, "score": brightness, **QUICK}
    with pytest.raises(kind, match=words):
        label_samples(**{**usual, **given})


@pytest.fixture(scope="module")
def threes_and_eights(digits):
    """Samples asked for as 3 or 8, and by how much the judge prefers 8."""
    judge = Judge(copies=0)

    def eightness(images):
        found = judge(images)
        return found[:, 8] - found[:, 3]

    cond = digits.encode(class_label=[3, 8] * 40)
    return label_samples(digits, range(80), T, eightness, cond=cond, **QUICK), eightness


@pytest.mark.parametrize("method", ["mean", "lda", "logistic", "boundary"])
def test_digits_become_others_along_what_their_features_say(digits, threes_and_eights, method):
    labelled, eightness = threes_and_eights
    positive = labelled.scores > 0
    if method == "boundary":
        found = boundary(labelled.features, positive, **labelled.place)
    else:
        found = supervised(labelled.features, positive, method=method, **labelled.place)
    assert found.accuracy > 0.8
    direction = found.direction()
    # Strength 1 of a discriminant is short, since it leads where the classes differ most clearly:
    # all are compared at one length.
    length = supervised(labelled.features, positive, folds=0, **labelled.place).direction().unit
    direction = direction.with_unit(4 * length)
    x = digits.sample_latents(24, T, seed=1000, steps=10, cond=digits.encode(class_label=[3] * 24))
    scores = [
        float(eightness(digits.images_of(edit(digits, x, T, direction, strength, **QUICK))).mean())
        for strength in (-1.0, 0.0, 1.0)
    ]
    assert scores[0] + 0.1 < scores[1] < scores[2] - 0.1


def test_the_front_door_of_the_room_has_it():
    for name in ("label_samples", "supervised", "boundary", "disentangle"):
        assert name in pullback.directions.__all__
