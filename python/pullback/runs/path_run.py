"""From a plan to a folder of paths between samples, one file per kind of path, resumable.

path-slerp.safetensors      points of the paths, and how far the tangent space turns on each
                            segment
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pullback._files import occupied
from pullback._numbers import whole
from pullback.geometry.transport import latent_path
from pullback.models import LatentModel
from pullback.runs.plan import SAMPLING_STEPS, Plan
from pullback.runs.results import check_summary, read_result, write_result

#: Of summary.json, and of the files of single kinds.
PATH_FORMAT = "pullback.path/1"

#: Kinds of paths.
KINDS = ("lerp", "slerp", "shooting")

_TENSORS = ("points", "distance", "latent_length", "gap")


@dataclass(frozen=True)
class PathPlan:
    """Which samples are joined, and how.

    Attributes:
        samples: the samples, at one timestep: each pair of neighbours is joined.
        kinds: some of `KINDS`.
        segments: of each path.
    """

    samples: Plan
    kinds: tuple[str, ...] = KINDS
    segments: int = 10

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The seeds of the B pairs."""
        seeds = self.samples.seeds
        return list(zip(seeds[::2], seeds[1::2], strict=True))

    def check(self, model: LatentModel) -> None:
        """Raise what can be known to be wrong before anything long is started.

        Raises:
            ValueError: as `Plan.check`; the samples are no pairs at one timestep, or there are no
                such kinds or segments.
        """
        if len(self.samples.seeds) % 2:
            raise ValueError(
                f"Expected an even number of seeds, of which each two are joined, got "
                f"{list(self.samples.seeds)}."
            )
        if len(self.samples.timesteps) != 1:
            raise ValueError(f"Expected one timestep, got {list(self.samples.timesteps)}.")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds) or set(self.kinds) - set(KINDS):
            raise ValueError(
                f"Expected kinds of paths among {', '.join(KINDS)}, each once, got "
                f"{', '.join(self.kinds) or 'none'}."
            )
        whole("segments", self.segments, 1)
        self.samples.check(model)

    def settings(self, model: LatentModel) -> dict[str, Any]:
        """All that the numbers of every kind depend on, as JSON has it."""
        shared = self.samples.settings(model, self.samples.timesteps[0])
        return {**shared, "segments": self.segments}


@dataclass(frozen=True)
class SamplePaths:
    """Paths of one kind between the B pairs of samples.

    Attributes:
        kind: one of `KINDS`.
        points: latents, `[segments + 1, B, *x_shape]`, on the CPU.
        distance: geodesic distances of consecutive tangent spaces, `[segments, B]`, in radians.
        latent_length: lengths of the paths in latents, `[B]`.
        gap: from the last point to the end of a pair, over the distance of its ends, `[B]`.
        reused: whether they were read from a file.
    """

    kind: str
    points: torch.Tensor
    distance: torch.Tensor
    latent_length: torch.Tensor
    gap: torch.Tensor
    reused: bool


#: Is told of a kind of path, how many of its points are done, and of how many.
PathWatch = Callable[[str, int, int], None]


def path_path(folder: Path, kind: str) -> Path:
    """Where the paths of a kind lie."""
    return folder / f"path-{kind}.safetensors"


def sample_paths(
    model: LatentModel,
    plan: PathPlan,
    folder: Path,
    *,
    memory: int | None = None,
    overwrite: bool = False,
    watch: PathWatch | None = None,
) -> list[SamplePaths]:
    """Join pairs of samples by paths of several kinds, or read those that the folder has.

    Args:
        model: the model.
        plan: what to join; call `plan.check(model)` first for early errors.
        folder: an existing folder.
        memory: memory budget of a pass, in bytes.
        overwrite: compute again what is there, whatever its settings.
        watch: is told of the progress.

    Returns:
        One `SamplePaths` per kind, in the plan's order.

    Raises:
        ValueError: a file in the folder has other settings or a kind that is not in the plan, or
            is damaged.
        OSError: another process is at work in the folder, or it cannot be written to.

    Cost: per kind, pair and point the products of `local_basis`, started from its neighbour.
    """
    with occupied(folder):
        settings = plan.settings(model)
        check_summary(folder, PATH_FORMAT, settings, overwrite=overwrite)
        _check_kinds(folder, plan)
        stored = {
            kind: None if overwrite else _read(folder, kind, plan, settings, model)
            for kind in plan.kinds
        }
        ends: tuple[torch.Tensor, torch.Tensor] | None = None
        done = []
        for kind in plan.kinds:
            found = stored[kind]
            if found is None:
                ends = _ends(model, plan) if ends is None else ends
                found = _joined(model, plan, kind, *ends, memory, watch)
                _write(folder, found, settings)
            elif watch is not None:
                watch(kind, plan.segments + 1, plan.segments + 1)
            done.append(found)
    return done


def summarize_paths(
    model: LatentModel, plan: PathPlan, done: Sequence[SamplePaths]
) -> dict[str, Any]:
    """Settings and the lengths of the paths, as plain JSON values.

    Args:
        model: the model of the plan.
        plan: what was asked for.
        done: what `sample_paths` returned, one entry per kind.
    """
    settings = plan.settings(model)
    return {
        "format": PATH_FORMAT,
        "settings": settings,
        "versions": {name: settings[name] for name in ("pullback", "torch", "diffusers")},
        "shapes": {"x": list(model.latent_shape)},
        "pairs": [list(pair) for pair in plan.pairs],
        "paths": [
            {
                "kind": one.kind,
                "path": path_path(Path(), one.kind).name,
                "length": one.distance.sum(0).tolist(),
                "latent_length": one.latent_length.tolist(),
                "gap": one.gap.tolist(),
                "reused": one.reused,
            }
            for one in done
        ],
    }


def _check_kinds(folder: Path, plan: PathPlan) -> None:
    """Raise where the folder holds a kind that the plan leaves out."""
    there = {path.stem.partition("-")[2] for path in folder.glob("path-*.safetensors")}
    left_out = sorted(there - set(plan.kinds))
    if left_out:
        raise ValueError(
            f"{folder} holds paths of the kinds {', '.join(left_out)} too, which are not asked for "
            f"now ({', '.join(plan.kinds)} are). Its summary and figures must be of one plan: ask "
            "for all of them, remove those files, or choose another --output folder."
        )


def _ends(model: LatentModel, plan: PathPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents that are joined, `[B, *x_shape]` each."""
    samples = plan.samples
    cond = samples.condition(model)
    x = model.sample_latents(
        len(samples.seeds), samples.timesteps[0], samples.seeds, cond, steps=SAMPLING_STEPS
    )  # fmt: skip
    return x[::2], x[1::2]


def _joined(
    model: LatentModel,
    plan: PathPlan,
    kind: str,
    start: torch.Tensor,
    end: torch.Tensor,
    memory: int | None,
    watch: PathWatch | None,
) -> SamplePaths:
    samples = plan.samples
    found = latent_path(
        model, start, end, samples.timesteps[0], kind=kind, segments=plan.segments,
        rank=samples.rank, tap=samples.tap, cond=samples.condition(model, slice(0, None, 2)),
        tol=samples.tol, seed=samples.seed, memory=memory,
        progress=None if watch is None else lambda done, total: watch(kind, done, total),
    )  # fmt: skip
    return SamplePaths(
        kind, found.points.cpu(), found.distance.cpu(), found.latent_length.cpu(),
        found.gap.cpu(), reused=False,
    )  # fmt: skip


def _write(folder: Path, found: SamplePaths, settings: dict[str, Any]) -> None:
    tensors = {name: getattr(found, name) for name in _TENSORS}
    write_result(
        path_path(folder, found.kind), PATH_FORMAT, tensors, {**settings, "kind": found.kind}, {}
    )


def _read(
    folder: Path, kind: str, plan: PathPlan, settings: dict[str, Any], model: LatentModel
) -> SamplePaths | None:
    pairs = len(plan.pairs)
    shapes = {
        "points": [plan.segments + 1, pairs, *model.latent_shape],
        "distance": [plan.segments, pairs],
        "latent_length": [pairs],
        "gap": [pairs],
    }
    path = path_path(folder, kind)
    found = read_result(path, PATH_FORMAT, {**settings, "kind": kind}, shapes)
    return None if found is None else SamplePaths(kind, **found, reused=True)
