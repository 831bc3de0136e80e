"""A model's walks between timesteps: their options, and how the network predicts on them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, TypeVar

import torch

from pullback import sampling
from pullback._numbers import is_several, whole
from pullback.models.conditions import Condition
from pullback.models.model import LatentModel, check_model

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class WalkOptions(TypedDict, total=False):
    """Options of `denoise`, `states`, `invert` and of edits, all by keyword.

    Attributes:
        cond: the network's further arguments, batch first; None is the null condition.
        guidance: scale of classifier-free guidance, negative + guidance (conditional − negative);
            1 is none.
        negative: the condition to guide away from; the null condition by default.
        steps: steps that the whole schedule would take; they set the stride.
        solver: "ddim" (for flows Euler's method), "ddpm" or "dpm++".
        eta: stochasticity of DDIM's steps, from 0 to 1: one for all, or a function of the timestep
            that a step starts from.
        seed: of the noise of stochastic steps: the first sample's, or one for each sample.
        grid: "even", "published" (that of the published code, with its rounding, which ends at
            t = 0 and not at the data), or timesteps in training units, downwards, from the first
            to the last of the walk.
        clip: whether x̂₀ is clipped where the scheduler's own steps clip it.
        progress: called after each step with the number of those done and of all.
    """

    cond: Condition | None
    guidance: float
    negative: Condition | None
    steps: int
    solver: str
    eta: float | Callable[[float], float]
    seed: int | Sequence[int] | None
    grid: str | Sequence[float]
    clip: bool
    progress: Callable[[int, int], None] | None


_DEFAULTS: dict[str, Any] = {
    "cond": None,
    "guidance": 1.0,
    "negative": None,
    "steps": 50,
    "solver": "ddim",
    "eta": 0.0,
    "seed": None,
    "grid": "even",
    "clip": True,
    "progress": None,
}


def with_walk_options(function: FunctionT) -> FunctionT:
    """Gives a function that ends in `**options: Unpack[WalkOptions]` the signature of them all."""
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default,
            annotation=WalkOptions.__annotations__[name],
        )
        for name, default in _DEFAULTS.items()
        if name not in signature.parameters
    ]  # fmt: skip
    function.__signature__ = signature.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
    return function


@dataclass(frozen=True)
class Walker:
    """What a model walks with: conditions of a batch, guidance and steps.

    Attributes:
        model: the model.
        count: samples in the batch.
        condition: of the batch, `[count, ...]` each.
        away: the condition to guide away from, `[count, ...]` each; None without guidance.
        options: the others of `WalkOptions`.
    """

    model: LatentModel
    count: int
    condition: dict[str, torch.Tensor]
    away: dict[str, torch.Tensor] | None
    options: Mapping[str, Any]

    @classmethod
    def of(cls, model: LatentModel, count: int, options: Mapping[str, Any]) -> Walker:
        """A walker for a batch.

        Args:
            model: the model.
            count: samples in the batch.
            options: as in `WalkOptions`.

        Raises:
            TypeError: an option that does not exist.
            ValueError: one that the model does not take.
        """
        check_model(model)
        unknown = sorted(set(options) - set(_DEFAULTS))
        if unknown:
            raise TypeError(
                f"Got an unexpected option {unknown[0]!r} for a walk. Expected some of "
                f"{', '.join(_DEFAULTS)}."
            )
        chosen = {**_DEFAULTS, **options}
        condition = model.conditions.of(chosen["cond"], count)
        scale = chosen["guidance"]
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise ValueError(f"Expected guidance as a number, got {type(scale).__name__}.")
        if scale == 1 and chosen["negative"] is not None:
            raise ValueError(
                "A negative condition has no effect at guidance = 1. Expected another guidance, or "
                "no negative condition."
            )
        away = None if scale == 1 else model.conditions.of(chosen["negative"], count)
        return cls(model, count, condition, away, chosen)

    def rows(self, samples: Sequence[int]) -> Walker:
        """The walker of a batch of some of the samples, in any order and number."""
        seed = self.options["seed"]
        if seed is not None:
            seeds = seed if is_several(seed) else [seed + i for i in range(self.count)]
            seed = [seeds[sample] for sample in samples]

        def chosen(cond: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {
                name: value[torch.as_tensor(samples, device=value.device)]
                if len(value) == self.count
                else value
                for name, value in cond.items()
            }

        return replace(
            self,
            count=len(samples),
            condition=chosen(self.condition),
            away=None if self.away is None else chosen(self.away),
            options={**self.options, "seed": seed},
        )

    def changed(self, **options: Any) -> Walker:
        """The same walker with other options than those of its conditions."""
        return replace(self, options={**self.options, **options})

    def grid(self, start: float, stop: float = -1) -> list[float]:
        """The timesteps from one to another below it, in training units, both included."""
        schedule, kind = self.model.schedule, self.options["grid"]
        if isinstance(kind, str) and kind not in ("even", "published"):
            raise ValueError(f'Expected grid="even", "published" or timesteps, got {kind!r}.')
        if kind == "published":
            if schedule.continuous or schedule.prediction_type == "flow":
                raise ValueError('grid="published" is for schedules with ᾱ. Expected "even".')
            points = sampling.published_grid(schedule, start, steps=self.options["steps"])
            return [t for t in points if t >= stop]
        if kind == "even":
            at, to = schedule.check_timestep(start), whole("stop", stop)
            steps = whole("steps", self.options["steps"])
            return list[float](sampling.even_grid(schedule, at, to, steps=steps))
        given = [schedule.check_timestep(t) if t != -1 else -1 for t in kind]
        if sorted(set(given), reverse=True) != given or given[:1] != [start] or given[-1] != stop:
            raise ValueError(
                f"Expected timesteps that go down from {start} to {stop}, got {given}."
            )
        return list[float](given)

    def predict(self, x: torch.Tensor, t: float) -> torch.Tensor:
        """The network's prediction at t in training units, with guidance, `[B, ...]`.

        Channels of a learned variance are those of the condition.
        """
        fraction = torch.float32 if isinstance(t, float) else torch.int64
        times = torch.full((len(x),), t, device=x.device, dtype=fraction)
        found = self.model.output(x, times, self.condition)
        if self.away is None:
            return found
        channels = x.shape[1]
        away = self.model.call(x, times, self.away)
        mixed = away + self.options["guidance"] * (found[:, :channels] - away)
        return torch.cat([mixed, found[:, channels:]], 1)

    def down(
        self,
        x: torch.Tensor,
        grid: Sequence[float],
        *,
        residuals: Mapping[float, torch.Tensor] | None = None,
        predict: sampling.Predict | None = None,
        visit: sampling.Visit | None = None,
    ) -> torch.Tensor:
        """Latents at the last timestep of a grid, from those at the first, `[B, *x_shape]`.

        Args:
            x: latents `[B, *x_shape]`.
            grid: timesteps in training units, downwards.
            residuals: of a stochastic inversion, `[B, *x_shape]` by timestep.
            predict: in place of the network alone.
            visit: called at every timestep with the latents there.
        """
        chosen = self.options
        return sampling.walk(
            self.model.schedule, predict or self.predict, x, grid,
            solver=chosen["solver"], eta=chosen["eta"], noise=self.noise,
            residuals=residuals, clip=chosen["clip"], visit=self.counted(len(grid) - 1, visit),
        )  # fmt: skip

    @property
    def noise(self) -> sampling.FreshNoise | None:
        """The noise of stochastic steps; None without a seed."""
        seed = self.options["seed"]
        if seed is None:
            return None
        if not is_several(seed):
            return sampling.FreshNoise([whole("seed", seed) + i for i in range(self.count)])
        if len(seed) != self.count:
            raise ValueError(f"Expected one seed or {self.count}, got {len(seed)}.")
        return sampling.FreshNoise(seed)

    def counted(self, steps: int, visit: sampling.Visit | None) -> sampling.Visit | None:
        """A visit that reports progress, too."""
        progress = self.options["progress"]
        if progress is None:
            return visit
        done = -1

        def both(t: float, x: torch.Tensor) -> None:
            nonlocal done
            done += 1
            if done:
                progress(done, steps)
            if visit is not None:
                visit(t, x)

        return both
