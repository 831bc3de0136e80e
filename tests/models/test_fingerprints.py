"""Fingerprints: every byte counts, and what changes nothing does not."""

import pytest
import torch
from diffusers import DDPMScheduler

import pullback
from pullback.models import LatentModel
from tests.models.families import model_of


@pytest.fixture
def model():
    return model_of("UNet2DModel")


def last_entry(tensor):
    """The last entry, through `.data`, as copies of averaged weights are made."""
    tensor.data.view(-1)[-1] += 1


def test_the_last_entry_of_any_tensor_counts(model):
    known = {model.fingerprint}
    tensors = [*model.network.named_parameters(), *model.network.named_buffers()]
    for _, tensor in tensors:
        last_entry(tensor)
        known.add(model.fingerprint)
    assert len(known) == 1 + len(tensors)


def test_buffers_names_dtypes_and_shapes_count(model):
    known = [model.fingerprint]
    model.network.register_buffer("table", torch.zeros(6), persistent=False)
    known.append(model.fingerprint)
    last_entry(model.network.table)
    known.append(model.fingerprint)
    model.network.table = model.network.table.reshape(2, 3)
    known.append(model.fingerprint)
    model.network.table = model.network.table.view(torch.int32)
    known.append(model.fingerprint)
    table = model.network.table
    del model.network.table
    model.network.register_buffer("other", table)
    known.append(model.fingerprint)
    assert len(set(known)) == len(known)


def test_the_layout_of_the_weights_does_not_count(model):
    plain = model.fingerprint
    model.network.to(memory_format=torch.channels_last)
    assert model.fingerprint == plain


def test_the_fingerprint_in_a_basis_follows_the_weights(model):
    """It is not read anew for every basis, and notices what replaces or changes weights."""
    plain = model.seen_fingerprint
    assert plain == model.seen_fingerprint == model.fingerprint
    with torch.no_grad():
        model.network.conv_out.weight.view(-1)[-1] += 1
    assert plain != model.seen_fingerprint == model.fingerprint
    averaged = [parameter.detach() * 0.5 for parameter in model.network.parameters()]
    for parameter, value in zip(model.network.parameters(), averaged, strict=True):
        parameter.data.copy_(value)
    assert model.seen_fingerprint == model.fingerprint
    model.network.to(torch.float64)
    assert model.seen_fingerprint == model.fingerprint


def of(**config):
    return LatentModel(model_of("UNet2DModel").network, DDPMScheduler(**config)).schedule


def test_a_scheduler_counts_with_all_its_settings():
    plain = of().fingerprint
    assert plain == of().fingerprint
    others = [
        of(beta_schedule="scaled_linear"),
        of(beta_end=0.021),
        of(trained_betas=torch.linspace(1e-4, 0.02, 1000).tolist()),
        of(prediction_type="v_prediction"),
    ]
    edited = of()
    edited.scheduler.alphas_cumprod[-1] *= 0.5
    assert len({plain, edited.fingerprint, *(one.fingerprint for one in others)}) == 6


def test_what_encodes_prompts_counts(folders):
    model = pullback.load(folders["stable_diffusion"])
    plain = model.conditions.fingerprint
    model.encode(prompt="a cat")
    assert model.conditions.fingerprint == plain  # what was asked of the tokenizer is not kept
    encoder = model.pipeline.text_encoder
    last_entry(next(encoder.parameters()))
    assert model.conditions.fingerprint != plain
    again = pullback.load(folders["stable_diffusion"])
    assert again.conditions.fingerprint == plain
    again.pipeline.tokenizer.add_tokens(["cat"])
    assert again.conditions.fingerprint != plain


def test_a_null_condition_that_was_given_counts(digits):
    found = {
        LatentModel(digits.network, DDPMScheduler(), null_cond=null).conditions.fingerprint
        for null in (None, {"class_labels": torch.tensor(4)}, {"class_labels": torch.tensor(3)})
    }
    assert len(found) == 3
