"""Ways to find directions, as runs know them: what their files depend on, and regions of masks."""

import json
from dataclasses import fields

import pytest
import torch
from diffusers import DDIMScheduler

from pullback import LatentModel, runs
from pullback.runs import finding

MASK = (torch.arange(32).expand(32, 32) >= 16).float()
WAYS = [
    runs.OfPullback(class_label=3),
    runs.OfTrajectories(class_label=3),
    runs.OfSpectral(class_label=3, mask=MASK),
    runs.OfLocal(class_label=3, mask=MASK),
    runs.OfTarget(class_label=3, mask=MASK, target_class=8),
    runs.OfSupervised(classes=(3, 8)),
    runs.OfBoundary(scores=torch.rand(12), top=5, class_label=3),
    runs.OfWeights(),
]
OTHERS = {
    "seed": 7, "class_label": 4, "prompt": "a", "t": 100, "rank": 2, "quality": "draft",
    "tap": "mid_block", "mask": MASK.T, "null": 1, "joint": True, "target_class": 5,
    "target_prompt": "a", "layer": "l", "matrix": "k", "side": "output", "samples": 9, "steps": 10,
    "pool": "space", "classes": (1, 2), "prompts": ("a", "b"), "scores": torch.rand(12), "top": 4,
    "folds": 2, "how": "lda", "C": 2.0,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda one: one.method)
def test_the_settings_tell_every_option(digits, way):
    """So that no file of another one is reused."""
    plain = way.settings(digits)
    assert json.loads(json.dumps(plain)) == plain
    assert plain["method"] == way.method
    assert plain["conditions"] is None, "of class labels nothing has to be made"
    names = [one.name for one in fields(way)]
    options = {name: getattr(way, name) for name in names}
    assert options.keys() <= OTHERS.keys()
    for name in options:
        other = type(way)(**{**options, name: OTHERS[name]})
        assert other.settings(digits) != plain, name


@pytest.mark.parametrize(
    "way",
    [
        runs.OfPullback(),
        runs.OfPullback(prompt="a"),
        runs.OfTarget(class_label=3, mask=MASK, target_prompt="a"),
        runs.OfTarget(mask=MASK, target_class=3),
        runs.OfSupervised(prompts=("a", "b")),
        runs.OfBoundary(scores=torch.rand(12)),
    ],
)
def test_what_is_of_no_class_label_depends_on_what_makes_conditions(digits, way):
    assert way.settings(digits)["conditions"] == digits.conditions.fingerprint


def test_a_region_is_where_a_mask_is_white_by_half(digits):
    columns = torch.tensor([0, 0, 0.5, 0.5, 0.5, 0.4, 1, 0]).repeat(4).expand(32, 32)
    expected = torch.tensor([False, True, False, True]).repeat(4).expand(16, 16)
    assert torch.equal(finding.region_of(digits, columns), expected)
    for value, words in ((0.0, "selects nothing"), (1.0, "selects everything")):
        with pytest.raises(ValueError, match=words):
            finding.region_of(digits, torch.full((16, 16), value))


def test_a_target_is_asked_for(digits):
    with pytest.raises(ValueError, match="a target to move to, got none"):
        runs.OfTarget(mask=MASK).check(digits)


@pytest.mark.parametrize("way", [runs.OfPullback, runs.OfSpectral])
def test_a_feature_without_directions_is_told(tmp_path, way):
    """It depends on nothing, and nothing on it."""

    class Deaf(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Conv2d(1, 2, 1)
            self.last = torch.nn.Conv2d(2, 1, 1)
            for one in (self.first, self.last):
                torch.nn.init.zeros_(one.weight)

        def forward(self, x, _t):
            return x + self.last(self.first(x))

    model = LatentModel(Deaf().eval(), DDIMScheduler(), latent_shape=(1, 4, 4))
    with pytest.raises(ValueError, match="rank"):
        runs.find_directions(model, way(tap="first", rank=2), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("samples", "folds"), [(2, 0), (3, 3)])
def test_few_samples_are_not_refused_where_they_are_enough(digits, samples, folds):
    way = runs.OfSupervised(
        classes=(3, 8), how="lda", samples=samples, folds=folds, steps=5, t=(599,)
    )
    way.check(digits)
    assert len(way.found(digits, None, None)[0]) == 1


def test_the_name_of_a_direction_is_one_line():
    way = runs.OfSupervised(prompts=("a\nface", "a face " + 40 * "smiling "))
    assert way.name.startswith("a face to a face smiling")
    assert len(way.name) == 100
