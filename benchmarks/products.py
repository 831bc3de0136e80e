"""What a product with a Jacobian costs: recorded linear maps against torch's own transforms.

Everything is per column and over one batched forward pass without gradients, the least of several
repetitions in turn. That is the natural unit: a product cannot do less arithmetic than the forward
pass does in convolutions and matrix products, and a batch of columns does it with fewer calls. The
forward pass is the network as it stands, with torch's own attention; "by vmap" is `torch.func` with
the rules of `pullback_ext`, since with torch's own it fails on this U-Net (group normalisation of
what is not contiguous, attention without a rule). The normalisation by itself meets torch's rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from rich.console import Console
from torch import nn

from benchmarks.report import print_targets, table_of
from benchmarks.timing import interleaved, peak_bytes
from pullback import load, maps
from pullback.linearization import Tape
from pullback_ext.intercept import forward_mode_ready, plain_arithmetic, recordable

#: What must be shown of J and its transpose: forward passes a column, by case.
ASKED = {"digits": (1.3, 1.2), "unet": (1.8, 1.25), "unet without attention": (1.2, 1.15)}


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        rounds: repetitions of each way, in turn.
        digits: samples and columns of the digit model's encoder.
        unet: samples, columns and side of the U-Net's images.
        threads: numbers of threads, one after the other.
    """

    rounds: int = 7
    digits: tuple[int, int] = (8, 5)
    unet: tuple[int, int, int] = (2, 8, 64)
    threads: tuple[int, ...] = (1, 2)

    @classmethod
    def quick(cls) -> Settings:
        """A few seconds' work, which shows that everything runs and measures nothing."""
        return cls(rounds=1, digits=(2, 2), unet=(1, 2, 16), threads=(1,))


@dataclass(frozen=True)
class _Case:
    """A function of x alone, where it is differentiated, and how many columns a product has."""

    f: Callable[[torch.Tensor], torch.Tensor]
    x: torch.Tensor
    columns: int


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure all cases.

    Args:
        settings: what to measure.
        device: on which device.
        tell: called with a line on what comes next.

    Returns:
        JSON values: per case and number of threads the forward pass and, over it, what a recording
        and each product costs; bytes moved by a fused normalisation over the least possible.
    """
    cases = _cases(settings, device)
    rows, norms = [], []
    for threads in settings.threads:
        with threads_of(threads), torch.no_grad(), plain_arithmetic():
            for name, case in cases.items():
                tell(f"{name}, {threads} threads")
                rows.append({"case": name, "threads": threads, **_measured(case, settings.rounds)})
            tell(f"normalisation, {threads} threads")
            norms.append({"threads": threads, **_normalisation(settings, device)})
    return {
        "settings": asdict(settings),
        "cases": rows,
        "normalisation": norms,
        "targets": [target for row in rows for target in _targets(row)],
    }


def _cases(settings: Settings, device: torch.device) -> dict[str, _Case]:
    model = load("digits", device=device)
    batch, columns = settings.digits
    x = model.sample_latents(batch, 500, seed=0)
    points = maps.encoder(model).at(x, 500).operator(check=False).points
    cases = {"digits": _Case(points.at, points.x, columns)}
    batch, columns, side = settings.unet
    x = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    for name, attention in (("unet", True), ("unet without attention", False)):
        network = unet(side, attention=attention).to(device)
        cases[name] = _Case(lambda x, network=network: network(x, 500).sample, x, columns)
    return cases


def unet(side: int, *, attention: bool) -> nn.Module:
    """The U-Net of 64 x 64 images of the table in the design: attention at 16 x 16."""
    torch.manual_seed(0)
    down, up = ["DownBlock2D"] * 4, ["UpBlock2D"] * 4
    if attention:
        down[2], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
    network = UNet2DModel(
        sample_size=side,
        block_out_channels=(64, 128, 128, 256),
        layers_per_block=2,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        add_attention=attention,
    )
    return network.eval().requires_grad_(False)


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Context in which torch has this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measured(case: _Case, rounds: int) -> dict[str, Any]:
    f, x, columns = case.f, case.x, case.columns

    def record() -> Tape:
        with recordable():
            return Tape(f, x)

    tape = record()
    generator = torch.Generator(x.device).manual_seed(1)
    v = torch.randn(columns, *x.shape, generator=generator, device=x.device)
    u = torch.randn(columns, *tape.value.shape, generator=generator, device=x.device)
    with forward_mode_ready():
        closure = torch.func.vjp(f, x)[1]

    def pushed() -> torch.Tensor:
        with forward_mode_ready():
            return torch.func.vmap(lambda t: torch.func.jvp(f, (x,), (t,))[1])(v)

    def pulled() -> torch.Tensor:
        with forward_mode_ready():
            return torch.func.vmap(lambda w: closure(w)[0])(u)

    ways = {
        "forward": lambda: f(x),
        "record": record,
        "J recorded": lambda: tape.push(v),
        "J by vmap": pushed,
        "JT recorded": lambda: tape.pull(u),
        "JT by vmap": pulled,
    }
    times = {
        name: spent["min"]
        for name, spent in interleaved(ways, x.device, rounds=rounds, span=0.0).items()
    }
    forward = times["forward"]
    over = {
        name: spent / forward / (1 if name in ("forward", "record") else columns)
        for name, spent in times.items()
    }
    saved = columns * (over["J by vmap"] - over["J recorded"])
    return {
        "batch": len(x),
        "columns": columns,
        "steps": len(tape),
        "forward_seconds": forward,
        "forwards": over,
        "pays_after_products": over["record"] / saved if saved > 0 else None,
        "kept_bytes": tape.kept_bytes,
        "peak_bytes": {name: peak_bytes(run, x.device) for name, run in ways.items()},
        "difference": {
            "J": _relative(tape.push(v), pushed()),
            "JT": _relative(tape.pull(u), pulled()),
        },
    }


def _normalisation(settings: Settings, device: torch.device) -> dict[str, Any]:
    """Group normalisation and SiLU of 320 channels: times over that of copying the tangents."""
    columns = settings.unet[1]
    generator = torch.Generator(device).manual_seed(2)
    shape = (1, 320, settings.unet[2], settings.unet[2])
    x = torch.randn(shape, generator=generator, device=device)
    t = torch.randn(columns, *shape, generator=generator, device=device)
    weight, bias = (torch.randn(320, generator=generator, device=device) for _ in range(2))

    def f(x: torch.Tensor) -> torch.Tensor:
        return F.silu(F.group_norm(x, 32, weight, bias))

    tape, closure, out = Tape(f, x), torch.func.vjp(f, x)[1], torch.empty_like(t)
    times = interleaved(
        {
            "copy": lambda: out.copy_(t),
            "J recorded": lambda: tape.push(t),
            "J by vmap": lambda: torch.func.vmap(
                lambda one: torch.func.jvp(f, (x,), (one,))[1]
            )(t),
            "JT recorded": lambda: tape.pull(t),
            "JT by vmap": lambda: torch.func.vmap(lambda one: closure(one)[0])(t),
        },
        device,
        rounds=settings.rounds,
        span=0.0,
    )  # fmt: skip
    copy = times["copy"]["min"]
    return {
        "shape": [columns, *shape],
        "copies": {name: spent["min"] / copy for name, spent in times.items()},
    }


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _targets(row: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for which, most in zip(("J", "JT"), ASKED[row["case"]], strict=True):
        value = row["forwards"][f"{which} recorded"]
        found.append(
            {
                "name": f"{row['case']}, {row['threads']} threads: forwards a column of {which}",
                "asked": f"<= {most:g}",
                "value": value,
                "met": value <= most,
                "note": "",
            }
        )
    return found


def print_products(console: Console, results: dict[str, Any]) -> None:
    """The tables of both, and the targets."""
    table = table_of(
        f"Forward passes that a column costs (least of {results['settings']['rounds']} in turn)",
        ("case", "threads"),
        (
            "J recorded", "J by vmap", "JT recorded", "JT by vmap", "to record",
            "paid after products", "kept MiB", "peak MiB of J", "by vmap",
        ),
        wrap=True,
    )  # fmt: skip
    for row in results["cases"]:
        over, paid, peak = row["forwards"], row["pays_after_products"], row["peak_bytes"]
        table.add_row(
            f"{row['case']}, B {row['batch']}, k {row['columns']}",
            str(row["threads"]),
            *(f"{over[f'{j} {way}']:.2f}" for j in ("J", "JT") for way in ("recorded", "by vmap")),
            f"{over['record']:.2f}",
            "never" if paid is None else f"{paid:.2f}",
            f"{row['kept_bytes'] / 2**20:.1f}",
            f"{peak['J recorded'] / 2**20:.1f}",
            f"{peak['J by vmap'] / 2**20:.1f}",
        )
    console.print(table)
    for row in results["normalisation"]:
        over = row["copies"]
        console.print(
            f"Group normalisation and SiLU, tangents {row['shape']}, {row['threads']} threads, "
            f"over a copy of them: J {over['J recorded']:.2f} (by vmap {over['J by vmap']:.1f}), "
            f"JT {over['JT recorded']:.2f} (by vmap {over['JT by vmap']:.1f})."
        )
    print_targets(console, results["targets"])
