"""Progress on stderr."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pullback import krylov
from pullback.cli.tables import span
from pullback.geometry import LocalBasis
from pullback.runs import (
    AnalysisWatch,
    EditWatch,
    PathWatch,
    Plan,
    SampleEdits,
    TimestepBases,
    Watch,
)


class Reporter:
    """Progress on stderr; silent if quiet. On a pipe only the final state is written."""

    def __init__(self, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Something short without a bar."""
        with self.console.status(text):
            yield

    @contextmanager
    def bases(self, plan: Plan) -> Iterator[Watch]:
        """A bar per timestep: samples done, products so far, and the bound reached."""
        bars = self._bars(
            TextColumn("{task.completed:.0f}/{task.total:.0f} samples"),
            TextColumn("{task.fields[products]:>13}"),
            TextColumn("{task.fields[state]}"),
        )
        with bars:
            yield _Bars(bars, plan)

    @contextmanager
    def edits(self, count: int) -> Iterator[EditWatch]:
        """A bar for the samples: how many are done, and what the present one is at."""
        bars = self._bars(
            TextColumn("{task.completed:.0f}/{task.total:.0f} samples"),
            TextColumn("{task.fields[state]}"),
        )
        with bars:
            yield _Samples(bars, count)

    @contextmanager
    def paths(self, kinds: Sequence[str]) -> Iterator[PathWatch]:
        """A bar per kind of path: how many of its points are done."""
        bars = self._bars(TextColumn("{task.completed:.0f}/{task.total:.0f} points"))
        with bars:
            tasks = {kind: bars.add_task(kind, total=1, completed=0) for kind in kinds}
            yield lambda kind, done, total: bars.update(tasks[kind], completed=done, total=total)

    @contextmanager
    def analyses(self) -> Iterator[AnalysisWatch]:
        """A bar for each measurement, from when it begins."""
        bars = self._bars(TextColumn("{task.percentage:3.0f} %"))
        tasks: dict[str, TaskID] = {}

        def watch(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        with bars:
            yield watch

    @contextmanager
    def finding(self, method: str) -> Iterator[Callable[[int, int], None]]:
        """A bar for a method: how many of the samples that it walks are done."""
        bars = self._bars(TextColumn("{task.fields[state]}"))
        with bars:
            task = bars.add_task(method, total=None, state="")
            yield lambda done, count: bars.update(
                task, completed=done, total=count, state=f"{done}/{count} samples"
            )
            bars.update(task, completed=1, total=1)

    @contextmanager
    def units(self, total: int, done: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A bar for the units of a run; yields what to tell each receipt or failure."""
        bars = self._bars(
            TextColumn("{task.completed:.0f}/{task.total:.0f} units"),
            TextColumn("{task.fields[state]}"),
        )
        with bars:
            task = bars.add_task("run", total=total, completed=done, state="")
            begun, ended, failed = time.monotonic(), 0, 0

            def told(note: dict[str, Any]) -> None:
                nonlocal ended, failed
                ended, failed = ended + 1, failed + ("errors" in note)
                seconds = (time.monotonic() - begun) / ended * (total - done - ended)
                state = f"{failed} failed" if failed else ""
                if seconds:
                    state = f"{span(seconds)} left{', ' * bool(failed)}{state}"
                bars.update(task, advance=1, state=state)

            yield told

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Warnings of ours as one line each, once: samples are edited one by one."""
        said: set[str] = set()

        def say(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if category is not UserWarning:
                shown(message, category, *place, **more)
            elif str(message) not in said:
                said.add(str(message))
                self.console.print(f"Warning: {message}", markup=False, highlight=False)

        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            shown, warnings.showwarning = warnings.showwarning, say
            yield

    @contextmanager
    def figures(self, total: int) -> Iterator[Callable[[], None]]:
        """A bar for the figures; yields what to call after each step."""
        bars = self._bars(TextColumn("{task.percentage:3.0f} %"))
        with bars:
            task = bars.add_task("figures", total=total)
            yield lambda: bars.advance(task)

    def shortfalls(self, bases: Sequence[TimestepBases]) -> None:
        """Say which samples did not reach the bound that was asked for."""
        for item in bases:
            basis = item.basis
            missed = len(basis) - int(basis.converged.sum())
            if missed:
                reasons = ", ".join(sorted(set(basis.stopped) - {"converged"}))
                self.console.print(
                    f"t = {item.t}: {missed} of {len(basis)} samples stopped before the bound "
                    f"{basis.tol:g} ({reasons}); the largest is "
                    f"{float(basis.angle_bound.max()):.1e}."
                )

    def inversions(self, edits: Sequence[SampleEdits]) -> None:
        """Say what would mend images that were not inverted well."""
        for one in edits:
            for advice in (one.inversion or {}).get("advice", ()):
                self.console.print(f"{one.name}: {advice}.", markup=False, highlight=False)

    def _bars(self, *columns: TextColumn) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            *columns,
            TimeElapsedColumn(),
            console=self.console,
            disable=self.console.quiet,
        )


class _Bars(Watch):
    """Shows the bases' progress as one bar per timestep, over all units."""

    def __init__(self, bars: Progress, plan: Plan) -> None:
        self.bars, self.count = bars, len(plan.seeds)
        self.done, self.products = dict.fromkeys(plan.timesteps, 0), Counter[int]()
        self.tasks: dict[int, TaskID] = {
            t: bars.add_task(f"t = {t}", total=len(plan.seeds), start=False, products="", state="")
            for t in plan.timesteps
        }

    def reused(self, samples: int) -> None:
        """So many samples were done already."""
        for t, task in self.tasks.items():
            self.done[t] = samples
            self.bars.update(task, completed=samples, state="reused" if samples else "")
            if samples == self.count:
                self.bars.start_task(task)
                self.bars.stop_task(task)

    def started(self, t: int) -> None:
        """A timestep of some samples begins, with sampling."""
        self.t, self.task = t, self.tasks[t]
        self.bars.start_task(self.task)
        self.bars.update(self.task, state="sampling")

    def stepped(self, step: krylov.Progress) -> None:
        """The solver took a step."""
        self.bars.update(
            self.task,
            completed=self.done[self.t] + step.samples - step.active,
            products=f"{self.products[self.t] + step.products} products",
            state=f"bound {step.angle_bound:.1e}",
        )

    def finished(self, t: int, found: LocalBasis) -> None:
        """A timestep of some samples is done."""
        # A unit that is tried again comes twice.
        self.done[t] = min(self.count, self.done[t] + len(found))
        self.products[t] += int(found.products.sum())
        self.bars.update(
            self.task,
            completed=self.done[t],
            products=f"{self.products[t]} products",
            state=f"bound {float(found.angle_bound.max()):.1e}",
        )
        if self.done[t] == self.count:
            self.bars.stop_task(self.task)


class _Samples(EditWatch):
    """Shows the progress of edits as one bar."""

    def __init__(self, bars: Progress, count: int) -> None:
        self.bars = bars
        self.task = bars.add_task("edits", total=count, state="")

    def started(self, name: str) -> None:
        """The work on a sample begins."""
        self.bars.update(self.task, state=name)

    def stepped(self, name: str, doing: str, done: int, steps: int) -> None:
        """A walk of that sample took a step."""
        self.bars.update(self.task, state=f"{name}: {doing}, step {done} of {steps}")

    def finished(self, edits: SampleEdits) -> None:
        """A sample is done, or was there already."""
        self.bars.update(self.task, advance=1, state=f"{edits.name} {'reused' * edits.reused}")
