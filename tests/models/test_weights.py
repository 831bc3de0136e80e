"""What a folder will take in memory is told before any weights are read."""

import json
import shutil

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, ModelMixin, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, T5Config, T5EncoderModel

import pullback
from pullback import _memory
from pullback.models import folders as reading
from pullback.models.weights import bytes_of
from tests.models import families

GIB = 2**30


def held(network):
    """Bytes of the tensors that a network keeps, each of them once."""
    tensors = {tensor.data_ptr(): tensor for tensor in network.state_dict().values()}
    return sum(tensor.nbytes for tensor in tensors.values())


@pytest.fixture
def needed(monkeypatch):
    """What the folders that are loaded were said to need, one mapping each."""
    seen = []
    monkeypatch.setattr(reading, "check_room", lambda parts, *_: seen.append(parts))
    return seen


@pytest.fixture
def nothing_read(monkeypatch):
    """Fails where weights are read."""

    def fail(*_args, **_kwargs):
        raise AssertionError("weights were read")

    for kind in (ModelMixin, PreTrainedModel, DiffusionPipeline):
        monkeypatch.setattr(kind, "from_pretrained", fail)


def spare(monkeypatch, size, place="cpu"):
    """Let a device have so many bytes to spare, and any other plenty."""
    monkeypatch.setattr(
        "pullback.models.weights.free_bytes",
        lambda device: size if str(device) == place else 2**50,
    )


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["ddpm", "stable_diffusion", "stable_diffusion_xl"])
def test_the_estimate_is_what_the_parts_hold(folders, needed, kind, dtype):
    pipeline = pullback.load(folders[kind], dtype=dtype).pipeline
    networks = {
        name: held(part)
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    assert needed == [networks]
    assert "unet" in networks
    assert kind == "ddpm" or {"vae", "text_encoder"} < networks.keys()


def test_a_variant_is_estimated_by_its_own_files(stock, tmp_path, needed):
    """Of two sizes in one folder that one which is asked for."""
    stock["ddpm"].save_pretrained(tmp_path)
    stock["ddpm"].save_pretrained(tmp_path, variant="fp16")
    path = tmp_path / "unet/diffusion_pytorch_model.fp16.safetensors"
    save_file({**load_file(path), "ema.decay": torch.ones(1000)}, path, {"format": "pt"})
    found = pullback.load(tmp_path, dtype=torch.float16, variant="fp16")
    assert needed == [{"unet": held(found.network) + 2 * 1000}]
    needed.clear()
    assert needed == [] != pullback.load(tmp_path)
    assert needed == [{"unet": held(found.network) * 2}]


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("name", ["unet", "text_encoder"])
def test_weights_in_several_files(stock, tmp_path, name, variant):
    network = getattr(stock["stable_diffusion"], name)
    network.save_pretrained(tmp_path, max_shard_size="40KB", variant=variant)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert bytes_of(tmp_path, torch.float32, variant) == held(network)
    assert bytes_of(tmp_path, torch.bfloat16, variant) == held(network) // 2
    assert bytes_of(tmp_path, torch.float32, "other") == 0


def test_the_list_of_files_as_older_versions_named_it(tmp_path):
    for name in ("one", "two", "left_out"):
        save_file({name: torch.zeros(5, dtype=torch.float16)}, tmp_path / f"{name}.safetensors")
    listed = {"weight_map": {"one": "one.safetensors", "two": "two.safetensors"}}
    path = tmp_path / "diffusion_pytorch_model.safetensors.fp16.index.json"
    path.write_text(json.dumps(listed))
    assert bytes_of(tmp_path, torch.float32, "fp16") == 2 * 5 * 4


def test_numbers_that_are_no_floats_stay_as_they_are(tmp_path):
    tensors = {
        "whole": torch.zeros(3, dtype=torch.int64),
        "mask": torch.zeros(5, dtype=torch.bool),
        "float": torch.zeros(7, dtype=torch.bfloat16),
        "small": torch.zeros(2, 2, dtype=torch.float8_e4m3fn),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert bytes_of(tmp_path, torch.float64) == 3 * 8 + 5 + 7 * 8 + 4 * 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_modules_that_are_read_in_float32_whatever_the_dtype(tmp_path, dtype):
    """In float16 transformers keeps some matrices of T5 in float32."""
    config = T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    read = T5EncoderModel.from_pretrained(tmp_path, dtype=dtype)
    found = bytes_of(tmp_path, dtype, None, reading._kept(T5EncoderModel, dtype))
    assert found == held(read)
    kept = {tensor.dtype for tensor in read.state_dict().values()}
    assert (torch.float32 in kept) == (dtype == torch.float16)


def test_what_does_not_fit_is_refused_before_it_is_read(folders, monkeypatch, nothing_read):
    spare(monkeypatch, 100_000)
    with pytest.raises(MemoryError) as error:
        pullback.load(folders["stable_diffusion"])
    message = str(error.value)
    assert "\n" not in message
    for word in (
        str(folders["stable_diffusion"]), "in float32 (", "unet 0.8 MiB", "vae ", "text_encoder ",
        "The machine has 0.1 MiB to spare", "no weights were read", "dtype=torch.bfloat16",
    ):  # fmt: skip
        assert word in message
    with pytest.raises(MemoryError, match=r"in bfloat16 \(.*Read them on a machine with more"):
        pullback.load(folders["stable_diffusion"], dtype=torch.bfloat16)


def test_one_network_is_estimated_too(folders, monkeypatch, nothing_read):
    spare(monkeypatch, 100_000)
    with pytest.raises(MemoryError, match=r"in float64 \(UNet2DModel \d"):
        pullback.load(folders["ddpm"] / "unet", scheduler=DDPMScheduler(), dtype=torch.float64)


def test_a_model_of_the_hub_is_estimated_when_it_is_here(folders, monkeypatch, nothing_read):
    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: str(folders["ddpm"]))
    spare(monkeypatch, 1)
    with pytest.raises(MemoryError, match="unet"):
        pullback.load("owner/name")


def test_it_has_to_fit_the_device_as_well(folders, monkeypatch, nothing_read):
    spare(monkeypatch, 100_000, "cuda:1")
    with pytest.raises(MemoryError, match=r"cuda:1 has 0\.1 MiB to spare.*a device with more"):
        pullback.load(folders["ddpm"], device="cuda:1")


def test_a_half_may_fit_where_the_whole_does_not(folders, monkeypatch):
    size = held(families.model_of("UNet2DModel").network)
    spare(monkeypatch, size - 1)
    with pytest.raises(MemoryError):
        pullback.load(folders["ddpm"])
    assert pullback.load(folders["ddpm"], dtype=torch.bfloat16).dtype == torch.bfloat16
    spare(monkeypatch, size)
    assert pullback.load(folders["ddpm"]).dtype == torch.float32


@pytest.mark.parametrize("free", [None, RuntimeError("no such device")])
def test_where_nothing_is_known_nothing_is_refused(folders, monkeypatch, free):
    def unknown(device):
        if isinstance(free, Exception):
            raise free

    monkeypatch.setattr("pullback.models.weights.free_bytes", unknown)
    assert pullback.load(folders["ddpm"]).latent_shape


def test_a_damaged_list_of_files_is_told_as_a_damaged_folder(folders, tmp_path):
    shutil.copytree(folders["ddpm"], tmp_path / "model")
    index = tmp_path / "model/unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text("{")
    with pytest.raises(ValueError, match="could not be read as a diffusers model"):
        pullback.load(tmp_path / "model")


def test_memory_that_runs_out_all_the_same_is_told_as_that(folders, monkeypatch):
    def fail(*_args, **_kwargs):
        raise MemoryError("none left")

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", fail)
    with pytest.raises(MemoryError, match="none left"):
        pullback.load(folders["stable_diffusion"])


def test_sizes_are_told_in_units_that_people_read():
    assert _memory.told(3.25 * GIB) == "3.2 GiB"
    assert _memory.told(GIB / 2) == "0.5 GiB"
    assert _memory.told(20 * 2**20) == "20.0 MiB"
