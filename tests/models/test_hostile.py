"""Numbers that would be cut off, models that are none, and default devices without numbers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

import pullback
from pullback import LatentModel, maps
from tests.models import families

SEEDS = [1.7, "57", None, True, -1, 2**32, 2**64, b"5", 1 + 0j, torch.tensor(1.5)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_that_would_be_cut_off_is_refused(digits, seed):
    with pytest.raises(
        ValueError, match=r"Expected seed to be (a whole number|between 0 and 4294)"
    ):
        digits.sample_latents(2, 999, seed=seed)
    with pytest.raises(ValueError, match="Expected seed to be"):
        digits.sample_latents(2, 999, seed=[3, seed])


def test_seeds_that_follow_must_be_seeds_too(digits):
    last = 2**32 - 1
    assert torch.equal(
        digits.sample_latents(2, 999, seed=last - 1)[1:], digits.sample_latents(1, 999, seed=last)
    )
    with pytest.raises(ValueError, match="between 0 and 4294967295, got 4294967296"):
        digits.sample_latents(2, 999, seed=last)


@pytest.mark.parametrize(
    "seed",
    [np.int64(7), torch.tensor(7), [7, 8], np.array([7, 8]), torch.tensor([7, 8]), range(7, 9)],
)
def test_a_seed_may_be_of_any_integer_type(digits, seed):
    expected = digits.sample_latents(2, 999, seed=7)
    assert torch.equal(digits.sample_latents(2, 999, seed=seed), expected)


@pytest.mark.parametrize("count", [1.5, "2", None])
def test_a_count_is_a_whole_number(digits, count):
    with pytest.raises(ValueError, match="Expected count to be a whole number"):
        digits.sample_latents(count, 999)


@pytest.mark.parametrize(
    "label", [1.5, [1.5], [3, 1.5], "3", ["3"], True, None, np.array([1.5]), torch.tensor([1.5])]
)
def test_a_class_label_that_would_be_cut_off_is_refused(digits, label):
    message = "class_label to be a whole number|either prompt= or class_label="
    with pytest.raises(ValueError, match=message):
        digits.encode(class_label=label)


def test_a_class_label_beyond_64_bits_is_refused_where_no_table_limits_it():
    model = LatentModel(lambda x, t, class_labels: x, DDPMScheduler(), latent_shape=(1, 2, 2))
    with pytest.raises(ValueError, match="9223372036854775807, got"):
        model.encode(class_label=2**64)
    assert model.encode(class_label=2**40)["class_labels"].tolist() == [2**40]


@pytest.mark.parametrize("label", [3, np.int64(3), torch.tensor(3), np.array(3), [3], (3,)])
def test_a_class_label_may_be_of_any_integer_type(digits, label):
    found = digits.encode(class_label=label)["class_labels"]
    assert (found.tolist(), found.dtype) == ([3], torch.int64)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32])
def test_labels_of_every_width_reach_the_network(digits, dtype):
    x = digits.sample_latents(2, 500)
    labels = torch.tensor([3, 10])
    expected = maps.encoder(digits).at(x, 500, {"class_labels": labels}).value()
    found = maps.encoder(digits).at(x, 500, {"class_labels": labels.to(dtype)}).value()
    assert torch.equal(found, expected)


def test_labels_that_wrap_round_are_refused(digits):
    huge = torch.tensor([2**64 - 1], dtype=torch.uint64)
    with pytest.raises(ValueError, match=r"class labels as whole numbers \[1\] between 0 and 10"):
        digits.conditions.of({"class_labels": huge}, 1)


@pytest.mark.parametrize("model", [None, "digits", torch.nn.Identity()])
def test_what_is_no_model_is_told_at_once(model):
    x = torch.zeros(1, 1, 16, 16)
    for call in (
        lambda: maps.encoder(model),
        lambda: maps.decoder(model),
        lambda: maps.output(model),
        lambda: pullback.local_basis(model, x, 5, 2),
        lambda: pullback.denoise(model, x, 5),
    ):
        with pytest.raises(TypeError, match=r"Expected a LatentModel, got .*pullback\.load makes"):
            call()


def test_models_compute_where_the_default_device_holds_no_numbers(digits):
    expected = digits.sample_latents(2, 480, seed=3, cond=digits.encode(class_label=[3, 4]))
    images = pullback.denoise(digits, expected, 480)
    basis = pullback.local_basis(digits, expected, 480, 2, quality="draft")
    with torch.device("meta"):
        model = pullback.load("digits")
        cond = model.encode(class_label=[3, 4])
        x = model.sample_latents(2, 480, seed=3, cond=cond)
        assert torch.equal(x, expected)
        assert torch.equal(pullback.denoise(model, x, 480), images)
        for named in ({"class_labels": [3, 4]}, {"class_labels": np.array([3])}, None):
            assert model.conditions.of(named, 2)["class_labels"].device.type == "cpu"
        found = pullback.local_basis(model, x, 480, 2, quality="draft")
        value = maps.output(model, "denoised").at(x, 480).value()
        assert len(model.taps()) == 7
        maps.output(model).restrict(np.eye(16) > 0)
    torch.testing.assert_close(found.s, basis.s)
    assert value.device.type == "cpu"


@pytest.mark.parametrize("name", families.TINY)
def test_blank_and_null_conditions_have_numbers_whatever_the_default_device(name):
    model = families.model_of(name)
    with torch.device("meta"):
        found = model.conditions.placeholder(2)
        assert len(model.taps()) == len(model.blocks())
    assert {value.device.type for value in found.values()} <= {"cpu"}


def test_a_scheduler_without_numbers_is_named(digits):
    scheduler = DDIMScheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to("meta")
    model = LatentModel(digits.network, scheduler, null_cond={"class_labels": 10})
    x = model.sample_latents(1, 980, steps=50)  # that needs its settings alone
    with pytest.raises(ValueError, match=r'DDIMScheduler was made on the device "meta".*"cpu"'):
        maps.output(model, "denoised").at(x, 980).value()
