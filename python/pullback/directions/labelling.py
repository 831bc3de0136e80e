"""Samples of a model with their features on the way, and what a classifier says of their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import Unpack

from pullback import sampling
from pullback._numbers import is_several, seeds_of, whole
from pullback.directions.features import (
    check_holds,
    feature_of,
    recorded,
    site_of,
    steps_of,
)
from pullback.directions.samples import times_of
from pullback.models import (
    LatentModel,
    TapName,
    Walker,
    WalkOptions,
    check_model,
    with_walk_options,
)

#: Scores `[B]`, or `[B, K]` of K attributes, of images `[B, C, H, W]` from −1 to 1.
Score = Callable[[torch.Tensor], Any]


@dataclass(frozen=True, eq=False)
class LabelledSamples:
    """Features of samples, and the scores of the images that they lead to.

    `supervised(found.features, found.scores, top=100, **found.place)` finds a direction of them.

    Attributes:
        features: `[N, *h_shape]` at the tap, or `[N, T, *h_shape]` of T timesteps; on the CPU.
        scores: `[N]`, or `[N, K]` of K attributes, float64; `[N, 0]` without a classifier.
        seeds: of the samples.
        place: where the features lie and how they were made: keyword arguments of `supervised` and
            `boundary`.
    """

    features: torch.Tensor
    scores: torch.Tensor
    seeds: tuple[int, ...]
    place: dict[str, Any]


@with_walk_options
def label_samples(
    model: LatentModel,
    seeds: Sequence[int],
    t: int | Sequence[int],
    score: Score | None,
    *,
    tap: TapName | None = None,
    pool: str | None = None,
    batch: int = 32,
    **options: Unpack[WalkOptions],
) -> LabelledSamples:
    """Draw samples, keep their features at t, and score their images.

    Args:
        model: the model.
        seeds: of the noise that the samples start from, one for each.
        t: at which timestep the features are kept, in training units, or at which ones, descending.
        score: a classifier: of images `[B, C, H, W]` from −1 to 1 (for a model with an autoencoder
            those that it decodes) gives `[B]` numbers, or `[B, K]` for K attributes. None, where
            labels are known otherwise, leaves out images and the walk behind the last of the times.
        tap: where h is read; the middle block by default.
        pool: "space" for the mean of the feature over space.
        batch: samples at a time.
        **options: as for `pullback.denoise`, for all N samples; `progress` is called with the
            number of samples done and of all. Steps with eta above 0 need a `seed`.

    Returns:
        `LabelledSamples`.

    Raises:
        TypeError: the model is none, or score is no function.
        ValueError: as `pullback.denoise`; a timestep is none at which a step begins, seeds are no
            seeds, or the scores are of another number or not finite.
        MemoryError: the features of all samples do not fit the machine, or those of all steps of a
            batch the device; no step was taken.

    Cost: for each batch one walk from noise to data, or to the last of the times without score,
    whose own passes have the features, and one call of score; one pass of one sample before.

    Source: Haas et al. 2023, arXiv:2303.11073, by batches and in one walk, where the published code
    draws every sample twice.
    """
    check_model(model)
    if score is not None and not callable(score):
        raise TypeError(f"Expected score as a function of images, got {type(score).__name__}.")
    if not is_several(seeds) or not len(seeds):
        raise ValueError(f"Expected a list of seeds, one for each sample, got {seeds!r:.60}.")
    numbers, batch = seeds_of(seeds, len(seeds)), whole("batch", batch, 1)
    several = is_several(t)
    times = times_of(t) if several else (model.schedule.check_timestep(t),)  # type: ignore[arg-type]
    site = site_of(model, tap, pool)
    chosen: dict[str, Any] = dict(options)
    progress = chosen.pop("progress", None)
    walker = Walker.of(model, len(numbers), chosen)
    start = _start(walker, times[0])
    steps = steps_of(walker, start, -1)
    missing = sorted(set(times) - set(steps))
    if missing:
        raise ValueError(
            f"Expected timesteps that steps begin at, {steps}, got {missing}. Choose others, or "
            "other steps."
        )
    kept = [steps.index(at) for at in times]
    stop = -1 if score is not None else [*steps, -1][kept[-1] + 1]
    feature = feature_of(walker, start, site, pool)
    check_holds(feature, len(numbers), len(times), torch.device("cpu"))
    check_holds(feature, min(batch, len(numbers)), len(steps), model.device)
    every = feature.new_empty(len(numbers), len(times), *feature.shape, device="cpu")
    scores = []
    for first in range(0, len(numbers), batch):
        part = list(range(first, min(first + batch, len(numbers))))
        noise = sampling.gaussian_noise(model.latent_shape, [numbers[one] for one in part])
        x = noise.to(model.device, model.dtype)
        found = recorded(walker.rows(part), x, start, stop, site, pool)
        every[part] = found.features[:, kept].cpu()
        scores.append(
            torch.zeros(len(part), 0, dtype=torch.float64, device="cpu")
            if score is None
            else scored(score, model.images_of(found.latents))
        )
        if progress is not None:
            progress(part[-1] + 1, len(numbers))
    eta = walker.options["eta"]
    place = {
        "space": "h",
        "tap": str(site),
        "pool": pool,
        "t": times if several else times[0],
        "model": model,
        "provenance": {
            "samples": len(numbers),
            "seeds": [min(numbers), max(numbers)],
            "solver": walker.options["solver"],
            "steps": walker.options["steps"],
            "guidance": walker.options["guidance"],
            "eta": "a function" if callable(eta) else float(eta),
        },
    }
    return LabelledSamples(
        every if several else every[:, 0], torch.cat(scores), tuple(numbers), place
    )


def _start(walker: Walker, t: int) -> int:
    """The noisiest timestep from which whole strides lead to t, both in training units."""
    grid, schedule = walker.options["grid"], walker.model.schedule
    if not isinstance(grid, str):
        return schedule.check_timestep(grid[0])
    down = sampling.stride(schedule, whole("steps", walker.options["steps"]))
    at = schedule.check_timestep(t)
    return at + (schedule.max_timestep - at) // down * down


def scored(score: Score, images: torch.Tensor) -> torch.Tensor:
    """What a classifier says of images, checked.

    Args:
        score: the classifier.
        images: `[B, C, H, W]` from −1 to 1.

    Returns:
        `[B]`, or `[B, K]` of K attributes, float64, on the CPU.

    Raises:
        ValueError: the scores are of another number or shape, or not finite.
    """
    with torch.no_grad():
        found = torch.as_tensor(score(images), device="cpu").detach().double()
    if found.dim() not in (1, 2) or len(found) != len(images) or not found.numel():
        raise ValueError(
            f"Expected one score for each image, [{len(images)}], or one for each attribute, "
            f"[{len(images)}, K], got {list(found.shape)}."
        )
    if not bool(torch.isfinite(found).all()):
        raise ValueError("Expected finite scores, got NaN or Inf. Check the classifier.")
    return found
