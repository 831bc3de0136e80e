"""What a measurement depends on, beside the code: machine, versions, settings, load."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import diffusers
import torch

import pullback
import pullback_ext

_ROOT = Path(__file__).resolve().parents[1]


def describe(device: torch.device) -> dict[str, Any]:
    """The environment of a run on a device, as JSON values."""
    cuda = device.type == "cuda"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": device_name(device),
        "cpu": _cpu(),
        "cores": _cores(),
        "memory_bytes": _memory_bytes(),
        "load_average": load_average(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "tf32": torch.backends.cudnn.allow_tf32 if cuda else None,
        "diffusers": diffusers.__version__,
        "pullback": pullback.__version__,
        "pullback_ext": (
            pullback_ext.build_info()
            if pullback_ext.available()
            else {"unavailable": pullback_ext.why_unavailable()}
        ),
    }


def load_average() -> list[float]:
    """Processes that want to run, over the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def device_name(device: torch.device) -> str:
    """The name of a device: that of the GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()


def slug(device: torch.device) -> str:
    """A device's name for use in a file name; for a CPU with its threads."""
    name = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    return name if device.type == "cuda" else f"{name}-{torch.get_num_threads()}-threads"


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int | None:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _commit() -> str | None:
    """The commit of the checkout, with "+changes" if tracked files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
