"""Wall time, with the end of the work waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one call."""
    wait(device)
    begin = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - begin


def least(
    cases: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = 3
) -> dict[str, float]:
    """The least seconds of each of several functions, which have their turns one after the other.

    Args:
        cases: functions by name; each runs once more before, which does not count.
        device: where they run.
        rounds: turns of each.
    """
    for run in cases.values():
        run()
    found = [{name: seconds(run, device) for name, run in cases.items()} for _ in range(rounds)]
    return {name: min(one[name] for one in found) for name in cases}
