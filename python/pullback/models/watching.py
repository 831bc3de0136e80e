"""Running a diffusers pipeline for its first steps, and noting how it calls its network."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pullback.models.folders import quiet


@dataclass(frozen=True)
class Call:
    """One forward pass of a network of the pipeline.

    Attributes:
        name: the pipeline's name for the network, such as "unet" or "controlnet".
        network: the network.
        arguments: the arguments of its forward pass, by name.
        output: what it returned; None where the pipeline was stopped before.
    """

    name: str
    network: nn.Module
    arguments: dict[str, Any]
    output: Any = None


@dataclass
class Step:
    """What happened up to one step of the scheduler.

    Attributes:
        calls: the forward passes, in order.
        inputs: what the scheduler made of its latents for the network, where it was asked.
        sample, prediction, timestep: what the scheduler was given to step with; None where the
            pipeline was stopped before.
    """

    calls: list[Call] = field(default_factory=list)
    inputs: list[torch.Tensor] = field(default_factory=list)
    sample: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    timestep: float | None = None


@dataclass(frozen=True)
class Packed:
    """How a pipeline made rows of tokens.

    Attributes:
        again: the function that does so.
        shape: of what it was given, batch first.
        tokens: what it made.
    """

    again: Callable[[torch.Tensor], torch.Tensor]
    shape: tuple[int, ...]
    tokens: torch.Tensor


@dataclass
class Run:
    """What a pipeline did.

    Attributes:
        steps: its first steps.
        packed: each time that it made rows of tokens: of its latents, or of an image beside them.
    """

    steps: list[Step] = field(default_factory=list)
    packed: list[Packed] = field(default_factory=list)


class _Enough(BaseException):
    """Stops a pipeline once all that was asked for is noted; no pipeline catches it."""


def watch(pipeline: Any, network: nn.Module, given: Mapping[str, Any], steps: int) -> Run:
    """Run a pipeline's own `__call__` until it has taken some steps.

    The pipeline, its networks and its scheduler, and torch's random numbers, are left as found.

    Args:
        pipeline: a diffusers pipeline.
        network: its denoising network.
        given: keyword arguments of the call.
        steps: steps of the scheduler to watch; 0 stops before the first pass of the network.

    Returns:
        What happened.

    Raises:
        ValueError: it called its network not once before it ended.
        Whatever the pipeline raises.

    Cost: what the pipeline takes for it: text encoders, and the network `steps` times.
    """
    run = Run([Step()])
    with ExitStack() as stack, torch.no_grad(), quiet():
        devices = [network_device] if (network_device := _device(network)).type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices))
        torch.manual_seed(0)
        for name, part in _networks(pipeline, network).items():
            stack.enter_context(_noted(run, name, part, stop=part is network and steps == 0))
        stack.enter_context(_scheduler_noted(run, pipeline, steps))
        stack.enter_context(_packing_noted(run, pipeline))
        stack.enter_context(_no_bar(pipeline))
        stack.enter_context(_stood_in(pipeline, network))
        with suppress(_Enough):
            pipeline(**given)
    if not run.steps[-1].calls and run.steps[-1].sample is None:
        run.steps.pop()
    if not any(call.network is network for step in run.steps for call in step.calls):
        raise ValueError(
            f"This {type(pipeline).__name__} never called its {type(network).__name__}. Expected a "
            "pipeline that denoises with it."
        )
    return run


def accepts(pipeline: Any, name: str) -> bool:
    """Whether a pipeline's `__call__` has a parameter of that name."""
    return name in inspect.signature(type(pipeline).__call__).parameters


def _device(network: nn.Module) -> torch.device:
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _networks(pipeline: Any, network: nn.Module) -> dict[str, nn.Module]:
    """The denoising network, and others of the pipeline that may help it at every step."""
    helpers = ("controlnet", "adapter")
    return {
        name: part
        for name, part in pipeline.components.items()
        if isinstance(part, nn.Module) and name.startswith(helpers)
    } | {"network": network}


@contextmanager
def _noted(run: Run, name: str, network: nn.Module, *, stop: bool) -> Iterator[None]:
    """Context in which the forward passes of a network are noted."""
    signature = inspect.signature(network.forward)
    before: list[dict[str, Any]] = []

    def note_arguments(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before.append(dict(signature.bind(*args, **kwargs).arguments))
        if stop:
            run.steps[-1].calls.append(Call(name, network, before.pop()))
            raise _Enough

    def note_output(_module: nn.Module, _args: object, _kwargs: object, output: Any) -> None:
        run.steps[-1].calls.append(Call(name, network, before.pop(), output))

    handles = [
        network.register_forward_pre_hook(note_arguments, with_kwargs=True),
        network.register_forward_hook(note_output, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _scheduler_noted(run: Run, pipeline: Any, steps: int) -> Iterator[None]:
    """Context in which a copy stands in for the scheduler, and notes what it is given."""
    own = pipeline.scheduler
    scheduler = copy.deepcopy(own)
    signature = inspect.signature(scheduler.step)
    step, scale = scheduler.step, getattr(scheduler, "scale_model_input", lambda x, *_: x)

    def noting_step(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        last = run.steps[-1]
        last.prediction, last.sample = given["model_output"], given["sample"]
        last.timestep = float(given["timestep"])
        if len(run.steps) == steps:
            raise _Enough
        run.steps.append(Step())
        return step(*args, **kwargs)

    def noting_scale(*args: Any, **kwargs: Any) -> torch.Tensor:
        scaled: torch.Tensor = scale(*args, **kwargs)
        run.steps[-1].inputs.append(scaled)
        return scaled

    scheduler.step = noting_step
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input = noting_scale
    pipeline.scheduler = scheduler
    try:
        yield
    finally:
        pipeline.scheduler = own


@contextmanager
def _packing_noted(run: Run, pipeline: Any) -> Iterator[None]:
    """Context in which the pipeline's packing of latents into tokens is noted."""
    pack = getattr(pipeline, "_pack_latents", None)
    if pack is None:
        yield
        return

    def noting_pack(latents: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens: torch.Tensor = pack(latents, *args, **kwargs)
        again = lambda other: pack(other, *args, **kwargs)  # noqa: E731
        run.packed.append(Packed(again, tuple(latents.shape), tokens))
        return tokens

    pipeline._pack_latents = noting_pack
    try:
        yield
    finally:
        del pipeline._pack_latents


@contextmanager
def _stood_in(pipeline: Any, network: nn.Module) -> Iterator[None]:
    """Context in which the network itself stands for a compiled one, and nothing for guiders."""
    own = {
        name: part
        for name, part in vars(pipeline).items()
        if getattr(part, "_orig_mod", None) is network or name.endswith("guider")
    }
    for name in own:
        vars(pipeline)[name] = None if name.endswith("guider") else network
    try:
        yield
    finally:
        vars(pipeline).update(own)


@contextmanager
def _no_bar(pipeline: Any) -> Iterator[None]:
    """Context in which the pipeline shows no progress."""
    before = getattr(pipeline, "_progress_bar_config", None)
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is None:
            del pipeline._progress_bar_config
        else:
            pipeline._progress_bar_config = before
