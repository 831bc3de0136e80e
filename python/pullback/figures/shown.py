"""Latents as pages show them."""

from __future__ import annotations

import torch

from pullback.models import LatentModel, has_autoencoder

_AT_ONCE = 8  # latents in one decoding


def shown(model: LatentModel, latents: torch.Tensor) -> torch.Tensor:
    """Latents as images, with channels before frames.

    Args:
        model: whose latents they are.
        latents: any number of them, such as `[B, *x_shape]` or `[B, D, K, *x_shape]`.

    Returns:
        As many images, such as `[B, C, H, W]`.
    """
    dims = len(model.latent_shape)
    return latents.movedim(model.family.channel_axis - dims, -dims)


def pictured(model: LatentModel, latents: torch.Tensor) -> torch.Tensor:
    """Clean latents as the images that they stand for.

    Where the model has no autoencoder whose scaling is known, as `shown` has them.

    Args:
        model: whose latents they are.
        latents: any number of them, such as `[B, D, K, *x_shape]`.

    Returns:
        As many images on the CPU, such as `[B, D, K, C, H, W]`.

    Cost: one decoding of each.
    """
    if not has_autoencoder(model):
        return shown(model, latents).cpu()
    before = latents.shape[: -len(model.latent_shape)]
    rows = latents.reshape(-1, *model.latent_shape)
    images = [model.images_of(part).cpu() for part in rows.split(_AT_ONCE)]
    return torch.cat(images).unflatten(0, before)
