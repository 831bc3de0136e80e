"""Workers of a large run in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from pullback._files import discard_unfinished
from pullback.models import LatentModel
from pullback.runs.batch_crew import Worker
from pullback.runs.batch_store import read_plan
from pullback.runs.batch_worker import UnitWorker

#: Reads the model onto a device, in the worker's own process: a function of a module.
Read = Callable[[str], LatentModel]


class ProcessCrew:
    """Workers in new processes, each with a model of its own.

    Args:
        folder: of the run.
        read: reads the model.
        devices: of the workers, in turn.
    """

    def __init__(self, folder: Path, read: Read, devices: Sequence[str]) -> None:
        self._given = folder, read
        self._devices = devices
        # Not forked: what threads hold, and a GPU, do not outlast that.
        self._context = multiprocessing.get_context("spawn")
        self._all: set[_Process] = set()

    def hire(self, place: int) -> _Process:
        """A worker that is about to start."""
        here, there = self._context.Pipe()
        device = self._devices[place % len(self._devices)]
        process = self._context.Process(
            target=_serve, args=(*self._given, device, there), daemon=True
        )
        process.start()
        there.close()  # or nobody would notice that the worker has ended
        worker = _Process(place, process, here)
        self._all.add(worker)
        return worker

    def wait(self, workers: Sequence[Worker]) -> list[tuple[Worker, dict[str, Any] | str]]:
        """What came of the first that have something to tell, or have ended.

        Raises:
            OSError, ValueError, RuntimeError: what a worker could not go on from.
        """
        by_line = {worker.line: worker for worker in self._all if worker in workers}
        found: list[tuple[Worker, dict[str, Any] | str]] = []
        for line in wait(list(by_line)):
            worker = by_line[line]  # type: ignore[index]
            try:
                told = worker.line.recv()
            except (EOFError, OSError):
                worker.process.join()
                self._all.discard(worker)
                found.append((worker, f"Its process ended ({_ending(worker.process.exitcode)})."))
                continue
            if isinstance(told, Exception):
                raise told
            found.append((worker, told))
        return found

    def dismiss(self) -> None:
        """End the processes."""
        for worker in self._all:
            worker.process.terminate()
        for worker in self._all:
            worker.process.join()
        self._all = set()


class _Process:
    """A worker, seen from the process that hands out units."""

    def __init__(self, place: int, process: Any, line: Connection) -> None:
        self.place, self.process, self.line = place, process, line

    def give(self, number: int) -> None:
        with suppress(OSError):  # it has ended, which `wait` tells
            self.line.send(number)


def _ending(code: int | None) -> str:
    return f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"


def _serve(folder: Path, read: Read, device: str, line: Connection) -> None:
    """The life of a worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who hands out units
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        plan, _, _ = read_plan(folder)
        torch.set_num_threads(plan.threads)
        worker = UnitWorker(folder, read(device))
        while True:
            line.send(worker.do(line.recv()))
    except EOFError:
        return
    except Exception as error:
        # One that cannot be sent would be taken for a worker that was lost.
        plain = type(error).__module__ == "builtins"
        line.send(error if plain else RuntimeError(f"{type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """Nobody would hand out units any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        discard_unfinished()
        os._exit(1)
