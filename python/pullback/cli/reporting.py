"""What the command line shows: progress on stderr, and what is installed or in a model."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pullback.runs import Found, Plan, Watch

if TYPE_CHECKING:
    from pullback.krylov import Progress as Step
    from pullback.models import LatentModel


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
    def figures(self, total: int) -> Iterator[Callable[[], None]]:
        """A bar for the figures; yields what to call after each step."""
        bars = self._bars(TextColumn("{task.percentage:3.0f} %"))
        with bars:
            task = bars.add_task("figures", total=total)
            yield lambda: bars.advance(task)

    def shortfalls(self, found: Sequence[Found]) -> None:
        """Say which samples did not reach the bound that was asked for."""
        for item in found:
            basis = item.basis
            missed = len(basis) - int(basis.converged.sum())
            if missed:
                reasons = ", ".join(sorted(set(basis.stopped) - {"converged"}))
                self.console.print(
                    f"t = {item.t}: {missed} of {len(basis)} samples stopped before the bound "
                    f"{basis.tol:g} ({reasons}); the largest is "
                    f"{float(basis.angle_bound.max()):.1e}."
                )

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
    """Shows the bases' progress as one bar per timestep."""

    def __init__(self, bars: Progress, plan: Plan) -> None:
        self.bars = bars
        self.tasks: dict[int, TaskID] = {
            t: bars.add_task(f"t = {t}", total=len(plan.seeds), start=False, products="", state="")
            for t in plan.timesteps
        }

    def started(self, t: int) -> None:
        """A timestep begins, with sampling."""
        self.task = self.tasks[t]
        self.bars.start_task(self.task)
        self.bars.update(self.task, state="sampling")

    def stepped(self, step: Step) -> None:
        """The solver took a step."""
        self.bars.update(
            self.task,
            completed=step.samples - step.active,
            products=f"{step.products} products",
            state=f"bound {step.angle_bound:.1e}",
        )

    def finished(self, found: Found) -> None:
        """A timestep is done, or was there already."""
        bound = float(found.basis.angle_bound.max())
        self.bars.update(
            self.task,
            completed=len(found.basis),
            products="reused" if found.reused else f"{int(found.basis.products.sum())} products",
            state=f"bound {bound:.1e}",
        )
        self.bars.stop_task(self.task)


def installation() -> dict[str, Any]:
    """Versions, the native library's state, devices and bundled models, as plain values."""
    import diffusers
    import torch

    from pullback import zoo
    from pullback._version import __version__
    from pullback_ext.__main__ import report

    native = report()
    devices = {"cpu": platform.processor() or platform.machine()}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return {
        "versions": {
            "pullback": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        },
        "devices": devices,
        "native": {
            "problem": native["problem"],
            "build": native["build"],
            "usable": native["usable"],
            "unusable": native["unusable"],
            "kernels_agree": native["passed"],
        },
        "zoo": {name: str(folder) for name, (folder, _) in zoo.MODELS.items()},
    }


def print_installation(found: dict[str, Any], console: Console) -> None:
    """`installation` for people."""
    native = found["native"]
    table = _pairs()
    for name, version in found["versions"].items():
        table.add_row(name, version)
    for name, device in found["devices"].items():
        table.add_row(name, device)
    if native["problem"] is None:
        build = native["build"]
        state = "kernels agree with their references"
        if not native["kernels_agree"]:
            state = "KERNELS DISAGREE, see python -m pullback_ext"
        cuda = f"CUDA {build['cuda']}" if build["cuda"] else "no CUDA"
        table.add_row("native library", f"{build['compiler']}, {cuda}; {state}")
    else:
        table.add_row("native library", escape(f"not loaded: {native['problem']}"))
    for device in native["usable"]:
        table.add_row(f"  on {device}", "usable")
    for device, reason in native["unusable"].items():
        table.add_row(f"  on {device}", escape(f"not usable: {reason}"))
    for name in found["zoo"]:
        table.add_row("bundled model", name)
    console.print(table)


def describe(model: LatentModel) -> dict[str, Any]:
    """Shapes, schedule, condition and taps of a model, as plain values.

    Cost: one forward pass of one sample.
    """
    try:
        condition: dict[str, Any] | None = {
            # An embedded prompt is too long to be told.
            name: value.item() if value.numel() == 1 else {"shape": list(value.shape)}
            for name, value in model.conditions.null.items()
        }
    except ValueError:
        condition = None
    return {
        "name": model.name,
        "network": type(model.network).__name__,
        "family": model.family.label,
        "predicts": model.schedule.prediction_type,
        "scheduler": type(model.schedule.scheduler).__name__,
        "fingerprint": model.fingerprint,
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "latent_shape": list(model.latent_shape),
        "timesteps": model.schedule.num_timesteps,
        "max_timestep": model.schedule.max_timestep,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "takes": {
            name: "needed" if argument.needed else "optional"
            for name, argument in (model.conditions.arguments or {}).items()
        },
        "null_condition": condition,
        "default_tap": model.default_tap,
        "taps": [
            {"path": tap.path, "shape": list(tap.shape), "share": tap.share} for tap in model.taps()
        ],
    }


def print_model(found: dict[str, Any], console: Console) -> None:
    """`describe` for people."""
    condition = found["null_condition"]
    if condition is None:
        option = "--class-label" if "class_labels" in found["takes"] else "--prompt"
        null = f"none known: give {option}"
    else:
        null = ", ".join(f"{n} {_told(v)}" for n, v in condition.items()) or "needs none"
    table = _pairs()
    table.add_row("model", escape(f"{found['name']} ({found['fingerprint']})"))
    table.add_row(
        "network", f"{found['network']} ({found['family']}), {found['parameters']:,} parameters"
    )
    table.add_row("latents", _size(found["latent_shape"]))
    table.add_row("timesteps", f"0 to {found['max_timestep']} ({found['scheduler']})")
    table.add_row("predicts", found["predicts"])
    table.add_row("dtype, device", f"{found['dtype']}, {found['device']}")
    table.add_row("null condition", escape(null))
    console.print(table)
    console.print()
    taps = Table(box=None, header_style="bold", pad_edge=False)
    taps.add_column("tap")
    taps.add_column("shape of h", justify="right")
    taps.add_column("share of the forward pass", justify="right")
    for tap in found["taps"]:
        default = "  (default)" if tap["path"] == found["default_tap"] else ""
        taps.add_row(tap["path"] + default, _size(tap["shape"]), f"{tap['share']:.1%}")
    console.print(taps)


def _told(value: Any) -> str:
    return _size(value["shape"]) if isinstance(value, dict) else f"= {value}"


def _pairs() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
