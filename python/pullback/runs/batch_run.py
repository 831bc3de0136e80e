"""A large run: a folder, what is done in it, and what is to be done."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from pullback._files import write_json
from pullback._numbers import whole
from pullback.models import LatentModel
from pullback.runs import batch_publish
from pullback.runs.batch_bases import UnitBases, bases_of, checked_bases_of
from pullback.runs.batch_crew import Crew, hand_out
from pullback.runs.batch_plan import BatchPlan, Unit
from pullback.runs.batch_processes import ProcessCrew, Read
from pullback.runs.batch_ray import RayCrew
from pullback.runs.batch_store import (
    cancel_path,
    checked_unit,
    clean,
    digest_of,
    failure_path,
    left,
    numbers_in,
    plan_path,
    read_note,
    read_plan,
    receipt_path,
    set_aside,
    unit_path,
    write_plan,
)
from pullback.runs.batch_unit import Watch
from pullback.runs.batch_worker import Told, UnitWorker
from pullback.runs.settings import ANOTHER, check_same

#: Receipts that tell how fast units come now.
_RECENT = 32


class BatchRun:
    """A large run in a folder, which is there already: see `BatchRun.create` for a new one.

    Any number of processes, on any machines that share the folder, may work in it at once. Nothing
    is locked: a unit that two of them compute is written twice, with the same bytes.

    Args:
        folder: of the run.

    Attributes:
        folder: as given.
        plan: what is computed.
        settings: all that its numbers depend on, as JSON has it.
        source: how its model is read again, as whoever created it has said.

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: its plan is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.plan, self.settings, self.source = read_plan(self.folder)
        self._digest = digest_of(self.settings)

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        model: LatentModel,
        plan: BatchPlan,
        *,
        source: Mapping[str, Any] | None = None,
    ) -> BatchRun:
        """A run of this plan: a new one, or the one that the folder has.

        Args:
            folder: made where it is missing.
            model: the model of the plan.
            plan: what is to be computed.
            source: how the model is read again, as JSON has it: kept for whoever opens the run.

        Raises:
            ValueError: the folder has a run of another plan or model, with the settings that
                differ; or as `BatchPlan.check`.
            OSError: the folder cannot be made or written to.
        """
        plan.check(model)
        settings = plan.settings(model)
        try:
            write_plan(Path(folder), settings, source or {})
        except FileExistsError:
            there = read_plan(Path(folder))[1]
            check_same(plan_path(Path(folder)), there, settings, ANOTHER)
        return cls(folder)

    @property
    def units(self) -> tuple[Unit, ...]:
        """All units of the plan, by their numbers."""
        return self.plan.units

    def left(self) -> list[Unit]:
        """The units that are to be done: all but those that are there or have failed."""
        return left(self.folder, self.plan)

    def done(self) -> list[Unit]:
        """The units that are there."""
        there = numbers_in(unit_path(self.folder, 0))
        return [unit for unit in self.units if unit.number in there]

    def work(
        self,
        model: LatentModel,
        *,
        share: tuple[int, int] | None = None,
        tell: Told | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Compute what is left, in this process.

        Args:
            model: the model of the plan.
            share: (i, n) for the units i, i + n, i + 2n, ... alone, where n processes work in the
                folder that know nothing of one another, such as the jobs of an array. By default
                all, in a random order: then others in the folder seldom are at the same unit.
            tell: is told receipts, and records of failures.
            watch: is told how the bases of each unit get on.

        Raises:
            ValueError: the model, or a version, is not that of the plan; the run is cancelled, or
                there is no such share.
            OSError: a file cannot be written; finished files are complete.

        Cost: the units; all weights are read once.
        """
        start, step = share or (0, 1)
        whole("n of a share (i, n)", step, 1)
        whole("i of a share (i, n)", start, 0, step - 1)
        self._begin()
        threads = torch.get_num_threads()
        torch.set_num_threads(self.plan.threads)
        try:
            worker = UnitWorker(self.folder, model, watch)
            for unit in self.left() if share else self._shuffled():
                if unit.number % step != start or unit_path(self.folder, unit.number).exists():
                    continue
                if cancel_path(self.folder).exists():
                    return
                found = worker.do(unit.number)
                if tell is not None:
                    tell(found)
        finally:
            torch.set_num_threads(threads)

    def start(
        self,
        read: Read,
        workers: int,
        *,
        devices: Sequence[str] | None = None,
        ray: bool = False,
        tell: Told | None = None,
    ) -> None:
        """Compute what is left by several workers, in processes of their own.

        A worker that is lost, such as one that the system kills, is replaced, and its unit is
        handed out again.

        Args:
            read: a function of a module that reads the model onto a device, such as "cpu".
            workers: how many.
            devices: of the workers in turn; by default those of the kind that the plan was made
                on: "cpu", or all GPUs.
            ray: whether they are actors of Ray, and not processes of this machine.
            tell: is told receipts, and records of failures.

        Raises:
            As `work`; ImportError: Ray is not installed.
        """
        whole("workers", workers, 1)
        self._begin()
        numbers = [unit.number for unit in self._shuffled()]
        if not numbers:
            return
        workers = min(workers, len(numbers))
        kind = self.settings["device"]
        crew: Crew
        if ray:
            crew = RayCrew(self.folder, read, workers, devices[0] if devices else kind)
        else:
            count = torch.cuda.device_count() if kind == "cuda" else 0
            own = [f"cuda:{place}" for place in range(count)] or [kind]
            crew = ProcessCrew(self.folder, read, devices or own)
        hand_out(self.folder, numbers, crew, workers, tell or (lambda _: None))

    def cancel(self) -> None:
        """Have nobody begin another unit; those that are being computed are finished."""
        write_json(cancel_path(self.folder), {"cancelled": time.time()})

    def retry(self) -> list[int]:
        """Forget what has failed and that the run was cancelled, so that it can go on.

        Returns:
            The numbers of the units that had failed.
        """
        failed = sorted(numbers_in(failure_path(self.folder, 0)))
        for number in failed:
            failure_path(self.folder, number).unlink(missing_ok=True)
        cancel_path(self.folder).unlink(missing_ok=True)
        return failed

    def verify(self) -> dict[str, str]:
        """Check every byte of what is there, and set damaged files aside: they are computed again.

        Returns:
            What was wrong, by the names that the files have now.

        Cost: every unit is read once.
        """
        found = {}
        for unit in self.done():
            try:
                checked_unit(self.folder, unit, self._digest)
            except ValueError as error:
                found[set_aside(self.folder, unit).name] = str(error)
        return found

    def status(self) -> dict[str, Any]:
        """How far the run is, as plain JSON values.

        Returns:
            "units", "done", "failed" and "left" in units; "bases" that are done and "bases_in_all";
            "failures" with the last error of each; "seconds_per_unit", the median; "seconds_left",
            by the pace of the last units, or None where there were fewer than two; "cancelled".
        """
        done = {unit.number for unit in self.done()}
        failed = sorted(numbers_in(failure_path(self.folder, 0)) - done)
        to_do = len(self.units) - len(done) - len(failed)
        notes = [read_note(receipt_path(self.folder, number)) for number in sorted(done)]
        receipts = [note for note in notes if note is not None]
        ends = sorted(note["finished"] for note in receipts)[-_RECENT:]
        gaps = [after - before for before, after in pairwise(ends)]
        steps = len(self.plan.timesteps)
        return {
            "folder": str(self.folder),
            "units": len(self.units),
            "done": len(done),
            "failed": len(failed),
            "left": to_do,
            "bases": steps * sum(len(self.units[number].seeds) for number in done),
            "bases_in_all": steps * sum(len(unit.seeds) for unit in self.units),
            "seconds_per_unit": statistics.median(note["seconds"] for note in receipts)
            if receipts
            else None,
            "seconds_left": to_do * statistics.mean(gaps) if gaps else None,
            "cancelled": cancel_path(self.folder).exists(),
            "failures": [self._failure(number) for number in failed],
        }

    def bases(
        self, *, timesteps: Collection[int] | None = None, conditions: Collection[int] | None = None
    ) -> Iterator[UnitBases]:
        """What is there, unit by unit and timestep by timestep, read when it is asked for.

        Args:
            timesteps: those that are wanted, in training units; all of the plan by default.
            conditions: the places of those that are wanted, from 0.

        Raises:
            ValueError: a file is damaged, or a timestep is not one of the plan.

        Cost: the bytes of what is asked for; one timestep of one unit is held at a time.
        """
        wanted = self.plan.timesteps if timesteps is None else timesteps
        missing = sorted(set(wanted) - set(self.plan.timesteps))
        if missing:
            raise ValueError(
                f"Expected timesteps of the plan, {list(self.plan.timesteps)}, got {missing}."
            )
        for unit in self.done():
            if conditions is None or unit.condition in conditions:
                for place, t in enumerate(self.plan.timesteps):
                    if t in wanted:
                        yield bases_of(self.folder, unit, self._digest, place)

    def checked(self, unit: Unit) -> list[UnitBases]:
        """The bases of a unit that is there, at every timestep of the plan.

        Raises:
            ValueError: not every byte of its file is what was written.
        """
        return checked_bases_of(self.folder, unit, self._digest)

    def to_zarr(self, path: str | os.PathLike[str]) -> None:
        """Write all that is there as one zarr store, which `xarray.open_zarr` reads.

        Its arrays are `[condition, sample, timestep, ...]`; what is missing is NaN, and `done`
        tells it. The store appears complete or not at all.

        Args:
            path: of the store, where nothing stands yet.

        Raises:
            ImportError: zarr is not installed.
            FileExistsError: something stands there.
            ValueError: a unit is damaged, or none is done.

        Cost: every unit is read once; one is held at a time.
        """
        batch_publish.to_zarr(Path(path), self.plan, self.settings, self._read())

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the scalars of all that is there as one Parquet file, a row for each direction.

        Args:
            path: of the file, which may replace another one.

        Raises:
            ImportError: pyarrow is not installed.
            OSError: the file cannot be written.
            ValueError: a unit is damaged, or none is done.

        Cost: every unit is read once; one is held at a time.
        """
        batch_publish.to_parquet(Path(path), self.plan, self._read())

    def _begin(self) -> None:
        if cancel_path(self.folder).exists():
            raise ValueError(
                f"The run in {self.folder} is cancelled. `pullback run retry` goes on with it, or "
                "BatchRun.retry and the same call again."
            )
        clean(self.folder)

    def _shuffled(self) -> list[Unit]:
        """What is left, in an order that no other process has."""
        units = self.left()
        random.SystemRandom().shuffle(units)
        return units

    def _failure(self, number: int) -> dict[str, Any]:
        note = read_note(failure_path(self.folder, number)) or {"errors": [{}]}
        last = note["errors"][-1]
        told = {name: last.get(name, "unknown") for name in ("error", "message")}
        return {"unit": number, "tried": len(note["errors"]), **told}

    def _read(self) -> Iterator[tuple[Unit, dict[str, torch.Tensor], dict[str, Any]]]:
        done = self.done()
        if not done:
            raise ValueError(f"Expected a run with finished units, {self.folder} has none yet.")
        return ((unit, *batch_publish.read(self.folder, unit, self._digest)) for unit in done)
