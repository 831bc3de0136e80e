"""Plans: what is refused before anything long, the map, and what the numbers depend on."""

import json
from dataclasses import fields, replace

import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

import pullback
from pullback.models import LatentModel

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
        ({"seeds": (0, 2**32)}, r"below 2\^32, .*got \[0, 4294967296\]"),
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


def test_the_settings_tell_what_the_model_was_loaded_with(plan, monkeypatch, digits):
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    told = []
    for call in ({}, {"image": image, "height": 64}, {"height": 65}, {"image": image.rotate(0)}):
        monkeypatch.setattr(digits, "_given", call)
        told.append(plan.settings(digits, 900)["call"])
    assert json.loads(json.dumps(told)) == told
    assert told[0] == {}
    assert told[1]["height"] == 64
    assert told[1]["image"] == told[3]["image"]
    image.putpixel((7, 7), (1, 2, 4))
    monkeypatch.setattr(digits, "_given", {"image": image})
    assert plan.settings(digits, 900)["call"]["image"] != told[1]["image"]


def test_the_settings_tell_all_that_the_model_is(plan, digits):
    def told(model):
        settings = plan.settings(model, 900)
        assert json.loads(json.dumps(settings)) == settings
        return settings

    model = pullback.load("digits")
    plain = told(model)
    assert plain == told(digits)
    assert plain == {**plan.shared_settings(model), "t": 900}
    assert {"pullback", "torch", "diffusers", "dtype", "device"} <= set(plain)
    # Only the last entry of one tensor, which torch does not count as a change.
    model.network.conv_out.weight.data.view(-1)[-1] += 1
    assert changed(plain, told(model)) == {"fingerprint"}
    scheduler = DDPMScheduler(beta_schedule="scaled_linear")
    other = LatentModel(digits.network, scheduler, name="digits", null_cond=digits.conditions.null)
    assert changed(plain, told(other)) == {"scheduler"}
    null = {"class_labels": torch.tensor(3)}
    other = LatentModel(digits.network, digits.schedule.scheduler, name="digits", null_cond=null)
    assert changed(plain, told(other)) == {"conditions"}


def changed(first, second):
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


def test_the_condition_of_some_samples(plan, digits):
    assert plan.condition(digits) is None
    labelled = replace(plan, class_labels=(7, 3))
    assert torch.equal(labelled.condition(digits)["class_labels"], torch.tensor([7, 3]))
    some = labelled.condition(digits, slice(1, 2))
    assert torch.equal(some["class_labels"], torch.tensor([3]))
