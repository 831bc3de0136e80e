"""Whole pipelines: one line of ours, their labels and prompts, and what cannot be read."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from typer.testing import CliRunner

import pullback
from pullback import LocalBasis, cli, local_basis
from pullback.runs import basis_path
from pullback.testing import sine
from tests.models import by_hand
from tests.models.pipelines import KINDS


def network_of(pipeline):
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


@pytest.mark.parametrize("kind", KINDS)
def test_a_stock_pipeline_needs_one_line(stock, folders, kind):
    pipeline = stock[kind]
    model = pullback.load(pipeline)
    assert model.network is network_of(pipeline)  # runs untouched
    assert model.schedule.scheduler is pipeline.scheduler
    x = torch.randn(1, *model.latent_shape)
    found = local_basis(model, x, 600, 2, quality="draft")  # with the null condition
    again = pullback.load(folders[kind])
    assert again.fingerprint == model.fingerprint
    assert again.dtype == torch.float32
    same = local_basis(again, x, 600, 2, quality="draft")
    assert torch.equal(found.v, same.v)
    assert same.provenance["model"] == str(folders[kind])


def test_reading_a_pipeline_is_silent(folders, capfd):
    pullback.load(folders["stable_diffusion"])
    assert capfd.readouterr() == ("", "")


def test_a_class_label_of_a_stock_pipeline(stock):
    pipeline = stock["dit"]
    model = pullback.load(pipeline)
    cond = model.encode(class_label=[3, 7])
    assert cond["class_labels"].tolist() == [3, 7]
    x = torch.randn(2, *model.latent_shape)
    with torch.no_grad():
        expected = by_hand.call(
            pipeline.transformer, x, torch.full((2,), 600), {"class_labels": torch.tensor([3, 7])}
        )
        torch.testing.assert_close(model.predict(x, 600, cond), expected)


@pytest.mark.parametrize("wrong", [-1, 11, 999])
def test_a_class_that_does_not_exist_is_named(stock, wrong):
    with pytest.raises(ValueError, match="between 0 and 10"):
        pullback.load(stock["dit"]).encode(class_label=wrong)


def test_the_command_line_takes_a_prompt(folders, stock, tmp_path):
    output = tmp_path / "out"
    arguments = [
        "basis", folders["stable_diffusion"], "--prompt", "a cat", "--samples", 2, "-t", "500",
        "-k", 2, "--quality", "draft", "--no-figures", "-o", output, "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert [row["t"] for row in summary["timesteps"]] == [500]
    found = LocalBasis.load(basis_path(output, 500))
    model = pullback.load(stock["stable_diffusion"])
    cond = model.encode(prompt=["a cat"] * 2)
    x = model.sample_latents(2, 500, seed=[0, 1], cond=cond)
    expected = local_basis(model, x, 500, 2, cond=cond, quality="draft")
    torch.testing.assert_close(found.s, expected.s, rtol=1e-4, atol=0)
    assert sine(found.v, torch.linalg.qr(expected.v.double().flatten(2).mT).Q.mT).max() < 1e-2


def test_a_folder_of_a_network_needs_a_scheduler(folders):
    folder = folders["stable_diffusion"] / "unet"
    with pytest.raises(ValueError, match="Pass scheduler="):
        pullback.load(folder)
    model = pullback.load(folder, scheduler=DDPMScheduler())
    assert model.fingerprint == pullback.load(folders["stable_diffusion"]).fingerprint
    with pytest.raises(ValueError, match="cannot encode a prompt"):
        model.encode(prompt="a cat")
    with pytest.raises(ValueError, match="knows no null condition"):
        local_basis(model, torch.randn(1, 4, 8, 8), 500, 2)


def test_a_config_without_weights_is_no_model(folders, tmp_path):
    config = folders["stable_diffusion"] / "unet" / "config.json"
    (tmp_path / "config.json").write_text(config.read_text())
    with pytest.raises(FileNotFoundError, match=r"holds no model.*safetensors weights"):
        pullback.load(tmp_path, scheduler=DDPMScheduler())


@pytest.mark.parametrize("name", ["stabilityai/sdxl-turboo", "black-forest-labs/none"])
def test_a_hub_id_that_cannot_be_fetched_is_named(monkeypatch, tmp_path, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=f"'{name}' could not be fetched.*pass the folder's path"):
        pullback.load(name)


def test_a_folder_with_one_variant_of_the_weights_alone(stock, tmp_path):
    stock["stable_diffusion"].save_pretrained(tmp_path / "half", variant="fp16")
    with pytest.raises(ValueError, match="could not be read as a diffusers model"):
        pullback.load(tmp_path / "half")
    model = pullback.load(tmp_path / "half", variant="fp16")
    assert model.fingerprint == pullback.load(stock["stable_diffusion"]).fingerprint


def test_files_are_read_in_the_dtype_that_is_asked_for(folders, monkeypatch):
    """And not in float32 first, which takes twice the memory of a half."""
    read = []
    own = UNet2DConditionModel.from_pretrained.__func__

    def noting(kind, *args, **kwargs):
        network = own(kind, *args, **kwargs)
        read.append((network[0] if isinstance(network, tuple) else network).dtype)
        return network

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", classmethod(noting))
    for dtype in (torch.bfloat16, torch.float64, None):
        model = pullback.load(folders["stable_diffusion"], dtype=dtype)
        assert read.pop() == model.dtype == (dtype or torch.float32)
        cond = model.encode(prompt="a cat")
        assert cond["encoder_hidden_states"].dtype == model.dtype
        assert model.pipeline.text_encoder.dtype == model.dtype


def test_a_folder_of_dit_as_it_was_written_before_it_had_a_class(stock, tmp_path):
    """The hub's own: a `Transformer2DModel`, which diffusers reads as what it is now."""
    stock["dit"].save_pretrained(tmp_path / "old")
    index, config = tmp_path / "old/model_index.json", tmp_path / "old/transformer/config.json"
    told = json.loads(index.read_text())
    index.write_text(json.dumps({**told, "transformer": ["diffusers", "Transformer2DModel"]}))
    old = {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero"}
    config.write_text(json.dumps({**json.loads(config.read_text()), **old}))
    model = pullback.load(tmp_path / "old")
    assert model.fingerprint == pullback.load(stock["dit"]).fingerprint
    x = torch.randn(1, *model.latent_shape)
    cond = model.encode(class_label=3)
    again = pullback.load(stock["dit"])
    assert torch.equal(model.predict(x, 600, cond), again.predict(x, 600, cond))
