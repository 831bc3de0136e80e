"""Directions of another model, samples that are too few, and masks of everything."""

import pytest
import torch

import pullback
from pullback import edit
from pullback.directions import (
    boundary,
    disentangle,
    label_samples,
    local,
    pca,
    rank_by,
    spectral,
    supervised,
)
from tests.directions.linear import T, X, decoder_model
from tests.models import families

QUICK = {"steps": 5}
WHERE = {"tap": "mid_block", "t": 599}


@pytest.fixture(scope="module")
def other():
    """A model with latents, taps and conditions other than those of the digits."""
    return families.model_of("SD3Transformer2DModel")


@pytest.fixture(scope="module")
def entries(digits):
    """Edits of the digit model, in features and in latents, by how they were found."""
    x = digits.sample_latents(2, 599, seed=3, steps=5)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:8] = True
    labelled = label_samples(
        digits, range(8), 599, lambda images: images.flatten(1).mean(1), **QUICK
    )
    place = {"folds": 0, **labelled.place}
    return {
        "pca": pca(digits, 4, 1, **QUICK).entry(0),
        "spectral": spectral(digits, x, 599, 1, quality="draft").direction(0),
        "local": local(digits, x, 599, mask, 1, quality="draft").direction(0),
        "supervised": supervised(labelled.features, labelled.scores, top=4, **place).direction(),
        "boundary": boundary(
            labelled.features, labelled.scores > labelled.scores.median(), **place
        ).direction(),
    }


@pytest.mark.parametrize("how", ["pca", "spectral", "local", "supervised", "boundary"])
def test_a_direction_of_another_model_is_refused(entries, other, how):
    x, cond = torch.randn(1, *other.latent_shape), other.conditions.placeholder(1)
    words = (
        r"shape \[4, 8, 8\] in the latents of SD3.*got \[1, 16, 16\]"
        if how == "local"
        else r"mid_block, which SD3Transformer2DModel does not give: .*no module 'mid_block'"
    )
    with pytest.raises(ValueError, match=words):
        edit(other, x, 599, entries[how], cond=cond, **QUICK)
    one = entries[how][0] if how == "pca" else entries[how]
    with pytest.raises(ValueError, match=words):
        one.check_fits(other)
    if how != "local":
        with pytest.raises(ValueError, match="mid_block"):
            rank_by(other, x, 599, [one], cond=cond)


def test_a_direction_of_other_weights_is_told(entries, digits):
    again = pullback.load("digits")
    with torch.no_grad():
        next(again.network.parameters()).mul_(1.01)
    x = again.sample_latents(1, 599, seed=3, steps=5)
    with pytest.warns(UserWarning, match="digits has other weights.*find it there again"):
        edit(again, x, 599, entries["boundary"], **QUICK)
    mine = label_samples(again, range(8), 599, lambda images: images.flatten(1).mean(1), **QUICK)
    found = supervised(mine.features, mine.scores, top=4, **{"folds": 0, **mine.place})
    with pytest.raises(ValueError, match="Expected directions of one model, got fingerprints"):
        disentangle(entries["supervised"], found.direction())


def test_features_of_another_model_have_no_distance(digits):
    found = boundary(torch.randn(20, 96, 4, 4), [0, 1] * 10, model=digits, **WHERE)
    for call in (found.distance, lambda x: found.move(x, 1.0)):
        with pytest.raises(ValueError, match=r"\[B, 96, 4, 4\] like those of the boundary"):
            call(torch.randn(2, 32, 4, 4))


@pytest.mark.parametrize("find", [supervised, boundary])
def test_two_points_are_too_few_and_four_are_enough(find):
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    for folds in (0, 5):
        with pytest.raises(ValueError, match=r"samples of each class.*got 1 and 1. Add samples"):
            find(points, [0, 1], folds=folds, **WHERE)
    four = torch.cat([points + torch.tensor([0.0, y]) for y in (0.0, 1.0)])
    direction = find(four, [0, 1, 0, 1], folds=2, **WHERE).direction()
    torch.testing.assert_close(direction.vector, torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("find", [supervised, boundary])
def test_scores_that_are_all_alike_make_one_class(digits, find):
    found = label_samples(digits, range(4), 599, lambda images: torch.ones(len(images)), **QUICK)
    with pytest.raises(ValueError, match=r"two classes, got 1 for all 4 samples\. Add samples of"):
        find(found.features, found.scores, folds=0, **found.place)
    with pytest.raises(ValueError, match="tell the 2 highest from the 2 lowest, got 1 in both"):
        supervised(found.features, found.scores, top=2, folds=0, **found.place)


def test_a_mask_of_everything_is_none_for_spectral_directions():
    """There the whole is what is looked at without a mask; for local ones nothing would be left."""
    model, _ = decoder_model()
    x = torch.randn(1, *X)
    every = torch.ones(X, dtype=torch.bool)
    found, plain = (
        spectral(model, x, T, 2, tap="first", mask=mask, quality="tight") for mask in (every, None)
    )
    torch.testing.assert_close(found.basis.s, plain.basis.s, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.basis.v, plain.basis.v, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="leaves something out, got one that selects everything"):
        local(model, x, T, every, 1)
