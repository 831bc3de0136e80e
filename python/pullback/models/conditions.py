"""Conditions: checking those that are given, and making them from prompts and class labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pullback.models.families import Argument, flat
from pullback.models.suitability import unwrapped


def checked(
    cond: Mapping[str, Any],
    count: int,
    arguments: Mapping[str, Argument] | None,
    device: torch.device,
    name: str,
) -> dict[str, torch.Tensor]:
    """A condition as the network takes it: flat, on its device, `[count, ...]` each.

    Args:
        cond: tensors `[count, ...]` or `[1, ...]` by the names of the network's forward arguments;
            mappings of such tensors where the network takes a mapping.
        count: samples in the batch.
        arguments: what the network takes; None where that is not known.
        device: the network's.
        name: the model's, for messages.

    Raises:
        TypeError: cond is no mapping, or holds what is no tensor.
        ValueError: an unknown or missing name, another batch size, or a class that does not exist.
    """
    if not isinstance(cond, Mapping):
        raise TypeError(
            f"Expected cond as a mapping from argument names to tensors, got "
            f'{type(cond).__name__}. For a class: cond={{"class_labels": torch.tensor([3])}}; for '
            "a prompt: cond=model.encode(prompt=...)."
        )
    result = {}
    for argument, given in flat(cond).items():
        if arguments is not None and argument not in arguments:
            raise ValueError(
                f"Expected a condition with the names {sorted(arguments) or 'none'} for {name}, "
                f"got {argument!r}."
            )
        try:
            value = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"Expected cond[{argument!r}] as a tensor, batch first, got "
                f"{type(given).__name__}. model.encode turns prompts and labels into tensors."
            ) from None
        if value.dim() == 0 or value.shape[0] not in (1, count):
            raise ValueError(
                f"Expected cond[{argument!r}] with {count} rows, one per sample (or 1 for all), "
                f"got shape {tuple(value.shape)}."
            )
        classes = 0 if arguments is None else arguments[argument].classes
        if classes:
            _check_labels(value, classes)
        result[argument] = value.to(device).clone().expand(count, *value.shape[1:])
    missing = {
        argument for argument, kind in (arguments or {}).items() if kind.needed
    } - result.keys()
    if missing:
        raise ValueError(
            f"Expected a condition with {sorted(missing)} for {name}, got "
            f"{sorted(result) or 'an empty mapping'}."
        )
    return result


def _check_labels(value: torch.Tensor, classes: int) -> None:
    if (
        value.dim() != 1
        or value.is_floating_point()
        or value.dtype == torch.bool
        or not bool(((value >= 0) & (value < classes)).all())
    ):
        raise ValueError(
            f"Expected class labels as whole numbers [{len(value)}] between 0 and {classes - 1}, "
            f"got {value.tolist()}."
        )


def from_prompts(pipeline: Any, prompts: list[str], guidance: float) -> dict[str, torch.Tensor]:
    """The condition of prompts, by the pipeline's own `encode_prompt`.

    Args:
        pipeline: a diffusers pipeline of a family that takes prompts.
        prompts: one per sample.
        guidance: the distilled guidance scale, for networks that take one as an argument.

    Returns:
        Tensors `[B, ...]` by the network's argument names, nested ones joined by a dot.

    Raises:
        ValueError: the pipeline has no text encoder.
    """
    encode = getattr(pipeline, "encode_prompt", None)
    if encode is None or getattr(pipeline, "text_encoder", None) is None:
        raise ValueError(
            f"This {type(pipeline).__name__} has no text encoder, or no encode_prompt to call it. "
            "Expected a pipeline that was saved whole; or pass the embeddings as cond={...}."
        )
    network = unwrapped(pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer)
    kind = type(network).__name__
    place = {"device": pipeline.device, "num_images_per_prompt": 1}
    alone = {**place, "do_classifier_free_guidance": False}
    with torch.no_grad():
        if kind == "SD3Transformer2DModel":
            words, _, pooled, _ = encode(prompts, None, None, **alone)
            return {"encoder_hidden_states": words, "pooled_projections": pooled}
        if kind == "FluxTransformer2DModel":
            words, pooled, _ = encode(prompts, None, **place)
            found = {"encoder_hidden_states": words, "pooled_projections": pooled}
            if network.config.guidance_embeds:
                found["guidance"] = torch.full((len(prompts),), float(guidance)).to(words)
            return found
        if kind == "PixArtTransformer2DModel":
            words, mask, _, _ = encode(prompts, **alone)
            found = {"encoder_hidden_states": words, "encoder_attention_mask": mask}
            return found | _pixart_size(pipeline, words)
        if hasattr(pipeline, "text_encoder_2"):
            words, _, pooled, _ = encode(prompts, **alone)
            return {
                "encoder_hidden_states": words,
                "added_cond_kwargs.text_embeds": pooled,
                "added_cond_kwargs.time_ids": _sdxl_size(pipeline, words, pooled),
            }
        words, _ = encode(prompts, **alone)
        return {"encoder_hidden_states": words}


def without_prompt(pipeline: Any, empty: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What stands for "no prompt": the encoded empty prompt, or zeros where the pipeline says so.

    Stable Diffusion XL was trained with zeros for embeddings that are left out, which its pipelines
    say by `force_zeros_for_empty_prompt`.
    """
    if not getattr(pipeline, "config", {}).get("force_zeros_for_empty_prompt", False):
        return empty
    words = ("encoder_hidden_states", "added_cond_kwargs.text_embeds")
    return {
        name: torch.zeros_like(value) if name in words else value for name, value in empty.items()
    }


def _pixart_size(pipeline: Any, words: torch.Tensor) -> dict[str, torch.Tensor]:
    """PixArt-α at 1024 pixels is told the size and aspect ratio of the image."""
    network = pipeline.transformer
    if not network.use_additional_conditions:
        return {}
    side = network.config.sample_size * pipeline.vae_scale_factor
    size = torch.tensor([side, side]).to(words).expand(len(words), 2)
    return {
        "added_cond_kwargs.resolution": size,
        "added_cond_kwargs.aspect_ratio": torch.ones(len(words), 1).to(words),
    }


def _sdxl_size(pipeline: Any, words: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """SDXL is told the original and target size and the crop: here all of a full-size image."""
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    ids = torch.tensor([side, side, 0, 0, side, side])
    return ids.to(words).expand(len(pooled), 6)
