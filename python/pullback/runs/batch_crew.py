"""Units handed to several workers, and those that are lost with a worker handed out again.

A worker is told numbers and tells receipts; the numbers of a unit go into its file and nowhere
else.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pullback.runs.batch_store import (
    cancel_path,
    read_note,
    receipt_path,
    unit_path,
    write_failure,
)
from pullback.runs.batch_worker import ATTEMPTS, Told


class Worker(Protocol):
    """One who computes units somewhere else; `place` tells those that are there at once apart."""

    place: int

    def give(self, number: int) -> None:
        """Hand it a unit; it has none now."""


class Crew(Protocol):
    """Who has workers."""

    def hire(self, place: int) -> Worker:
        """A new worker."""

    def wait(self, workers: Sequence[Worker]) -> list[tuple[Worker, dict[str, Any] | str]]:
        """What came of some that have units: what they tell, or as text how they were lost."""

    def dismiss(self) -> None:
        """End all of them at once."""


def hand_out(folder: Path, numbers: Sequence[int], crew: Crew, count: int, tell: Told) -> None:
    """Have units done by so many workers at a time, until none is left or the run is cancelled.

    Args:
        folder: of the run.
        numbers: of the units.
        crew: who has the workers.
        count: of the workers.
        tell: is told receipts and failures.

    Raises:
        What `crew.wait` raises, such as that a file cannot be written; workers are ended then.
    """
    waiting, losses = deque(numbers), Counter[int]()
    idle: list[Worker] = []
    busy: dict[Worker, int] = {}
    try:
        while True:
            while waiting and len(busy) < count and not cancel_path(folder).exists():
                places = {worker.place for worker in busy}
                free = (place for place in range(count) if place not in places)
                number = waiting.popleft()
                if unit_path(folder, number).exists():  # by somebody else, meanwhile
                    continue
                worker = idle.pop() if idle else crew.hire(next(free))
                busy[worker] = number
                worker.give(number)
            if not busy:
                return
            for worker, found in crew.wait(list(busy)):
                number = busy.pop(worker)
                if isinstance(found, dict):
                    idle.append(worker)
                    tell(found)
                elif unit_path(folder, number).exists():  # lost when it was done
                    tell(read_note(receipt_path(folder, number)) or {"unit": number})
                else:
                    losses[number] += 1
                    if losses[number] < ATTEMPTS:
                        waiting.appendleft(number)
                        continue
                    error = {"error": "worker lost", "message": found, "trace": ""}
                    tell(write_failure(folder, number, [error] * ATTEMPTS))
    finally:
        crew.dismiss()
