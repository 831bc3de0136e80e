"""Workers of a large run as actors of Ray, on any machines that share its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pullback.runs.batch_crew import Worker
from pullback.runs.batch_processes import Read
from pullback.runs.batch_store import read_plan
from pullback.runs.batch_worker import UnitWorker


class RayCrew:
    """Workers that Ray starts, each with a model of its own. Receipts alone travel through Ray.

    Args:
        folder: of the run, by the same path on all machines.
        read: reads the model.
        count: of the workers.
        device: "cpu", or "cuda" for a GPU for each.

    Raises:
        ImportError: Ray is not installed.
        ValueError: Ray's machines have fewer cores or GPUs than so many workers take.
    """

    def __init__(self, folder: Path, read: Read, count: int, device: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError(
                "Workers of Ray need Ray, which is not installed: pip install 'pullback[ray]'. Or "
                "use processes of this machine."
            ) from error
        self._ray = ray
        self._begun = not ray.is_initialized()
        if self._begun:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        plan, _, _ = read_plan(folder)
        cuda = device.startswith("cuda")
        asked = {"CPU": 1 if cuda else plan.threads} | ({"GPU": 1} if cuda else {})
        there = ray.cluster_resources()
        for name, each in asked.items():
            if there.get(name, 0) < each * count:
                self.dismiss()
                raise ValueError(
                    f"Expected {each * count} {name}s for {count} workers of {each}, and Ray has "
                    f"{there.get(name, 0):g}. Ask for fewer workers, or start Ray with more."
                )
        options = {"num_cpus": asked["CPU"], "num_gpus": asked.get("GPU", 0)}
        self._actor = ray.remote(**options)(_Actor)
        self._given = folder.resolve(), read, device
        self._all: set[_Hand] = set()

    def hire(self, place: int) -> _Hand:
        """An actor that is about to start."""
        worker = _Hand(place, self._actor.remote(*self._given))
        self._all.add(worker)
        return worker

    def wait(self, workers: Sequence[Worker]) -> list[tuple[Worker, dict[str, Any] | str]]:
        """What came of the first that have something to tell, or have ended.

        Raises:
            OSError, ValueError, RuntimeError: what an actor could not go on from.
        """
        by_task = {worker.task: worker for worker in self._all if worker in workers}
        ready, _ = self._ray.wait(list(by_task), num_returns=1)
        found: list[tuple[Worker, dict[str, Any] | str]] = []
        for task in ready:
            worker = by_task[task]
            try:
                found.append((worker, self._ray.get(task)))
            except self._ray.exceptions.RayTaskError as error:
                cause = error.cause
                if isinstance(cause, (OSError, ValueError)):
                    raise cause from None
                raise RuntimeError(str(error)) from None
            except self._ray.exceptions.RayActorError as error:
                self._all.discard(worker)
                found.append((worker, f"Its actor ended: {str(error).splitlines()[0]}"))
        return found

    def dismiss(self) -> None:
        """End the actors, and Ray where it was started for them."""
        if self._begun:
            self._ray.shutdown()
            return
        for worker in self._all:
            self._ray.kill(worker.actor)


class _Hand:
    """A worker, seen from the process that hands out units."""

    def __init__(self, place: int, actor: Any) -> None:
        self.place, self.actor = place, actor
        self.task: Any = None

    def give(self, number: int) -> None:
        self.task = self.actor.do.remote(number)


class _Actor:
    """A worker in the process of its own that Ray starts.

    The model is read with the first unit: an error of that is then told as one of a task, and not
    as the loss of the actor.
    """

    def __init__(self, folder: Path, read: Read, device: str) -> None:
        self._given = folder, read, device
        self._worker: UnitWorker | None = None

    def do(self, number: int) -> dict[str, Any]:
        if self._worker is None:
            folder, read, device = self._given
            plan, _, _ = read_plan(folder)
            torch.set_num_threads(plan.threads)
            self._worker = UnitWorker(folder, read(device))
        return self._worker.do(number)
