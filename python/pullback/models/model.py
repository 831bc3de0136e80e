"""A diffusion model as this library sees it: shapes, conditions, schedule and taps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pullback import sampling
from pullback._numbers import seeds_of, whole
from pullback.models import fingerprints
from pullback.models.attention_backends import differentiable_attention, tell_of_replacement
from pullback.models.conditions import Condition, Conditions
from pullback.models.families import family_of
from pullback.models.images import autoencoder_of, pixels_of
from pullback.models.pipelines import known_family, reading_of
from pullback.models.placement import Placement, check_tensor
from pullback.models.reading import Reading
from pullback.models.schedule import Schedule
from pullback.models.suitability import check_suitable, unwrapped
from pullback.models.taps import Site, Tap, TapName, hooked, readable


class LatentModel:
    """Wraps a denoising network and its scheduler; neither is changed.

    Args:
        network: a diffusers `UNet2DModel`, `UNet2DConditionModel`, `DiTTransformer2DModel`,
            `PixArtTransformer2DModel`, `SD3Transformer2DModel` or `FluxTransformer2DModel` (or a
            class derived from one), compiled or not; or any callable f(x, t, **cond) that returns
            a tensor [B, C, H, W] or an object with it as `sample`. In evaluation mode.
        scheduler: any diffusers scheduler; its config says how noise was added in training.
        name: what the model is called in files and messages.
        null_cond: the condition that stands for "no condition", per sample (without the batch);
            needed for a class-conditional U-Net if `cond=None` is to be allowed.
        latent_shape: the shape of x without the batch, such as (C, H, W), where the network's
            config does not say or another size is wanted.
        pipeline: the diffusers pipeline that the network belongs to. How it calls the network is
            read from its own run, whatever the class of the network: with which condition, in which
            unit of time, with which helpers, such as a ControlNet.
        call: keyword arguments that the pipeline's call needs beside a prompt, such as `image`.
        device: where the callable computes; a network knows.
        dtype: dtype of x for a callable; a network knows.
        revision: the commit of the hub's that it was read from, where it is known.

    Attributes:
        network, name, pipeline, revision: as given; a compiled network is unwrapped.
        family: what is known of networks of its class.
        schedule: the timesteps, in the scheduler's training units, and what the network predicts.
        conditions: what the network is conditioned on, and its null condition.
        latent_shape: the shape of x, without the batch.

    Raises:
        TypeError: the network or scheduler is of a kind that is not supported.
        ValueError: the network is in training mode, offloaded, quantised or gradient-checkpointed,
            latent_shape is needed, or a `call` is given where no pipeline is called.
    """

    def __init__(
        self,
        network: nn.Module | Callable[..., Any],
        scheduler: Any,
        *,
        name: str = "model",
        null_cond: Condition | None = None,
        latent_shape: Sequence[int] | None = None,
        pipeline: Any = None,
        call: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ) -> None:
        network = unwrapped(network)
        if not callable(network):
            raise TypeError(
                f"Expected a network of diffusers or a callable f(x, t, **cond), got "
                f"{type(network).__name__}."
            )
        self.network: Any = network
        self.name, self.pipeline, self.revision = name, pipeline, revision
        self.schedule = Schedule(scheduler, flow=family_of(network).flow)
        self._placement = Placement(network, device, dtype)
        self._reading: Reading | None = None
        self.check_mode()
        self._reading = reading_of(pipeline, network, call, latent_shape)
        self._given = dict(call or {})
        self.family = known_family(network, self._reading)
        self.latent_shape: tuple[int, ...]
        if latent_shape is None:
            self.latent_shape = self.family.latent_shape(network)
        else:
            self.latent_shape = _sizes(latent_shape)
        self.family.check_shape(network, self.latent_shape)
        self.conditions = Conditions(
            network, self.family, self._placement, name, pipeline, self._reading, null_cond
        )
        self._seen: tuple[object, str] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the network's parameters, and of x."""
        return self._placement.dtype

    @property
    def device(self) -> torch.device:
        """Device of the network's parameters, and of x."""
        return self._placement.device

    @property
    def default_tap(self) -> str:
        """The h-space of the papers: the middle block."""
        return self.family.default_tap(self.network)

    def encode(
        self,
        prompt: str | Sequence[str] | None = None,
        class_label: int | Sequence[int] | None = None,
        guidance: float | None = None,
        **given: Any,
    ) -> dict[str, torch.Tensor]:
        """A condition, to be passed as `cond`: what the pipeline hands to its network.

        The pipeline's own call is run up to the first pass of the network.

        Args:
            prompt: one prompt or several.
            class_label: one label or several; needs no pipeline.
            guidance: the distilled guidance scale of networks that take it as an argument (Flux,
                LCM); by default the pipeline's own.
            **given: further keyword arguments of the pipeline's call, such as `image`.

        Returns:
            Tensors `[B, ...]` by the names of the network's forward arguments; "a.b" stands for the
            entry b of a mapping or list a, and what another network of the pipeline is given begins
            with that one's name, as in "controlnet.controlnet_cond".

        Raises:
            ValueError: the network or the pipeline takes no such condition, or there is no pipeline
                to make one.

        Cost: the text encoders, and helpers such as a ControlNet; not the network.
        """
        return self.conditions.encode(prompt, class_label, guidance, **given)

    @property
    def fingerprint(self) -> str:
        """Short hash of the network: configuration, and every byte of its weights.

        So of the networks that help it at every step, such as a ControlNet. A plain function has
        its name alone.

        Cost: all weights are read once.
        """
        own = fingerprints.of_network(self.network)
        return fingerprints.of(own, *self._helpers) if self._helpers else own

    @property
    def seen_fingerprint(self) -> str:
        """The fingerprint, read again only where the weights are seen to have changed.

        It stands in the provenance of every basis, which must not cost a reading each. A change
        that went through `.data` and spares the first entries of every tensor is not seen.
        """
        now = [fingerprints.marks(one) for one in (self.network, *self._helpers)]
        if self._seen is None or None in now or now != self._seen[0]:
            self._seen = (now, self.fingerprint)
        return self._seen[1]

    @property
    def given(self) -> dict[str, Any]:
        """The keyword arguments of `call=`, as JSON has them: images by a hash of their pixels."""
        return {name: fingerprints.told(value) for name, value in self._given.items()}

    @property
    def _helpers(self) -> list[nn.Module]:
        return [] if self._reading is None else self._reading.helpers

    def blocks(self) -> list[str]:
        """Paths of the network's blocks, in the order they run."""
        return self.family.blocks(self.network)

    def taps(self) -> list[Tap]:
        """Where features can be read: the blocks of the network, in the order they run.

        Any other module path works as a tap too, if the module returns one tensor. Where a block of
        a network of your own returns several, each is listed, as "path:index".

        Cost: one forward pass of one sample.
        """
        counter, merged = FlopCounterMode(display=False), self.family.merges_frames
        seen: dict[str, tuple[tuple[int, ...], int]] = {}

        def record(path: str, module: nn.Module, output: object) -> None:
            for site, feature in readable(path, module, output, merged=merged):
                # A block that runs again is tapped where it runs first.
                seen.setdefault(str(site), (tuple(feature.shape[1:]), counter.get_total_flops()))

        x = torch.zeros(1, *self.latent_shape, dtype=self.dtype, device=self.device)
        t = torch.zeros(1, dtype=torch.int64, device=self.device)
        condition = self.conditions.placeholder(1)
        with ExitStack() as stack, counter, torch.no_grad():
            for path in self.blocks():
                module = self.network.get_submodule(path)
                hook = lambda module, output, path=path: record(path, module, output)  # noqa: E731
                stack.enter_context(hooked(module, hook))
            self.call(x, t, condition)
        total = max(counter.get_total_flops(), 1)
        return [Tap(path, shape, flops / total) for path, (shape, flops) in seen.items()]

    def site(self, tap: TapName | None = None) -> Site:
        """A tap as a place in the network; None is the default tap.

        Raises:
            ValueError: no such module; the message lists the taps.
            TypeError: the tap is not a path or (path, index).
        """
        if not isinstance(self.network, nn.Module):
            raise ValueError(
                f"{self.name} is a plain function, which has no modules to tap: only maps of its "
                "output are known. Expected a torch.nn.Module for an encoder or a decoder."
            )
        site = Site.of(self.default_tap if tap is None else tap)
        self.module(site)
        return replace(site, merged=self.family.merges_frames)

    def module(self, site: Site) -> nn.Module:
        """The module of a tap; raises ValueError where there is none."""
        try:
            return self.network.get_submodule(site.path)
        except AttributeError:
            listed = ", ".join(self.blocks())
            raise ValueError(
                f"{self.name} has no module {site.path!r}. Its taps are: {listed}; any other "
                "module path of the network works too."
            ) from None

    def call(self, x: torch.Tensor, t: torch.Tensor, cond: Condition) -> torch.Tensor:
        """The network's raw prediction `[B, *latent_shape]`, inside any transform of torch.func.

        Args:
            x: latents `[B, *latent_shape]`.
            t: timesteps `[B]`, in training units.
            cond: a condition that `conditions.of` has checked.
        """
        return self.output(x, t, cond)[:, : self.latent_shape[0]]

    def output(self, x: torch.Tensor, t: torch.Tensor, cond: Condition) -> torch.Tensor:
        """What the network returns, `[B, *latent_shape]` or with more channels.

        Networks with a learned variance return 2C channels; the first C are the prediction.

        Args:
            x: latents `[B, *latent_shape]`.
            t: timesteps `[B]`, in training units.
            cond: a condition that `conditions.of` has checked.
        """
        with differentiable_attention(self.network):
            output = self.family.call(self.network, x, self.schedule.told(t), cond)
        shape, size = getattr(output, "shape", None), [len(x), *self.latent_shape]
        if shape is None or len(shape) != len(size) or shape[1] < size[1] or size != [
            shape[0], size[1], *shape[2:]
        ]:  # fmt: skip
            what = type(output).__name__ if shape is None else f"shape {list(shape)}"
            raise ValueError(
                f"Expected {self.name} to predict {size} (or more channels, of which the first are "
                f"the prediction) for latents {list(x.shape)}, got {what}."
            )
        return output  # type: ignore[no-any-return]

    def predict(self, x: torch.Tensor, t: int, cond: Condition) -> torch.Tensor:
        """The network's raw prediction `[B, *latent_shape]` at one t, in training units."""
        return self.call(x, torch.full((len(x),), t, device=self.device), cond)

    def sample_latents(
        self,
        count: int,
        t: int,
        seed: int | Sequence[int] = 0,
        cond: Condition | None = None,
        *,
        steps: int = 50,
    ) -> torch.Tensor:
        """Latents x_t on the way from noise to images.

        Every sample has a seed of its own, so it is the same whatever the count, and at every t
        (up to the stride) it is on its way to the same image.

        Args:
            count: samples.
            t: timestep to stop at, in the scheduler's training units.
            seed: the first sample's seed, where the others follow with seed + 1, seed + 2, ...;
                or one seed per sample. Whole numbers from 0 to 2³² − 1.
            cond: the network's further arguments, batch first; None is the null condition.
            steps: DDIM steps over the whole schedule.

        Returns:
            `[count, *latent_shape]` in the network's dtype, on its device.

        Raises:
            ValueError: count, t, a seed, cond or steps is not what the model takes.

        Cost: at most `steps` forward passes of the batch.
        """
        if whole("count", count) < 1:
            raise ValueError(f"Expected a positive count of samples, got {count}.")
        seeds = seeds_of(seed, count)
        self.check_mode()
        t, condition = self.schedule.check_timestep(t), self.conditions.of(cond, count)
        x = sampling.gaussian_noise(self.latent_shape, seeds).to(self.device, self.dtype)
        down = sampling.stride(self.schedule, steps)
        start = t + (self.schedule.max_timestep - t) // down * down
        return sampling.walk(
            self.schedule,
            lambda latents, at: self.predict(latents, at, condition),
            x,
            sampling.even_grid(self.schedule, start, t, steps=steps),
        )

    def images_of(self, x: torch.Tensor) -> torch.Tensor:
        """The images that latents stand for, by the pipeline's own autoencoder and scaling.

        Args:
            x: clean latents `[B, *x_shape]`. Those of a model without an autoencoder are images.

        Returns:
            `[B, C, H, W]`, or `[B, C, F, H, W]` of videos, float, clamped to -1 to 1.

        Raises:
            TypeError, ValueError: x is no latents, or their scaling is not known.

        Cost: one decoding.
        """
        self.check_latents(x)
        images = autoencoder_of(self.pipeline, self.latent_shape, self.name).decoded(x)
        return images.to(torch.promote_types(images.dtype, torch.float32)).clamp(-1, 1)

    def latents_of(self, images: Any) -> torch.Tensor:
        """The latents of images: the mode of what the pipeline's own autoencoder makes of them.

        Args:
            images: a tensor `[B, C, H, W]`, or `[B, C, F, H, W]` of videos, float from -1 to 1 or
                uint8; an array `[B, H, W, C]` or `[H, W, C]` of uint8; or Pillow's, one or a list.

        Returns:
            `[B, *x_shape]` in the network's dtype, on its device.

        Raises:
            TypeError, ValueError: they are of another size, kind or range, or the scaling of
                latents is not known. Float images that lie from 0 to 1 give a UserWarning.

        Cost: one encoding, and the first time the decoding of a few pixels.
        """
        between = autoencoder_of(self.pipeline, self.latent_shape, self.name)
        x = between.encoded(pixels_of(images, between.image_shape)).to(self.device, self.dtype)
        self.check_latents(x)
        return x

    def check_mode(self) -> None:
        """Raise if the network is in a state in which its derivatives cannot be had."""
        if isinstance(self.network, nn.Module):
            check_suitable(self.network, self.name)
            tell_of_replacement(self.network, self.name)
        for helper in self._helpers:
            check_suitable(helper, type(helper).__name__)

    def check_latents(self, x: torch.Tensor) -> None:
        """Raise unless x is finite, `[B, *latent_shape]`, in the network's dtype and place."""
        check_tensor(x, self.latent_shape, self._placement, self.name)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.latent_shape))
        return (
            f"LatentModel({self.name}: {self.family.label}, latents {shape}, "
            f"{self.schedule.num_timesteps} timesteps, {self.dtype}, {self.device})"
        )


def check_model(model: object) -> None:
    """Raise TypeError unless it is a `LatentModel`."""
    if not isinstance(model, LatentModel):
        raise TypeError(
            f"Expected a LatentModel, got {type(model).__name__}. pullback.load makes one from a "
            "name, folder, pipeline or network."
        )


def _sizes(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in shape)
    if not sizes or min(sizes) < 1:
        raise ValueError(
            f"Expected latent_shape as positive sizes such as (C, H, W), got {tuple(shape)}."
        )
    return sizes
