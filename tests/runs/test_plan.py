"""Plans: what is refused before anything long, the map, and what the numbers depend on."""

import json
from dataclasses import fields, replace

import pytest
import torch

CHANGED = {
    "timesteps": (500,),
    "rank": 3,
    "seeds": (0, 2),
    "tap": "down_blocks.1",
    "tol": 1e-2,
    "seed": 1,
    "class_labels": (3, 4),
    "prompts": ("a", "b"),
    "map": "decoder",
}


def test_a_plan_that_can_be_computed(plan, digits):
    plan.check(digits)
    assert plan.sizes(digits) == (256, 1536)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"timesteps": ()}, "one or more different timesteps"),
        ({"timesteps": (5, 5)}, r"different timesteps, got \[5, 5\]"),
        ({"timesteps": (1000,)}, "between 0 and 999"),
        ({"seeds": ()}, "one or more different seeds"),
        ({"seeds": (1, 1)}, "different seeds"),
        ({"seeds": (0, -1)}, "seeds of 0 or more"),
        ({"class_labels": (1, 2, 3)}, "one for each of the 2, got 3"),
        ({"class_labels": (1, 11)}, "between 0 and 10"),
        ({"prompts": ("a",)}, "one prompt for all samples or one for each of the 2, got 1"),
        ({"map": "encode"}, "Expected a map of encoder, decoder"),
        ({"tap": "middle"}, "'middle'"),
        ({"rank": 257}, "= 256"),
    ],
)
def test_what_is_refused(plan, digits, changed, words):
    with pytest.raises(ValueError, match=words):
        replace(plan, **changed).check(digits)


@pytest.mark.parametrize(
    ("name", "wrt"),
    [("encoder", "x"), ("decoder", "h"), ("noise", "x"), ("denoised", "x"), ("score", "x")],
)
def test_the_map_of_each_name(plan, digits, name, wrt):
    assert replace(plan, map=name).map_of(digits).wrt == wrt


def test_the_settings_tell_all_that_a_plan_holds(plan, digits):
    settings = plan.settings(digits, plan.timesteps[0])
    assert json.loads(json.dumps(settings)) == settings
    assert set(CHANGED) == {field.name for field in fields(plan)}
    for name, value in CHANGED.items():
        other = replace(plan, **{name: value})
        assert other.settings(digits, other.timesteps[0]) != settings, name


def test_the_condition_of_some_samples(plan, digits):
    assert plan.condition(digits) is None
    labelled = replace(plan, class_labels=(7, 3))
    assert torch.equal(labelled.condition(digits)["class_labels"], torch.tensor([7, 3]))
    some = labelled.condition(digits, slice(1, 2))
    assert torch.equal(some["class_labels"], torch.tensor([3]))
