"""The maps whose Jacobians are studied: x → h, h → ε, x → ε, x → x̂₀, x → score.

A `Map` is a recipe: it knows a model and what is computed of it, but no latents. `pullback.basis`
binds it to latents, a timestep and a condition.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pullback.jacobian import JacobianOperator
from pullback.taps import Reached, Site, TapName, hooked, pooled

if TYPE_CHECKING:
    from pullback.model import Condition, LatentModel

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


@dataclass(frozen=True, eq=False)
class Map:
    """A differentiable function of one variable of a model.

    Attributes:
        model: the model.
        name: what it is, such as "encoder mid_block"; goes into provenance.
        wrt: the variable: "x", "h" (a feature that is put into the network) or "prompt".
        site: where h is read or put; None for maps of the output.
        function: `(x, t, cond, h) -> [B, ...]`, h being None unless `wrt` is "h".
        negative: the other condition of classifier-free guidance, or None.
    """

    model: LatentModel
    name: str
    wrt: str
    site: Site | None
    function: Callable[..., torch.Tensor]
    negative: Condition | None = None

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
                    f"{self.model.name} takes no prompt, so there is nothing to differentiate "
                    'with respect to it. Expected wrt="x".'
                )
            at = names.index(_PROMPT)
            return Bound(
                lambda point, latents, steps, *given: self.function(
                    latents, steps, split((*given[:at], point, *given[at:])), None
                ),
                every[_PROMPT], (x, t, *values[:at], *values[at + 1 :]),
            )  # fmt: skip
        assert self.site is not None
        feature, memory = _record(self.model, self.site, x, t, cond)

        def decode(
            point: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor, *given: torch.Tensor
        ) -> torch.Tensor:
            kept, rest = given[: len(memory.tensors)], given[len(memory.tensors) :]
            with memory.replayed(kept):
                return self.function(latents, steps, split(rest), point)

        return Bound(decode, feature, (x, t, *memory.tensors, *values))


# -------------------------------------------------------------------------------------- the encoder


def encoder(
    model: LatentModel,
    tap: TapName | None = None,
    *,
    pool: str | None = None,
    wrt: str = "x",
) -> Map:
    """X → h, the feature at a tap. The forward pass stops right after it.

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
        raise _not_reached(site)

    name = f"encoder {site}" if pool is None else f"encoder {site}, pooled over {pool}"
    return Map(model, name, wrt, site, read)


def _not_reached(site: Site) -> ValueError:
    return ValueError(
        f"The forward pass ended without reaching {site.path!r}. Expected a module that the "
        "network calls as a whole; model.taps() lists those that it does."
    )


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
    """X → the network's output, as the noise ε, the denoised estimate x̂₀ or the score.

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
    """H → the network's output, with x, the condition and all skip connections held.

    The feature at the tap is the variable; at the bound point it is that of x itself. Blocks before
    the tap are computed once, when the map is bound: a product costs the decoder part only.

    Args:
        model: the model.
        tap: as in `encoder`; the feature must not be pooled.
        kind: as in `output`.

    Raises:
        ValueError: there is no such module, or kind is unknown.
    """
    site = model.site(tap)
    module, convert = model.module(site), _converter(model, kind)

    def decode(
        x: torch.Tensor, t: torch.Tensor, cond: Mapping[str, Any], h: torch.Tensor
    ) -> torch.Tensor:
        seen = []

        def put(module: nn.Module, output: object) -> object:
            seen.append(True)
            return site.write(module, output, h)

        with hooked(module, put):
            prediction = model.call(x, t, cond)
        if not seen:
            raise _not_reached(site)
        return convert(prediction, x, t)

    return Map(model, f"decoder {site} to {kind}", "h", site, decode)


def _negative(model: LatentModel, guidance: float, negative: Condition | None) -> Condition | None:
    if guidance == 1.0:
        if negative is not None:
            raise ValueError(
                "A negative condition has no effect at guidance = 1. Expected another guidance, or "
                "no negative condition."
            )
        return None
    return model.condition(None, 1) if negative is None else negative


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


# ------------------------------------------------------------ what comes before a tap, once


@dataclass(frozen=True)
class _Memory:
    """The outputs of the blocks before a tap, as one list of tensors, batch first."""

    modules: tuple[nn.Module, ...]
    specs: tuple[Any, ...]
    counts: tuple[int, ...]
    tensors: tuple[torch.Tensor, ...]

    def replayed(self, tensors: tuple[torch.Tensor, ...]) -> _Replay:
        """Context in which those blocks return these tensors and compute nothing."""
        outputs, start = [], 0
        for spec, count in zip(self.specs, self.counts, strict=True):
            outputs.append(pytree.tree_unflatten(list(tensors[start : start + count]), spec))
            start += count
        return _Replay(self.modules, outputs)


#: A module has one forward method for all threads: they take turns in replacing it.
_FORWARDS = threading.RLock()


class _Replay:
    """Shadows the forward methods of some modules, for this thread, while the context lasts."""

    def __init__(self, modules: tuple[nn.Module, ...], outputs: list[Any]) -> None:
        self.modules, self.outputs = modules, outputs

    def __enter__(self) -> None:
        _FORWARDS.acquire()
        owner = threading.get_ident()
        for module, given in zip(self.modules, self.outputs, strict=True):

            def forward(
                *args: Any, _own: Any = module.forward, _given: Any = given, **kwargs: Any
            ) -> Any:
                return _given if threading.get_ident() == owner else _own(*args, **kwargs)

            module.__dict__["forward"] = forward

    def __exit__(self, *error: object) -> None:
        for module in self.modules:
            del module.__dict__["forward"]
        _FORWARDS.release()


def _record(
    model: LatentModel,
    site: Site,
    x: torch.Tensor,
    t: torch.Tensor,
    cond: Mapping[str, torch.Tensor],
) -> tuple[torch.Tensor, _Memory]:
    """The feature at a tap, and what the blocks before it returned on the way."""
    target = model.module(site)
    outputs: list[tuple[nn.Module, Any]] = []
    found: list[torch.Tensor] = []

    def stop(module: nn.Module, output: object) -> None:
        found.append(site.read(module, output).detach())
        raise Reached

    def keep(module: nn.Module, output: object) -> None:
        outputs.append((module, output))

    with ExitStack() as stack, torch.no_grad():
        for path in model.blocks():
            block = model.network.get_submodule(path)
            # A block whose forward pass is shadowed already, or that is called twice, is run.
            if block is not target and "forward" not in vars(block):
                stack.enter_context(hooked(block, keep))
        stack.enter_context(hooked(target, stop))
        with suppress(Reached):
            model.call(x, t, cond)
    if not found:
        raise _not_reached(site)
    once = [pair for pair in outputs if sum(pair[0] is other for other, _ in outputs) == 1]
    modules, specs, counts, tensors = [], [], [], []
    for module, value in once:
        leaves, spec = pytree.tree_flatten(value)
        if all(isinstance(leaf, torch.Tensor) and len(leaf) == len(x) for leaf in leaves):
            modules.append(module)
            specs.append(spec)
            counts.append(len(leaves))
            tensors += leaves
    return found[0], _Memory(tuple(modules), tuple(specs), tuple(counts), tuple(tensors))
