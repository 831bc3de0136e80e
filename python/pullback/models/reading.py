"""How a pipeline calls its network: its passes, their arguments, and what becomes of the output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pullback.models.arguments import (
    Entry,
    Latents,
    described,
    difference,
    entries,
    filled,
    leaves,
    one_sample,
)
from pullback.models.finding import Output, UnreadableError, picked
from pullback.models.watching import Call

_GUIDED = 5.0  # any scale that is not off


@dataclass(frozen=True)
class Pass:
    """A forward pass of one of the pipeline's networks.

    Attributes:
        name: the pipeline's name for the network; "network" for the denoising one.
        network: the network.
        template: its arguments, described.
        kinds: what arguments are to the batch, by path.
        found: where latents, time and tensors of other passes stand, by path.
    """

    name: str
    network: nn.Module
    template: dict[str, Any]
    kinds: Mapping[str, Any]
    found: Mapping[str, Any]

    @property
    def latents(self) -> tuple[str, Latents]:
        """Where the latents stand, and how."""
        return next((path, one) for path, one in self.found.items() if isinstance(one, Latents))

    def entry(self, name: str) -> str:
        """The name of an entry of the condition: the argument, after another network's name."""
        return name if self.name == "network" else f"{self.name}.{name}"

    def condition(self, call: Call) -> dict[str, torch.Tensor]:
        """The condition in the arguments of such a pass, `[B, ...]` by its own names.

        Raises:
            UnreadableError: its arguments differ in more than the condition.
        """
        template = described(call.arguments, self.kinds, self.found)
        where = difference(self.template, template)
        if where is not None:
            raise UnreadableError(
                f"argument {where!r} of its {self.name} is another than when the pipeline was read"
            )
        return {self.entry(n): v for n, v in entries(template, call.arguments).items()}


@dataclass(frozen=True)
class Reading:
    """How a pipeline calls its network.

    Attributes:
        passes: the forward passes of one step, that of the denoising network last.
        output: where the prediction stands in what that returns.
        shape: of one sample of the latents that the scheduler steps.
        latent_shape: of x: the same, unless the pipeline makes tokens of its latents.
        order: which entry of the latents each entry of the tokens is; None where they are not
            packed.
        given: keyword arguments that the pipeline's call needs.
        per_sample: those of them that must have a row for each sample.
        guidance: those that switch guidance off.
        distilled: whether the guidance scale is an argument of the network.
        shared: entries of the condition that are the same for all samples, as they were when the
            pipeline was read, `[1, ...]`.
    """

    passes: tuple[Pass, ...]
    output: Output
    shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    order: torch.Tensor | None
    given: Mapping[str, Any]
    per_sample: tuple[str, ...]
    guidance: Mapping[str, Any]
    distilled: bool
    shared: Mapping[str, torch.Tensor]

    @property
    def condition_names(self) -> list[str]:
        """The entries of a condition."""
        return [one.entry(name) for one in self.passes for name in _entries_of(one.template)]

    @property
    def optional(self) -> list[str]:
        """Those that may be left out: shared ones, and such as masks where nothing is masked."""
        return [*self.shared, *(
            one.entry(name) for one in self.passes for name in _entries_of(one.template, True)
        )]  # fmt: skip

    @property
    def guided(self) -> dict[str, Any]:
        """Keyword arguments by which the pipeline guides."""
        return {**self.given, **dict.fromkeys(self.guidance, _GUIDED)}

    @property
    def helpers(self) -> list[nn.Module]:
        """The networks that run before the denoising one, such as a ControlNet."""
        return [one.network for one in self.passes[:-1]]

    def call(self, x: torch.Tensor, t: torch.Tensor, cond: Mapping[str, torch.Tensor]) -> Any:
        """What the scheduler is handed for latents, in their shape or with more channels.

        Args:
            x: latents `[B, *latent_shape]`.
            t: timesteps of the scheduler `[B]`.
            cond: the condition, `[B, ...]` each.
        """
        if self.order is None:
            return self.stepped(x, t, cond)
        return self.unpacked(self.stepped(self.packed(x), t, cond))

    def stepped(
        self, rows: torch.Tensor, t: torch.Tensor, cond: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """What the scheduler is handed for latents `[B, *shape]` as it steps them."""
        made: list[dict[str, torch.Tensor]] = []
        for one in self.passes:
            own = {}
            for name in _entries_of(one.template):
                entry = one.entry(name)
                if entry in cond:
                    own[name] = cond[entry]
                elif entry in self.shared:
                    own[name] = self.shared[entry].to(rows.device)
            result = one.network(**filled(one.template, rows, t, own, made))
            made.append(dict(leaves(result)))
        found = picked(result, self.output, self.shape)
        return found if self.output.factor == 1 else self.output.factor * found

    def condition(self, calls: list[Call]) -> dict[str, torch.Tensor]:
        """The condition `[B, ...]` of the forward passes of a step.

        Raises:
            UnreadableError: they differ in more than that from those that were read.
        """
        names = [one.name for one in self.passes]
        if [call.name for call in calls] != names:
            raise UnreadableError(
                f"it ran {[call.name for call in calls]} where it had run {names} when it was read"
            )
        cond: dict[str, torch.Tensor] = {}
        for one, call in zip(self.passes, calls, strict=True):
            cond |= one.condition(call)
        return cond

    def packed(self, x: torch.Tensor) -> torch.Tensor:
        """The tokens `[B, *shape]` that the pipeline makes of latents."""
        assert self.order is not None
        return _ordered(x, self.order, self.shape)

    def unpacked(self, tokens: torch.Tensor) -> torch.Tensor:
        """Latents `[B, *latent_shape]` from the tokens that the pipeline makes of them."""
        assert self.order is not None
        return _ordered(tokens, self._back, self.latent_shape)

    @cached_property
    def _back(self) -> torch.Tensor:
        assert self.order is not None
        return torch.argsort(self.order)


def _ordered(x: torch.Tensor, order: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return x.flatten(1).index_select(1, order).unflatten(1, shape)


def _entries_of(template: Any, optional: bool = False) -> list[str]:
    """The names of the entries of the condition in a template, in order; or the optional ones."""
    if isinstance(template, Entry):
        return [template.name] if template.optional or not optional else []
    if isinstance(template, Latents):
        return [template.name] if template.region and not optional else []
    if not isinstance(template, (Mapping, list, tuple)):
        return []
    parts = template.values() if isinstance(template, Mapping) else template
    return [name for part in parts for name in _entries_of(part, optional)]


def parts_of(reading: Reading, calls: list[Call]) -> list[dict[str, torch.Tensor]]:
    """The conditions of the samples of a pass, each `[1, ...]`."""
    path, latents = reading.passes[-1].latents
    count = len(dict(leaves(calls[-1].arguments))[path]) if not latents.listed else len(
        calls[-1].arguments[path]
    )  # fmt: skip
    found = []
    for sample in range(count):
        cond: dict[str, torch.Tensor] = {}
        for one, call in zip(reading.passes, calls, strict=True):
            template = described(call.arguments, one.kinds, one.found)
            own = one_sample(template, call.arguments, sample)
            cond |= {one.entry(name): value for name, value in entries(template, own).items()}
        found.append(cond)
    return found


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether two conditions are the same, but for rounding."""
    if one.keys() != other.keys():
        return False
    pairs = [(value.double(), other[name].double()) for name, value in one.items()]
    return all(a.shape == b.shape and bool((a - b).norm() <= 1e-2 * b.norm()) for a, b in pairs)
