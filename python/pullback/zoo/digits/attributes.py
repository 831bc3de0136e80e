"""What is told of an image of a digit: how it is written, and which digit it is."""

from __future__ import annotations

import torch

from pullback.zoo.digits.data import NUM_CLASSES
from pullback.zoo.digits.judge import Judge

#: Of the ink's distribution over the image, before the probabilities of the classes.
WRITING = ("ink", "slant", "width", "height")
NAMES = (*WRITING, *(f"digit {one}" for one in range(NUM_CLASSES)))


class Attributes:
    """Scores of images: how they are written, and how probable each digit is.

    Args:
        judge: gives the probabilities.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Scores `[B, 14]`, by `NAMES`, on the CPU, of images `[B, 1, 16, 16]` from −1 to 1."""
        images = images.cpu()
        return torch.cat([writing(images), self._judge(images)], 1)


def writing(images: torch.Tensor) -> torch.Tensor:
    """The share of ink, and its slant, width and height, `[B, 4]`, of images `[B, 1, H, W]`.

    Width and height are standard deviations of where ink is, in halves of the image's width. The
    slant is how far a stroke goes to the right where it goes up by one, by least squares.
    """
    ink = (images[:, 0].double() + 1) / 2
    total = ink.sum((1, 2)).clamp_min(1e-9)
    up = torch.linspace(1, -1, ink.shape[1], dtype=torch.float64, device=ink.device)[:, None]
    right = torch.linspace(-1, 1, ink.shape[2], dtype=torch.float64, device=ink.device)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return (ink * values).sum((1, 2)) / total

    x, y = mean(right), mean(up)
    width, height = mean(right.square()) - x**2, mean(up.square()) - y**2
    slant = (mean(right * up) - x * y) / height.clamp_min(1e-9)
    spread = [one.clamp_min(0).sqrt() for one in (width, height)]
    return torch.stack([ink.mean((1, 2)), slant, *spread], 1)
