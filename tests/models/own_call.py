"""A pipeline's own call as the oracle: what it computes, and dense Jacobians of it in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from pullback.models.taps import Site, TapName
from pullback.models.watching import accepts

_AT_ONCE = 64  # rows of a Jacobian


class _Enough(BaseException):
    """Stops the pipeline at what was asked for."""


def in_float64(pipeline: Any) -> Any:
    """A copy of a pipeline that computes in float64."""
    made = copy.deepcopy(pipeline)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.double()
            for module in part.modules():  # some are handed what was made in float32, always
                if isinstance(module, torch.nn.Linear):
                    module.register_forward_pre_hook(_widened)
    return made


def _widened(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    return tuple(one.double() for one in args)


def _run(pipeline: Any, given: Mapping[str, Any]) -> None:
    """The pipeline's own call, with derivatives; its decorator switches them off."""
    with torch.enable_grad(), _started(pipeline, given) as started:
        type(pipeline).__call__.__wrapped__(pipeline, **started)


@contextmanager
def _started(pipeline: Any, given: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Context in which a pipeline whose call takes no latents starts from those that are given."""
    if "latents" not in given or accepts(pipeline, "latents"):
        yield given
        return
    rest = dict(given)
    x = rest.pop("latents")
    pipeline.prepare_intermediate_images = lambda *_: x
    try:
        yield rest
    finally:
        del pipeline.prepare_intermediate_images


def feature(
    pipeline: Any, network: torch.nn.Module, given: Mapping[str, Any], tap: TapName
) -> torch.Tensor:
    """What the network has at a tap in the first step of the pipeline's own call."""
    site, seen = Site.of(tap), []

    def note(module: torch.nn.Module, _inputs: object, output: object) -> None:
        seen.append(site.read(module, output, 1))
        raise _Enough

    handle = network.get_submodule(site.path).register_forward_hook(note)
    try:
        _run(pipeline, given)
    except _Enough:
        return seen[0]
    finally:
        handle.remove()
    raise AssertionError(f"the pipeline never reached {tap}")


def handed(
    pipeline: Any, given: Mapping[str, Any], steps: int = 1
) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
    """What the scheduler is handed in the first steps: prediction, latents and timestep."""
    seen = []
    own = pipeline.scheduler.step

    def note(model_output, timestep, sample, *args, **kwargs):
        seen.append((model_output, sample, float(timestep)))
        if len(seen) == steps:
            raise _Enough
        return own(model_output, timestep, sample, *args, **kwargs)

    pipeline.scheduler.step = note
    try:
        _run(pipeline, given)
    except _Enough:
        return seen
    finally:
        del pipeline.scheduler.step
    raise AssertionError(f"the pipeline took {len(seen)} steps")


def packed(pipeline: Any, x: torch.Tensor, given: Mapping[str, Any]) -> torch.Tensor:
    """Latents as the pipeline takes them: tokens, where it makes them of the latents."""
    shapes = []
    own = getattr(pipeline, "_pack_latents", None)
    if own is None:
        return x

    def note(latents, *args, **kwargs):
        shapes.append((latents.shape, args, kwargs))
        return own(latents, *args, **kwargs)

    pipeline._pack_latents = note
    try:
        handed(pipeline, {name: value for name, value in given.items() if name != "latents"})
    finally:
        del pipeline._pack_latents
    # Images that stand beside the latents may be packed before them.
    shape, args, kwargs = next(one for one in shapes if one[0].numel() == x.numel())
    return own(x.reshape(shape), *args, **kwargs)


def dense(output: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The Jacobian `[1, m, n]` of an output of the call with respect to latents `[1, ...]`."""
    flat = output.reshape(-1)

    def rows(some: torch.Tensor, batched: bool) -> torch.Tensor:
        return torch.autograd.grad(flat, x, some, retain_graph=True, is_grads_batched=batched)[
            0
        ].reshape(-1, x.numel())

    every = torch.eye(len(flat), dtype=flat.dtype)
    try:
        parts = [rows(some, batched=True) for some in every.split(_AT_ONCE)]
    except RuntimeError:  # a batch of cotangents is more than some of torch's own layers take
        parts = [rows(one, batched=False) for one in every]
    return torch.cat(parts)[None]
