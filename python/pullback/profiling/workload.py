"""Profiles a computation of bases: runs it plain, counted and under torch's profiler."""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profiler
from typing_extensions import Unpack

from pullback import _ranges, maps
from pullback._numbers import whole
from pullback.geometry import LocalBasis, Options, basis
from pullback.models import Condition
from pullback.operators import JacobianOperator, measure, rows_at_once
from pullback.profiling import kinds
from pullback.profiling.advice import Advice, advise
from pullback.profiling.attribution import Attribution, Place, attribute
from pullback.profiling.clock import least, seconds, wait
from pullback.profiling.counting import Counting
from pullback.profiling.machine import Machine, measure_machine
from pullback.profiling.result import ProductCost, Profile, Work

_ROOT = "bases"
_SHOWN = 20  # operators

#: What a basis says of itself that belongs to its workload.
_KNOWN = ("model", "map", "wrt", "tap", "pullback", "torch")


def profile(
    map: maps.Map,
    x: torch.Tensor,
    t: int | torch.Tensor,
    rank: int,
    cond: Condition | None = None,
    *,
    repeats: int = 3,
    advice: bool = True,
    **options: Unpack[Options],
) -> Profile:
    """Where the time of `pullback.basis` goes, for these very arguments.

    The bases are computed some times without a profiler, which gives the wall time; once while
    operators are counted, which gives flops, bytes, products and the peak of memory; and once under
    `torch.profiler`, which gives the shares.

    Args:
        map: what is differentiated, and with respect to what.
        x: latents x_t, `[B, *x_shape]`, in the model's dtype and on its device.
        t: their timestep in training units: one for all, or int64 `[B]`.
        rank: directions per sample.
        cond: as for `pullback.basis`.
        repeats: runs without a profiler, at least 1.
        advice: measure what would be faster.
        **options: as for `pullback.basis`.

    Raises:
        ValueError: repeats is no such number, or as `pullback.basis`.
        TypeError, MemoryError: as for `pullback.basis`.

    Cost: the bases `repeats` + 2 times, a second or two for the machine, some seconds to read the
    trace, and some twenty products of each kind for the advice.
    """
    repeats = whole("repeats", repeats, low=1)
    device = x.device if isinstance(x, torch.Tensor) else torch.device("cpu")

    def run() -> LocalBasis:
        return basis(map, x, t, rank, cond, **options)

    found, counting, peak = _counted(run, device)
    machine = measure_machine(device, x.dtype)
    runs = tuple(seconds(run, device) for _ in range(repeats))
    profiled, attribution, trace = _profiled(run, device)
    shares = {kind: spent / profiled for kind, spent in attribution.kinds.items()}
    point = _Point.of(map, x, t, cond, options)
    usual, forward = point.operator(), point.forward()
    # Of all blocks the one that most products came from.
    block = max(counting.blocks, key=lambda one: counting.blocks[one] * one[0] * one[1])
    in_products = sum(attribution.seconds(stage) for stage in (_ranges.PUSH, _ranges.PULL))
    advised: tuple[Advice, ...] = ()
    if advice:
        advised = advise(point.operator, block, shares, in_products / profiled, machine)
    return Profile(
        workload=_workload(x, rank, found, block),
        machine=machine,
        runs=runs,
        profiled_seconds=profiled,
        kinds=_work(attribution, counting, profiled, median(runs), machine),
        stages={
            stage: {kind: spent / profiled for kind, spent in parts.items()}
            for stage, parts in attribution.stages.items()
        },
        operators=_operators(attribution, profiled),
        products=_products(attribution, counting, forward),
        forward_seconds=forward,
        peak_bytes=peak,
        plan=usual.plan,
        advice=advised,
        trace=trace,
    )


def _counted(
    run: Callable[[], LocalBasis], device: torch.device
) -> tuple[LocalBasis, Counting, int]:
    """A run while operators are counted, and the peak of its memory; it warms up, too."""
    with Counting() as counting, _ranges.naming_steps():
        if device.type != "cuda":
            found, (peak, _) = measure(run)
            return found, counting, peak
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        found = run()
        wait(device)
        return found, counting, torch.cuda.max_memory_allocated(device) - before


def _profiled(
    run: Callable[[], LocalBasis], device: torch.device
) -> tuple[float, Attribution, bytes]:
    """The wall time of a run under the profiler, what it went into, and the trace."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with torch_profiler(activities=activities) as profiler, _ranges.naming_steps():
        wait(device)
        begin = time.perf_counter()
        with record_function(_ROOT):
            run()
            wait(device)
        spent = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        written = path.read_bytes()
    # Of a name with a letter beyond ASCII nothing more is needed than that it can be read.
    events = json.loads(written.decode("utf-8", errors="replace"), strict=False)["traceEvents"]
    attribution = attribute(events, _ROOT)
    # What the clock saw and the range did not: its own beginning and end.
    rest = max(0.0, spent - sum(attribution.kinds.values()))
    attribution.add(Place(kind=kinds.UNATTRIBUTED), "", rest)
    return spent, attribution, gzip.compress(written, compresslevel=3)


@dataclass(frozen=True)
class _Point:
    """The map where it is differentiated, for measurements of its products alone.

    Attributes:
        bound: the map, at each of the samples.
        again: binds it to the samples repeated so many times.
        products: options of the operator.
    """

    bound: maps.Bound
    again: Callable[[int], maps.Bound]
    products: dict[str, Any]

    @classmethod
    def of(
        cls,
        map: maps.Map,
        x: torch.Tensor,
        t: int | torch.Tensor,
        cond: Condition | None,
        options: Options,
    ) -> _Point:
        """The point of a computation that has been run, so that its arguments are known good."""
        timesteps = map.model.schedule.timesteps(t, len(x), x.device)
        condition = map.model.conditions.of(cond, len(x))

        def again(times: int) -> maps.Bound:
            rows = torch.arange(len(x), device=x.device).repeat(times)
            chosen = {name: value[rows] for name, value in condition.items()}
            return map.select(rows).bind(x.detach()[rows], timesteps[rows], chosen)

        given: dict[str, Any] = {**options}
        names: tuple[str, ...] = ("chunk", "memory")
        products = {name: given[name] for name in names if name in given}
        return cls(again(1), again, products)

    def operator(self, times: int = 1, chunk: int | None = None) -> JacobianOperator:
        """Products at the samples repeated so many times, with so many tangents in a pass."""
        options = self.products if chunk is None else {**self.products, "chunk": chunk}
        return (self.bound if times == 1 else self.again(times)).operator(**options)

    def forward(self) -> float:
        """Seconds of the map for one sample, in a batch as large as fits."""
        bound = self.bound
        memory = self.products.get("memory")

        def run(count: int) -> torch.Tensor:
            args = (a[:count] if isinstance(a, torch.Tensor) else a for a in bound.args)
            with torch.no_grad():
                return bound.f(bound.point[:count], *args)

        count = len(bound.point)
        count = min(count, rows_at_once(lambda: run(1), bound.point.device, memory))
        spent = least({"forward": lambda: run(count)}, bound.point.device, rounds=5)
        return spent["forward"] / count


def _workload(
    x: torch.Tensor, rank: int, found: LocalBasis, block: tuple[int, int]
) -> dict[str, Any]:
    """What was computed."""
    known = found.provenance
    timesteps = sorted(set(known["t"]))
    return {
        **{name: known[name] for name in _KNOWN},
        "timesteps": timesteps,
        "samples": len(x),
        "rank": rank,
        "tol": found.tol,
        "dtype": str(x.dtype).removeprefix("torch."),
        "device": x.device.type,
        "n": found.v[0, 0].numel(),
        "m": found.u[0, 0].numel(),
        "products": int(found.products.sum()),
        "block": {"samples": block[0], "columns": block[1]},
        "converged": int(found.converged.sum()),
    }


def _work(
    attribution: Attribution, counting: Counting, profiled: float, plain: float, machine: Machine
) -> dict[str, Work]:
    """The kinds of work."""
    found = {}
    for kind, spent in attribution.kinds.items():
        amount = counting.amounts[kind]
        gemm = amount.flops / spent / machine.gemm_rate if spent and amount.flops else None
        copy = amount.bytes / spent / machine.copy_bandwidth if spent and amount.bytes else None
        share = spent / profiled
        found[kind] = Work(share, share * plain, amount.flops, amount.bytes, gemm, copy)
    return found


def _products(
    attribution: Attribution, counting: Counting, forward: float
) -> dict[str, ProductCost]:
    """What products cost, without evaluating and recording the map."""
    found = {}
    for name, stage in (("J", _ranges.PUSH), ("JT", _ranges.PULL)):
        count = counting.products[stage]
        each = attribution.seconds(stage) / max(1, count)
        found[name] = ProductCost(count, each, each / forward)
    return found


def _operators(attribution: Attribution, profiled: float) -> tuple[dict[str, Any], ...]:
    """The operators that took longest."""
    known = sorted(attribution.operators.items(), key=lambda item: -item[1][0])
    return tuple(
        {"name": name, "kind": kind, "share": spent / profiled, "calls": calls}
        for (name, kind), (spent, calls) in known[:_SHOWN]
        if name
    )
