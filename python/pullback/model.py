"""A diffusion model as this library sees it: shapes, conditions, schedule and taps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pullback import sampling
from pullback.maps import Encoder, Tap, feature

#: The network's own forward arguments, batch first.
Condition = Mapping[str, torch.Tensor]


class LatentModel:
    """Wraps a diffusers network and its scheduler; neither is changed.

    Args:
        network: a `diffusers.UNet2DModel` in evaluation mode.
        scheduler: any diffusers scheduler; its config says how noise was added in training.
        name: what the model is called in files and messages.
        null_cond: the condition that stands for "no condition", per sample (without the batch);
            needed for a class-conditional network if `cond=None` is to be allowed.

    Attributes:
        network, scheduler, name: as given.
        latent_shape: (C, H, W) of x.

    Raises:
        TypeError: the network is of a class that is not supported.
        ValueError: the network is in training mode.
    """

    def __init__(
        self,
        network: nn.Module,
        scheduler: Any,
        *,
        name: str = "model",
        null_cond: Condition | None = None,
    ) -> None:
        if not isinstance(network, UNet2DModel):
            raise TypeError(
                f"Expected a diffusers UNet2DModel, got {type(network).__name__}. For another "
                "network build a pullback.JacobianOperator from a function x -> h, and use "
                "pullback.krylov.svd on it."
            )
        if not hasattr(scheduler, "config") or "num_train_timesteps" not in scheduler.config:
            raise TypeError(
                f"Expected a diffusers scheduler, got {type(scheduler).__name__}. Pass the one "
                "the model was trained with, for example DDPMScheduler.from_pretrained(folder)."
            )
        self.network, self.scheduler, self.name = network, scheduler, name
        size = network.config.sample_size
        if size is None:
            raise ValueError(
                f"{name} does not say how large its latents are: expected sample_size in its "
                "config, got None. Set it with network.register_to_config(sample_size=64), say."
            )
        height, width = (size, size) if isinstance(size, int) else size
        self.latent_shape = (network.config.in_channels, height, width)
        self._null_cond = None
        if null_cond is not None:
            self._null_cond = {n: torch.as_tensor(value) for n, value in null_cond.items()}
            self.condition(None, 1)  # raises what is wrong with it
        self.check_mode()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the network's parameters, and of x."""
        return next(self.network.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the network's parameters, and of x."""
        return next(self.network.parameters()).device

    @property
    def num_timesteps(self) -> int:
        """Training timesteps of the schedule; t runs from 0 to one less."""
        return int(self.scheduler.config.num_train_timesteps)

    @property
    def default_tap(self) -> str:
        """The h-space of the papers: the output of the U-Net's middle block."""
        return "mid_block"

    @property
    def null_cond(self) -> dict[str, torch.Tensor]:
        """The null condition of one sample (without the batch); empty where none is needed.

        Raises:
            ValueError: the network is class-conditional and has no known null class.
        """
        if self._null_cond is not None:
            return {name: value.to(self.device) for name, value in self._null_cond.items()}
        if self.network.class_embedding is not None:
            raise ValueError(
                f"{self.name} is conditional on a class and has no known null class, so a "
                'condition is needed. Pass cond={"class_labels": labels}, or name the null class '
                "once: LatentModel(network, scheduler, null_cond={'class_labels': "
                "torch.tensor(...)})."
            )
        return {}

    @property
    def fingerprint(self) -> str:
        """Short hash of the network's configuration and of a sample of its weights."""
        # Names with an underscore say where the network was read from, not what it is.
        config = {k: v for k, v in self.network.config.items() if not k.startswith("_")}
        digest = hashlib.sha256(json.dumps(config, default=str).encode())
        for name, parameter in self.network.named_parameters():
            part = parameter.detach().flatten()[:64].double().cpu()
            digest.update(name.encode() + part.numpy().tobytes())
        return digest.hexdigest()[:16]

    def taps(self) -> list[Tap]:
        """Where features can be read: the blocks of the network, in the order they run.

        Any other module path works as a tap too, if the module returns one tensor.

        Cost: one forward pass of one sample.
        """
        blocks = {
            name: module
            for name, module in self.network.named_modules()
            if name == "mid_block" or name.rpartition(".")[0] in ("down_blocks", "up_blocks")
        }
        counter = FlopCounterMode(display=False)
        seen: list[tuple[str, tuple[int, ...], int]] = []

        def record(path: str, module: nn.Module, output: object) -> None:
            shape = tuple(feature(module, output, path).shape[1:])
            seen.append((path, shape, counter.get_total_flops()))

        hooks = [
            module.register_forward_hook(
                lambda module, _inputs, output, path=path: record(path, module, output)
            )
            for path, module in blocks.items()
        ]
        x = torch.zeros(1, *self.latent_shape, dtype=self.dtype, device=self.device)
        condition = self._any_condition(1)
        try:
            with counter, torch.no_grad():
                self.predict(x, 0, condition)
        finally:
            for hook in hooks:
                hook.remove()
        total = max(counter.get_total_flops(), 1)
        return [Tap(path, shape, flops / total) for path, shape, flops in seen]

    def condition(self, cond: Condition | None, count: int) -> dict[str, torch.Tensor]:
        """The condition of a batch: checked, on the network's device, `[count, ...]` each.

        Args:
            cond: tensors `[count, ...]` or `[1, ...]` by the names of the network's forward
                arguments; None is the null condition.
            count: samples in the batch.

        Raises:
            ValueError: an unknown name, another batch size, or a class that does not exist.
        """
        if cond is None:
            cond = {name: value.unsqueeze(0) for name, value in self.null_cond.items()}
            if not cond:
                return {}
        if not isinstance(cond, Mapping):
            raise TypeError(
                f"Expected cond as a mapping from argument names to tensors, got "
                f'{type(cond).__name__}. For a class: cond={{"class_labels": torch.tensor([3])}}.'
            )
        known = {"class_labels"} if self.network.class_embedding is not None else set()
        result = {}
        for name, given in cond.items():
            value = torch.as_tensor(given)
            if name not in known:
                raise ValueError(
                    f"Expected a condition with the names {sorted(known) or 'none'} for "
                    f"{self.name}, got {name!r}."
                )
            if value.dim() == 0 or value.shape[0] not in (1, count):
                raise ValueError(
                    f"Expected cond[{name!r}] with {count} rows, one per sample (or 1 for all), "
                    f"got shape {tuple(value.shape)}."
                )
            classes = self.network.config.num_class_embeds
            if classes and (
                value.dim() != 1
                or value.is_floating_point()
                or value.dtype == torch.bool
                or not bool(((value >= 0) & (value < classes)).all())
            ):
                raise ValueError(
                    f"Expected class labels as whole numbers [{count}] between 0 and "
                    f"{classes - 1}, got {value.tolist()}."
                )
            result[name] = value.to(self.device).clone().expand(count, *value.shape[1:])
        if known and not result:
            raise ValueError(f"Expected a condition with {sorted(known)}, got an empty mapping.")
        return result

    def encoder(self, tap: str | None = None, names: tuple[str, ...] = ()) -> Encoder:
        """The map x -> h at a tap (default: the middle block).

        Raises:
            ValueError: no such module; the message lists the taps.
        """
        path = self.default_tap if tap is None else tap
        try:
            return Encoder(self.network, path, names)
        except AttributeError:
            listed = ", ".join(tap.path for tap in self.taps())
            raise ValueError(
                f"{self.name} has no module {path!r}. Its taps are: {listed}; any other module "
                "path of the network works too."
            ) from None

    def predict(self, x: torch.Tensor, t: int, cond: Condition) -> torch.Tensor:
        """The network's prediction `[B, C, H, W]` at timestep t.

        Networks with a learned variance return 2C channels; the first C are the prediction.
        """
        timesteps = torch.full((len(x),), t, device=self.device)
        output = self.network(x, timesteps, **cond).sample
        return output[:, : self.latent_shape[0]]

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
                or one seed per sample.
            cond: the network's further arguments, batch first; None is the null condition.
            steps: DDIM steps over the whole schedule.

        Returns:
            `[count, C, H, W]` in the network's dtype, on its device.

        Cost: at most `steps` forward passes of the batch.
        """
        if count < 1:
            raise ValueError(f"Expected a positive count of samples, got {count}.")
        seeds = seed if isinstance(seed, Sequence) else range(int(seed), int(seed) + count)
        if len(seeds) != count:
            raise ValueError(f"Expected one seed per sample, {count}, got {len(seeds)}.")
        self.check_mode()
        t, cond = self.check_timestep(t), self.condition(cond, count)
        draws = [
            torch.randn(
                self.latent_shape,
                generator=torch.Generator("cpu").manual_seed(int(one)),
                dtype=torch.float32,
                device="cpu",
            )
            for one in seeds
        ]
        noise = torch.stack(draws)
        x = noise.to(self.device, self.dtype)
        down = sampling.stride(self, steps)
        start = t + (self.num_timesteps - 1 - t) // down * down
        if start == t:
            return x
        return sampling.ddim(self, x, start, t, cond=cond, steps=steps)

    def check_mode(self) -> None:
        """Raise if the network is in training mode, whole or in part."""
        training = [name or "the network" for name, m in self.network.named_modules() if m.training]
        if training:
            more = f" and {len(training) - 1} more modules" if len(training) > 1 else ""
            raise ValueError(
                f"{self.name} is in training mode ({training[0]}{more}), where dropout makes the "
                "features random. Expected evaluation mode: call network.eval() first."
            )

    def check_timestep(self, t: float) -> int:
        """A timestep as an int; raises ValueError unless it is a whole one of the schedule."""
        try:
            value = int(t)
        except (TypeError, ValueError, OverflowError):
            value = -1
        if value != t or isinstance(t, bool) or not 0 <= value < self.num_timesteps:
            raise ValueError(
                f"Expected t as a whole training timestep between 0 and {self.num_timesteps - 1}, "
                f"got {t!r}. A fraction of the schedule must be multiplied by {self.num_timesteps}."
            )
        return value

    def check_latents(self, x: torch.Tensor) -> None:
        """Raise unless x is a finite batch of latents in the network's dtype, on its device."""
        if not isinstance(x, torch.Tensor):
            raise TypeError(
                f"Expected latents as a tensor, got {type(x).__name__}. Convert them with "
                "torch.as_tensor."
            )
        expected = f"[B, {', '.join(map(str, self.latent_shape))}]"
        if x.dim() != 4 or tuple(x.shape[1:]) != self.latent_shape or len(x) == 0:
            raise ValueError(
                f"Expected latents of shape {expected} for {self.name}, got {list(x.shape)}."
            )
        if x.dtype != self.dtype or x.device != self.device:
            raise ValueError(
                f"Expected latents in {self.dtype} on {self.device}, like the network, got "
                f"{x.dtype} on {x.device}. Convert them with x.to({str(self.device)!r}, "
                f"{self.dtype})."
            )
        finite = torch.isfinite(x).flatten(1).all(1)
        if not bool(finite.all()):
            raise ValueError(
                f"x contains NaN or Inf in samples {torch.nonzero(~finite).flatten().tolist()}. "
                "Expected finite latents; the usual causes are a half-precision overflow while "
                "sampling and a wrong scaling of the input."
            )

    def _any_condition(self, count: int) -> dict[str, torch.Tensor]:
        """A valid condition, for passes in which only shapes matter."""
        if self._null_cond is None and self.network.class_embedding is not None:
            return {"class_labels": torch.zeros(count, dtype=torch.long, device=self.device)}
        return self.condition(None, count)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.latent_shape))
        return (
            f"LatentModel({self.name}: {type(self.network).__name__}, latents {shape}, "
            f"{self.num_timesteps} timesteps, {self.dtype}, {self.device})"
        )
