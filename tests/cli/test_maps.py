"""`pullback basis` on other maps, taps, conditions and models."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DiTPipeline, StableDiffusionPipeline

import pullback
from pullback import maps, models
from tests.cli.calls import QUICK, refused
from tests.models import families


@pytest.mark.parametrize("name", ["decoder", "noise", "denoised", "score"])
def test_other_maps(call, digits, tmp_path, name):
    folder = tmp_path / name
    result = call(
        "basis", "digits", *QUICK, "-t", "500", "--map", name, "-o", folder, "--json",
        *(() if name == "decoder" else ("--no-figures",)),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["settings"]["map"] == name
    variable = [96, 4, 4] if name == "decoder" else [1, 16, 16]
    assert summary["shapes"] == {"x": [1, 16, 16], "v": variable, "u": [1, 16, 16]}
    saved = pullback.LocalBasis.load(folder / "basis_t0500.safetensors")
    assert saved.provenance["wrt"] == ("h" if name == "decoder" else "x")
    of = maps.decoder(digits) if name == "decoder" else maps.output(digits, name)
    x = digits.sample_latents(2, 500)
    again = pullback.basis(of, x, 500, 3, quality="draft")
    torch.testing.assert_close(saved.s, again.s)
    torch.testing.assert_close(saved.v, again.v)
    if name == "decoder":  # directions of features are not drawn as latents
        assert {path.name for path in folder.glob("*.png")} == {"spectrum.png"}
        assert call("basis", "digits", *QUICK, "-t", "500", "--map", name, "-o", folder).stdout


def test_maps_never_reuse_one_another(basis):
    assert basis("-t", "500", "--map", "noise").exit_code == 0
    refused(basis("-t", "500", "--map", "score"), 1, "map noise (now score)", "--overwrite")


def test_a_tap_may_name_which_output_is_meant(basis, digits, tmp_path):
    result = basis("-t", "500", "--tap", "down_blocks.1:0", "--json")
    summary = json.loads(result.stdout)
    assert summary["settings"]["tap"] == "down_blocks.1:0"
    assert summary["shapes"]["u"] == [64, 4, 4]
    saved = pullback.LocalBasis.load(tmp_path / "out" / "basis_t0500.safetensors")
    x = digits.sample_latents(2, 500)
    again = pullback.local_basis(digits, x, 500, 3, ("down_blocks.1", 0), quality="draft")
    torch.testing.assert_close(saved.s, again.s)
    refused(basis("-t", "500", "--tap", "mid_block:1"), 1, "one tensor", "mid_block:1")
    refused(basis("-t", "500", "--tap", "down_blocks.1:9"), 1, "no index 9", "0 to 1")


def test_a_prompt_is_refused_where_there_is_none(basis, call, tmp_path, monkeypatch):
    refused(basis("-t", "500", "--prompt", "a seven"), 1, "digits takes no prompt", "a class label")
    both = ("--prompt", "a seven", "--class-label", "7")
    refused(basis("-t", "500", *both), 2, "--prompt or --class-label")
    known = families.model_of("UNet2DConditionModel")
    pipeline = StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=known.network,
        scheduler=known.schedule.scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    mute = pullback.load(pipeline)
    monkeypatch.setattr(models, "load", lambda *_args, **_kwargs: mute)
    refused(
        call("basis", "mute", *QUICK, "-t", "500", "--prompt", "a", "-o", tmp_path / "out"),
        1, "StableDiffusionPipeline has no text encoder", "saved whole",
    )  # fmt: skip
    found = json.loads(call("info", "mute", "--json").stdout)
    assert found["null_condition"] is None
    assert found["default_tap"] == "mid_block"


def test_a_transformer_from_a_folder(call, tmp_path):
    known = families.model_of("DiTTransformer2DModel")
    vae = AutoencoderKL(
        block_out_channels=(4,), down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",), norm_num_groups=1, latent_channels=4,
    )  # fmt: skip
    DiTPipeline(known.network, vae, known.schedule.scheduler).save_pretrained(tmp_path / "dit")
    result = call(
        "basis", tmp_path / "dit", *QUICK, "-t", "500", "--class-label", "3", "--tap",
        "transformer_blocks.2", "-o", tmp_path / "out", "--no-figures", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["shapes"] == {"x": [4, 8, 8], "v": [4, 8, 8], "u": [16, 24]}
    assert summary["timesteps"][0]["converged"] == 2
