"""Principal components of the features along many trajectories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from typing_extensions import Unpack

from pullback._memory import free_bytes
from pullback._numbers import is_several, seeds_of, whole
from pullback._version import __version__
from pullback.directions.components import PrincipalComponents
from pullback.directions.features import feature_of, recorded, site_of, steps_of
from pullback.directions.streaming import PrincipalAxes, StreamingPCA
from pullback.models import (
    LatentModel,
    Site,
    TapName,
    Walker,
    WalkOptions,
    check_model,
    told,
    with_walk_options,
)
from pullback.operators import rows_at_once

_SHARE = 4  # a batch's features take at most this part of the memory that is free


@with_walk_options
def pca(
    model: LatentModel,
    count: int,
    rank: int,
    *,
    t: int | None = None,
    stop: int = -1,
    tap: TapName | None = None,
    pool: str | None = None,
    joint: bool = True,
    extra: int | None = None,
    batch: int = 64,
    memory: int | None = None,
    **options: Unpack[WalkOptions],
) -> PrincipalComponents:
    """Principal components of the feature h along the trajectories of many samples.

    Args:
        model: the model.
        count: trajectories, two or more.
        rank: components, below count, and at most as many as the features have entries.
        t: where trajectories start, in training units, at the latents that `sample_latents` gives
            for the seeds; by default the noisiest timestep of the schedule.
        stop: where they end, in training units; −1 is the data.
        tap: where h is read: a module path, or (path, index) where the module returns a tuple; the
            middle block by default.
        pool: "space" for the mean of the feature over space.
        joint: whether a component is one direction of the features of all steps together, which
            changes over time; False finds components for each step by itself.
        extra: directions kept beyond the rank, as for `StreamingPCA`.
        batch: trajectories that are walked together, at most; fewer where memory is short.
        memory: bytes that one pass of the network may use; by default a share of what is free.
        **options: as for `pullback.denoise`. `seed` is the first trajectory's, or one for each, of
            its latents and of the noise of its steps; None counts from 0. `cond` is of one row, or
            count rows. `progress` is called with the trajectories done, and all.

    Returns:
        `PrincipalComponents`, the same for any batch up to rounding.

    Raises:
        TypeError: the model is none, the tap is no tap's name, or an option does not exist.
        ValueError: count or rank is too small, or the rank too large; the features vary in fewer
            directions, or are not finite; there is no such tap; or as `pullback.denoise`.
        MemoryError: what is held of trajectories does not fit the device.

    Cost: count walks. For features of m numbers it holds the T m numbers of each trajectory of a
    batch, and of 2 (rank + extra) trajectories, twice that while they are merged: with 50 steps of
    the digit model (m = 1536) and rank 25, less than 0.2 GB, however many trajectories there are.
    Source: Haas et al. 2023, arXiv:2303.11073, whose published code walks with eta=1 and has both
    kinds, joint ("all") and per timestep ("indv").
    """
    check_model(model)
    count = whole("count", count, 2)
    rank = _rank_of(rank, count)
    batch = whole("batch", batch, 1)
    given: dict[str, Any] = {**options}
    progress = given.pop("progress", None)
    seed = given.get("seed")
    given["seed"] = seeds_of(0 if seed is None else seed, count)
    site = site_of(model, tap, pool)
    walker = Walker.of(model, count, given)
    start = model.schedule.max_timestep if t is None else model.schedule.check_timestep(t)
    times = steps_of(walker, start, stop)
    most = rows_at_once(lambda: feature_of(walker, start, site, pool), model.device, memory)
    held, free = len(times) * feature_of(walker, start, site, pool).nbytes, free_bytes(model.device)
    if free is not None:
        most = min(most, max(1, free // (_SHARE * held)))

    def batches() -> Iterator[torch.Tensor]:
        size = min(batch, most)
        for first in range(0, count, size):
            samples = list(range(first, min(first + size, count)))
            yield _features(walker.rows(samples), start, stop, site, pool)
            if progress is not None:
                progress(samples[-1] + 1, count)

    known = {
        "model": model.name,
        "fingerprint": model.seen_fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        **_settings(walker, given.get("cond")),
        "seed": _told_seed(seed),
        "start": start,
    }
    return _components(
        batches(), rank, times, stop, str(site), pool, joint=joint, extra=extra, known=known
    )


def pca_of(
    features: torch.Tensor | Iterable[torch.Tensor],
    rank: int,
    *,
    times: Sequence[int],
    tap: TapName,
    stop: int = -1,
    pool: str | None = None,
    joint: bool = True,
    extra: int | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> PrincipalComponents:
    """Principal components of features of your own, such as those of `trajectory`.

    Args:
        features: `[N, T, *h_shape]`, or batches of these, `[n, T, *h_shape]` each, of which one at
            a time is held.
        rank: components, below N, and at most as many as the features have entries.
        times: timesteps in training units at which the steps begin, T of them, descending.
        tap: where h was read.
        stop: the timestep in training units at which the last step ends; −1 is the data.
        pool: "space" for features `[N, T, C]` that were pooled over space.
        joint: as for `pca`.
        extra: as for `pca`.
        provenance: what is known of the features, such as model and fingerprint.

    Returns:
        `PrincipalComponents`.

    Raises:
        TypeError: the features are no tensors, or the tap is no tap's name.
        ValueError: the features are not finite, of several shapes, or of another number of steps
            than times; times do not go down to stop; or the rank is larger than they allow.

    Cost: that of `StreamingPCA` for rows of T m numbers, for features of m.
    Source: Haas et al. 2023, arXiv:2303.11073.
    """
    batches: Iterable[torch.Tensor] = features
    if isinstance(features, torch.Tensor):
        if not features.dim() or len(features) < 2:
            raise ValueError(
                "Expected features [N, T, *h_shape] of two trajectories or more, got "
                f"{list(features.shape)}."
            )
        rank = _rank_of(rank, len(features))
        batches = [features]
    if pool not in (None, "space"):
        raise ValueError(f'Expected pool="space" or None, got {pool!r:.60}.')
    descending = _times_of(times, stop)
    site = str(Site.of(tap))
    known = dict(provenance or {})
    return _components(
        batches, rank, descending, stop, site, pool, joint=joint, extra=extra, known=known
    )


def _features(walker: Walker, start: int, stop: int, site: Site, pool: str | None) -> torch.Tensor:
    """Features `[n, T, *h_shape]` of the walks of all samples of a walker."""
    options = walker.options
    x = walker.model.sample_latents(
        walker.count, start, options["seed"], walker.condition, steps=options["steps"]
    )
    return recorded(walker, x, start, stop, site, pool).features


def _components(
    batches: Iterable[torch.Tensor],
    rank: int,
    times: Sequence[int],
    stop: int,
    tap: str,
    pool: str | None,
    *,
    joint: bool,
    extra: int | None,
    known: Mapping[str, Any],
) -> PrincipalComponents:
    """The components of batches of features `[n, T, *h_shape]`."""
    streams = [StreamingPCA(rank, extra=extra) for _ in range(1 if joint else len(times))]
    shape: tuple[int, ...] | None = None
    for features in batches:
        shape = _shape_of(features, len(times), shape)
        rows = [features.flatten(1)] if joint else [one.flatten(1) for one in features.unbind(1)]
        for stream, part in zip(streams, rows, strict=True):
            stream.add(part)
    if shape is None:
        raise ValueError("Expected at least one batch of features, got none.")
    found = [
        _result(stream, None if joint else t) for stream, t in zip(streams, times, strict=False)
    ]
    # Joint ones are rows of all steps, those of single steps are stacked behind one another.
    stacked = torch.stack([one.components for one in found], 1).reshape(
        rank, len(times), *shape[1:]
    )
    if not joint:
        _align(stacked)
    return PrincipalComponents(
        components=stacked,
        deviations=_over_steps([one.deviations for one in found], joint),
        ratios=_over_steps([one.ratios for one in found], joint),
        variance=_over_steps([_number(one.variance) for one in found], joint),
        lost=_over_steps([_number(one.lost) for one in found], joint),
        mean=torch.stack([one.mean for one in found]).reshape(shape),
        times=tuple(times),
        stop=stop,
        joint=joint,
        tap=tap,
        pool=pool,
        provenance={
            "how": f"PCA of features, {'joint' if joint else 'per timestep'}",
            "tap": tap,
            "pool": pool,
            **known,
            "stop": stop,
            "times": list(times),
            "rank": rank,
            "extra": extra,
            "samples": found[0].count,
            "pullback": __version__,
            "torch": torch.__version__,
            "diffusers": version("diffusers"),
        },
    )


def _result(stream: StreamingPCA, t: int | None) -> PrincipalAxes:
    """The axes of a stream; an error says of which timestep, in training units, where given."""
    try:
        return stream.result()
    except ValueError as error:
        if t is None:
            raise
        raise ValueError(f"Of the features at t = {t}: {error}") from None


def _over_steps(values: list[torch.Tensor], joint: bool) -> torch.Tensor:
    """Values `[...]` of all steps together, or those of single steps as `[..., T]`."""
    return values[0] if joint else torch.stack(values, -1)


def _number(value: float) -> torch.Tensor:
    """A number as a tensor `[]`, float64."""
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def _align(rows: torch.Tensor) -> None:
    """Turn components `[k, T, *h_shape]` of single steps so that they go on as the step before."""
    flat = rows.flatten(2)
    for before, now in zip(flat.unbind(1), flat.unbind(1)[1:], strict=False):
        products = (before.double() * now.double()).sum(1, keepdim=True)
        now.copy_(torch.where(products < 0, -now, now))


def _shape_of(features: object, steps: int, before: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape (T, *h_shape) of features, where it is what it must be."""
    if not isinstance(features, torch.Tensor):
        raise TypeError(
            "Expected features as tensors [n, T, *h_shape], got "
            f"{type(features).__name__}. `trajectory(...).features` is one."
        )
    shape = tuple(features.shape[1:])
    if features.dim() < 3 or shape[0] != steps:
        raise ValueError(
            f"Expected features [n, {steps}, *h_shape], one for each of {steps} timesteps, got "
            f"{list(features.shape)}."
        )
    if before not in (None, shape):
        raise ValueError(
            f"Expected features of shape {list(before or ())} each, as those before, got "
            f"{list(shape)}."
        )
    return shape


def _rank_of(rank: int, count: int) -> int:
    """The rank as an int; raises ValueError where so many samples have no so many components."""
    rank = whole("rank", rank, 1)
    if rank > count - 1:
        raise ValueError(
            f"Expected a rank of at most {count - 1} for {count} trajectories, got {rank}. Use "
            "more trajectories, or a smaller rank."
        )
    return rank


def _times_of(times: Sequence[int], stop: int) -> list[int]:
    """Timesteps as ints; raises ValueError unless they go down to the stop, in training units."""
    found = [whole("a timestep", t, 0) for t in times]
    stop = whole("stop", stop, -1)
    if not found or sorted({*found, stop}, reverse=True) != [*found, stop]:
        raise ValueError(f"Expected timesteps that go down to stop = {stop}, got {found}.")
    return found


def _settings(walker: Walker, cond: object) -> dict[str, Any]:
    """The options of a walk, but for its seeds, as JSON holds them."""
    names = ("guidance", "negative", "steps", "solver", "grid", "clip")
    eta = walker.options["eta"]
    return {
        "cond": told(cond),
        "eta": "a function of t" if callable(eta) else eta,
        **{name: told(walker.options[name]) for name in names},
    }


def _told_seed(seed: Any) -> object:
    """The first seed, or a hash of those of all trajectories."""
    if seed is None:
        return 0
    return told(torch.as_tensor([int(one) for one in seed])) if is_several(seed) else int(seed)
