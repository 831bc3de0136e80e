"""How a pipeline calls its network, learned from the pipeline's own run and proved by replay."""

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
from pullback.models.asking import is_distilled, kinds_across, unguided
from pullback.models.finding import (
    Output,
    UnreadableError,
    links,
    output_of,
    packing,
    picked,
    roles,
)
from pullback.models.watching import Call, Step, accepts, watch

_STEPS = 4  # over the whole schedule, so that what changes on the way is seen
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
    def helpers(self) -> list[nn.Module]:
        """The networks that run before the denoising one, such as a ControlNet."""
        return [one.network for one in self.passes[:-1]]

    def call(self, x: torch.Tensor, t: torch.Tensor, cond: Mapping[str, torch.Tensor]) -> Any:
        """What the scheduler is handed for latents, in their shape or with more channels.

        Args:
            x: latents `[B, *latent_shape]`.
            t: training timesteps `[B]`.
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


def read(pipeline: Any, network: nn.Module, given: Mapping[str, Any]) -> Reading:
    """Find out how a pipeline calls its network.

    Args:
        pipeline: a diffusers pipeline.
        network: its denoising network.
        given: keyword arguments that its call needs, for one sample.

    Returns:
        The reading, whose replay gives the predictions of the first steps bit for bit.

    Raises:
        UnreadableError: it cannot be found out.
        Whatever the pipeline raises.

    Cost: eight to sixteen forward passes of one sample, four of them in the replay.
    """
    if accepts(pipeline, "num_inference_steps"):
        given = {"num_inference_steps": _STEPS, **given}
    guidance, run = unguided(pipeline, network, given, _STEPS)
    calls = [step.calls for step in run.steps]
    names = [call.name for call in calls[0]]
    if len(calls) < 2 or any([call.name for call in one] != names for one in calls):
        raise UnreadableError(
            "the networks that it runs are not the same at all of its steps: "
            f"{[[call.name for call in one] for one in calls]} over the whole "
            "schedule, where an empty list is a step that is left to another network"
        )
    sample, prediction = run.steps[0].sample, run.steps[0].prediction
    assert sample is not None
    assert prediction is not None
    if not bool(prediction.isfinite().all()):
        raise UnreadableError("its network returned numbers that are infinite, or none at all")
    total = int(pipeline.scheduler.config.num_train_timesteps)
    kinds = kinds_across(pipeline, network, {**given, **guidance}, calls[0])
    linked = links(calls[0])
    passes = []
    for place, name in enumerate(names):
        same = [one[place] for one in calls]
        found = roles(name, same, run.steps, linked[place], total)
        template = described(same[0].arguments, kinds[place], found)
        passes.append(Pass(name, same[0].network, template, kinds[place], found))
    latent_shape, order = packing(run, sample)
    output = output_of([one[-1] for one in calls], run.steps)
    reading = Reading(
        tuple(passes), output, tuple(sample.shape[1:]), latent_shape, order,
        dict(given), guidance, is_distilled(calls[0][-1]), _shared(passes, calls[0]),
    )  # fmt: skip
    for step in run.steps:
        _prove(reading, step)
    _check_guided(pipeline, reading, calls[0])
    return reading


def _check_guided(pipeline: Any, reading: Reading, calls: list[Call]) -> None:
    """Raise unless the condition is among those that the pipeline guides with.

    An argument that holds the negative condition too, whatever the guidance, makes one that is not.
    """
    if not reading.guidance:
        return
    network = reading.passes[-1].network
    guided = watch(pipeline, network, {**reading.given, "guidance_scale": _GUIDED}, 0)
    found = _parts_of(reading, guided.steps[0].calls)
    wanted = reading.condition(calls)
    if len(found) > 1 and not any(_same(one, wanted) for one in found):
        raise UnreadableError(
            "without guidance it hands its network a condition that is none of those it guides "
            "with; the usual cause are embeddings that hold those of the negative prompt, too"
        )


def _shared(passes: list[Pass], calls: list[Call]) -> dict[str, torch.Tensor]:
    """The entries of the condition that are the same for all samples."""
    return {
        one.entry(name): value
        for one, call in zip(passes, calls, strict=True)
        for name, value in entries(one.template, call.arguments).items()
        if one.kinds.get(name) == "shared"
    }


def encoded(pipeline: Any, reading: Reading, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The condition `[B, ...]` that a pipeline hands to its network.

    Args:
        pipeline: the pipeline of the reading.
        reading: how it calls its network.
        given: keyword arguments of its call.

    Raises:
        UnreadableError: it calls its network otherwise than when it was read.
        ValueError: it takes one prompt at a time, and these are of several lengths.
        Whatever the pipeline raises.

    Cost: that of its text encoders, and of helpers such as a ControlNet; not of the network.
    """
    network = reading.passes[-1].network
    prompts = given.get("prompt")
    try:
        run = watch(pipeline, network, {**reading.given, **reading.guidance, **given}, 0)
    except Exception:  # a pipeline passes on whatever its parts raise
        if not isinstance(prompts, list) or len(prompts) < 2:
            raise
        each = [encoded(pipeline, reading, {**given, "prompt": [one]}) for one in prompts]
        return _joined(each, reading.shared)
    return reading.condition(run.steps[0].calls)


def _joined(
    conditions: list[dict[str, torch.Tensor]], shared: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """One condition of those of several samples, of a pipeline that takes one prompt at a time."""
    joined = {}
    for name, first in conditions[0].items():
        values = [one[name] for one in conditions]
        if len({value.shape for value in values}) > 1:
            raise ValueError(
                f"This pipeline takes one prompt at a time, and its network's {name!r} has the "
                f"shapes {[list(value.shape) for value in values]} for these. Expected prompts of "
                "one length: encode the others one by one."
            )
        joined[name] = first if name in shared else torch.cat(values)
    return joined


def avoided(pipeline: Any, reading: Reading) -> dict[str, torch.Tensor] | None:
    """The condition `[1, ...]` that a pipeline guides away from by default.

    Returns:
        The condition; None where the pipeline guides from none.

    Cost: one forward pass of two samples, and the text encoders twice.
    """
    if not reading.guidance:
        return None
    network = reading.passes[-1].network
    wanted = encoded(pipeline, reading, {})
    run = watch(pipeline, network, {**reading.given, "guidance_scale": _GUIDED}, 1)
    calls, size = run.steps[0].calls, len(reading.passes)
    found = [_parts_of(reading, calls[at : at + size]) for at in range(0, len(calls), size)]
    others = [one for parts in found for one in parts if not _same(one, wanted)]
    return others[0] if others else None


def _parts_of(reading: Reading, calls: list[Call]) -> list[dict[str, torch.Tensor]]:
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


def _same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether two conditions are the same, but for rounding."""
    if one.keys() != other.keys():
        return False
    pairs = [(value.double(), other[name].double()) for name, value in one.items()]
    return all(a.shape == b.shape and bool((a - b).norm() <= 1e-2 * b.norm()) for a, b in pairs)


def _prove(reading: Reading, step: Step) -> None:
    """Raise unless the reading gives the recorded prediction bit for bit."""
    path, latents = reading.passes[-1].latents
    given: Any = step.calls[-1].arguments
    for key in path.split("."):
        given = given[key] if isinstance(given, Mapping) else given[int(key)]
    value = torch.stack(list(given)) if latents.listed else given
    if latents.region is not None:
        value = value.narrow(latents.region[0], 0, latents.region[1])
    # In the layout in which they were, on which the last bits depend.
    rows, handed = value.reshape(len(value), *reading.shape), step.prediction
    assert handed is not None
    t = torch.tensor([step.timestep], dtype=torch.float64, device=rows.device).expand(len(rows))
    with torch.no_grad():
        found = reading.stepped(rows, t, reading.condition(step.calls))
    channels = reading.shape[0]
    same = torch.equal(found[:, :channels].to(handed.dtype), handed[:, :channels])
    if reading.order is not None:
        same &= torch.equal(reading.packed(reading.unpacked(rows)), rows)
    if not same:
        raise UnreadableError("a replay of its first steps did not give the same numbers")
