"""Asking a pipeline for one pass of its network a step, and for several samples at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pullback.models.arguments import kinds_of, leaves
from pullback.models.finding import UnreadableError, latents_in
from pullback.models.watching import Call, Run, Step, accepts, watch

_SAMPLES = 3  # by which a batch is told from what is the same for all
_PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")


def unguided(
    pipeline: Any, network: nn.Module, given: Mapping[str, Any], steps: int
) -> tuple[dict[str, Any], Run]:
    """Keyword arguments by which the pipeline runs its network once a step, and that run.

    Guidance is switched off, but where its scale is an argument of the network.
    """
    ways: list[dict[str, Any]] = [{}]
    if accepts(pipeline, "guidance_scale") and "guidance_scale" not in given:
        ways = [{"guidance_scale": 1.0}, {"guidance_scale": 0.0}, {}]
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
) -> list[dict[str, Any]]:
    """What arguments are to the batch, for each pass, from a run with several samples.

    Args:
        pipeline: the pipeline.
        network: its denoising network.
        given: keyword arguments of its call for one sample.
        alone: the passes of that call.

    Raises:
        UnreadableError: the pipeline cannot be asked for several samples at once, or hands its
            network several rows for each.
    """
    cause: Exception | None = None
    for several in _several(pipeline, given):
        try:
            calls = watch(pipeline, network, several, 0).steps[0].calls
        except Exception as error:  # a pipeline passes on whatever its parts raise
            cause = error
            continue
        if [call.name for call in calls] == [call.name for call in alone]:
            pairs = list(zip(alone, calls, strict=True))
            for one, call in pairs:
                _check_one_row(one, call)
            return [kinds_of(call.arguments, one.arguments, _SAMPLES) for one, call in pairs]
    raise UnreadableError("it cannot be asked for several samples at once") from cause


def _check_one_row(alone: Call, several: Call) -> None:
    """Raise where an argument has more rows than samples, such as those to guide away from."""
    before = dict(leaves(alone.arguments))
    for path, value in leaves(several.arguments):
        single = before.get(path)
        if single is None or not value.dim() or not single.dim():
            continue
        if len(single) > 1 and len(value) == _SAMPLES * len(single):
            raise UnreadableError(
                f"it hands {alone.name} {len(single)} rows of {path!r} for one sample; the usual "
                "cause are embeddings that hold those of the negative prompt, too"
            )


def _several(pipeline: Any, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Keyword arguments for several samples like the one that is given, in the ways there are."""
    for name in ("prompt", "class_labels"):
        if name in given:
            one = given[name]
            if isinstance(one, str):  # of several lengths, so that masks of the padding are seen
                yield {**given, name: [one + " of it" * more for more in range(_SAMPLES)]}
            else:
                yield {**given, name: list(one) * _SAMPLES}
    for name in (*_PER_PROMPT, "batch_size"):
        if accepts(pipeline, name):
            yield {**given, name: _SAMPLES}
