"""What the blocks before a tap return: recorded once, and given again while a decoder runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pullback.models import LatentModel, Reached, Site, hooked

#: Guards the shadows of all networks; held for a moment when a replay begins and ends.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Recording:
    """The outputs of some modules, call by call, as one tuple of tensors, batch first.

    Attributes:
        modules: the modules in the order of their calls; one called twice is there twice.
        specs: how the tensors of each call make up its output.
        tensors: the tensors of all calls.
    """

    modules: tuple[nn.Module, ...]
    specs: tuple[pytree.TreeSpec, ...]
    tensors: tuple[torch.Tensor, ...]

    @contextmanager
    def replayed(self, tensors: tuple[torch.Tensor, ...]) -> Iterator[None]:
        """Context in which those calls return these tensors and compute nothing.

        It holds for the calling thread alone, and for as many calls of a module as were recorded:
        later ones, where a module is used again behind the tap, are computed.
        """
        queues: dict[nn.Module, deque[Any]] = {}
        start = 0
        for module, spec in zip(self.modules, self.specs, strict=True):
            # Copies, since what follows a block may change its output in place.
            leaves = [tensor.clone() for tensor in tensors[start : start + spec.num_leaves]]
            start += spec.num_leaves
            queues.setdefault(module, deque()).append(pytree.tree_unflatten(leaves, spec))
        with ExitStack() as stack:
            for module, queue in queues.items():
                stack.enter_context(_shadowed(module, queue))
            yield


class _Shadow:
    """Stands before a module's forward: a thread that replays gets what is in its queue."""

    def __init__(self, module: nn.Module) -> None:
        self.forward = module.forward
        self.queues: dict[int, deque[Any]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        queue = self.queues.get(threading.get_ident())
        return queue.popleft() if queue else self.forward(*args, **kwargs)


@contextmanager
def _shadowed(module: nn.Module, queue: deque[Any]) -> Iterator[None]:
    """Context in which this thread's calls of a module return what is in a queue."""
    owner = threading.get_ident()
    with _LOCK:
        shadow = vars(module).get("forward")
        if not isinstance(shadow, _Shadow):
            shadow = module.__dict__["forward"] = _Shadow(module)
        shadow.queues[owner] = queue
    try:
        yield
    finally:
        with _LOCK:
            del shadow.queues[owner]
            if not shadow.queues:
                del module.__dict__["forward"]


def record(
    model: LatentModel,
    site: Site,
    x: torch.Tensor,
    t: torch.Tensor,
    cond: Mapping[str, torch.Tensor],
) -> tuple[torch.Tensor, Recording]:
    """The feature at a tap, and what the blocks up to it (and itself) returned on the way.

    Blocks whose outputs are not tensors with the batch first are left out: they are to be run.

    Args:
        model: the model.
        site: the tap.
        x: latents `[B, *x_shape]`.
        t: timesteps `[B]`.
        cond: the condition, `[B, ...]` each.

    Raises:
        ValueError: the forward pass does not reach the tap.

    Cost: a forward pass up to the tap, and for B > 1 one of the first sample.
    """
    feature, calls = _run(model, site, x, t, cond)
    if len(x) > 1:
        # A size that happens to equal the batch, such as that of a table of positions, is told
        # from the batch by what one sample gives.
        single = {name: value[:1] for name, value in cond.items()}
        _, alone = _run(model, site, x[:1], t[:1], single)
    else:
        alone = calls
    unfit = {
        module
        for outputs, count in ((calls, len(x)), (alone, 1))
        for module, output in outputs
        if not _batched(output, count)
    }
    kept = [(module, pytree.tree_flatten(out)) for module, out in calls if module not in unfit]
    return feature, Recording(
        tuple(module for module, _ in kept),
        tuple(spec for _, (_, spec) in kept),
        tuple(leaf for _, (leaves, _) in kept for leaf in leaves),
    )


def _batched(output: Any, count: int) -> bool:
    """Whether an output consists of tensors with `count` rows."""
    return all(
        isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and len(leaf) == count
        for leaf in pytree.tree_leaves(output)
    )


def _run(
    model: LatentModel,
    site: Site,
    x: torch.Tensor,
    t: torch.Tensor,
    cond: Mapping[str, torch.Tensor],
) -> tuple[torch.Tensor, list[tuple[nn.Module, Any]]]:
    """The feature at a tap, and the calls of blocks up to it with copies of their outputs."""
    target = model.module(site)
    calls: list[tuple[nn.Module, Any]] = []
    found: list[torch.Tensor] = []

    def keep(module: nn.Module, output: object) -> None:
        calls.append((module, pytree.tree_map_only(torch.Tensor, torch.clone, output)))

    def stop(module: nn.Module, output: object) -> None:
        found.append(site.read(module, output, len(x)).clone())
        raise Reached

    inside = f"{site.path}."
    blocks = [model.network.get_submodule(p) for p in model.blocks() if not p.startswith(inside)]
    with ExitStack() as stack, torch.no_grad():
        for block in dict.fromkeys([*blocks, target]):
            # Someone else's forward in place of the class's is run, not replaced.
            if isinstance(vars(block).get("forward"), (type(None), _Shadow)):
                # First of the module's hooks: those of the user see the replayed output again.
                stack.enter_context(hooked(block, keep, first=True))
        stack.enter_context(hooked(target, stop))
        with suppress(Reached):
            model.call(x, t, cond)
    if not found:
        raise not_reached(site)
    return found[0], calls


def not_reached(site: Site) -> ValueError:
    """The error of a forward pass that does not call the module of a tap."""
    return ValueError(
        f"The forward pass ended without reaching {site.path!r}. Expected a module that the "
        "network calls as a whole; model.taps() lists those that it does."
    )
