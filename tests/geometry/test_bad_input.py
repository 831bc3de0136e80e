"""What local_basis does not take is named before any work."""

import math

import pytest
import torch

import pullback
from pullback import local_basis


def latents(count=2):
    return torch.randn(count, 1, 16, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.full((2, 1, 16, 16), math.nan)}, r"NaN or Inf in samples \[0, 1\]"),
        ({"x": torch.full((2, 1, 16, 16), math.inf)}, "NaN or Inf"),
        ({"x": torch.randn(2, 3, 16, 16)}, r"shape \[B, 1, 16, 16\] for digits"),
        ({"x": torch.randn(1, 16, 16)}, r"got \[1, 16, 16\]"),
        ({"x": torch.randn(0, 1, 16, 16)}, r"got \[0, 1, 16, 16\]"),
        ({"x": torch.randn(2, 1, 16, 16).double()}, "like the network, got torch.float64"),
        ({"t": 1000}, "between 0 and 999, got 1000"),
        ({"t": -1}, "between 0 and 999"),
        ({"t": 0.5}, "multiplied by 1000"),
        ({"t": torch.tensor([1, 2, 3])}, r"one per sample, \[2\], got shape \[3\]"),
        ({"rank": 0}, "between 1 and min"),
        ({"rank": 257}, r"min\(256, 1536\) = 256, got 257"),
        ({"tap": "bottleneck"}, "Its taps are: down_blocks.0, .*mid_block"),
        ({"cond": {"prompt": torch.zeros(2)}}, r"names \['class_labels'\]"),
        ({"cond": {"class_labels": torch.tensor([1, 2, 3])}}, "2 rows"),
        ({"cond": {"class_labels": torch.tensor([11])}}, "between 0 and 10"),
        ({"cond": {}}, "empty mapping"),
        ({"cond": {"class_labels": torch.tensor([1.5])}}, "whole numbers"),
        ({"t": math.nan}, "got nan"),
        ({"t": None}, "got None"),
        ({"tap": "down_blocks"}, "without reaching 'down_blocks'"),
        ({"quality": "best"}, '"draft"'),
        ({"chunk": "some"}, '"auto" or a positive integer'),
        ({"memory": -5}, "positive memory budget"),
    ],
)
def test_bad_input_is_named_before_any_work(digits, change, message):
    arguments = {"x": latents(), "t": 500, "rank": 2} | change
    with pytest.raises(ValueError, match=message) as caught:
        local_basis(digits, **arguments)
    assert "\n" not in str(caught.value)


def test_training_mode_and_active_dropout_are_refused(digits):
    model = pullback.load("digits")
    model.network.train()
    with pytest.raises(ValueError, match=r"training mode.*call network.eval\(\)"):
        local_basis(model, latents(), 500, 2)
    model.network.eval()
    model.network.mid_block.resnets[0].dropout.train()
    with pytest.raises(ValueError, match=r"mid_block\.resnets\.0\.dropout"):
        local_basis(model, latents(), 500, 2)


@pytest.mark.parametrize("map", [None, "encoder"])
def test_what_is_no_map_is_told_at_once(digits, map):
    with pytest.raises(TypeError, match=r"Expected a map, got .*local_basis takes a model"):
        pullback.basis(map, digits.sample_latents(1, 500), 500, 2)
    with pytest.raises(TypeError, match="Expected a map, got LatentModel"):
        pullback.basis(digits, digits.sample_latents(1, 500), 500, 2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"memory": "4GiB"}, "memory budget in bytes"),
        ({"max_products": 10**20}, "max_products to be between"),
        ({"seed": 2**64}, "seed to be between"),
        ({"seed": 1.5}, "seed to be a whole number"),
    ],
)
def test_options_of_another_kind_are_told_in_one_paragraph(digits, option, message):
    with pytest.raises(ValueError, match=message) as caught:
        pullback.local_basis(digits, digits.sample_latents(1, 500), 500, 2, **option)
    assert "\n" not in str(caught.value)
