"""Transformers are called as their stock pipelines call them."""

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusion3Pipeline,
)

from pullback import LatentModel
from tests.models import families


def stock_sd3(network, latents, cond, sigmas):
    pipeline = StableDiffusion3Pipeline(
        network, FlowMatchEulerDiscreteScheduler(), None, None, None, None, None, None, None
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        prompt_embeds=cond["encoder_hidden_states"],
        pooled_prompt_embeds=cond["pooled_projections"],
        latents=latents,
        height=64,
        width=64,
        sigmas=sigmas,
        guidance_scale=1.0,
        output_type="latent",
    )


def stock_flux(network, latents, cond, sigmas):
    pipeline = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(), None, None, None, None, None, network
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        prompt_embeds=cond["encoder_hidden_states"],
        pooled_prompt_embeds=cond["pooled_projections"],
        latents=FluxPipeline._pack_latents(latents, *latents.shape),
        height=64,
        width=64,
        sigmas=sigmas,
        guidance_scale=2.5,
        output_type="latent",
    )


def inputs_and_outputs(network):
    """Every call of the network from now on: keyword arguments, and what came back."""
    seen = []
    network.register_forward_hook(
        lambda _module, _args, kwargs, output: seen.append((kwargs, output)), with_kwargs=True
    )
    return seen


def equal_calls(ours, theirs):
    """Whether two calls gave a network the same arguments, where both give one."""
    shared = [key for key, value in ours.items() if isinstance(value, torch.Tensor)]
    for key in shared:
        torch.testing.assert_close(ours[key], theirs[key].to(ours[key].dtype), rtol=1e-6, atol=0)
    return set(shared)


def test_sd3_is_called_as_its_stock_pipeline_calls_it():
    model = families.model_of("SD3Transformer2DModel")
    x, cond = torch.randn(2, *model.latent_shape), families.text_and_pooled(2)
    seen = inputs_and_outputs(model.network)
    stock_sd3(model.network, x, cond, [0.7, 0.3])
    (theirs, output), _ = seen
    with torch.no_grad():
        found = model.predict(x, 700, model.conditions.of(cond, 2))
    torch.testing.assert_close(found, output[0])
    assert equal_calls(seen[-1][0], theirs) >= {
        "timestep", "encoder_hidden_states", "pooled_projections",
    }  # fmt: skip


@pytest.mark.parametrize("distilled", [False, True], ids=["schnell", "guidance-distilled"])
def test_flux_is_called_as_its_stock_pipeline_calls_it(distilled):
    network = families.flux(guidance=distilled).eval()
    model = LatentModel(network, FlowMatchEulerDiscreteScheduler(), latent_shape=(4, 8, 8))
    x, cond = torch.randn(2, *model.latent_shape), families.text_and_pooled(2)
    seen = inputs_and_outputs(network)
    stock_flux(network, x, cond, [0.7, 0.3])
    (theirs, output), _ = seen
    if distilled:
        cond["guidance"] = torch.full((2,), 2.5)
    with torch.no_grad():
        found = model.predict(x, 700, model.conditions.of(cond, 2))
    # Sizes in pixels, eight for one of the latent.
    torch.testing.assert_close(found, FluxPipeline._unpack_latents(output[0], 64, 64, 8))
    compared = equal_calls(seen[-1][0], theirs)
    assert compared >= {"timestep", "img_ids", "txt_ids", "pooled_projections"}
    assert ("guidance" in compared) is distilled
