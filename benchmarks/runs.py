"""Large runs: what the protocol costs, memory from first to last, cost by batch and rank."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import pullback
from benchmarks.report import print_targets, table_of
from benchmarks.resident import in_child, resident_now
from benchmarks.timing import Stopwatch
from pullback import denoise, maps
from pullback.runs import BatchPlan, BatchRun
from pullback.runs.batch_unit import compute, samples_at_once

#: What must be shown: the most that the protocol may add, and the most that memory may grow.
OVERHEAD, GROWTH = 0.03, 0.05


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        samples: of the long run, at each of the timesteps.
        batch: samples in a unit.
        pairs: units that are computed by the run and by plain calls in turn.
        batches: samples computed together, at one timestep.
        ranks: directions a sample, at one timestep.
        rounds: how often each of these is timed.
    """

    model: str = "digits"
    timesteps: tuple[int, ...] = (900, 700, 500, 200)
    rank: int = 10
    samples: int = 1000
    batch: int = 25
    pairs: int = 5
    batches: tuple[int, ...] = (1, 4, 16, 64, 256)
    ranks: tuple[int, ...] = (4, 10, 25, 50, 100)
    at_once: int = 16
    rounds: int = 2

    @classmethod
    def quick(cls) -> Settings:
        """Seconds of work, which show that everything runs and measure nothing."""
        return cls(
            timesteps=(960, 940), rank=2, samples=4, batch=1, pairs=1, batches=(1, 2),
            ranks=(2, 3), at_once=1, rounds=1,
        )  # fmt: skip


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure all of it.

    Args:
        settings: what to measure.
        device: on which device.
        tell: called with a line on what comes next.

    Returns:
        JSON values: the long run, what the protocol adds, costs by batch and by rank, and the
        targets with what was reached.
    """
    model = pullback.load(settings.model, device=device)
    plan = BatchPlan(
        settings.timesteps, settings.rank, tuple(range(settings.samples)), model.default_tap,
        tol=2e-3, batch=settings.batch, threads=torch.get_num_threads(),
    )  # fmt: skip
    tell("units by the run and by plain calls")
    protocol = _protocol(model, plan, settings, device)
    tell(f"{settings.samples} samples at {len(settings.timesteps)} timesteps")
    told = {"plan": {**asdict(plan), "seeds": list(plan.seeds)}, "model": settings.model}
    long = in_child("benchmarks.runs:long_run", {**told, "device": str(device)})
    one = replace(plan, timesteps=plan.timesteps[-2:-1])
    tell("cost by batch")
    batches = [
        _cost(model, replace(one, batch=n, seeds=tuple(range(n))), settings)
        for n in settings.batches
    ]
    tell("cost by rank")
    seeds = tuple(range(settings.at_once))
    ranks = [
        _cost(model, replace(one, batch=settings.at_once, seeds=seeds, rank=k), settings)
        for k in settings.ranks
    ]
    return {
        "settings": asdict(settings),
        "protocol": protocol,
        "long": long,
        "batches": batches,
        "ranks": ranks,
        "targets": _targets(protocol, long, ranks),
    }


def long_run(plan: dict[str, Any], model: str, device: str) -> dict[str, Any]:
    """A whole run in this process: its seconds, and what the process held after each unit."""
    found = pullback.load(model, device=device)
    asked = BatchPlan.of_settings(plan)
    held: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        begun = BatchRun.create(folder, found, asked)
        start = time.perf_counter()
        begun.work(found, tell=lambda _: held.append(resident_now()))
        seconds = time.perf_counter() - start
        bases = list(begun.bases())
        converged = sum(int(one.converged.sum()) for one in bases)
        count = sum(len(one) for one in bases)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    tenth = max(1, len(held) // 10)
    # The first units bring the allocator to its size.
    first, last = (
        statistics.median(part) for part in (held[tenth : 3 * tenth] or held, held[-tenth:])
    )
    return {
        "seconds": seconds,
        "bases": count,
        "seconds_per_basis": seconds / count,
        "converged": converged,
        "bytes_on_disk": size,
        "resident": held,
        "growth": last / first - 1,
    }


def _protocol(
    model: pullback.LatentModel, plan: BatchPlan, settings: Settings, device: torch.device
) -> dict[str, Any]:
    """The same samples by units of a run and by the calls that a script would make, in turn."""
    plain, unit = [], []
    few = replace(plan, seeds=plan.seeds[: settings.batch * settings.pairs])
    with tempfile.TemporaryDirectory() as folder:
        begun = BatchRun.create(folder, model, few)
        for number in range(settings.pairs):
            with Stopwatch(device) as clock:
                _by_hand(model, few, begun.units[number].seeds)
            plain.append(clock.seconds)
            told: list[dict[str, Any]] = []
            begun.work(model, share=(number, settings.pairs), tell=told.append)
            unit.append(told[0]["seconds"])
        seconds = [sum(note) for note in (plain, unit)]
    bases = len(few.seeds) * len(few.timesteps)
    ratios = [ours / theirs - 1 for ours, theirs in zip(unit, plain, strict=True)]
    return {
        "samples": len(few.seeds),
        "plain_seconds_per_basis": seconds[0] / bases,
        "seconds_per_basis": seconds[1] / bases,
        "overhead": {"median": statistics.median(ratios), "all": ratios},
    }


def _by_hand(model: pullback.LatentModel, plan: BatchPlan, seeds: tuple[int, ...]) -> None:
    mapped = maps.encoder(model, plan.tap)
    above, x, init = 0, None, None
    for t in plan.timesteps:
        if x is None:
            x = model.sample_latents(len(seeds), t, seeds)
        else:
            x = denoise(model, x, above, t)
        found = pullback.basis(mapped, x, t, plan.rank, tol=plan.tol, init=init, memory=plan.memory)
        above, init = t, found.v


def _cost(model: pullback.LatentModel, plan: BatchPlan, settings: Settings) -> dict[str, Any]:
    """Seconds of one unit at one timestep, without the sampling of its latents."""
    rows = samples_at_once(model, plan)
    found = [compute(model, plan, plan.units[0], rows) for _ in range(settings.rounds)]
    seconds = min(sum(one.seconds) for one in found)
    products = float(found[0].tensors["products"].double().mean())
    return {
        "batch": len(plan.seeds),
        "samples_at_once": rows,
        "rank": plan.rank,
        "seconds_per_sample": seconds / len(plan.seeds),
        "milliseconds_per_direction": 1e3 * seconds / len(plan.seeds) / plan.rank,
        "products_per_direction": products / plan.rank,
    }


def _targets(
    protocol: dict[str, Any],
    long: dict[str, Any],
    ranks: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    added = protocol["overhead"]["median"]
    steepest = max(row["milliseconds_per_direction"] for row in ranks)
    steepest /= ranks[0]["milliseconds_per_direction"]
    rows = [
        ("of the time is added by the protocol", f"<= {OVERHEAD:g}", added, added <= OVERHEAD),
        ("of memory is added from first to last", f"<= {GROWTH:g}", long["growth"],
         long["growth"] <= GROWTH),
        ("of the cost of a direction at the lowest rank, at the dearest", "<= 1", steepest,
         steepest <= 1),
    ]  # fmt: skip
    return [
        {"name": name, "asked": asked, "value": value, "met": met, "note": ""}
        for name, asked, value, met in rows
    ]


def print_runs(console: Console, results: dict[str, Any]) -> None:
    """The tables of batches and ranks, and sentences on the rest."""
    settings, long = results["settings"], results["long"]
    for name, head in (("batches", "samples"), ("ranks", "rank")):
        table = table_of(
            f"{settings['model']}: bases at one timestep, by {head}; fastest of "
            f"{settings['rounds']} rounds",
            ("samples", "rank"),
            ("samples at once", "ms / sample", "ms / direction", "products / direction"),
        )
        for row in results[name]:
            table.add_row(
                str(row["batch"]),
                str(row["rank"]),
                str(row["samples_at_once"]),
                f"{row['seconds_per_sample'] * 1e3:.1f}",
                f"{row['milliseconds_per_direction']:.2f}",
                f"{row['products_per_direction']:.1f}",
            )
        console.print(table)
    protocol, held = results["protocol"], long["resident"]
    console.print(
        f"A unit of {settings['batch']} samples at {len(settings['timesteps'])} timesteps, rank "
        f"{settings['rank']}: {protocol['seconds_per_basis']:.4f} s a basis, by plain calls "
        f"{protocol['plain_seconds_per_basis']:.4f} s."
    )
    console.print(
        f"{long['bases']} bases in {long['seconds']:.0f} s, {long['seconds_per_basis']:.4f} s "
        f"each, {long['converged']} converged; {long['bytes_on_disk'] / 2**20:.0f} MiB on the "
        f"disk. The process held {held[0] / 2**20:.0f} MiB after the first unit and "
        f"{held[-1] / 2**20:.0f} MiB after the last."
    )
    print_targets(console, results["targets"])
