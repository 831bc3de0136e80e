"""Boundaries between two classes: the published machine on rows against ours on the Gram matrix.

The published one ends at a tolerance of 1e-3, from which ours goes on to the exact solution; both
angles to the exact hyperplane, as this folder finds it in its own way, are told. Ours is called
without its cross-validation, which the published code has not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.boundary_published import machine_on_rows
from benchmarks.exact_machine import exact_normal
from benchmarks.finding_row import Method, row
from benchmarks.resident import in_child, resident_bytes
from benchmarks.timing import Stopwatch
from pullback import LatentModel, directions
from pullback._files import write_safetensors


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        walks: samples of the model, whose classes are little and much ink in their images.
        steps: of a walk; h is classed at its first step, its middle one and at all together.
        planted: samples of two classes of noise, with as many entries as a published latent.
        entries: of these.
        gap: between their means, in deviations.
        rounds: in each every method has its turn.
    """

    walks: int = 2000
    steps: int = 5
    planted: int = 200
    entries: int = 3 * 256 * 256
    gap: float = 6.0
    rounds: int = 3
    seed: int = 0

    @classmethod
    def quick(cls) -> Settings:
        """A second's work, which shows that everything runs and measures nothing."""
        return cls(walks=24, steps=2, planted=16, entries=3000, rounds=1)


@dataclass(frozen=True)
class _Problem:
    """Features `[N, *shape]` of two classes, and labels `[N]`."""

    name: str
    features: torch.Tensor
    labels: torch.Tensor


def rows(
    settings: Settings, model: LatentModel, device: torch.device, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A row for each problem, as JSON values."""
    tell("boundary: features, and memory")
    problems = _problems(settings, model)
    with TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"{index}.safetensors") for index in range(len(problems))]
        for file, problem in zip(files, problems, strict=True):
            tensors = {"features": problem.features, "labels": problem.labels}
            write_safetensors(Path(file), tensors, {})
        peaks = in_child("benchmarks.finding_boundary:resident", {"files": files}, _GIVEN_BACK)
    return [
        _measured(problem, peak, settings, device, tell)
        for problem, peak in zip(problems, peaks, strict=True)
    ]


def resident(files: list[str]) -> list[dict[str, int]]:
    """Bytes that each method makes this process hold, for features and labels in each file."""
    found = []
    for run in _METHODS.values():  # what they import is not theirs
        run(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    for file in files:
        held = load_file(file)
        features, labels = (held[name].clone() for name in ("features", "labels"))
        del held
        works = {name: partial(run, features, labels) for name, run in _METHODS.items()}
        found.append({name: resident_bytes(work)["growth"] for name, work in works.items()})
    return found


def _published(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return machine_on_rows(features, labels).normal


def _ours(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    found = directions.boundary(features, labels, folds=0, tap="mid_block")
    return found.normal.flatten().cpu()


#: Unit normals `[p]`, float64 on the CPU, of features and labels.
_METHODS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "published": _published,
    "ours": _ours,
}


#: Makes glibc give memory back to the system as soon as it is freed, so that a method does not find
#: what the one before it left.
_GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def _problems(settings: Settings, model: LatentModel) -> list[_Problem]:
    top = model.schedule.max_timestep
    x = model.sample_latents(settings.walks, top, settings.seed, steps=settings.steps)
    walk = directions.trajectory(model, x, top, steps=settings.steps)
    ink = walk.latents.flatten(1).double().mean(1)
    labels = (ink > ink.median()).long()
    found = [
        _Problem(
            f"boundary, h at t = {walk.times[step]}", walk.features[:, step].contiguous(), labels
        )
        for step in (0, len(walk.times) // 2)
    ]
    found.append(_Problem(f"boundary, h of all {len(walk.times)} steps", walk.features, labels))
    generator = torch.Generator().manual_seed(settings.seed)
    labels = torch.arange(settings.planted) % 2
    normal = torch.randn(settings.entries, generator=generator)
    features = torch.randn(settings.planted, settings.entries, generator=generator)
    features += settings.gap * (labels - 0.5)[:, None] * (normal / normal.norm())
    return [*found, _Problem("boundary, planted", features.to(model.device), labels)]


def _measured(
    problem: _Problem,
    peaks: dict[str, int],
    settings: Settings,
    device: torch.device,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """The row of a problem, for bytes by method: rounds in which both have their turn."""
    features, labels = problem.features, problem.labels
    tell(f"{problem.name}: the exact hyperplane")
    truth = exact_normal(features, labels)
    methods = {
        "published": Method('SVC(kernel="linear") on the rows', len(features)),
        "ours": Method("ours, on the Gram matrix", len(features)),
    }
    for name, method in methods.items():
        method.peak = max(1, peaks[name])
    for number in range(settings.rounds):
        tell(f"{problem.name}: round {number + 1} of {settings.rounds}")
        normals = {}
        for name, method in methods.items():
            with Stopwatch(device) as clock:
                normals[name] = _METHODS[name](features, labels)
            method.add(
                clock.seconds,
                None,
                None if truth is None else _sine(normals[name], truth),
                _sine(normals["published"], normals[name]) if name != "published" else None,
            )
    shapes = {"samples": len(features), "entries": features[0].numel()}
    return row(problem.name, shapes, methods["published"], {"ours": methods["ours"]})


def _sine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of the angle between unit vectors `[p]`, accurate for small ones; 1 beyond a right angle."""
    along = float(one @ other)
    return float((one - along * other).norm()) if along > 0 else 1.0
