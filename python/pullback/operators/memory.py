"""How much memory a pass may use, how much it does use, and what to do when there is none left."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pullback._memory import free_bytes

ResultT = TypeVar("ResultT")

_CPU_SHARE, _GPU_SHARE = 0.5, 0.8
_FALLBACK_BUDGET = 2 << 30

#: Bytes alive in a pass on the CPU above which memory gets dear: glibc's malloc takes every tensor
#: above its largest mmap threshold (32 MiB) from the system and gives it back when it is freed, and
#: each page that is asked for again is faulted in and zeroed. A pass has a few of them alive.
_HEAP = 128 << 20


def default_budget(device: torch.device) -> int:
    """Bytes that one pass may use on a device: a share of what is free now."""
    free = free_bytes(device)
    if free is None:
        return _FALLBACK_BUDGET
    return int(free * (_GPU_SHARE if device.type == "cuda" else _CPU_SHARE))


def heap_rows(peak: int, device: torch.device) -> int | None:
    """How many tangents of samples a pass computes without memory coming from the system.

    Args:
        peak: the most bytes that one sample has alive at once in a plain forward pass.
        device: where the pass runs.

    Returns:
        The rows; None on a GPU, where torch keeps what it has once been given.
    """
    return None if device.type == "cuda" else max(1, _HEAP // max(1, peak))


def rows_at_once(
    run: Callable[[], torch.Tensor], device: torch.device, memory: int | None = None
) -> int:
    """How many rows of a batch one plain forward pass can have.

    Args:
        run: a pass of one row, without graphs.
        device: where it runs.
        memory: bytes that a pass may use; by default a share of what is free.

    Cost: the pass.
    """
    with torch.no_grad():
        _, (peak, _) = measure(run)
    rows = max(1, (default_budget(device) if memory is None else memory) // max(1, peak))
    if memory is not None:
        return rows
    return min(rows, heap_rows(peak, device) or rows)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU allocator has no error class of its own.
    return "DefaultCPUAllocator" in str(error) and "memory" in str(error)


def empty_cache(device: torch.device) -> None:
    """Give cached blocks back to the device, so that a smaller pass finds them."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages made inside it that are alive, and their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.total = 0
        self._seen: set[int] = set()
        self._outside: list[torch.UntypedStorage] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # A storage first met as an argument (weights, inputs) was made outside: it costs nothing.
        self._meet((args, kwargs), made_inside=False)
        result = func(*args, **(kwargs or {}))
        self._meet(result, made_inside=True)
        return result

    def _meet(self, tree: object, made_inside: bool) -> None:
        for tensor in tree_leaves(tree):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage(), made_inside)

    def _add(self, storage: torch.UntypedStorage, made_inside: bool) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        if not made_inside:
            self._outside.append(storage)  # alive, so that its address is not used again
            return
        self.live += size
        self.total += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def measure(run: Callable[[], ResultT]) -> tuple[ResultT, tuple[int, int]]:
    """What `run` returns, and the most bytes alive at once and all bytes, of tensors it makes.

    Cost: the call, with some microseconds more for each operator.
    """
    with _LiveBytes() as mode:
        result = run()
    return result, (mode.peak, mode.total)
