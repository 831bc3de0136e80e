"""What tangents and cotangents through attention cost: one call for all, against torch's formulas.

torch's mathematical form is the only one of its own that `vmap(jvp)` can take. Times are those of
the whole product, with the value at the point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.products import threads_of
from benchmarks.report import print_targets, table_of
from benchmarks.timing import in_turn, peak_bytes
from pullback_ext import scaled_dot_product_attention


class Case(NamedTuple):
    """Queries, keys, entries of a head, heads and tangents; and how many times faster J must be.

    Without `keys` it is self-attention, where keys and values move with the queries.
    """

    queries: int
    keys: int | None
    d: int
    heads: int
    columns: int
    asked: float | None = None


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        cases: what is timed.
        rounds: repetitions of each way, in turn.
        threads: numbers of threads, one after the other.
        tokens: of the table of memory, of self-attention.
        head: d, heads and tangents there.
        most_bytes: materialised forms that need more are left out.
    """

    cases: tuple[Case, ...] = (
        Case(1024, None, 40, 8, 8, 3.5),
        Case(4096, 77, 40, 8, 8, 5.0),
        Case(256, None, 80, 8, 16),
    )
    rounds: int = 7
    threads: tuple[int, ...] = (1, 2)
    tokens: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    head: tuple[int, int, int] = (40, 8, 8)
    most_bytes: int = 4 * 10**9

    @classmethod
    def quick(cls) -> Settings:
        """Seconds' work, which shows that everything runs and measures nothing."""
        return cls(
            cases=(Case(33, None, 8, 2, 2, 3.5), Case(64, 15, 8, 2, 2)),
            rounds=1,
            threads=(1,),
            tokens=(64, 128),
            head=(8, 2, 2),
            most_bytes=10**6,
        )


def _formulas(*args: torch.Tensor) -> torch.Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(*args)


#: Ways to compute attention.
_WAYS: dict[str, Callable[..., torch.Tensor]] = {
    "ours": scaled_dot_product_attention,
    "materialised": _formulas,
}


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure all cases.

    Args:
        settings: what to measure.
        device: on which device.
        tell: called with a line on what comes next.

    Returns:
        JSON values: per case and number of threads seconds, and ratios of the materialised form to
        ours; per number of tokens the peak memory of J in bytes, None where it was not measured.
    """
    rows = []
    for threads in settings.threads:
        with threads_of(threads), torch.no_grad():
            for case in settings.cases:
                tell(f"attention, {label(case._asdict())}, {threads} threads")
                rows.append(
                    {
                        "case": case._asdict(),
                        "threads": threads,
                        **_timed(case, settings.rounds, device),
                    }
                )
    tell("attention, memory")
    with torch.no_grad():
        memory = _memory(settings, device)
    return {
        "settings": asdict(settings),
        "cases": rows,
        "memory": memory,
        "targets": [_target(row) for row in rows if row["case"]["asked"] is not None],
    }


def label(case: dict[str, Any]) -> str:
    """A case in words."""
    tokens = str(case["queries"]) if case["keys"] is None else f"{case['queries']} x {case['keys']}"
    return f"{tokens} tokens, d {case['d']}, h {case['heads']}, k {case['columns']}"


def _products(case: Case, device: torch.device) -> dict[str, dict[str, Callable[[], torch.Tensor]]]:
    """By product and way: J and its transpose times k vectors."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    x = normal(1, case.heads, case.queries, case.d)
    text = () if case.keys is None else tuple(normal(2, 1, case.heads, case.keys, case.d))
    block = normal(case.columns, *x.shape)

    def of(attention: Callable[..., torch.Tensor]) -> list[Callable[[], torch.Tensor]]:
        def f(x: torch.Tensor) -> torch.Tensor:
            return attention(x, *text) if text else attention(x, x, x)

        def pushed() -> torch.Tensor:
            return torch.func.vmap(lambda t: torch.func.jvp(f, (x,), (t,))[1])(block)

        def pulled() -> torch.Tensor:
            return torch.func.vmap(torch.func.vjp(f, x)[1])(block)[0]

        return [pushed, pulled]

    found = {way: of(attention) for way, attention in _WAYS.items()}
    return {
        name: {way: runs[i] for way, runs in found.items()} for i, name in enumerate(("J", "JT"))
    }


def _timed(case: Case, rounds: int, device: torch.device) -> dict[str, Any]:
    results: dict[str, Any] = {"seconds": {}, "ratio": {}, "difference": {}}
    for name, ways in _products(case, device).items():
        ours, formulas = (ways[way]() for way in _WAYS)
        results["difference"][name] = float((ours - formulas).norm() / formulas.norm())
        times = in_turn(ways, device, rounds=rounds)
        ratios = sorted(
            slow / fast for slow, fast in zip(times["materialised"], times["ours"], strict=True)
        )
        results["seconds"][name] = {way: min(values) for way, values in times.items()}
        results["ratio"][name] = {
            "min": ratios[0],
            "median": ratios[len(ratios) // 2],
            "max": ratios[-1],
        }
    return results


def _memory(settings: Settings, device: torch.device) -> list[dict[str, Any]]:
    """The peak of J; of twice as many tokens the materialised form needs four times as much.

    Where that would be too much it is not tried.
    """
    rows = []
    d, heads, columns = settings.head
    last = 0
    for tokens in settings.tokens:
        ways = _products(Case(tokens, None, d, heads, columns), device)["J"]
        fits = 4 * last <= settings.most_bytes
        if fits:
            last = peak_bytes(ways["materialised"], device)
        rows.append(
            {
                "tokens": tokens,
                "ours": peak_bytes(ways["ours"], device),
                "materialised": last if fits else None,
            }
        )
    return rows


def _target(row: dict[str, Any]) -> dict[str, Any]:
    asked, value = row["case"]["asked"], row["ratio"]["J"]["median"]
    return {
        "name": f"J of {label(row['case'])}, {row['threads']} threads: times faster than "
        "materialised",
        "asked": f">= {asked:g}",
        "value": value,
        "met": value >= asked,
        "note": "",
    }


def print_attention(console: Console, results: dict[str, Any]) -> None:
    """The tables of times and of memory, and the targets."""
    table = table_of(
        f"Attention: {results['settings']['rounds']} rounds in turn; how many times longer the "
        "materialised form takes, median (least to most)",
        ("case", "threads"),
        ("J, ms", "materialised", "J, ratio", "JT, ms", "materialised", "JT, ratio"),
        wrap=True,
    )
    for row in results["cases"]:
        cells = []
        for name in ("J", "JT"):
            seconds, ratio = row["seconds"][name], row["ratio"][name]
            cells += [
                f"{1e3 * seconds['ours']:.1f}",
                f"{1e3 * seconds['materialised']:.1f}",
                f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
            ]
        table.add_row(label(row["case"]), str(row["threads"]), *cells)
    console.print(table)
    d, heads, columns = results["settings"]["head"]
    table = table_of(
        f"Peak of tensors in J, MiB (self-attention, d {d}, h {heads}, k {columns})",
        ("tokens",),
        ("ours", "materialised"),
    )
    for row in results["memory"]:
        theirs = row["materialised"]
        table.add_row(
            str(row["tokens"]),
            f"{row['ours'] / 2**20:.1f}",
            "" if theirs is None else f"{theirs / 2**20:.1f}",
        )
    console.print(table)
    print_targets(console, results["targets"])
