"""Between latents and images: a pipeline's own autoencoder, scaled as its pipeline does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy
import torch
from torch import nn

#: Those of images, and those of videos, whose scaling is by numbers in their configuration.
_OF_IMAGES = frozenset(
    {"AutoencoderDC", "AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderKLHunyuanImage", "VQModel"}
)
_OF_VIDEOS = frozenset(
    {
        "AutoencoderKLCogVideoX",
        "AutoencoderKLHunyuanVideo",
        "AutoencoderKLLTXVideo",
        "AutoencoderKLQwenImage",
        "AutoencoderKLWan",
    }
)
_NAMES = ("vae", "movq", "vqgan")  # of autoencoders in pipelines
#: Their pipelines leave the shift of the autoencoder out.
_UNSHIFTED = ("AuraFlow", "CogView", "HunyuanDiT", "PixArt", "Sana", "StableDiffusionPipeline")
#: Their latents have another layout than their autoencoder.
_OTHER_LAYOUT = ("Kandinsky5",)
_PROBE = 8  # pixels of latents, by which the size of images is found
_MODES = {1: "L", 3: "RGB"}  # of Pillow, by channels


@dataclass(frozen=True)
class Pixels:
    """A model whose latents are images: there is nothing in between."""

    shape: tuple[int, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.shape

    def decoded(self, x: torch.Tensor) -> torch.Tensor:
        """The images `[B, C, H, W]` themselves."""
        return x

    encoded = decoded


@dataclass(frozen=True)
class Autoencoder:
    """A pipeline's autoencoder.

    Attributes:
        pipeline: the pipeline, which has a scaling of its own.
        vae: its autoencoder.
        shape: of the model's latents, without the batch.
    """

    pipeline: Any
    vae: nn.Module
    shape: tuple[int, ...]

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self.vae).__name__

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W), or (C, F, H, W) of videos, from a decoding of a few pixels."""
        small = [*self.shape[:-2], *(min(size, _PROBE) for size in self.shape[-2:])]
        found = self.decoded(torch.zeros(1, *small)).shape[1:]
        sides = (
            whole * (side // part)
            for whole, side, part in zip(self.shape[-2:], found[-2:], small[-2:], strict=True)
        )
        return (*found[:-2], *sides)

    @torch.no_grad()
    def decoded(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, C, H, W]`, or videos `[B, C, F, H, W]`, of latents `[B, *x_shape]`."""
        with self._computing() as like:
            z = self._turned(x.to(like))
            mean, std, scale = self._scaling(z)
            z = z * std / scale + mean
            if self.kind == "AutoencoderKLFlux2":  # which are put together from patches
                z = self.pipeline._unpatchify_latents(z)
            rows, frames = self._rows(z)
            options = {"force_not_quantize": True} if self.kind == "VQModel" else {}
            found: torch.Tensor = self.vae.decode(rows, **options).sample  # type: ignore[operator]
            return self._back(found, len(z), frames)

    @torch.no_grad()
    def encoded(self, images: torch.Tensor) -> torch.Tensor:
        """Latents `[B, *x_shape]` of images `[B, C, H, W]` or videos `[B, C, F, H, W]`."""
        with self._computing() as like:
            rows, frames = self._rows(images.to(like))
            coded = self.vae.encode(rows)  # type: ignore[operator]
            if hasattr(coded, "latent_dist"):
                z = coded.latent_dist.mode()
            else:
                z = coded.latents if hasattr(coded, "latents") else coded.latent
            z = self._back(z, len(images), frames)
            if self.kind == "AutoencoderKLFlux2":
                z = self.pipeline._patchify_latents(z)
            mean, std, scale = self._scaling(z)
            return self._turned((z - mean) * scale / std)

    @contextmanager
    def _computing(self) -> Iterator[torch.Tensor]:
        """Context in which it computes in the dtype and place of a tensor; its pipeline's own."""
        like = next(self.vae.parameters())
        raised = like.dtype == torch.float16 and self._config.get("force_upcast", False)
        if raised:
            self.vae.float()
        try:
            yield torch.empty(0, dtype=torch.float32 if raised else like.dtype, device=like.device)
        finally:
            if raised:
                self.vae.half()

    @property
    def _config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.vae.config  # type: ignore[assignment]
        return config

    def _scaling(self, z: torch.Tensor) -> tuple[Any, Any, float]:
        """Mean, deviation and factor: z_raw = z deviation / factor + mean."""
        if self.kind == "VQModel":
            return 0.0, 1.0, 1.0
        if self.kind == "AutoencoderKLFlux2":
            norm: Any = self.vae.bn
            eps = self._config["batch_norm_eps"]
            pair: tuple[Any, ...] = (norm.running_mean, (norm.running_var + eps).sqrt())
        else:
            # Of some videos they are kept beside the weights.
            kept = dict(self.vae.named_buffers(recurse=False))
            names = ("latents_mean", "latents_std")
            pair = tuple(
                kept.get(name) if self._config.get(name) is None else self._config[name]
                for name in names
            )
        scale = float(self._config.get("scaling_factor") or 1.0)
        if pair[0] is not None and pair[1] is not None:
            size = (1, -1, *[1] * (z.dim() - 2))
            mean, std = (torch.as_tensor(one).to(z).view(size) for one in pair)
            return mean, std, scale
        unshifted = type(self.pipeline).__name__.startswith(_UNSHIFTED)
        return 0.0 if unshifted else self._config.get("shift_factor") or 0.0, 1.0, scale

    def _turned(self, z: torch.Tensor) -> torch.Tensor:
        """Channels before frames in place of frames before channels, or the other way round."""
        return z.transpose(1, 2) if self.kind == "AutoencoderKLCogVideoX" else z

    def _rows(self, z: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """What the autoencoder takes, and whether frames became rows of it."""
        if self.kind in _OF_VIDEOS:
            return (z.unsqueeze(2) if z.dim() == 4 else z), False
        return (z.transpose(1, 2).flatten(0, 1), True) if z.dim() == 5 else (z, False)

    def _back(self, found: torch.Tensor, count: int, frames: bool) -> torch.Tensor:
        """The other way round."""
        if frames:
            return found.unflatten(0, (count, -1)).transpose(1, 2)
        one = self.kind in _OF_VIDEOS and len(self.shape) == 3
        return found[:, :, 0] if one else found


def autoencoder_of(pipeline: Any, shape: tuple[int, ...], name: str) -> Autoencoder | Pixels:
    """What stands between a model's latents and images.

    Args:
        pipeline: the model's pipeline, or None.
        shape: of its latents, without the batch.
        name: what the model is called.

    Raises:
        ValueError: they are of no known kind.
    """
    vae = next((v for n in _NAMES if (v := getattr(pipeline, n, None)) is not None), None)
    if vae is None:
        if len(shape) == 3 and shape[0] in _MODES:
            return Pixels(shape)
        raise ValueError(
            f"{name} has no autoencoder, and its latents {shape} are no images of one or three "
            "channels. Load the whole pipeline, or decode them with what they were made for."
        )
    kinds = {kind.__name__ for kind in type(vae).__mro__}
    other = type(pipeline).__name__.startswith(_OTHER_LAYOUT)
    unknown = {"AutoencoderKLTemporalDecoder", "PaellaVQModel", "AutoencoderOobleck"}
    if other or kinds & unknown or not kinds & (_OF_IMAGES | _OF_VIDEOS):
        raise ValueError(
            f"How the latents of a {type(vae).__name__} are scaled is not known. Decode them with "
            f"the {type(pipeline).__name__} itself. Known are: "
            f"{', '.join(sorted(_OF_IMAGES | _OF_VIDEOS))}."
        )
    if vae.config.get("timestep_conditioning", False):
        raise ValueError(
            f"This {type(vae).__name__} adds noise where it decodes (timestep_conditioning), so "
            f"that no images belong to latents alone. Decode them with the "
            f"{type(pipeline).__name__} itself."
        )
    return Autoencoder(pipeline, vae, shape)


def has_autoencoder(model: Any) -> bool:
    """Whether a model's latents and images are two things, and the way between them is known."""
    try:
        found = autoencoder_of(model.pipeline, model.latent_shape, model.name)
    except ValueError:
        return False
    return isinstance(found, Autoencoder)


def pixels_of(images: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """Images in any form as numbers from −1 to 1.

    Args:
        images: as `LatentModel.latents_of` takes them.
        shape: what one of them should have, (C, H, W), or (C, F, H, W) of videos.

    Returns:
        `[B, *shape]`, float32 or wider.

    Raises:
        TypeError: they are no images.
        ValueError: they are others than expected.
    """
    if isinstance(images, numpy.ndarray):
        images = _of_array(images)
    elif _is_pillow(images):
        images = _of_pillow([images], shape)
    elif isinstance(images, Sequence) and not isinstance(images, str):
        if not len(images):
            raise ValueError("Expected at least one image, got an empty list.")
        if not all(map(_is_pillow, images)):
            raise TypeError(
                "Expected a list of Pillow's images, got one with "
                f"{', '.join(sorted({type(one).__name__ for one in images}))}. Stack tensors or "
                "arrays into one."
            )
        images = _of_pillow(images, shape)
    if not isinstance(images, torch.Tensor):
        raise TypeError(
            f"Expected images as a tensor, an array, or Pillow's, got {type(images).__name__}."
        )
    if tuple(images.shape[1:]) != shape or not len(images):
        raise ValueError(
            f"Expected images [B, {', '.join(map(str, shape))}], got {list(images.shape)}. Resize "
            "them, or load the model with the latent_shape of theirs."
        )
    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1
    if not images.is_floating_point():
        raise ValueError(
            f"Expected images as uint8 from 0 to 255 or float from -1 to 1, got {images.dtype}."
        )
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    low, high = float(images.min()), float(images.max())
    if not -1 <= low <= high <= 1:
        raise ValueError(
            f"Expected float images from -1 to 1, got {low:.3g} to {high:.3g}. Images from 0 to "
            "255 are expected in uint8."
        )
    if low >= 0:
        warnings.warn(
            f"These float images lie from {low:.3g} to {high:.3g}, which looks like a scale from 0 "
            "to 1. Expected -1 to 1: convert them with 2 * images - 1.",
            UserWarning, stacklevel=3,
        )  # fmt: skip
    return images


def _is_pillow(image: Any) -> bool:
    return hasattr(image, "mode") and hasattr(image, "getbands")


def _of_pillow(images: Sequence[Any], shape: tuple[int, ...]) -> torch.Tensor:
    mode = _MODES.get(shape[0])
    other = {image.mode for image in images} - {mode}
    if other or len(shape) != 3:
        raise ValueError(
            f"Expected images of {shape[0]} channels, of Pillow's mode {mode!r}, got "
            f"{', '.join(map(repr, sorted(other)))}. Convert them with image.convert({mode!r})."
            if len(shape) == 3
            else f"Expected videos as a tensor [B, {', '.join(map(str, shape))}], got images."
        )
    sizes = {image.size for image in images}
    if sizes != {(shape[2], shape[1])}:
        raise ValueError(
            f"Expected images of width x height {shape[2]} x {shape[1]}, got "
            f"{', '.join(f'{w} x {h}' for w, h in sorted(sizes))}. Resize them with "
            f"image.resize(({shape[2]}, {shape[1]}))."
        )
    arrays = numpy.stack([numpy.asarray(image) for image in images])
    return _of_array(arrays if arrays.ndim == 4 else arrays[..., None])


def _of_array(array: numpy.ndarray) -> torch.Tensor:
    if array.dtype != numpy.uint8 or array.ndim not in (3, 4):
        raise ValueError(
            f"Expected arrays of images as uint8 [B, H, W, C] or [H, W, C], got {array.dtype} "
            f"{list(array.shape)}. Float images are expected as a tensor [B, C, H, W] from -1 to 1."
        )
    array = array if array.ndim == 4 else array[None]
    return torch.from_numpy(numpy.ascontiguousarray(array.transpose(0, 3, 1, 2)))
