"""Whether a direction fits a model: its shape and tap must, its weights and timestep should."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pullback import maps
from pullback.models import LatentModel

_PROMPT = "encoder_hidden_states"


def check_x(model: LatentModel, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless latents of the model have this shape."""
    if shape != model.latent_shape:
        raise ValueError(
            f"Expected a direction of shape {list(model.latent_shape)} in the latents of "
            f"{model.name}, got {list(shape)}. Use the model that it was found with, at the same "
            "size (latent_shape)."
        )


def check_h(model: LatentModel, shape: tuple[int, ...], tap: str, pool: str | None) -> None:
    """Raise ValueError unless the feature at the tap, pooled or not, has this shape.

    Cost: one forward pass of one sample, up to the tap.
    """
    x = torch.zeros(1, *model.latent_shape, dtype=model.dtype, device=model.device)
    t = torch.zeros(1, dtype=torch.int64, device=model.device)
    try:
        feature = maps.encoder(model, tap, pool=pool).bind(x, t, model.conditions.placeholder(1))
        found = list(feature.value().shape[1:])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The direction lies in the feature at {tap}, which {model.name} does not give: {error}"
        ) from error
    if list(shape) != found:
        what = "feature" if pool is None else "pooled feature"
        raise ValueError(
            f"Expected a direction of shape {found} in the {what} at {tap} of {model.name}, got "
            f"{list(shape)}. Use the model that it was found with, at the same size of latents."
        )


def check_prompt(model: LatentModel, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the model takes a prompt whose embedding has this width.

    A plain function does not say what it takes, and is not checked.

    Cost: at most the text encoders, once.
    """
    takes = model.conditions.arguments
    if takes is not None and _PROMPT not in takes:
        raise ValueError(
            f"Expected a model with a prompt ({_PROMPT}), got {model.name}, which takes "
            f"{', '.join(takes) or 'no condition'}. Use the model that the direction was found "
            "with."
        )
    embedding = model.conditions.placeholder(1).get(_PROMPT)
    if embedding is not None and embedding.shape[-1] != shape[-1]:
        raise ValueError(
            f"Expected a direction of width {embedding.shape[-1]} in the prompts of {model.name}, "
            f"got {list(shape)}. Use the model that it was found with."
        )


def other_weights(model: LatentModel, provenance: Mapping[str, str]) -> str | None:
    """What to warn of where the direction was found with other weights; None where it was not.

    Cost: all weights are read once, unless they were before.
    """
    found = provenance.get("fingerprint")
    if found is None or found == model.seen_fingerprint:
        return None
    return (
        f"The direction was found with {provenance.get('model', 'a model')} "
        f"(fingerprint {found}, {provenance.get('dtype', 'unknown dtype')}), and {model.name} has "
        f"other weights (fingerprint {model.seen_fingerprint}, "
        f"{str(model.dtype).removeprefix('torch.')}). In another dtype it should do; in another "
        "model it may mean something else: find it there again."
    )
