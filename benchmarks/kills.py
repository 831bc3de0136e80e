"""Kills large runs at random moments, and lets them go on, until their bytes can be compared."""

from __future__ import annotations

import collections
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import pullback
from benchmarks.resident import in_child
from pullback.runs import BatchPlan, BatchRun

#: How a run is started: processes that one is killed with, by the functions they begin with.
WAYS = ("one process", "two shares", "two workers", "one worker of two")


@dataclass(frozen=True)
class Settings:
    """How often a run of how many units is killed."""

    kills: int = 100
    units: int = 64
    seed: int = 0

    @classmethod
    def quick(cls) -> Settings:
        """Seconds of work, which show that everything runs."""
        return cls(kills=1, units=2)


def run(
    settings: Settings, _device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Kill runs on the CPU, from a process of its own: see `survive`."""
    tell(f"{settings.kills} kills")
    found = in_child("benchmarks.kills:survive", asdict(settings))
    return {"settings": asdict(settings), **found}


def print_kills(console: Console, results: dict[str, Any]) -> None:
    """What came of it, in a sentence."""
    ways = ", ".join(f"{count} of {name}" for name, count in results["kills"].items())
    console.print(
        f"Killed at random moments: {ways}; {results['runs']} runs of "
        f"{results['settings']['units']} units finished, "
        f"{'all' if results['same'] else 'NOT ALL'} with the bytes of an undisturbed one, "
        f"{results['written_again']} finished units written again."
    )


def survive(kills: int, units: int, seed: int = 0) -> dict[str, Any]:
    """Kill runs until so many kills have hit, and compare what they end with.

    Args:
        kills: processes, or groups of them, that are to be killed before their run is done.
        units: of a run.
        seed: of the moments.

    Returns:
        JSON values: kills by the way that the run was started, runs that were finished, whether
        all had the bytes of an undisturbed one, and how many finished units were written again.
    """
    torch.set_num_threads(1)
    chance = random.Random(seed)
    model = pullback.load("digits")
    plan = BatchPlan(
        (960,), 2, tuple(range(units)), "down_blocks.0", tol=5e-2, batch=1, memory=2**28
    )
    tally: collections.Counter[str] = collections.Counter()
    runs = again = tries = 0
    same = True
    with tempfile.TemporaryDirectory() as room:
        truth, lasts = _undisturbed(Path(room) / "truth", model, plan)
        while tally.total() < kills:
            folder, known = Path(room) / f"run{runs}", dict[str, tuple[int, int]]()
            BatchRun.create(folder, model, plan)
            while BatchRun(folder).left():
                if tally.total() < kills:
                    way = WAYS[tries % len(WAYS)]
                    tally.update([way] * _killed(folder, model, way, chance, lasts))
                    tries += 1
                else:
                    os.waitpid(_fork(lambda at=folder: BatchRun(at).start(read, 2)), 0)
                now = _stamps(folder)
                again += sum(now.get(name) != stamp for name, stamp in known.items())
                known = now
            same = same and BatchRun(folder).verify() == {} and _bytes(folder) == truth
            runs += 1
    return {"kills": dict(tally), "runs": runs, "same": same, "written_again": again}


def read(device: str) -> pullback.LatentModel:
    """The model, in a worker's process."""
    return pullback.load("digits", device=device)


def _undisturbed(
    folder: Path, model: pullback.LatentModel, plan: BatchPlan
) -> tuple[dict[str, bytes], float]:
    """The bytes of a whole run, in a process of its own, and the seconds of a unit."""
    BatchRun.create(folder, model, plan)
    start = time.monotonic()
    os.waitpid(_fork(lambda: BatchRun(folder).work(model)), 0)
    return _bytes(folder), (time.monotonic() - start) / len(plan.units)


def _killed(
    folder: Path, model: pullback.LatentModel, way: str, chance: random.Random, lasts: float
) -> bool:
    """Go on with a run in some way, kill it, and tell whether that came before it was done."""
    run = BatchRun(folder)
    before = _stamps(folder)
    shares = [(0, 2), (1, 2)] if way == "two shares" else [(0, 1)]
    if way in ("one process", "two shares"):
        started = [_fork(lambda share=share: run.work(model, share=share)) for share in shares]
    else:
        started = [_fork(lambda: run.start(read, 2))]
        _await(lambda: _stamps(folder) != before or _ended(started[0]))
    time.sleep(chance.uniform(0, 3 * lasts))
    victims = [-process for process in started]  # the groups that they lead
    if way == "one worker of two":
        victims = _children(started[0])[:1]
    hit = bool(run.left()) and bool(victims)
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            hit = False
    if way == "one worker of two":  # which is replaced, and the run goes on for a while
        time.sleep(lasts)
        with suppress(ProcessLookupError):
            os.killpg(started[0], signal.SIGKILL)
    for process in started:
        if not _ended(process):
            os.waitpid(process, 0)
    return hit


def _fork(work: Callable[[], object]) -> int:
    """Work in a fork of this process, which leads a group of its own."""
    sys.stdout.flush()
    process = os.fork()
    if not process:
        code = 1
        try:
            os.setpgid(0, 0)
            work()
            code = 0
        finally:
            os._exit(code)
    with suppress(PermissionError, ProcessLookupError):
        os.setpgid(process, process)  # whichever of the two comes first
    return process


_over: set[int] = set()


def _ended(process: int) -> bool:
    """Whether a fork has ended."""
    if process not in _over and os.waitpid(process, os.WNOHANG)[0]:
        _over.add(process)
    return process in _over


def _children(process: int) -> list[int]:
    """The workers that a process has started, as Linux tells; not the helper of Python's own."""
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        lines = {int(one): Path(f"/proc/{one}/cmdline").read_bytes() for one in found}
    except OSError:
        return []
    return [one for one, line in lines.items() if b"spawn_main" in line]


def _await(what: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.005)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "units").iterdir())}


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a finished file is written again, even with the same bytes."""
    stamps = {}
    for path in (folder / "units").glob("unit-*.safetensors"):
        found = path.stat()
        stamps[path.name] = found.st_ino, found.st_mtime_ns
    return stamps
