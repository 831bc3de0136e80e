"""What directions do, and how they are found of labels, where the default device is another."""

import pytest
import torch

from pullback import analysis, directions
from pullback.directions import Direction

T = 500


@pytest.fixture
def way(rng):
    return Direction.of(torch.randn(1, 16, 16, generator=rng), "x", t=T)


def score(images):
    return torch.stack([images.mean((1, 2, 3)), images[:, 0, 4, 4]], 1)


def test_effects_are_measured_where_the_default_device_holds_no_numbers(digits, way):
    x = digits.sample_latents(3, T, 0, steps=4)

    def measured():
        noise = analysis.random_like(way, 3)
        found = analysis.evaluate(digits, x, T, [way, noise], (-2.0, 3.0), score, steps=4)
        targets = [found.effect(which).target for which in (None, 1, found)]
        units = analysis.matched(digits, x[:1], T, [way], 0.1, steps=4)
        gains = directions.gain_over_time(digits, [way], [0, 1], [499], steps=4)
        told = [analysis.summary(found.energy[:, 0, 0])["high"], str(found)]
        order = analysis.shuffled(torch.arange(9, device="cpu"), 2)
        return [*targets, units, gains.quartiles(), found.follows(found), order], told

    expected = measured()
    with torch.device("meta"):
        got = measured()
    assert got[1] == expected[1]
    for one, other in zip(got[0], expected[0], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("how", ["mean", "lda", "logistic", "boundary", "pairs"])
def test_labels_tell_directions_where_the_default_device_holds_no_numbers(how, rng):
    pytest.importorskip("sklearn")
    features = torch.randn(14, 5, generator=rng)
    place = {"tap": "middle", "pool": "space"}

    def found():
        if how == "pairs":
            return directions.from_pairs(features[:7], features[7:], **place)
        if how == "boundary":
            return directions.boundary(features, list(range(14)), top=6, **place)
        return directions.supervised(features, [0, 1] * 7, method=how, **place)

    expected = found()
    with torch.device("meta"):
        got = found()
    assert torch.equal(got.direction().vector, expected.direction().vector)
    assert got.accuracy == expected.accuracy
