"""What a profile says, and its files."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from pullback import figures
from pullback._files import replacing, write_json
from pullback.profiling import kinds
from pullback.profiling.advice import Advice
from pullback.profiling.machine import Machine

FORMAT = "pullback.profile/1"

_TOLD = 0.005  # a smaller fraction is none


@dataclass(frozen=True)
class Work:
    """One kind of work.

    Attributes:
        share: of the wall time; those of all kinds add up to 1.
        seconds: that share of the wall time of an unprofiled run.
        flops: floating-point operations of convolutions and products of matrices.
        bytes: that its operators read and write.
        gemm_fraction: its flops per second over the machine's rate; None where it has none.
        copy_fraction: its bytes per second over the machine's bandwidth; above 1 where tensors are
            still in a cache. None where there are none.
    """

    share: float
    seconds: float
    flops: float
    bytes: float
    gemm_fraction: float | None
    copy_fraction: float | None


@dataclass(frozen=True)
class ProductCost:
    """Products of one kind, without those of the checks.

    Attributes:
        count: of one sample and one column each.
        seconds: of one, in the profiled run.
        forwards: the same in forward passes of one sample.
    """

    count: int
    seconds: float
    forwards: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a computation of bases went.

    Attributes:
        workload: model, map, samples, rank, timesteps in training units, and what is accurate.
        machine: the device and what it can do at best.
        runs: seconds of each run that was not profiled.
        profiled_seconds: of the one that was.
        kinds: the kinds of work: convolution, linear layers, attention, normalisation, gates and
            all else that goes entry by entry, copies, block algebra (all operators of the solver),
            primal (evaluating and recording the map), checks, Python, and what is not attributed.
        stages: shares of the wall time by stage of the computation, and within it by kind.
        operators: those that took longest: name, kind, share, calls.
        products: with J and with its transpose ("J", "JT").
        forward_seconds: of the map without derivatives, for one sample of a batch.
        peak_bytes: the most that tensors made by the run hold at one time.
        plan: how products are made.
        advice: what would be faster, by how much; the largest gain first.
        trace: of the profiled run, as Perfetto and chrome read it, compressed by gzip.
    """

    workload: dict[str, Any]
    machine: Machine
    runs: tuple[float, ...]
    profiled_seconds: float
    kinds: dict[str, Work]
    stages: dict[str, dict[str, float]]
    operators: tuple[dict[str, Any], ...]
    products: dict[str, ProductCost]
    forward_seconds: float
    peak_bytes: int
    plan: str
    advice: tuple[Advice, ...]
    trace: bytes = field(repr=False)

    @property
    def seconds(self) -> float:
        """Wall time of a run: the median of those that were not profiled."""
        return median(self.runs)

    @property
    def overhead(self) -> float:
        """By which part the profiled run took longer than the median of the others."""
        return self.profiled_seconds / self.seconds - 1

    @property
    def unattributed(self) -> float:
        """Share of the wall time that belongs to no known kind of work."""
        return self.kinds[kinds.UNATTRIBUTED].share

    def as_json(self) -> dict[str, Any]:
        """All numbers, without the trace."""
        told = {name: value for name, value in asdict(self).items() if name != "trace"}
        told["runs"], told["operators"] = list(self.runs), list(self.operators)
        told["advice"] = [asdict(one) for one in self.advice]
        return {
            "format": FORMAT,
            "seconds": self.seconds,
            "overhead": self.overhead,
            "unattributed": self.unattributed,
            **told,
        }

    def figure(self) -> Any:
        """The kinds of work and the stages as bars, a matplotlib figure.

        It is that of `pullback.figures.time_breakdown`.
        """
        told, machine = self.workload, self.machine
        threads = ""
        if told["device"] == "cpu":
            threads = f", {machine.threads} thread{'s' * (machine.threads > 1)}"
        return figures.time_breakdown(
            {kind: work.share for kind, work in self.kinds.items()},
            self.stages,
            self.seconds,
            notes={kind: fractions(work) for kind, work in self.kinds.items()},
            rule=f"{told['samples']} samples, rank {told['rank']}, {told['products']} products in "
            f"{self.seconds:.3g} s on {machine.name}{threads}, {machine.dtype}. Beside the bars: "
            "parts of the machine's rate of matrix products and of its copy bandwidth.",
            title=f"Where the time goes: {Path(told['model']).name}, {told['map']}",
        )

    def save(self, folder: str | os.PathLike[str], *, figure: bool = True) -> None:
        """Write profile.json, profile.png, and trace.json.gz, which https://ui.perfetto.dev opens.

        Args:
            folder: is made where it is missing.
            figure: whether profile.png is drawn.

        Raises:
            OSError: a file cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "profile.json", self.as_json())
        with replacing(folder / "trace.json.gz") as temporary:
            temporary.write_bytes(self.trace)
        if figure:
            figures.save(self.figure(), folder / "profile.png")


def fractions(work: Work) -> str:
    """How near a kind of work comes to the machine's limits, where it is bound by one of them."""
    told = []
    if work.gemm_fraction is not None and work.gemm_fraction >= _TOLD:
        told.append(f"{100 * work.gemm_fraction:.0f} % of GEMM")
    if work.copy_fraction is not None and work.copy_fraction >= _TOLD:
        told.append(f"{100 * work.copy_fraction:.0f} % of copy")
    return ", ".join(told)
