"""The maps whose Jacobians are studied: x → h, h → ε, x → ε, x → x̂₀, x → score.

A `Map` is a recipe: it knows a model and what is computed of it, but no latents. `pullback.basis`
binds it to latents, a timestep and a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pullback.maps.replay import not_reached, record
from pullback.models.families import flat
from pullback.models.taps import Reached, Site, TapName, hooked, pooled
from pullback.operators.jacobian import JacobianOperator

if TYPE_CHECKING:
    from pullback.models.model import Condition, LatentModel

#: Names of what can be computed of the network's output.
OUTPUTS = ("noise", "denoised", "score")

_PROMPT = "encoder_hidden_states"


@dataclass(frozen=True)
class Bound:
    """A map at given latents: `f(point, *args)` is [B, ...], all tensors batch first."""

    f: Callable[..., torch.Tensor]
    point: torch.Tensor
    args: tuple[torch.Tensor, ...]

    def value(self) -> torch.Tensor:
        """The map's value at the point, [B, ...]. Cost: one forward pass of the map."""
        with torch.no_grad():
            return self.f(self.point, *self.args)

    def operator(self, **options: Any) -> JacobianOperator:
        """Products with the map's Jacobians at the point; options as for `JacobianOperator`."""
        return JacobianOperator(self.f, self.point, *self.args, **options)


@dataclass(frozen=True)
class Held:
    """A feature to be put into the network, and what holds all that comes before it.

    Attributes:
        feature: h, `[B, *h_shape]`.
        replayed: makes the context of one forward pass, in which the blocks up to the tap return
            what was recorded.
    """

    feature: torch.Tensor
    replayed: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, eq=False)
class Map:
    """A differentiable function of one variable of a model.

    Attributes:
        model: the model.
        name: what it is, such as "encoder mid_block"; goes into provenance.
        wrt: the variable: "x", "h" (a feature that is put into the network) or "prompt".
        site: where h is read or put; None for maps of the output.
        function: `(x, t, cond, h) -> [B, ...]`, h being a `Held` if `wrt` is "h", else None.
        negative: the other condition of classifier-free guidance, one row for all samples or one
            each; None where there is no guidance.
    """

    model: LatentModel
    name: str
    wrt: str
    site: Site | None
    function: Callable[..., torch.Tensor]
    negative: dict[str, torch.Tensor] | None = None

    def then(self, module: Callable[[torch.Tensor], torch.Tensor], name: str = "") -> Map:
        """The map followed by another: a VAE decoder, a feature network, any function.

        Args:
            module: maps [B, ...] to [B, ...], every sample by itself.
            name: what it is, for the provenance; by default its class or function name.
        """
        label = name or getattr(module, "__name__", type(module).__name__)
        return self._after(module, f"{self.name} then {label}")

    def restrict(self, mask: torch.Tensor) -> Map:
        """The entries of the output where a mask is true, as one row [B, entries].

        Args:
            mask: bool, of the output's shape without the batch, or of its last sizes (a region
                [H, W] of every channel).

        Raises:
            ValueError: the mask is not bool or selects nothing.
        """
        mask = torch.as_tensor(mask)
        if mask.dtype != torch.bool or not bool(mask.any()):
            raise ValueError(
                f"Expected a bool mask that selects something, got {mask.dtype} with "
                f"{int(mask.count_nonzero())} entries set."
            )

        def pick(output: torch.Tensor) -> torch.Tensor:
            shape = output.shape[1:]
            if mask.dim() > len(shape) or tuple(shape[len(shape) - mask.dim() :]) != mask.shape:
                raise ValueError(
                    f"Expected a mask of shape {list(shape)}, or of its last sizes, got "
                    f"{list(mask.shape)}."
                )
            where = torch.nonzero(mask.to(output.device).expand(shape).flatten()).flatten()
            return output.flatten(1).index_select(1, where)

        return self._after(pick, f"{self.name} on {int(mask.count_nonzero())} of {mask.numel()}")

    def select(self, rows: torch.Tensor) -> Map:
        """The map for some of the samples: a negative condition of each goes with its sample.

        Args:
            rows: int64 `[B']` indices of samples.
        """
        if self.negative is None:
            return self
        chosen = {
            name: value if len(value) == 1 else value[rows.to(value.device)]
            for name, value in self.negative.items()
        }
        return replace(self, negative=chosen)

    def _after(self, step: Callable[[torch.Tensor], torch.Tensor], name: str) -> Map:
        function = self.function
        return replace(self, name=name, function=lambda *args: step(function(*args)))

    def at(self, x: torch.Tensor, t: int | torch.Tensor, cond: Condition | None = None) -> Bound:
        """The map at latents.

        Args:
            x: latents x_t, `[B, C, H, W]`, in the model's dtype and on its device.
            t: their timestep in training units: one for all, or int64 `[B]`.
            cond: as for `local_basis`.

        Raises:
            ValueError: x, t or cond is not what the model takes.

        Cost: as `bind`.
        """
        self.model.check_latents(x)
        timesteps = self.model.timesteps(t, len(x))
        return self.bind(x, timesteps, self.model.condition(cond, len(x)))

    def bind(self, x: torch.Tensor, t: torch.Tensor, cond: dict[str, torch.Tensor]) -> Bound:
        """The map at latents x [B, C, H, W], timesteps [B] and a condition, all checked before.

        Cost: one forward pass up to the tap where `wrt` is "h", else none.
        """
        every = dict(cond)
        if self.negative is not None:
            other = self.model.condition(self.negative, len(x))
            every |= {f"negative {name}": value for name, value in other.items()}
        names = tuple(every)
        values = tuple(every.values())

        def split(given: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
            return dict(zip(names, given, strict=True))

        if self.wrt == "x":
            return Bound(
                lambda point, steps, *given: self.function(point, steps, split(given), None),
                x, (t, *values),
            )  # fmt: skip
        if self.wrt == "prompt":
            if _PROMPT not in every:
                raise ValueError(
                    f"Expected a condition with {_PROMPT!r} to differentiate with respect to, got "
                    f"{sorted(cond) or 'none'} for {self.model.name}. Pass it as cond, or use "
                    'wrt="x".'
                )
            at = names.index(_PROMPT)
            return Bound(
                lambda point, latents, steps, *given: self.function(
                    latents, steps, split((*given[:at], point, *given[at:])), None
                ),
                every[_PROMPT], (x, t, *values[:at], *values[at + 1 :]),
            )  # fmt: skip
        assert self.site is not None
        feature, before = record(self.model, self.site, x, t, cond)

        def decode(
            point: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor, *given: torch.Tensor
        ) -> torch.Tensor:
            kept, rest = given[: len(before.tensors)], given[len(before.tensors) :]
            held = Held(point, lambda: before.replayed(kept))
            return self.function(latents, steps, split(rest), held)

        return Bound(decode, feature, (x, t, *before.tensors, *values))


# -------------------------------------------------------------------------------------- the encoder


def encoder(
    model: LatentModel,
    tap: TapName | None = None,
    *,
    pool: str | None = None,
    wrt: str = "x",
) -> Map:
    """The map x → h, the feature at a tap. The forward pass stops right after it.

    Args:
        model: the model.
        tap: a module path, or (path, index) where the module returns a tuple; the middle block by
            default.
        pool: "space" for the mean of the feature over space.
        wrt: "x", or "prompt" for the Jacobian with respect to the prompt's embedding.

    Raises:
        ValueError: there is no such module, or pool or wrt is something else.
    """
    site = model.site(tap)
    if pool not in (None, "space"):
        raise ValueError(f'Expected pool="space" or None, got {pool!r}.')
    _check_wrt(wrt)
    module = model.module(site)

    def read(x: torch.Tensor, t: torch.Tensor, cond: Mapping[str, Any], _: None) -> torch.Tensor:
        reached: list[torch.Tensor] = []

        def stop(module: nn.Module, output: object) -> None:
            reached.append(site.read(module, output))
            raise Reached

        with hooked(module, stop):
            try:
                model.call(x, t, cond)
            except Reached:
                return reached[0] if pool is None else pooled(reached[0])
        raise not_reached(site)

    name = f"encoder {site}" if pool is None else f"encoder {site}, pooled over {pool}"
    return Map(model, name, wrt, site, read)


def _check_wrt(wrt: str) -> None:
    if wrt not in ("x", "prompt"):
        raise ValueError(
            f'Expected wrt to be "x" or "prompt", got {wrt!r}; see maps.decoder for h.'
        )


# ------------------------------------------------------------------------------ maps of the output


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
        ValueError: kind or wrt is something else, or the schedule is of an unknown kind.
    """
    _check_wrt(wrt)
    convert = _converter(model, kind)
    mixed = _guided(model, guidance)

    def predict(x: torch.Tensor, t: torch.Tensor, cond: Mapping[str, Any], _: None) -> torch.Tensor:
        return convert(mixed(x, t, cond), x, t)

    name = kind if guidance == 1.0 else f"{kind}, guidance {guidance:g}"
    return Map(model, name, wrt, None, predict, _negative(model, guidance, negative))


def decoder(
    model: LatentModel,
    tap: TapName | None = None,
    kind: str = "noise",
) -> Map:
    """The map h → the network's output, with x, the condition and all skip connections held.

    The feature at the tap is the variable; at the bound point it is that of x itself. Blocks up to
    the tap are computed once, when the map is bound: a product costs the decoder part only. Where
    a module is used more than once, h is the feature of its first call.

    Args:
        model: the model.
        tap: as in `encoder`; the feature must not be pooled.
        kind: as in `output`.

    Raises:
        ValueError: there is no such module, or kind is unknown.
    """
    site = model.site(tap)
    module, convert = model.module(site), _converter(model, kind)

    def decode(x: torch.Tensor, t: torch.Tensor, cond: Mapping[str, Any], h: Held) -> torch.Tensor:
        seen: list[bool] = []

        def put(module: nn.Module, output: object) -> object:
            if seen:  # a module that is used again: h is the feature of its first call
                return None
            seen.append(True)
            # A copy, since what follows may change it in place.
            return site.write(module, output, h.feature.clone())

        # Around the network's call alone: what `then` adds may use the same network.
        with h.replayed(), hooked(module, put):
            prediction = model.call(x, t, cond)
        if not seen:
            raise not_reached(site)
        return convert(prediction, x, t)

    return Map(model, f"decoder {site} to {kind}", "h", site, decode)


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
    if not isinstance(negative, Mapping):
        return model.condition(negative, 1)
    values = (torch.as_tensor(value) for value in flat(negative).values())
    return model.condition(negative, max((len(v) for v in values if v.dim()), default=1))


def _guided(model: LatentModel, guidance: float) -> Callable[..., torch.Tensor]:
    if guidance == 1.0:
        return model.call

    def mixed(x: torch.Tensor, t: torch.Tensor, every: Mapping[str, Any]) -> torch.Tensor:
        prefix = "negative "
        positive = {name: v for name, v in every.items() if not name.startswith(prefix)}
        other = {
            name.removeprefix(prefix): v for name, v in every.items() if name.startswith(prefix)
        }
        away = model.call(x, t, other)
        return away + guidance * (model.call(x, t, positive) - away)

    return mixed


def _converter(model: LatentModel, kind: str) -> Callable[..., torch.Tensor]:
    if kind not in OUTPUTS:
        raise ValueError(f"Expected one of {', '.join(OUTPUTS)}, got {kind!r}.")

    def convert(prediction: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, sigma = (
            part.to(x.dtype).reshape(-1, 1, 1, 1) for part in model.signal_and_noise(t)
        )
        # x = signal x̂₀ + sigma ε; the prediction gives one more equation.
        predicts = model.prediction_type
        if kind == "score" or (kind == "noise" and predicts == "sample"):
            _check_positive(sigma, kind, "noise", t)
        if predicts == "epsilon" and kind == "denoised":
            _check_positive(signal, kind, "signal", t)
        if predicts == "epsilon":
            noise, clean = prediction, (x - sigma * prediction) / signal
        elif predicts == "sample":
            noise, clean = (x - signal * prediction) / sigma, prediction
        elif predicts == "v_prediction":
            noise, clean = signal * prediction + sigma * x, signal * x - sigma * prediction
        else:  # flow: the prediction is ε − x̂₀, and signal + sigma = 1
            noise, clean = x + signal * prediction, x - sigma * prediction
        if kind == "noise":
            return noise
        return clean if kind == "denoised" else -noise / sigma

    return convert


def _check_positive(share: torch.Tensor, kind: str, what: str, t: torch.Tensor) -> None:
    if not bool(share.all()):
        raise ValueError(
            f"The {kind} map of this model divides by the share of {what} in x_t, which is 0 at "
            f"t = {t[share.flatten() == 0].tolist()}. Expected another timestep."
        )
