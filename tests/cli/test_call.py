"""`--call`: what a pipeline's call needs beside a prompt, in every command that reads a model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import pullback
from tests.cli.calls import QUICK, refused
from tests.models import hub_more


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory):
    """The folder of a pipeline with a ControlNet, and two images for it beside."""
    root = tmp_path_factory.mktemp("controlnet")
    hub_more.sd_controlnet(root / "words").save_pretrained(root / "model")
    generator = np.random.default_rng(0)
    for name in ("one.png", "two.png"):
        pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def test_the_basis_is_that_of_the_image(call, controlnet, tmp_path):
    def run(image, *args):
        return call(
            "basis", controlnet / "model", *QUICK, "-t", "500", "--prompt", "a cat", "-o",
            tmp_path / "out", "--no-figures", "--call", f"image={controlnet / image}", *args,
        )  # fmt: skip

    result = run("one.png", "--json")
    assert result.exit_code == 0, result.output
    image = Image.open(controlnet / "one.png")
    model = pullback.load(controlnet / "model", call={"image": image})
    assert json.loads(result.stdout)["settings"]["call"] == model.given
    saved = pullback.LocalBasis.load(tmp_path / "out" / "basis_t0500.safetensors")
    cond = model.encode(prompt=["a cat"] * 2)
    x = model.sample_latents(2, 500, cond=cond)
    again = pullback.local_basis(model, x, 500, 3, cond=cond, quality="draft")
    torch.testing.assert_close(saved.s, again.s)

    refused(run("two.png"), 1, "other settings", "call {'image'", "--overwrite")
    assert "reused" in run("one.png").stdout
    assert run("two.png", "--overwrite").exit_code == 0
    other = pullback.LocalBasis.load(tmp_path / "out" / "basis_t0500.safetensors")
    assert not torch.allclose(other.s, saved.s, rtol=1e-5)


def test_numbers_reach_the_call(call, controlnet):
    given = ("--call", f"image={controlnet / 'one.png'}", "--call", "height=16")
    found = json.loads(
        call("info", controlnet / "model", *given, "--call", "width=8", "--json").stdout
    )
    assert found["latent_shape"] == [4, 16, 8]
    assert found["call"]["height"] == 16
    text = call("info", controlnet / "model", *given).stdout
    assert "RGB image 8 x 8, " in text
    assert "height = 16" in text


def test_taps_with_and_without_what_the_call_needs(call, controlnet):
    image = ("--call", f"image={controlnet / 'one.png'}")
    assert call("taps", controlnet / "model", *image).exit_code == 0
    refused(call("taps", controlnet / "model"), 1, "image", "call={...}")


@pytest.mark.parametrize("command", ["basis", "taps", "info"])
def test_what_is_refused(call, controlnet, tmp_path, command):
    where = ("-o", tmp_path / "out") if command == "basis" else ()
    result = call(command, controlnet / "model", *where, "--call", "heigth=8")
    refused(result, 1, "takes no heigth", "Expected some of prompt, image, height")
    refused(call(command, "digits", *where, "--call", "height=8"), 1, "got height", "UNet2DModel")
    refused(call(command, "digits", *where, "--call", "height"), 2, "name=value")


def test_nothing_is_made_where_a_pair_is_malformed(call, tmp_path):
    refused(call("basis", "digits", "-o", tmp_path / "out", "--call", "a"), 2, "name=value")
    assert not (tmp_path / "out").exists()
