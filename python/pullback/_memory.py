"""Memory: how much there is to spare, of the machine, a container, a GPU; and giving it back."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a process may still take on a device; None where that is not to be read.

    On a GPU what torch keeps from earlier tensors counts as free; on the CPU a container's limit
    counts too.
    """
    if device.type == "cuda":
        import torch  # takes long, and the command line tells sizes without it

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = [size for size in (_system_bytes(), _container_bytes()) if size is not None]
    return min(free) if free else None


def check_free(needed: int, device: torch.device, what: str, way: str) -> None:
    """Raise unless so many bytes fit a device: before they are asked for.

    Args:
        needed: bytes.
        device: where they are to lie.
        what: needs them, a sentence's beginning such as "Features of 8 samples".
        way: what to do instead, a sentence.

    Raises:
        MemoryError: they do not fit; it says how much there is.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        where = "the machine" if device.type == "cpu" else f"{device}"
        raise MemoryError(
            f"{what} take {told(needed)}, and {where} has {told(free)} to spare. {way}"
        )


def trim_heap() -> None:
    """Give memory that was freed back to the system, where the allocator keeps it.

    glibc keeps what lies between blocks that are in use, and tensors of ever other sizes leave more
    of that: a process that computes for hours grows though nothing is lost.

    Cost: some milliseconds.
    """
    trim = _trimmer()
    if trim is not None:
        trim(0)


@cache
def _trimmer() -> ctypes._NamedFuncPointer | None:
    """The function of glibc; None with another allocator."""
    with suppress(OSError, AttributeError, TypeError):
        return ctypes.CDLL(None).malloc_trim
    return None


def told(size: float) -> str:
    """A number of bytes, in GiB or MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def _system_bytes() -> int | None:
    """What the machine has to spare, or None where that is not to be read."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _container_bytes() -> int | None:
    """What the container's limit leaves, or None without one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return max(1, int(limit) - int(used))
    except (OSError, ValueError):  # no such files, or the limit is "max"
        return None
