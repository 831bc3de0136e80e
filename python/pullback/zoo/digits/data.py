"""The data of the digit model: scikit-learn's handwritten digits, resampled to 16 x 16."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

IMAGE_SIZE = 16
NUM_CLASSES = 10
#: The class index that stands for "no class"; it is the last row of the class embedding.
NULL_CLASS = NUM_CLASSES


def load_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The 1,797 handwritten digits that ship inside scikit-learn (no download).

    Returns:
        Images `[1797, 1, 8, 8]`, float32 in [0, 1], and labels `[1797]`, int64.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed; the message names the command.
    """
    try:
        from sklearn.datasets import load_digits as sklearn_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The digit images come from scikit-learn, which is not installed: "
            "run `pip install scikit-learn` and try again."
        ) from error
    digits = sklearn_digits()
    images = torch.from_numpy(digits.images).float().div_(16.0).unsqueeze(1)
    return images, torch.from_numpy(digits.target).long()


def resample(images: torch.Tensor, affine: torch.Tensor | None = None) -> torch.Tensor:
    """Resample 8 x 8 digits to the model's 16 x 16, through an affine map if one is given.

    One bicubic interpolation does both, so augmented images are no blurrier than plain ones.

    Args:
        images: `[B, 1, 8, 8]` in [0, 1].
        affine: `[B, 2, 3]` maps from output to input coordinates, or None for the identity.

    Returns:
        `[B, 1, 16, 16]` in [-1, 1], the range the model is trained on.
    """
    count = images.shape[0]
    if affine is None:
        affine = torch.eye(2, 3).expand(count, 2, 3)
    grid = F.affine_grid(affine, [count, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    resampled = F.grid_sample(
        images, grid, mode="bicubic", padding_mode="zeros", align_corners=False
    )
    return resampled.clamp_(0.0, 1.0).mul_(2.0).sub_(1.0)


def random_affine(count: int, generator: torch.Generator) -> torch.Tensor:
    """Small random rotations, scalings, shears and shifts `[count, 2, 3]`, for augmentation."""

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle = uniform(math.radians(8.0))
    scale = 1 + uniform(0.08)
    shear = uniform(0.1)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [cos, -sin + shear, uniform(0.08), sin, cos, uniform(0.08)]
    return torch.stack(rows, dim=1).view(count, 2, 3)
