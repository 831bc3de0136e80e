"""A folder that lacks tensors of its network is refused, with their names."""

import shutil

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file

import pullback


def change(folder, edit):
    """Edit the tensors of the one weights file in a folder."""
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})


def drop(tensors):
    del tensors["conv_out.bias"]


def rename(tensors):
    tensors["conv_out.offset"] = tensors.pop("conv_out.bias")


def reshape(tensors):
    tensors["conv_out.bias"] = torch.zeros(7)


EDITS = [
    (drop, [r"are missing conv_out\.bias\."]),
    (rename, [r"are missing conv_out\.bias", r"are unknown to it conv_out\.offset\."]),
    (reshape, [r"have another shape conv_out\.bias \(file \[7\], network \[\d\]\)"]),
]


def check(error, *words):
    message = str(error.value)
    assert "\n" not in message
    for word in [*words, "Copy the folder again"]:
        error.match(word)


@pytest.mark.parametrize("part", ["pipeline", "network"])
@pytest.mark.parametrize(("edit", "words"), EDITS)
def test_a_tensor_that_is_not_there(folders, tmp_path, part, edit, words):
    shutil.copytree(folders["ddpm"], tmp_path / "model")
    folder = tmp_path / "model" / "unet"
    change(folder, edit)
    source = folder if part == "network" else tmp_path / "model"
    scheduler = DDPMScheduler() if part == "network" else None
    with pytest.raises(ValueError, match="does not hold all of its UNet2DModel") as error:
        pullback.load(source, scheduler=scheduler)
    check(error, r"unet", *words)


def test_a_text_encoder_that_lacks_a_tensor(folders, tmp_path):
    shutil.copytree(folders["stable_diffusion"], tmp_path / "model")

    def drop_one(tensors):
        del tensors[next(name for name in tensors if name.endswith("fc1.weight"))]

    change(tmp_path / "model" / "text_encoder", drop_one)
    with pytest.raises(ValueError, match="all of its CLIPTextModel") as error:
        pullback.load(tmp_path / "model")
    check(error, r"text_encoder", r"are missing .*fc1\.weight")


def test_many_missing_tensors_are_counted(folders, tmp_path):
    shutil.copytree(folders["ddpm"] / "unet", tmp_path / "model")

    def keep_two(tensors):
        for name in list(tensors)[2:]:
            del tensors[name]

    change(tmp_path / "model", keep_two)
    with pytest.raises(ValueError, match=r"are missing .* and \d+ more\.") as error:
        pullback.load(tmp_path / "model", scheduler=DDPMScheduler())
    assert len(str(error.value)) < 800


def test_tensors_that_no_network_wants_are_left_alone(folders, tmp_path):
    shutil.copytree(folders["ddpm"], tmp_path / "model")

    def add(tensors):
        tensors["ema.decay"] = torch.ones(1)

    change(tmp_path / "model" / "unet", add)
    found = pullback.load(tmp_path / "model")
    assert found.fingerprint == pullback.load(folders["ddpm"]).fingerprint


def test_a_model_of_the_hub_is_read_as_a_folder_is(folders, tmp_path, monkeypatch):
    commit = "0123456789abcdef" * 2 + "01234567"
    folder = tmp_path / "models--owner--name" / "snapshots" / commit
    shutil.copytree(folders["ddpm"], folder)
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda name, **_: str(folder))
    found = pullback.load("owner/name")
    assert (found.name, found.revision) == ("owner/name", commit)
    assert pullback.load(folder).revision is None
    change(folder / "unet", drop)
    with pytest.raises(ValueError, match=r"are missing conv_out\.bias"):
        pullback.load("owner/name")
