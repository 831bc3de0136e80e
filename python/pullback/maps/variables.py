"""The variable of a map: the latents x, a feature h or the prompt; and what is held beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import override

from pullback.maps.replay import record
from pullback.models import LatentModel, Site
from pullback.operators import JacobianOperator

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
class ConditionPair:
    """The condition of a batch, and the one that guidance leads away from.

    Attributes:
        positive: `[B, ...]` by the names of the network's arguments.
        negative: likewise; None without guidance.
    """

    positive: dict[str, torch.Tensor]
    negative: dict[str, torch.Tensor] | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All tensors in a fixed order, the positive ones first."""
        return (*self.positive.values(), *(self.negative or {}).values())

    def with_tensors(self, tensors: Sequence[torch.Tensor]) -> ConditionPair:
        """The pair of the same names with other tensors, in the order of `tensors`."""
        count = len(self.positive)
        positive = dict(zip(self.positive, tensors[:count], strict=True))
        if self.negative is None:
            return ConditionPair(positive)
        return ConditionPair(positive, dict(zip(self.negative, tensors[count:], strict=True)))


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


#: What a map computes: `(x, t, conditions, h) -> [B, ...]`, h being None unless it is the variable.
Function = Callable[[torch.Tensor, torch.Tensor, ConditionPair, Held | None], torch.Tensor]


@dataclass(frozen=True)
class Given:
    """Where a map is bound, all checked before.

    Attributes:
        model: the model.
        x: latents `[B, *x_shape]`.
        t: timesteps `[B]`, in training units.
        conditions: of the batch.
    """

    model: LatentModel
    x: torch.Tensor
    t: torch.Tensor
    conditions: ConditionPair


class Variable(ABC):
    """What a map is differentiated with respect to.

    Attributes:
        name: "x", "h" or "prompt".
    """

    name: str

    @abstractmethod
    def bind(self, function: Function, given: Given) -> Bound:
        """The function of this variable alone, all else held."""


class Latents(Variable):
    """x, the latents."""

    name = "x"

    @override
    def bind(self, function: Function, given: Given) -> Bound:
        conditions = given.conditions

        def f(point: torch.Tensor, steps: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
            return function(point, steps, conditions.with_tensors(tensors), None)

        return Bound(f, given.x, (given.t, *conditions.tensors))


class Prompt(Variable):
    """The embedding of the prompt, `[B, tokens, width]`."""

    name = "prompt"

    @override
    def bind(self, function: Function, given: Given) -> Bound:
        conditions = given.conditions
        if _PROMPT not in conditions.positive:
            raise ValueError(
                f"Expected a condition with {_PROMPT!r} to differentiate with respect to, got "
                f"{sorted(conditions.positive) or 'none'} for {given.model.name}. Pass it as cond, "
                'or use wrt="x".'
            )
        at = list(conditions.positive).index(_PROMPT)
        others = [*conditions.tensors]
        prompt = others.pop(at)

        def f(
            point: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor, *tensors: torch.Tensor
        ) -> torch.Tensor:
            every = (*tensors[:at], point, *tensors[at:])
            return function(latents, steps, conditions.with_tensors(every), None)

        return Bound(f, prompt, (given.x, given.t, *others))


@dataclass(frozen=True)
class Feature(Variable):
    """h, the feature at a tap, put into the network in place of its own.

    Attributes:
        site: the tap.
    """

    site: Site
    name = "h"

    @override
    def bind(self, function: Function, given: Given) -> Bound:
        conditions = given.conditions
        feature, before = record(given.model, self.site, given.x, given.t, conditions.positive)
        count = len(before.tensors)

        def f(
            point: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor, *tensors: torch.Tensor
        ) -> torch.Tensor:
            held = Held(point, lambda: before.replayed(tensors[:count]))
            return function(latents, steps, conditions.with_tensors(tensors[count:]), held)

        return Bound(f, feature, (given.x, given.t, *before.tensors, *conditions.tensors))


def variable_of(wrt: str) -> Variable:
    """The variable of a map from x: "x" or "prompt".

    Raises:
        ValueError: it is another.
    """
    if wrt == "x":
        return Latents()
    if wrt == "prompt":
        return Prompt()
    raise ValueError(f'Expected wrt to be "x" or "prompt", got {wrt!r}; see maps.decoder for h.')
