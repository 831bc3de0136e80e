"""From a plan to a folder of directions that many samples share.

bases/                      the run of the local bases of all samples, as of `discover`
global.safetensors          the global directions
direction-1.safetensors     each of them, to be applied and shared
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pullback._files import occupied
from pullback.geometry import GlobalDirections, global_directions, mean_metric
from pullback.geometry.transport import Transported
from pullback.models import LatentModel
from pullback.runs.batch_unit import Watch
from pullback.runs.plan import Plan
from pullback.runs.results import check_command, check_summary
from pullback.runs.run import begin, finish
from pullback.runs.settings import check_same, mapping_of
from pullback.runs.store import TimestepBases, basis_path
from pullback.runs.transport_run import BASES

#: Of summary.json.
GLOBAL_FORMAT = "pullback.global/1"

#: Ways to average.
HOWS = ("nearest", "hungarian", "frechet", "metric")


@dataclass(frozen=True)
class GlobalPlan:
    """What is averaged.

    Attributes:
        bases: the local bases of all samples, at one timestep.
        how: one of `HOWS`.
    """

    bases: Plan
    how: str = "frechet"

    def check(self, model: LatentModel) -> None:
        """Raise what can be known to be wrong before anything long is started.

        Raises:
            ValueError: as `Plan.check`; there are no two samples at one timestep, or no such way.
        """
        if len(self.bases.seeds) < 2:
            raise ValueError(
                f"Expected two or more samples to average, got the seeds {list(self.bases.seeds)}."
            )
        if len(self.bases.timesteps) != 1:
            raise ValueError(f"Expected one timestep, got {list(self.bases.timesteps)}.")
        if self.how not in HOWS:
            raise ValueError(f"Expected how as one of {', '.join(HOWS)}, got {self.how!r}.")
        self.bases.check(model)

    def settings(self, bases: dict[str, Any]) -> dict[str, Any]:
        """All that the numbers depend on: the settings of the bases, and how they are averaged."""
        return {**bases, "how": self.how}


@dataclass(frozen=True)
class SharedDirections:
    """Global directions, and what the samples that they come from keep of them.

    Attributes:
        found: D directions.
        bases: of the B samples.
        localised: the directions in the tangent spaces of all samples.
        reused: whether the directions were read from a file.
    """

    found: GlobalDirections
    bases: TimestepBases
    localised: Transported
    reused: bool


def global_path(folder: Path) -> Path:
    """Where the global directions lie."""
    return folder / "global.safetensors"


def direction_path(folder: Path, index: int) -> Path:
    """Where one of them lies, counted from 1."""
    return folder / f"direction-{index}.safetensors"


def share_directions(
    model: LatentModel,
    plan: GlobalPlan,
    folder: Path,
    *,
    memory: int | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> SharedDirections:
    """Average the local bases of samples, or read the directions that the folder has.

    Args:
        model: the model.
        plan: what to average; call `plan.check(model)` first for early errors.
        folder: an existing folder.
        memory: memory budget of a pass, in bytes.
        overwrite: compute again what is there, whatever its settings.
        watch: is told of the progress of the bases.

    Raises:
        ValueError: as `discover`, or a file has other settings; or the average does not exist.
        OSError: another process is at work in the folder, or it cannot be written to.

    Cost: that of the bases, and of `mean_metric` for "metric".
    """
    with occupied(folder):
        check_command(folder, GLOBAL_FORMAT)
        inner = folder / BASES
        inner.mkdir(exist_ok=True)
        run = begin(model, plan.bases, inner, memory=memory, overwrite=overwrite)
        settings = plan.settings(run.settings)
        check_summary(folder, GLOBAL_FORMAT, settings, overwrite=overwrite)
        stored = None if overwrite else _read(folder, settings)
        (bases,) = finish(run, model, plan.bases, watch=watch)
        found = _averaged(model, plan, bases, memory) if stored is None else stored
        localised = found.localise(bases.basis)
        if stored is None:
            told = {**found.provenance, "run": {"settings": settings}}
            found = replace(found, provenance=told)
            _write(folder, found)
    return SharedDirections(found, bases, localised, stored is not None)


def summarize_global(
    model: LatentModel, plan: GlobalPlan, done: SharedDirections
) -> dict[str, Any]:
    """Settings, how far the samples agree and what they retain, as plain JSON values.

    Args:
        model: the model of the plan.
        plan: what was asked for.
        done: what `share_directions` returned.
    """
    basis, found = done.bases.basis, done.found
    retained = done.localised.retained
    return {
        "format": GLOBAL_FORMAT,
        "settings": found.provenance["run"]["settings"],
        "versions": {name: basis.provenance[name] for name in ("pullback", "torch", "diffusers")},
        "shapes": {"x": list(model.latent_shape), "direction": list(found.vectors.shape[1:])},
        "space": found.space,
        "samples": list(plan.bases.seeds),
        "basis": f"{BASES}/{basis_path(Path(), done.bases.t).name}",
        "converged": int(basis.converged.sum()),
        "products": int(basis.products.sum()),
        "reused": done.reused,
        "directions": [
            {
                "direction": direction_path(Path(), index + 1).name,
                "agreement": float(found.agreement[index]),
                "s": None if found.s is None else float(found.s[index]),
                "retained": retained[index].tolist(),
            }
            for index in range(len(found))
        ],
    }


def _averaged(
    model: LatentModel, plan: GlobalPlan, bases: TimestepBases, memory: int | None
) -> GlobalDirections:
    if plan.how != "metric":
        return global_directions(bases.basis, plan.how)
    return mean_metric(
        plan.bases.map_of(model), bases.x.to(model.device), bases.t, plan.bases.rank,
        plan.bases.condition(model), tol=plan.bases.tol, seed=plan.bases.seed, memory=memory,
    )  # fmt: skip


def _write(folder: Path, found: GlobalDirections) -> None:
    # The whole comes last: where it is, its directions are.
    for index in range(len(found)):
        found.direction(index).save(direction_path(folder, index + 1))
    stale = len(found) + 1
    while (path := direction_path(folder, stale)).exists():  # of a larger rank, before
        path.unlink()
        stale += 1
    found.save(global_path(folder))


def _read(folder: Path, settings: dict[str, Any]) -> GlobalDirections | None:
    path = global_path(folder)
    if not path.exists():
        return None
    try:
        found = GlobalDirections.load(path)
    except ValueError as error:
        raise ValueError(f"{error} To do so, call this again with --overwrite.") from error
    run = mapping_of(path, "run", found.provenance.get("run", {}))
    check_same(path, mapping_of(path, "settings", run.get("settings", {})), settings)
    return found
