"""The maps of the network's output: x → noise, denoised estimate or score, with guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pullback.maps.map import Map
from pullback.maps.variables import ConditionPair, Held, variable_of
from pullback.models import Condition, LatentModel, check_model
from pullback.sampling import clean_of, noise_of

#: Names of what can be computed of the network's output.
OUTPUTS = ("noise", "denoised", "score")


def output(
    model: LatentModel,
    kind: str = "noise",
    *,
    guidance: float = 1.0,
    negative: Condition | None = None,
    wrt: str = "x",
) -> Map:
    """The map x → the network's output, as the noise ε, the denoised estimate x̂₀ or the score.

    Whatever the network predicts (noise, velocity, sample or flow) is converted.

    Args:
        model: the model.
        kind: "noise", "denoised" or "score" (∇ log p, −ε / σ_t).
        guidance: scale of classifier-free guidance: negative + guidance (conditional − negative).
        negative: the condition to guide away from; the null condition by default.
        wrt: "x" or "prompt".

    Raises:
        TypeError: the model is none.
        ValueError: kind or wrt is something else, or the schedule is of an unknown kind.
    """
    check_model(model)
    variable = variable_of(wrt)
    convert = converter(model, kind)
    mixed = _guided(model, guidance)

    def predict(
        x: torch.Tensor, t: torch.Tensor, conditions: ConditionPair, _: Held | None
    ) -> torch.Tensor:
        return convert(mixed(x, t, conditions), x, t)

    name = kind if guidance == 1.0 else f"{kind}, guidance {guidance:g}"
    return Map(model, name, variable, None, predict, _negative(model, guidance, negative))


def _negative(
    model: LatentModel, guidance: float, negative: Condition | None
) -> dict[str, torch.Tensor] | None:
    if guidance == 1.0:
        if negative is not None:
            raise ValueError(
                "A negative condition has no effect at guidance = 1. Expected another guidance, or "
                "no negative condition."
            )
        return None
    return model.conditions.of(negative)


def _guided(
    model: LatentModel, guidance: float
) -> Callable[[torch.Tensor, torch.Tensor, ConditionPair], torch.Tensor]:
    """The network's prediction with classifier-free guidance."""

    def mixed(x: torch.Tensor, t: torch.Tensor, conditions: ConditionPair) -> torch.Tensor:
        if conditions.negative is None:
            return model.call(x, t, conditions.positive)
        away = model.call(x, t, conditions.negative)
        return away + guidance * (model.call(x, t, conditions.positive) - away)

    return mixed


def converter(
    model: LatentModel, kind: str
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """From the network's raw prediction `[B, *x_shape]`, x and t `[B]` to a kind of output.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in OUTPUTS:
        raise ValueError(f"Expected one of {', '.join(OUTPUTS)}, got {kind!r}.")

    def convert(prediction: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, sigma = (
            part.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
            for part in model.schedule.signal_and_noise(t)
        )
        predicts = model.schedule.prediction_type
        if kind == "score" or (kind == "noise" and predicts == "sample"):
            _check_positive(sigma, kind, "noise", t)
        if predicts == "epsilon" and kind == "denoised":
            _check_positive(signal, kind, "signal", t)
        how = (prediction, x, signal, sigma, model.schedule.deviation)
        if kind == "denoised":
            return clean_of(predicts, *how)
        noise = noise_of(predicts, *how)
        return noise if kind == "noise" else -noise / sigma

    return convert


def _check_positive(share: torch.Tensor, kind: str, what: str, t: torch.Tensor) -> None:
    if not bool(share.all()):
        raise ValueError(
            f"The {kind} map of this model divides by the share of {what} in x_t, which is 0 at "
            f"t = {t[share.flatten() == 0].tolist()}. Expected another timestep."
        )
