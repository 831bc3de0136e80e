"""Learning how a pipeline calls its network, from its own run; proved by replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pullback.models.arguments import described, entries
from pullback.models.asking import is_distilled, kinds_across, unguided
from pullback.models.finding import UnreadableError, links, output_of, packing, roles
from pullback.models.levels import count_of
from pullback.models.reading import Pass, Reading, parts_of, same
from pullback.models.watching import Call, Step, accepts, watch

_STEPS = 4  # over the whole schedule, so that what changes on the way is seen


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
    total = count_of(pipeline.scheduler)
    kinds, per_sample = kinds_across(pipeline, network, {**given, **guidance}, calls[0])
    linked = links(calls[0])
    passes = []
    for place, name in enumerate(names):
        steps = [one[place] for one in calls]
        found = roles(name, steps, run.steps, linked[place], total)
        template = described(steps[0].arguments, kinds[place], found)
        passes.append(Pass(name, steps[0].network, template, kinds[place], found))
    latent_shape, order = packing(run, sample)
    output = output_of([one[-1] for one in calls], run.steps)
    reading = Reading(
        tuple(passes), output, tuple(sample.shape[1:]), latent_shape, order,
        dict(given), per_sample, guidance, is_distilled(calls[0][-1]), _shared(passes, calls[0]),
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
    guided = watch(pipeline, network, reading.guided, 0)
    found = parts_of(reading, guided.steps[0].calls)
    wanted = reading.condition(calls)
    if len(found) > 1 and not any(same(one, wanted) for one in found):
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
