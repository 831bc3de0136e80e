"""Whole pipelines: written and read by stock diffusers, prompts, and networks that are refused."""

import copy
import inspect
import json
import types

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    StableDiffusion3Pipeline,
)
from torch import nn
from typer.testing import CliRunner

import pullback
from pullback import LatentModel, LocalBasis, cli, local_basis, maps
from pullback.runs import basis_path
from pullback.testing import leading, sine
from tests.models import by_hand, families, pipelines

KINDS = ("ddpm", "dit", "stable_diffusion", "stable_diffusion_xl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pipelines as stock diffusers wrote them, with safetensors weights only."""
    found = {}
    for kind in KINDS:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            root = tmp_path_factory.mktemp(kind)
            pipeline = getattr(pipelines, kind)(root / "words")
        pipeline.save_pretrained(root / "model", safe_serialization=True)
        found[kind] = root / "model"
        weights = {
            path.suffix for path in found[kind].rglob("*model*") if path.stat().st_size > 4e3
        }
        assert ".safetensors" in weights
        assert not weights & {".bin", ".pt", ".ckpt"}
    return found


@pytest.fixture(scope="module")
def stock(folders):
    """The pipelines as stock diffusers reads them, once; tests leave them as they are."""
    return {kind: DiffusionPipeline.from_pretrained(folder) for kind, folder in folders.items()}


def network_of(pipeline):
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


# --------------------------------------------------------------------------------- one line of ours


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


# ------------------------------------------------------------------------------------------ prompts

PROMPTS = ["a cat", "the dog on a hill"]


def test_a_prompt_is_encoded_by_the_pipeline_itself(stock):
    pipeline = stock["stable_diffusion"]
    model = pullback.load(pipeline)
    cond = model.encode(prompt=PROMPTS)
    expected, negative = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    assert list(cond) == ["encoder_hidden_states"]
    assert torch.equal(cond["encoder_hidden_states"], expected)
    assert not torch.allclose(expected[0], expected[1], atol=0.1)
    # What the pipeline guides away from by default is the null condition: the empty prompt.
    assert torch.equal(model.conditions.null["encoder_hidden_states"], negative[0])
    one = model.encode(prompt=PROMPTS[1])
    torch.testing.assert_close(one["encoder_hidden_states"], expected[1:])


def test_the_basis_depends_on_the_prompt_and_is_the_dense_one(stock):
    pipeline = stock["stable_diffusion"]
    model = pullback.load(pipeline)
    cond = model.encode(prompt=PROMPTS)
    x, t = torch.randn(1, *model.latent_shape).expand(2, -1, -1, -1), torch.tensor([600, 600])
    double = by_hand.in_float64(pipeline.unet)
    jacobians = []
    for sample in range(2):
        copies = by_hand.copies(cond, sample)
        read = by_hand.feature(double, "mid_block", None, t[:1].expand(by_hand.COPIES), copies)
        jacobians.append(by_hand.dense(read, by_hand.copies(x, sample)))
    jacobian = torch.stack(jacobians)
    rank = by_hand.picked(torch.linalg.svdvals(jacobian))
    found = local_basis(model, x, t, rank, cond=cond)
    _, s, v = leading(jacobian, rank)
    assert sine(found.v, v).max() <= 2e-3
    assert ((found.s - s).abs() <= 1e-4 * s).all()
    assert sine(found.v[:1], v[1:]).item() > 0.05  # the other prompt has another basis
    null = local_basis(model, x[:1], 600, rank, quality="draft")
    assert (null.s - found.s[:1]).abs().max() > 1e-3 * s.max()


def test_the_null_condition_of_sdxl_is_what_its_pipeline_guides_away_from(stock):
    pipeline = stock["stable_diffusion_xl"]
    assert pipeline.config.force_zeros_for_empty_prompt
    _, words, _, pooled = pipeline.encode_prompt(PROMPTS[0], do_classifier_free_guidance=True)
    null = pullback.load(pipeline).conditions.null
    assert torch.equal(null["encoder_hidden_states"], words[0])
    assert torch.equal(null["added_cond_kwargs.text_embeds"], pooled[0])
    assert not bool(pooled.any())
    assert bool(null["added_cond_kwargs.time_ids"].any())


def test_the_conditions_of_sdxl_are_those_of_its_pipeline(stock):
    """The U-Net is watched while the stock pipeline runs, and then while we call it."""
    pipeline = stock["stable_diffusion_xl"]
    model = pullback.load(pipeline)
    cond = model.encode(prompt=PROMPTS[0])
    assert set(cond) == {
        "encoder_hidden_states", "added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids",
    }  # fmt: skip
    seen = []
    handle = pipeline.unet.register_forward_hook(
        lambda _module, args, kwargs, output: seen.append((args, kwargs, output)), with_kwargs=True
    )
    try:
        pipeline.set_progress_bar_config(disable=True)
        pipeline(PROMPTS[0], num_inference_steps=1, guidance_scale=1.0, output_type="latent")
        (x, t), theirs, output = seen[0]
        with torch.no_grad():
            found = model.predict(x, int(t), cond)
    finally:
        handle.remove()
    ours = seen[-1][1]
    assert torch.equal(ours["encoder_hidden_states"], theirs["encoder_hidden_states"])
    for name in ("text_embeds", "time_ids"):
        mine, stock_one = (kwargs["added_cond_kwargs"][name] for kwargs in (ours, theirs))
        assert torch.equal(mine, stock_one), name
    torch.testing.assert_close(found, output[0])


def stubbed(kind, network, given):
    """A pipeline without text encoders, whose encode_prompt answers with what is given.

    It takes the arguments that the stock one takes, and is told which it got.
    """
    signature = inspect.signature(kind.encode_prompt)
    arguments = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    parts = dict.fromkeys(arguments)
    flow = kind in (FluxPipeline, StableDiffusion3Pipeline)
    scheduler = FlowMatchEulerDiscreteScheduler() if flow else DDPMScheduler()
    parts |= {"transformer": network, "scheduler": scheduler}
    pipeline = kind(**parts | {"text_encoder": pipelines.text_encoder()})  # which nobody asks
    calls = []

    def encode_prompt(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)  # TypeError unless the stock one takes it
        bound.apply_defaults()
        calls.append(bound.arguments)
        return given

    pipeline.encode_prompt = types.MethodType(encode_prompt, pipeline)
    return pipeline, calls


def test_the_prompt_of_sd3():
    network = families.model_of("SD3Transformer2DModel").network
    words, pooled = torch.randn(2, 5, families.WIDTH), torch.randn(2, families.WIDTH)
    pipeline, calls = stubbed(StableDiffusion3Pipeline, network, (words, None, pooled, None))
    cond = pullback.load(pipeline).encode(prompt=PROMPTS)
    assert torch.equal(cond["encoder_hidden_states"], words)
    assert torch.equal(cond["pooled_projections"], pooled)
    assert calls[0]["prompt"] == PROMPTS
    # None: the other text encoders get the same prompt.
    assert calls[0]["prompt_2"] is calls[0]["prompt_3"] is None
    assert calls[0]["do_classifier_free_guidance"] is False
    assert calls[0]["num_images_per_prompt"] == 1


@pytest.mark.parametrize("distilled", [False, True])
def test_the_prompt_of_flux(distilled):
    network = families.flux(guidance=distilled).eval()
    words, pooled = torch.randn(2, 5, families.WIDTH), torch.randn(2, families.WIDTH)
    answer = (words, pooled, torch.zeros(5, 3))
    pipeline, calls = stubbed(FluxPipeline, network, answer)
    model = pullback.load(pipeline)
    # The latents of the pipeline's own default image.
    side = pipeline.default_sample_size
    assert model.latent_shape == (4, side, side)
    cond = model.encode(prompt=PROMPTS, guidance=2.5)
    assert torch.equal(cond["encoder_hidden_states"], words)
    assert torch.equal(cond["pooled_projections"], pooled)
    assert ("guidance" in cond) is distilled
    if distilled:
        assert cond["guidance"].tolist() == [2.5, 2.5]
    assert calls[0]["prompt"] == PROMPTS
    assert calls[0]["prompt_2"] is None


@pytest.mark.parametrize("kind", [PixArtAlphaPipeline, PixArtSigmaPipeline])
def test_the_prompt_of_pixart(kind):
    network = families.model_of("PixArtTransformer2DModel").network
    given = families.text_and_mask(2)
    words, mask = given["encoder_hidden_states"], given["encoder_attention_mask"]
    pipeline, calls = stubbed(kind, network, (words, mask, None, None))
    cond = pullback.load(pipeline).encode(prompt=PROMPTS)
    assert set(cond) == set(given)
    assert torch.equal(cond["encoder_hidden_states"], words)
    assert torch.equal(cond["encoder_attention_mask"], mask)
    assert calls[0]["prompt"] == PROMPTS
    assert calls[0]["do_classifier_free_guidance"] is False


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


# ------------------------------------------------------------------------------ what cannot be read


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


# ---------------------------------------------------------------- networks in an unsuitable state


def small():
    return copy.deepcopy(families.model_of("UNet2DConditionModel").network)


def wrap(network):
    return LatentModel(network, DDPMScheduler(), name="mine")


def test_a_compiled_network_is_unwrapped():
    network = small()
    model = wrap(torch.compile(network))
    assert model.network is network
    plain = wrap(network)
    assert model.fingerprint == plain.fingerprint
    x, cond = torch.randn(1, 4, 8, 8), families.text(1)
    found, expected = (local_basis(m, x, 500, 2, cond=cond) for m in (model, plain))
    assert torch.equal(found.v, expected.v)


def test_a_pipeline_with_a_compiled_network_is_unwrapped():
    network = families.model_of("FluxTransformer2DModel").network
    words, pooled = torch.randn(1, 5, families.WIDTH), torch.randn(1, families.WIDTH)
    pipeline, _ = stubbed(FluxPipeline, network, (words, pooled, torch.zeros(5, 3)))
    pipeline.transformer = torch.compile(network)
    model = pullback.load(pipeline)
    assert model.network is network
    assert model.latent_shape[0] == 4
    assert torch.equal(model.encode(prompt="a")["pooled_projections"], pooled)


def test_blocks_compiled_in_place_are_refused():
    """Their graphs would run inside: forward mode through them drops tangents."""
    network = small()
    network.mid_block.compile()
    with pytest.raises(ValueError, match=r"compiled \(mid_block\).*_compiled_call_impl"):
        wrap(network)
    network.mid_block._compiled_call_impl = None
    wrap(network)
    network.mid_block = torch.compile(network.mid_block)
    with pytest.raises(ValueError, match=r"compiled \(mid_block\)"):
        wrap(network)


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"training mode.*network\.eval\(\)"):
        wrap(small().train())
    network = small()
    network.mid_block.resnets[0].dropout.train()  # one module is enough
    with pytest.raises(ValueError, match=r"training mode \(mid_block\.resnets\.0\.dropout\)"):
        wrap(network)


def test_a_model_that_is_put_into_training_mode_later_is_refused():
    model = wrap(small())
    model.network.train()
    with pytest.raises(ValueError, match="training mode"):
        local_basis(model, torch.randn(1, 4, 8, 8), 500, 2, cond=families.text(1))


def test_gradient_checkpointing_is_refused():
    network = small()
    network.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match=r"disable_gradient_checkpointing\(\)"):
        wrap(network)
    network.disable_gradient_checkpointing()
    wrap(network)


class AlignDevicesHook:
    """Named as the hook that accelerate puts on offloaded modules."""


def test_offloading_is_refused():
    network = small()
    network.mid_block._hf_hook = AlignDevicesHook()
    with pytest.raises(ValueError, match=r"offloaded \(mid_block.*remove_all_hooks\(\)"):
        wrap(network)


def test_group_offloading_of_diffusers_is_refused():
    network = small()
    try:
        network.enable_group_offload(
            onload_device=torch.device("cpu"),
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
        )
    except (ImportError, ValueError, RuntimeError) as error:
        pytest.skip(f"this version of diffusers cannot do so without a GPU: {error}")
    with pytest.raises(ValueError, match="offloaded"):
        wrap(network)


def test_layerwise_casting_is_refused():
    network = small()
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    with pytest.raises(ValueError, match=r"offloaded|quantised"):
        wrap(network)


def test_quantised_weights_are_refused():
    network = small()
    network.mid_block.resnets[0].conv1.weight = nn.Parameter(
        torch.zeros(32, 32, 3, 3, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(
        ValueError, match=r"quantised \(mid_block\.resnets\.0\.conv1\.weight.*quantization_config"
    ):
        wrap(network)


def test_a_network_without_storage_is_refused():
    with pytest.raises(ValueError, match="several devices or on none"):
        wrap(small().to("meta"))


def test_parameters_stay_as_they_are():
    network = small()
    before = {name: (p.requires_grad, p.clone()) for name, p in network.named_parameters()}
    assert all(wants for wants, _ in before.values())
    model = wrap(network)
    found = local_basis(model, torch.randn(1, 4, 8, 8), 500, 2, cond=families.text(1))
    assert not found.v.requires_grad
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is None, name
        assert torch.equal(parameter, before[name][1]), name
    bound = maps.encoder(model).at(torch.randn(1, 4, 8, 8), 500, families.text(1))
    assert not bound.value().requires_grad
