"""Backends of attention in diffusers, of which those without derivatives are replaced meanwhile."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from pullback_ext.intercept import differentiating

#: Backends that call torch's own function, for which we have rules; what others call has none in
#: forward mode, or answers with zeros.
DIFFERENTIABLE = frozenset(
    {"native", "_native_cudnn", "_native_efficient", "_native_flash", "_native_math"}
)


@dataclass
class _Replaced:
    """A processor with torch's backend in place of its own, and how many threads want it so."""

    processor: Any
    own: Any
    users: int = 0


_REPLACED: dict[int, _Replaced] = {}
_LOCK = threading.Lock()


def backend_of(module: nn.Module) -> str:
    """The backend by which a module computes attention: its own, or the one that is set for all.

    What computes attention without asking diffusers for a backend has torch's.
    """
    processor: Any = getattr(module, "processor", None)
    if not hasattr(processor, "_attention_backend"):
        return "native"
    own = processor._attention_backend
    if own is None:
        # Only versions of diffusers that have this module have such processors.
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry

        own = _AttentionBackendRegistry.get_active_backend()[0]
    return str(getattr(own, "value", own))


def tell_of_replacement(network: nn.Module, name: str) -> None:
    """Say, once for a network and backend, that its attention is computed otherwise in products."""
    for path, module in network.named_modules():
        backend = backend_of(module)
        if backend not in DIFFERENTIABLE:
            warnings.warn(
                f"{name} computes attention by the backend {backend!r} ({path or 'the network'}), "
                "which has no derivative in forward mode: where derivatives are taken, and only "
                "there, torch's own takes its place. "
                'network.set_attention_backend("native") makes all of it alike.',
                UserWarning,
                stacklevel=2,
            )
            return


@contextmanager
def differentiable_attention(network: Any) -> Iterator[None]:
    """Context of a call of a network: where derivatives are taken, attention is one that has them.

    Backends come back when the last thread that is inside leaves, also after an exception. Until
    then all threads compute with torch's.

    Args:
        network: a module, or any other callable, of which nothing is replaced.

    Cost: a walk over the modules.
    """
    if not (isinstance(network, nn.Module) and differentiating()):
        yield
        return
    from diffusers.models.attention_dispatch import AttentionBackendName

    replaced = []
    with _LOCK:
        for module in network.modules():
            processor = getattr(module, "processor", None)
            known = _REPLACED.get(id(processor))
            if known is None and backend_of(module) not in DIFFERENTIABLE:
                known = _Replaced(processor, processor._attention_backend)  # type: ignore[union-attr]
                _REPLACED[id(processor)] = known
                processor._attention_backend = AttentionBackendName.NATIVE  # type: ignore[union-attr]
            if known is not None:
                known.users += 1
                replaced.append(known)
    try:
        yield
    finally:
        with _LOCK:
            for one in replaced:
                one.users -= 1
                if not one.users:
                    one.processor._attention_backend = one.own
                    del _REPLACED[id(one.processor)]
