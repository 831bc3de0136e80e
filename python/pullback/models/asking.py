"""Asking a pipeline for one pass of its network a step, and for several samples at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pullback.models.arguments import kinds_of, leaves
from pullback.models.finding import UnreadableError, latents_in
from pullback.models.watching import Call, Run, Step, accepts, watch

_SAMPLES = 3  # by which a batch is told from what is the same for all
_SCALES = ("guidance_scale", "max_guidance_scale")  # one for all frames, and one that rises
_PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")


def unguided(
    pipeline: Any, network: nn.Module, given: Mapping[str, Any], steps: int
) -> tuple[dict[str, Any], Run]:
    """Keyword arguments by which the pipeline runs its network once a step, and that run.

    Guidance is switched off, but where its scale is an argument of the network.
    """
    ways: list[dict[str, Any]] = [{}]
    scale = next((name for name in _SCALES if accepts(pipeline, name)), None)
    if scale is not None and scale not in given:
        ways = [{scale: 1.0}, {scale: 0.0}, {}]
    for way in ways:
        run = watch(pipeline, network, {**given, **way}, steps)
        wrong = _doubled(run, network)
        if not wrong and way and is_distilled(run.steps[0].calls[-1]):
            way = {}
            run = watch(pipeline, network, given, steps)
            wrong = _doubled(run, network)
        if not wrong:
            return way, run
    raise UnreadableError(wrong)


def _doubled(run: Run, network: nn.Module) -> str:
    """What keeps a run from being one pass of the network for the latents alone; else empty."""
    first = run.steps[0]
    times = sum(call.network is network for call in first.calls)
    if times != 1:
        return f"it runs its network {times} times a step, also with guidance_scale=1"
    if first.calls[-1].network is not network:
        return f"it runs its {first.calls[-1].name} after its network"
    if latents_in(first.calls[-1].arguments, first) is None:
        rows = _rows(first)
        if rows > 1:
            return (
                f"it hands its network {rows} rows of latents for one sample, such as those of the "
                "negative prompt, also with guidance_scale=1"
            )
        return "no argument of its network holds the latents that its scheduler steps"
    return ""


def _rows(step: Step) -> int:
    """How many times the latents stand in an argument of the network; 0 where they do not."""
    sample = step.sample
    assert sample is not None
    for _, value in leaves(step.calls[-1].arguments):
        if value.shape[1:] == sample.shape[1:] and value.is_floating_point():
            copies = len(value) // len(sample)
            if torch.equal(value, torch.cat([sample.to(value.dtype)] * copies)):
                return copies
    return 0


def is_distilled(call: Call) -> bool:
    """Whether a guidance scale is among the arguments of a pass."""
    scales = (call.arguments.get(name) for name in ("guidance", "timestep_cond"))
    return any(isinstance(one, torch.Tensor) for one in scales)


def kinds_across(
    pipeline: Any, network: nn.Module, given: Mapping[str, Any], alone: list[Call]
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """What arguments are to the batch, from a run with several samples.

    Args:
        pipeline: the pipeline.
        network: its denoising network.
        given: keyword arguments of its call for one sample.
        alone: the passes of that call.

    Returns:
        For each pass what its arguments are; and which keyword arguments of the call have to have
        a row for each sample.

    Raises:
        UnreadableError: the pipeline cannot be asked for several samples at once, or hands its
            network several rows for each.
    """
    cause: Exception | None = None
    for several, rows in _several(pipeline, given):
        try:
            calls = watch(pipeline, network, several, 0).steps[0].calls
        except Exception as error:  # a pipeline passes on whatever its parts raise
            cause = error
            continue
        lost = any(not value.numel() for call in calls for _, value in leaves(call.arguments))
        if [call.name for call in calls] == [call.name for call in alone] and not lost:
            kinds = [
                kinds_of(call.arguments, one.arguments, _SAMPLES) | _rows_of_frames(one, call)
                for one, call in zip(alone, calls, strict=True)
            ]
            return kinds, rows
    raise UnreadableError("it cannot be asked for several samples at once") from cause


def _rows_of_frames(alone: Call, several: Call) -> dict[str, int]:
    """How many rows each sample has, by path, where all of a sample are the same, one for a frame.

    Raises:
        UnreadableError: they differ, as the ones to guide with and away from do.
    """
    before, found = dict(leaves(alone.arguments)), {}
    for path, value in leaves(several.arguments):
        single = before.get(path)
        if single is None or not value.dim() or not single.dim():
            continue
        if len(single) > 1 and len(value) == _SAMPLES * len(single):
            apart = value.unflatten(0, (_SAMPLES, -1))
            if torch.equal(apart, apart[:, :1].expand_as(apart)):
                found[path] = len(single)
                continue
            raise UnreadableError(
                f"it hands {alone.name} {len(single)} rows of {path!r} for one sample; the usual "
                "cause are embeddings that hold those of the negative prompt, too"
            )
    return found


def _several(
    pipeline: Any, given: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Keyword arguments for several samples like the one that is given, in the ways there are.

    With each those of which a row was made for each sample.
    """
    rows = tuple(
        name
        for name, one in given.items()
        if isinstance(one, torch.Tensor) and one.shape[:1] == (1,)
    )
    for repeated in ((), rows) if rows else ((),):
        like = {**given, **with_rows(given, repeated, _SAMPLES)}
        for name in ("prompt", "class_labels"):
            if name in given:
                one = given[name]
                if isinstance(one, str):  # of several lengths, so that masks of padding are seen
                    several = [one + " of it" * more for more in range(_SAMPLES)]
                else:
                    several = list(one) * _SAMPLES
                yield {**like, name: several}, repeated
    for name in (*_PER_PROMPT, "batch_size"):
        if accepts(pipeline, name):
            yield {**given, name: _SAMPLES}, ()


def with_rows(
    given: Mapping[str, Any], names: Iterable[str], samples: int
) -> dict[str, torch.Tensor]:
    """Those of the keyword arguments `names` that have a single row, with one for each sample."""
    return {
        name: given[name].expand(samples, *given[name].shape[1:])
        for name in names
        if len(given[name]) == 1
    }
