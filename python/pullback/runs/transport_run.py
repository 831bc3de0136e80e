"""From a plan to a folder of directions that are carried from one sample to others.

    bases/                      the run of the local bases of all samples, as of `discover`
    transport-t0900.safetensors what was carried at that timestep

The bases, which are what takes long, are those of a run and go on as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pullback._files import occupied
from pullback._numbers import whole
from pullback.geometry import LocalBasis, grassmann
from pullback.geometry.transport import Transported, transport
from pullback.models import LatentModel
from pullback.runs.batch_unit import Watch
from pullback.runs.plan import Plan
from pullback.runs.results import check_command, check_result, check_summary, write_result
from pullback.runs.run import begin, finish
from pullback.runs.store import TimestepBases, basis_path

#: Of summary.json, and of the files of single timesteps.
TRANSPORT_FORMAT = "pullback.transport/1"

#: Ways back from a tangent of h to one of x.
BACKS = ("isometric", "pullback", "vjp")

#: The folder of the bases in that of a run.
BASES = "bases"


@dataclass(frozen=True)
class TransportPlan:
    """What is carried.

    Attributes:
        bases: the local bases of all samples; the first sample is the source.
        index: which direction of the source, from 0.
        back: how tangents of h become latents: one of `BACKS`.
    """

    bases: Plan
    index: int = 0
    back: str = "isometric"

    def check(self, model: LatentModel) -> None:
        """Raise what can be known to be wrong before anything long is started.

        Raises:
            ValueError: as `Plan.check`; there is no target, index or way back.
        """
        if len(self.bases.seeds) < 2:
            raise ValueError("Expected at least one target beside the source, got none.")
        if self.back not in BACKS:
            raise ValueError(f"Expected back as one of {', '.join(BACKS)}, got {self.back!r}.")
        self.bases.check(model)
        whole("index", self.index, 0, self.bases.rank - 1)

    def settings(self, bases: dict[str, Any]) -> dict[str, Any]:
        """All that the numbers depend on: the settings of the bases, and what is carried how."""
        return {**bases, "index": self.index, "back": self.back}


@dataclass(frozen=True)
class TimestepTransport:
    """What was carried at one timestep.

    Attributes:
        t: the timestep, in the scheduler's training units.
        bases: of all S samples, the source first.
        carried: the direction in the tangent spaces of all samples, its own among them.
        distances: geodesic distances of the tangent spaces in radians, `[S, S]`.
    """

    t: int
    bases: TimestepBases
    carried: Transported
    distances: torch.Tensor


def transport_path(folder: Path, t: int) -> Path:
    """Where what was carried at a timestep t, in training units, lies."""
    return folder / f"transport-t{t:04d}.safetensors"


def transport_samples(
    model: LatentModel,
    plan: TransportPlan,
    folder: Path,
    *,
    memory: int | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> list[TimestepTransport]:
    """Carry a direction of one sample to others at every timestep of a plan.

    Args:
        model: the model.
        plan: what to carry; call `plan.check(model)` first for early errors.
        folder: an existing folder.
        memory: memory budget of a pass, in bytes.
        overwrite: compute again what is there, whatever its settings.
        watch: is told of the progress.

    Returns:
        One `TimestepTransport` per timestep, in the plan's order, on the CPU.

    Raises:
        ValueError: as `discover`, or a file has other settings; or nothing of the direction lies
            in the tangent space of a target.
        OSError: another process is at work in the folder, or it cannot be written to.

    Cost: that of the bases; carrying takes no products.
    """
    with occupied(folder):
        check_command(folder, TRANSPORT_FORMAT)
        inner = folder / BASES
        inner.mkdir(exist_ok=True)
        run = begin(model, plan.bases, inner, memory=memory, overwrite=overwrite)
        settings = plan.settings(run.settings)
        check_summary(folder, TRANSPORT_FORMAT, settings, overwrite=overwrite)
        if overwrite:
            for path in folder.glob(transport_path(folder, 0).name.replace("0000", "*")):
                path.unlink()
        else:
            for t in plan.bases.timesteps:
                check_result(transport_path(folder, t), TRANSPORT_FORMAT, {**settings, "t": t})
        done = []
        for item in finish(run, model, plan.bases, watch=watch):
            one = _carried(plan, item)
            _write(folder, one, plan, settings)
            done.append(one)
    return done


def summarize_transport(
    model: LatentModel, plan: TransportPlan, done: Sequence[TimestepTransport]
) -> dict[str, Any]:
    """Settings, what each target retained and how far the tangent spaces are, as JSON values.

    Args:
        model: the model of the plan.
        plan: what was asked for.
        done: what `transport_samples` returned, one entry per timestep.
    """
    first = done[0].bases.basis
    k, m = first.s.shape[1], first.u[0, 0].numel()
    return {
        "format": TRANSPORT_FORMAT,
        "settings": plan.settings(first.provenance["run"]["settings"]),
        "timesteps": list(plan.bases.timesteps),
        "source": plan.bases.seeds[0],
        "targets": list(plan.bases.seeds[1:]),
        "shapes": {"x": list(model.latent_shape), "h": list(first.u.shape[2:])},
        "versions": {name: first.provenance[name] for name in ("pullback", "torch", "diffusers")},
        "chance": {
            "retained": (k / m) ** 0.5,
            "distance": grassmann.random_distance(k, m),
        },
        "transports": [_summary_of(one) for one in done],
    }


def _summary_of(one: TimestepTransport) -> dict[str, Any]:
    basis = one.bases.basis
    return {
        "t": one.t,
        "transport": transport_path(Path(), one.t).name,
        "basis": f"{BASES}/{basis_path(Path(), one.t).name}",
        "retained": one.carried.retained[0, 1:].tolist(),
        "distances": one.distances.tolist(),
        "converged": int(basis.converged.sum()),
        "samples": len(basis),
        "products": int(basis.products.sum()),
        "seconds": one.bases.seconds,
        "reused": one.bases.reused,
    }


def _carried(plan: TransportPlan, item: TimestepBases) -> TimestepTransport:
    source: LocalBasis = item.basis[[0]]
    carried = transport(plan.index, source, item.basis, back=plan.back)
    pairs = grassmann.all_pairs(item.basis.u.flatten(2))
    return TimestepTransport(item.t, item, carried, pairs.distance)


def _write(
    folder: Path, one: TimestepTransport, plan: TransportPlan, settings: dict[str, Any]
) -> None:
    basis = one.bases.basis
    write_result(
        transport_path(folder, one.t),
        TRANSPORT_FORMAT,
        {
            "coordinates": one.carried.coordinates[0, 1:],
            "retained": one.carried.retained[0, 1:],
            "v": one.carried.v[0, 1:],
            "source_u": basis.u[0, plan.index],
            "source_v": basis.v[0, plan.index],
        },
        {**settings, "t": one.t},
        {name: value for name, value in basis.provenance.items() if name != "run"},
    )
