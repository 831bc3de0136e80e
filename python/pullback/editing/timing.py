"""When to edit: the timesteps between which a model makes what it makes, measured on data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from typing_extensions import Unpack

from pullback import maps
from pullback.models import (
    LatentModel,
    TapName,
    Walker,
    WalkOptions,
    check_model,
    with_walk_options,
)
from pullback.sampling import clean_of, level


@dataclass(frozen=True, eq=False)
class EditTimes:
    """Where on the way from noise an edit takes hold, and where only textures are left.

    Attributes:
        t_edit: the lowest timestep in training units from which the data are not yet settled.
        t_boost: the lowest timestep in training units whose latents lack the textures of the data.
        times: timesteps in training units, `[T]`.
        estimate: mean distance between the data and the denoised estimate at each, `[T]`.
        latents: mean distance between the data and the latents at each, `[T]`.
    """

    t_edit: int
    t_boost: int
    times: torch.Tensor
    estimate: torch.Tensor
    latents: torch.Tensor


@with_walk_options
@torch.no_grad()
def edit_times(
    model: LatentModel,
    x: torch.Tensor,
    *,
    settled: float = 0.33,
    textures: float = 0.3,
    points: int = 25,
    tap: TapName | None = None,
    **options: Unpack[WalkOptions],
) -> EditTimes:
    """Timesteps to edit from and to boost below, from the model's own features.

    The distance between two images is that of the features that the model itself has of them at its
    least noise, each place normalised over channels, as a share of the distance between data and
    pure noise. Where the published recipe has a perceptual network trained on human judgement, this
    needs the model alone; thresholds are shares, and so not those of the paper.

    Args:
        model: the model.
        x: data, `[B, *x_shape]`, such as 16 to 100 samples.
        settled: share at which the denoised estimate counts as undecided.
        textures: share at which textures of the latents count as lost.
        points: timesteps of the curves.
        tap: where features are read; the middle block by default.
        **options: condition, guidance and seed, as for `pullback.denoise`.

    Returns:
        Both timesteps, and the curves.

    Raises:
        ValueError: a share is not between 0 and 1, or an option not what the model takes.

    Cost: a prediction and two forward passes up to the tap for each sample and timestep.
    Source: the recipe of Kwon et al. 2023, arXiv:2210.10960, with another distance.
    """
    check_model(model)
    model.check_latents(x)
    for name, share in (("settled", settled), ("textures", textures)):
        if not 0 < share < 1:
            raise ValueError(f"Expected {name} between 0 and 1, got {share!r}.")
    walker = Walker.of(model, len(x), {"seed": 0, **options})
    noise = walker.noise
    assert noise is not None
    times = torch.linspace(1, model.schedule.max_timestep, points).round().long()
    features = maps.encoder(model, tap)
    cond = walker.condition or None
    own = _directions(features.at(x, 0, cond).value())

    def distance(y: torch.Tensor) -> float:
        other = _directions(features.at(y.to(x), 0, cond).value())
        return float((own - other).square().sum(1).mean())

    schedule = model.schedule
    estimate, latents = [], []
    for t in times.tolist():
        here = level(schedule, t)
        noisy = here.signal * x + here.sigma * noise.at(t, x)
        prediction = walker.predict(noisy, t)[:, : x.shape[1]]
        clean = clean_of(schedule.prediction_type, prediction, noisy, *here, schedule.deviation)
        estimate.append(distance(clean.clamp(x.min(), x.max())))
        latents.append(distance(noisy))
    far = distance(noise.at(schedule.max_timestep, x))
    curves = [torch.tensor(curve) / max(far, 1e-30) for curve in (estimate, latents)]
    found = [
        int(times[int((curve >= share).nonzero()[0])]) if bool((curve >= share).any())
        else int(times[-1])
        for curve, share in zip(curves, (settled, textures), strict=True)
    ]  # fmt: skip
    return EditTimes(found[0], found[1], times, curves[0], curves[1])


def _directions(feature: torch.Tensor) -> torch.Tensor:
    """A feature's places, each of norm 1 over channels: `[B, C, ...]`, tokens with C second."""
    rows = feature.transpose(1, 2) if feature.dim() == 3 else feature
    places = rows[0, 0].numel() or 1
    scale = rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return rows / scale / places**0.5
