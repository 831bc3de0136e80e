"""From data to the latents that lead back to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import Unpack

from pullback import sampling
from pullback._numbers import whole
from pullback.models.model import LatentModel, check_model
from pullback.models.walking import Walker, WalkOptions, with_walk_options

METHODS = ("ddim", "stochastic")

_GOOD = 30.0  # dB, below which advice is given
_BETTER = 0.5  # of the error of the stated kind, at which another kind of prediction is suspected
_LITTLE = 1e-2  # of the data in latents
_FEW = 100  # steps over the whole schedule


@dataclass(frozen=True, eq=False)
class Inversion:
    """Latents that lead back to data, and how well they do.

    Attributes:
        x: latents at `t`, `[B, *x_shape]`.
        t: their timestep in training units.
        residuals: what a stochastic walk adds at each timestep that it arrives at, `[B, *x_shape]`
            each; None for a deterministic one.
        psnr: of the round trip, in dB, `[B]`: for pixels of a peak of 2, from −1 to 1, for latents
            of a peak of their own range. Infinite where it is exact; NaN where it was not measured.
        error: of the round trip, root mean square by that of the data, `[B]`.
        advice: the usual reasons, where the round trip is bad; most suspicious first.
    """

    x: torch.Tensor
    t: int
    residuals: Mapping[float, torch.Tensor] | None
    psnr: torch.Tensor
    error: torch.Tensor
    advice: tuple[str, ...]
    _walker: Walker

    def restore(self, x: torch.Tensor | None = None) -> torch.Tensor:
        """The data that latents lead back to, by the same steps.

        Args:
            x: edited latents at `t`, `[B, *x_shape]`; the inverted ones by default.

        Returns:
            `[B, *x_shape]`.

        Cost: one prediction a step.
        """
        x = self.x if x is None else x
        self._walker.model.check_latents(x)
        return self._walker.down(x, self._walker.grid(self.t, self.end), residuals=self.residuals)

    @property
    def end(self) -> int:
        """The timestep in training units where the walk ends: −1, or 0 on the published grid."""
        return 0 if self._walker.options["grid"] == "published" else -1

    @property
    def walker(self) -> Walker:
        """What the walk is made with, for edits along it."""
        return self._walker


@with_walk_options
def invert(
    model: LatentModel,
    x: torch.Tensor,
    t: int,
    *,
    method: str = "ddim",
    corrections: int = 0,
    scheme: str = "independent",
    check: bool = True,
    **options: Unpack[WalkOptions],
) -> Inversion:
    """Latents at a timestep from which the walk down leads back to the data.

    Args:
        model: the model that predicts.
        x: data, `[B, *x_shape]`: images of −1 to 1, or latents such as `model.latents_of` makes.
        t: the timestep to arrive at, in training units.
        method: "ddim" follows the deterministic path upwards; "stochastic" draws latents around the
            data and keeps what the steps down between them lack (with eta = 1 by default), so that
            it is exact.
        corrections: fixed-point iterations a step of "ddim", which make the round trip exact: one
            is usually enough.
        scheme: of "stochastic": "independent" noise at each timestep, "chain" for that of the
            forward process, "posterior" for that of the reverse one.
        check: whether the round trip is walked to measure it.
        **options: as for `pullback.denoise`. x̂₀ is not clipped unless clip=True says so, since what
            was clipped cannot be undone.

    Returns:
        An `Inversion`.

    Raises:
        As `pullback.denoise`; ValueError: no such method or scheme, or steps without an inverse.

    Cost: 1 + corrections predictions a step up and one a step of the check.
    Source: Song et al. 2020, arXiv:2010.02502; fixed point: Pan et al. 2023, arXiv:2309.04907;
    stochastic: Huberman-Spiegelglas et al. 2023, arXiv:2304.06140, Haas et al. 2023,
    arXiv:2303.11073.
    """
    check_model(model)
    model.check_latents(x)
    if method not in METHODS:
        raise ValueError(f"Expected a method of {', '.join(METHODS)}, got {method!r}.")
    if scheme not in sampling.SCHEMES:
        raise ValueError(f"Expected a scheme of {', '.join(sampling.SCHEMES)}, got {scheme!r}.")
    corrections = whole("corrections", corrections, 0)
    settings: dict[str, Any] = {"clip": False, **options}
    if method == "stochastic":
        settings = {"eta": 1.0, "seed": 0, **settings}
    walker = Walker.of(model, len(x), settings)
    chosen = walker.options
    if chosen["solver"] != "ddim" or (method == "ddim" and chosen["eta"] != 0.0):
        raise ValueError(
            f'Expected steps that can be undone: solver="ddim" and, for method="ddim", eta=0; '
            f"got solver={chosen['solver']!r} and eta={chosen['eta']!r}. Stochastic steps are "
            'inverted by method="stochastic".'
        )
    published = chosen["grid"] == "published"
    grid = walker.grid(model.schedule.check_timestep(t), 0 if published else -1)
    if method == "stochastic":
        if callable(chosen["eta"]) or not 0 < chosen["eta"] <= 1:
            raise ValueError(
                "Expected eta as a number above 0, up to 1, for a stochastic inversion, got "
                f"{chosen['eta']!r}."
            )
        noise = walker.noise
        if noise is None:
            raise ValueError("Expected a seed for the noise of a stochastic inversion, got None.")
        states = sampling.scatter(model.schedule, x, grid, noise, scheme=scheme)
        kept = sampling.residuals(
            model.schedule, walker.predict, states, grid, eta=chosen["eta"], clip=chosen["clip"]
        )
        found: torch.Tensor = states[grid[0]]
    else:
        kept = None
        found = sampling.ascend(
            model.schedule, walker.predict, x, grid, corrections=corrections,
            visit=walker.counted(len(grid) - 1, None),
        )  # fmt: skip
    nothing = torch.full((len(x),), torch.nan)
    result = Inversion(found, t, kept, nothing, nothing, (), walker)
    return _checked(result, x, corrections) if check else result


def _checked(found: Inversion, x: torch.Tensor, corrections: int) -> Inversion:
    """The inversion with its round trip measured."""
    back = found.restore().double().flatten(1)
    data = x.double().flatten(1)
    square = (back - data).square().mean(1)
    pixels = getattr(found.walker.model.pipeline, "vae", None) is None
    peak = 2.0 if pixels else data.max(1).values - data.min(1).values
    psnr = 10 * torch.log10(torch.as_tensor(peak) ** 2 / square)
    error = (square / data.square().mean(1).clamp_min(1e-30)).sqrt()
    bad = bool((~(psnr >= _GOOD)).any())
    advice = _advice(found.walker, x, found.t, corrections) if bad else ()
    return Inversion(found.x, found.t, found.residuals, psnr, error, advice, found.walker)


def _advice(walker: Walker, x: torch.Tensor, t: int, corrections: int) -> tuple[str, ...]:
    """The usual reasons for a bad round trip, the most suspicious first."""
    chosen, schedule = walker.options, walker.model.schedule
    found = []
    other = _other_prediction(walker, x)
    if other is not None:
        found.append(
            f"the network does not seem to predict {schedule.prediction_type!r}: taken for "
            f"{other!r} its error is much smaller; check the scheduler's prediction_type"
        )
    if (signal := sampling.level(schedule, t).signal) < _LITTLE:
        found.append(
            f"latents at t = {t} hold {signal:.0e} of the data, and steps from there magnify every "
            "error: invert to a lower t"
        )
    if walker.away is not None:
        found.append("guidance other than 1 bends the path: invert with guidance=1")
    if chosen["clip"] and sampling.clipping(schedule):
        found.append("x̂₀ is clipped on the way down, which cannot be undone: use clip=False")
    if chosen["grid"] == "published":
        found.append("the published grid rounds timesteps: use grid='even'")
    if not corrections:
        found.append("the plain inversion is of first order: use corrections=1")
    if isinstance(chosen["grid"], str) and chosen["steps"] < _FEW:
        found.append(f"{chosen['steps']} steps are few: use more")
    return tuple(found)


def _other_prediction(walker: Walker, x: torch.Tensor) -> str | None:
    """A kind of prediction by which the data are seen much better through noise than as stated."""
    schedule = walker.model.schedule
    t = schedule.num_timesteps // 2
    here = sampling.level(schedule, t)
    noise = sampling.FreshNoise(range(len(x))).at(t, x)
    noisy = here.signal * x + here.sigma * noise
    with torch.no_grad():
        prediction = walker.predict(noisy, t)[:, : x.shape[1]]
    errors = {
        kind: float((sampling.clean_of(kind, prediction, noisy, *here) - x).square().mean())
        for kind in ("epsilon", "sample", "v_prediction")
    }
    own = errors.get(schedule.prediction_type)
    best = min(errors, key=lambda kind: errors[kind])
    return best if own is not None and errors[best] < _BETTER * own else None
