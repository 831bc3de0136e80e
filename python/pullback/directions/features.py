"""Features along walks: what the passes of a trajectory had at a tap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from typing_extensions import Unpack

from pullback import sampling
from pullback._memory import check_free
from pullback.models import (
    LatentModel,
    Site,
    TapName,
    Walker,
    WalkOptions,
    check_model,
    hooked,
    pooled,
    with_walk_options,
)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The features of a walk, step by step.

    Attributes:
        times: timesteps in training units at which the network was asked, T of them, descending.
        features: `[B, T, *h_shape]` at the tap, as the walk's own passes had them; `[B, T, C]`
            where they are pooled.
        latents: `[B, *x_shape]` where the walk ended.
    """

    times: tuple[int, ...]
    features: torch.Tensor
    latents: torch.Tensor


@with_walk_options
def trajectory(
    model: LatentModel,
    x: torch.Tensor,
    t: int,
    stop: int = -1,
    *,
    tap: TapName | None = None,
    pool: str | None = None,
    **options: Unpack[WalkOptions],
) -> Trajectory:
    """Take latents down as `pullback.denoise` does, and keep the feature h of every step.

    Args:
        model: the model.
        x: latents at t, `[B, *x_shape]`.
        t: their timestep, in training units.
        stop: the timestep to arrive at in training units; −1 is the data.
        tap: where h is read: a module path, or (path, index) where the module returns a tuple; the
            middle block by default.
        pool: "space" for the mean of the feature over space.
        **options: as for `pullback.denoise`. With guidance the features are those of the
            conditional pass.

    Returns:
        A `Trajectory` of B samples: T features each, for T steps.

    Raises:
        TypeError: the model is none, x is no tensor, the tap is no tap's name, or an option does
            not exist.
        ValueError: as `pullback.denoise`; there is no such module, or a step does not reach it;
            pool is something else; there is no step from t to stop, or one from a fraction of a
            timestep; or a feature is not finite.
        MemoryError: B T features do not fit the device; no step was taken.

    Cost: that of the walk and of one pass of one sample, and B T features in memory: `pca` walks
    batch by batch, and `StreamingPCA` takes their features.
    Source: Haas et al. 2023, arXiv:2303.11073, whose h_T:1 these are.
    """
    check_model(model)
    model.check_latents(x)
    site = site_of(model, tap, pool)
    walker = Walker.of(model, len(x), options)
    feature = feature_of(walker, t, site, pool)
    check_holds(feature, len(x), len(steps_of(walker, t, stop)), model.device)
    return recorded(walker, x, t, stop, site, pool)


def site_of(model: LatentModel, tap: TapName | None, pool: str | None) -> Site:
    """The place of a tap, where there is one and the pool is known.

    Raises:
        TypeError: the tap is no tap's name.
        ValueError: there is no such module, or pool is something else.
    """
    if pool not in (None, "space"):
        raise ValueError(f'Expected pool="space" or None, got {pool!r:.60}.')
    return model.site(tap)


def steps_of(walker: Walker, t: int, stop: int) -> list[int]:
    """Timesteps in training units that the steps of a walk begin at.

    Raises:
        ValueError: there is none, one is a fraction, or as `Walker.grid`.
    """
    grid = walker.grid(walker.model.schedule.check_timestep(t), stop)
    times = grid[:-1]
    if not times:
        raise ValueError(
            f"Expected a stop below t = {t}, so that there is a step to keep a feature of, got "
            f"{stop}."
        )
    fractions = [at for at in times if at != int(at)]
    if fractions:
        raise ValueError(
            f"Expected steps from whole timesteps, which directions have, got {fractions[0]:g}. "
            'Use grid="even", or timesteps of your own.'
        )
    return [int(at) for at in times]


def feature_of(walker: Walker, t: int, site: Site, pool: str | None) -> torch.Tensor:
    """A feature `[*h_shape]` of noise, as a walk has it at t in training units: for its size.

    Cost: one pass of one sample.
    """
    model, recorder = walker.model, _Recorder(walker.rows([0]), site, pool, [t])
    with torch.no_grad():
        recorder(sampling.gaussian_noise(model.latent_shape, [0]).to(model.device, model.dtype), t)
    return recorder.features[0, 0]


def check_holds(feature: torch.Tensor, count: int, steps: int, device: torch.device) -> None:
    """Raise MemoryError unless features `[count, steps, *h_shape]` like one fit a device."""
    size = " x ".join(map(str, feature.shape))
    check_free(
        count * steps * feature.nbytes,
        device,
        f"Features of {count} samples at {steps} steps, {size} each,",
        'Ask for fewer samples or steps, or pool="space"; `pca` walks batch by batch, and '
        "`StreamingPCA` takes batches of features.",
    )


def recorded(
    walker: Walker, x: torch.Tensor, t: int, stop: int, site: Site, pool: str | None
) -> Trajectory:
    """The walk of latents x `[B, *x_shape]` from t to stop, in training units, with its features.

    Raises:
        As `trajectory`.
    """
    times = steps_of(walker, t, stop)
    recorder = _Recorder(walker, site, pool, times)
    latents = walker.down(x, walker.grid(t, stop), predict=recorder)
    return Trajectory(tuple(times), recorder.features, latents)


class _Recorder:
    """A network's prediction, which keeps the feature of every step.

    Args:
        walker: predicts.
        site: the tap.
        pool: as in `trajectory`.
        times: at which it will be asked, in training units, in this order.
    """

    def __init__(self, walker: Walker, site: Site, pool: str | None, times: list[int]) -> None:
        self._walker, self._site, self._pool, self._times = walker, site, pool, times
        self._module = walker.model.module(site)
        self._kept: torch.Tensor | None = None
        self._done = 0

    @property
    def features(self) -> torch.Tensor:
        """Those of all steps, `[B, T, *h_shape]`."""
        assert self._kept is not None
        return self._kept

    def __call__(self, x: torch.Tensor, t: Any, /) -> torch.Tensor:
        """The prediction for x `[B, *x_shape]` at t in training units, `[B, ...]`."""
        with self._listening(len(x), t):
            return self._walker.predict(x, t)

    @contextmanager
    def _listening(self, count: int, t: float) -> Iterator[None]:
        """Context in which the feature of the next pass is kept."""
        step, seen = self._done, False

        def keep(module: nn.Module, output: object) -> None:
            nonlocal seen
            # The conditional pass comes first, and a module that runs again counts once.
            if seen:
                return
            seen = True
            feature = self._site.read(module, output, count)
            feature = feature if self._pool is None else pooled(feature)
            if not bool(torch.isfinite(feature).all()):
                raise ValueError(
                    f"The feature at {self._site} has NaN or Inf at t = {t:g}. Expected finite "
                    "numbers; the usual cause is a half-precision overflow: use float32."
                )
            if self._kept is None:
                self._kept = feature.new_empty(count, len(self._times), *feature.shape[1:])
            self._kept[:, step] = feature  # a copy, since what follows may change it in place

        with hooked(self._module, keep):
            yield
        if not seen:
            raise ValueError(
                f"The forward pass ended without reaching {self._site.path!r}. Expected a module "
                "that the network calls as a whole; model.taps() lists those that it does."
            )
        self._done += 1
