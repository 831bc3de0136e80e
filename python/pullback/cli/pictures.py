"""Images and masks that a command is given as files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from pullback.models import LatentModel, has_autoencoder

#: Modes of images of so many channels, and those that can be made into them without loss.
_MODES = {1: ("L", "1"), 3: ("RGB", "L", "1")}


def read_image(path: Path) -> Image.Image:
    """An image file, turned as it is to be seen.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no image.
    """
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no image that can be read. Expected a PNG or JPEG.") from None
    except OSError as error:
        raise OSError(f"The image {path} cannot be read: {error.strerror or error}.") from None


def data_of(model: LatentModel, path: Path) -> torch.Tensor:
    """The data `[*x_shape]` of an image file.

    Raises:
        ValueError: it has another size or mode than the model's images, or the model makes none.
    """
    image, shape = read_image(path), model.latent_shape
    if has_autoencoder(model):
        try:
            return model.latents_of([image])[0]
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if len(shape) != 3 or shape[0] not in _MODES:
        raise ValueError(
            f"The latents of {model.name}, {list(shape)}, are no pixels of an image. Expected "
            "--seeds, or a model of images."
        )
    channels, height, width = shape
    modes = _MODES[channels]
    if image.size != (width, height) or image.mode not in modes:
        raise ValueError(
            f"Expected {path} as an image {width} x {height} of mode {modes[0]} for {model.name}, "
            f"got {image.width} x {image.height} of mode {image.mode}. Scale and convert it before."
        )
    pixels = torch.from_numpy(np.array(image.convert(modes[0]), dtype=np.float32))
    return pixels.reshape(height, width, channels).movedim(2, 0) / 127.5 - 1


def mask_of(path: Path) -> torch.Tensor:
    """The mask `[H, W]` of an image file: 0 (keep) where it is black, 1 (edit) where it is white.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no image.
    """
    image = read_image(path).convert("L")
    return torch.from_numpy(np.array(image, dtype=np.float32)) / 255


def name_of(path: Path) -> str:
    """What an image's edits are called, such that it can be a part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", path.stem) or "image"
