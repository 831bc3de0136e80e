"""Clocks that know about devices that work on while the host goes ahead."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from pullback.operators.memory import measure


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """Wall time of a `with` block in `seconds`, without the spans in which it is paused."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> Stopwatch:
        synchronize(self.device)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        synchronize(self.device)
        self.seconds += time.perf_counter() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A span inside the block that does not count."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


def _repeated(run: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds per call, over `count` calls in a row; by the device's own clock on a GPU."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / count
    before = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - before) / count


def interleaved(
    cases: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int,
    span: float = 2e-3,
) -> dict[str, dict[str, float]]:
    """Times of short functions, measured in turn, so that all meet the same disturbances.

    Args:
        cases: functions by name.
        device: where they run.
        rounds: how often each has its turn, after one that does not count.
        span: seconds that one turn should take; short functions are repeated within it.

    Returns:
        Per name the `min` and the `median` over the rounds, in seconds per call.
    """
    return {
        name: {"min": min(values), "median": statistics.median(values)}
        for name, values in in_turn(cases, device, rounds=rounds, span=span).items()
    }


def in_turn(
    cases: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int,
    span: float = 2e-3,
) -> dict[str, list[float]]:
    """What `interleaved` is made of: the times of all rounds, with its arguments."""
    counts = {}
    for name, run in cases.items():
        _repeated(run, 1, device)
        counts[name] = max(1, round(span / max(_repeated(run, 1, device), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, run in cases.items():
            times[name].append(_repeated(run, counts[name], device))
    return times


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes that tensors made by `run` hold at one time; slow, so never timed."""
    if device.type != "cuda":
        return measure(run)[1][0]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
