"""Every tiny pipeline of the tests, and how the tests run it."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler

import pullback
from pullback.models.watching import accepts
from tests.models import (
    hub_continuous,
    hub_further,
    hub_more,
    hub_transformers,
    own_call,
    pipelines,
    schedulers,
)

#: Those whose schedulers count time in other units.
REFUSED = {"Consistency model": "CMStochasticIterativeScheduler", "Mochi": "invert_sigmas"}
BUILDERS = {
    "Stable Diffusion": pipelines.stable_diffusion,
    "Stable Diffusion XL": pipelines.stable_diffusion_xl,
    **hub_more.BUILDERS,
    **hub_continuous.BUILDERS,
    **hub_transformers.BUILDERS,
    **hub_further.BUILDERS,
}
CALL: dict[str, dict[str, Any]] = {
    **hub_more.CALL,
    **hub_continuous.CALL,
    **hub_transformers.CALL,
    **hub_further.CALL,
}

#: Pipelines whose guidance is ε_null + scale (ε_cond − ε_null), and nothing else.
GUIDES = {
    "AuraFlow", "CogView 3+", "CogView 4", "DeepFloyd IF", "HunyuanDiT", "Kolors", "PixArt-Sigma",
    "PRX", "Sana", "Stable Diffusion", "Stable Diffusion XL", "Stable Diffusion 3",
    "Stable Diffusion, ControlNet", "Stable Diffusion, FreeU", "Stable Diffusion, IP-Adapter",
    "Wan",
}  # fmt: skip
#: Pipelines whose guidance scale is an argument of the network, or is not looked at.
SCALED = {
    "Flux", "Flux dev", "Flux 2", "Flux Fill", "Flux Kontext", "Flux, ControlNet", "HunyuanVideo",
    "Latent consistency", "Qwen-Image", "Qwen-Image Edit", "Qwen-Image Edit Plus",
}  # fmt: skip
#: Those whose folder does not bring them back, with what diffusers itself says of it.
UNSAVED = {
    "Kandinsky 5": "_WithoutVideos.*cannot be loaded|keep_in_fp32_modules",
    "Qwen-Image Edit": "_WithoutVideos.*cannot be loaded",  # the stock one asks for torchvision
    "Qwen-Image Edit Plus": "_WithoutVideos.*cannot be loaded",
    "Stable Cascade, decoder": "no class `PaellaVQModel`",
    "Stable Diffusion, IP-Adapter": "image_projection_layers",  # has a loader of its own
}
#: Pipelines with a switch that a folder does not hold.
SWITCHED = {"Stable Diffusion, FreeU"}
#: Pipelines that make tokens of latents that are handed to them, too.
UNPACKED = {"Flux 2"}


def call_of(name: str) -> dict[str, Any]:
    """The keyword arguments that a pipeline's call needs beside a prompt."""
    return CALL.get(BUILDERS[name].__name__, {})


class Case:
    """A tiny pipeline.

    Attributes:
        name, pipeline: its name, and itself.
        call: the keyword arguments that its call needs beside a prompt.
    """

    def __init__(self, name: str, pipeline: Any) -> None:
        self.name, self.pipeline = name, pipeline
        self.call = call_of(name)
        pipeline.set_progress_bar_config(disable=True)
        _make_certain(getattr(pipeline, "vae", None))

    @cached_property
    def model(self) -> pullback.LatentModel:
        """The model, in one line."""
        return pullback.load(self.pipeline, call=self.call)

    @cached_property
    def double(self) -> Any:
        """The pipeline in float64."""
        return own_call.in_float64(self.pipeline)

    @property
    def guides(self) -> bool:
        """Whether it guides by scale × (condition − null), at any scale."""
        return self.name in GUIDES

    @property
    def packs(self) -> Any:
        """How the pipeline makes tokens of its latents; None where it does not."""
        return getattr(self.pipeline, "_pack_latents", None)

    def network(self, pipeline: Any) -> torch.nn.Module:
        """The denoising network of a copy of the pipeline."""
        names = ("unet", "transformer", "prior", "decoder")
        return next(one for name in names if (one := getattr(pipeline, name, None)) is not None)

    def latents(self, count: int) -> torch.Tensor:
        """Random latents, the same every time."""
        generator = torch.Generator().manual_seed(7)
        return torch.randn(count, *self.model.latent_shape, generator=generator)

    def condition(self, prompt: str) -> dict[str, torch.Tensor]:
        """The condition of a prompt, where the pipeline takes one."""
        prompts = {"prompt": prompt} if accepts(self.pipeline, "prompt") else {}
        return self.model.encode(**prompts, **self.call)

    def given(self, pipeline: Any, x: torch.Tensor) -> dict[str, Any]:
        """Keyword arguments of a call of a copy of the pipeline without guidance, from latents."""
        given = {"num_inference_steps": 2, **self.call}
        if accepts(pipeline, "output_type"):
            given["output_type"] = "latent"
        if accepts(pipeline, "prompt"):
            given["prompt"] = "a cat"
        if accepts(pipeline, "max_guidance_scale"):
            given["max_guidance_scale"] = 1.0
        if accepts(pipeline, "guidance_scale") and self.name not in SCALED:
            given["guidance_scale"] = 0.0 if self.name == "Z-Image" else 1.0
        dtype = next(self.network(pipeline).parameters()).dtype
        given = {
            name: value.to(dtype) if isinstance(value, torch.Tensor) else value
            for name, value in given.items()
        }
        if self.name in UNPACKED:
            return {**given, "latents": x}
        return {**given, "latents": own_call.packed(pipeline, x, given)}

    def counted(self, told: float) -> int:
        """Our number of a timestep of the scheduler."""
        number = schedulers.counted(self.model.schedule, torch.tensor(told))
        return round(told) if number is None else number

    def tokens(self, latents: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Latents in the shape that the scheduler steps."""
        if self.packs is None:
            return latents.reshape(like.shape).to(like.dtype)
        given = self.given(self.pipeline, self.latents(1))
        return own_call.packed(self.pipeline, latents, given).to(like.dtype)

    def denoised(self, sample: torch.Tensor, prediction: torch.Tensor, t: float) -> torch.Tensor:
        """x̂₀ of what the scheduler is handed, by the formulas of the papers."""
        prediction = prediction[:, : sample.shape[1]]
        scheduler, kind = self.double.scheduler, self.model.schedule.prediction_type
        if hasattr(scheduler, "precondition_outputs"):  # by the schedulers' own, where they say
            return scheduler.precondition_outputs(sample, prediction, scheduler.sigmas[0].double())
        if self.model.schedule.continuous and kind == "epsilon":
            alpha = scheduler._alpha_cumprod(torch.tensor(t), torch.device("cpu")).double()
            return (sample - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
        if self.model.schedule.continuous:
            stepping = copy.deepcopy(scheduler)
            return stepping.step(prediction, stepping.timesteps[0], sample).pred_original_sample
        if kind == "flow":
            return sample - t / 1000 * prediction
        alpha = scheduler.alphas_cumprod[round(t)].double()
        if isinstance(scheduler, EulerDiscreteScheduler):  # steps x / √ᾱ
            sample = alpha.sqrt() * sample
        if kind == "epsilon":
            return (sample - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
        assert kind == "v_prediction"
        return alpha.sqrt() * sample - (1 - alpha).sqrt() * prediction


def _make_certain(vae: Any) -> None:
    """Take the noise out of what an autoencoder makes of an image that is a condition."""
    layer = getattr(vae, "quant_conv", None)
    if layer is not None:
        with torch.no_grad():
            half = len(layer.weight) // 2
            layer.weight[half:] = 0
            layer.bias[half:] = -60
