"""From a plan to a folder of local bases, one pair of files per timestep, resumable.

    latents_t0900.safetensors   x [B, C, H, W], the latents x_t
    basis_t0900.safetensors     their LocalBasis

Each file carries the settings that it was computed with. A file is reused only where all of them
are those that are asked for now, and files of other settings are never overwritten unasked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pullback import krylov, maps
from pullback._files import replacing
from pullback._version import __version__
from pullback.geometry.bases import LocalBasis
from pullback.geometry.bases import basis as basis_of
from pullback.maps import Map
from pullback.models.model import Condition, LatentModel

#: DDIM steps over the whole schedule, from noise to the latents x_t.
SAMPLING_STEPS = 50

#: Maps by the names that the command line uses.
MAPS = ("encoder", "decoder", *maps.OUTPUTS)

_LATENTS_FORMAT = "pullback.latents/1"


@dataclass(frozen=True)
class Plan:
    """What is to be computed, for a given model.

    Attributes:
        timesteps: where, in the scheduler's training units.
        rank: directions per sample.
        seeds: one per sample, of the noise that it starts from.
        tap: path of the module whose output is h, or "path:index"; None for maps without h.
        tol: bound on the sine of the largest principal angle.
        seed: of the solver's random start.
        class_labels: per sample, or None.
        prompts: per sample, or None; without labels and prompts it is the null condition.
        map: which map's Jacobian: one of `MAPS`.
    """

    timesteps: tuple[int, ...]
    rank: int
    seeds: tuple[int, ...]
    tap: str | None
    tol: float
    seed: int = 0
    class_labels: tuple[int, ...] | None = None
    prompts: tuple[str, ...] | None = None
    map: str = "encoder"

    def check(self, model: LatentModel) -> None:
        """Raise what can be known to be wrong before anything long is started.

        Raises:
            ValueError: a timestep, tap, class label or rank that the model does not have, or a
                list that is empty or has something twice.

        Cost: one forward pass of one sample, up to the tap.
        """
        for name, values in (("timesteps", self.timesteps), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"Expected one or more different {name}, got {list(values)}.")
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"Expected seeds of 0 or more, got {list(self.seeds)}.")
        for t in self.timesteps:
            model.schedule.check_timestep(t)
        for name, given in (("class label", self.class_labels), ("prompt", self.prompts)):
            if given is not None and len(given) != len(self.seeds):
                raise ValueError(
                    f"Expected one {name} for all samples or one for each of the "
                    f"{len(self.seeds)}, got {len(given)}."
                )
        model.conditions.of(self.condition(model), len(self.seeds))
        n, m = self.sizes(model)
        krylov.check_rank(self.rank, n, m)

    def of(self, model: LatentModel) -> Map:
        """The map that is differentiated.

        Raises:
            ValueError: there is no such map or tap.
        """
        if self.map not in MAPS:
            raise ValueError(f"Expected a map of {', '.join(MAPS)}, got {self.map!r}.")
        if self.map == "encoder":
            return maps.encoder(model, self.tap)
        if self.map == "decoder":
            return maps.decoder(model, self.tap)
        return maps.output(model, self.map)

    def sizes(self, model: LatentModel) -> tuple[int, int]:
        """Entries of the map's variable and of its output, for one sample."""
        cond = model.conditions.of(self.condition(model, slice(0, 1)), 1)
        x = torch.zeros(1, *model.latent_shape, dtype=model.dtype, device=model.device)
        t = torch.tensor([self.timesteps[0]], device=model.device)
        bound = self.of(model).bind(x, t, cond)
        return bound.point.numel(), bound.value().numel()

    def condition(self, model: LatentModel, samples: slice = slice(None)) -> Condition | None:
        """The condition of some of the samples, as the model takes it."""
        if self.prompts is not None:
            return model.encode(prompt=self.prompts[samples])
        if self.class_labels is not None:
            return model.encode(class_label=self.class_labels[samples])
        return None

    def settings(self, model: LatentModel, t: int) -> dict[str, Any]:
        """All that the numbers of one timestep depend on, as JSON has it."""
        return {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "map": self.map,
            "tap": self.tap,
            "t": t,
            "rank": self.rank,
            "tol": self.tol,
            "seed": self.seed,
            "sample_seeds": list(self.seeds),
            "class_labels": None if self.class_labels is None else list(self.class_labels),
            "prompts": None if self.prompts is None else list(self.prompts),
            "sampling_steps": SAMPLING_STEPS,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "pullback": __version__,
        }


@dataclass(frozen=True)
class Found:
    """The bases of one timestep, with their latents x `[B, C, H, W]` on the CPU."""

    t: int
    x: torch.Tensor
    basis: LocalBasis
    seconds: float
    reused: bool


class Watch:
    """Is told how `discover` gets on; this one does nothing."""

    def started(self, t: int) -> None:
        """The work at a timestep begins."""

    def stepped(self, step: krylov.Progress) -> None:
        """The solver took a step at that timestep."""

    def finished(self, found: Found) -> None:
        """The bases of that timestep are written, or were there already."""


def basis_path(folder: Path, t: int) -> Path:
    """Where the bases of a timestep lie."""
    return folder / f"basis_t{t:04d}.safetensors"


def latents_path(folder: Path, t: int) -> Path:
    """Where the latents of a timestep lie."""
    return folder / f"latents_t{t:04d}.safetensors"


def discover(
    model: LatentModel,
    plan: Plan,
    folder: Path,
    *,
    memory: int | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> list[Found]:
    """Compute the bases of a plan, or read those that the folder already has.

    Args:
        model: the model.
        plan: what to compute; call `plan.check(model)` first for early errors.
        folder: an existing folder.
        memory: memory budget of a pass, in bytes.
        overwrite: compute again what is there, whatever its settings.
        watch: is told of the progress.

    Returns:
        One `Found` per timestep, in the plan's order, on the CPU.

    Raises:
        ValueError: a file in the folder has other settings, or is damaged.

    Cost: per timestep and sample at most `SAMPLING_STEPS` forward passes, and the products of
    `local_basis`.
    """
    watch = Watch() if watch is None else watch
    stored = {
        t: None if overwrite else read(folder, t, plan.settings(model, t)) for t in plan.timesteps
    }
    found = []
    for t in plan.timesteps:
        watch.started(t)
        item = stored[t]
        if item is None:
            item = _compute(model, plan, t, folder, memory, watch)
        watch.finished(item)
        found.append(item)
    return found


def read(folder: Path, t: int, settings: dict[str, Any]) -> Found | None:
    """What the folder has of a timestep; None if that is not complete.

    Raises:
        ValueError: the basis was computed with other settings, or a file is damaged.
    """
    path = basis_path(folder, t)
    if not path.exists():
        return None
    try:
        basis = LocalBasis.load(path)
    except ValueError as error:
        raise ValueError(f"{error} To do so, call this again with --overwrite.") from error
    run = basis.provenance.get("run", {})
    there = run.get("settings", {})
    if there != settings:
        changed = ", ".join(
            f"{name} {there.get(name, 'unknown')} (now {value})"
            for name, value in settings.items()
            if there.get(name) != value
        )
        raise ValueError(
            f"{path} was computed with other settings: {changed}. Choose another --output folder "
            "to keep it, or replace it with --overwrite."
        )
    x = _read_latents(latents_path(folder, t), settings)
    return None if x is None else Found(t, x, basis, float(run["seconds"]), reused=True)


def _compute(
    model: LatentModel,
    plan: Plan,
    t: int,
    folder: Path,
    memory: int | None,
    watch: Watch,
) -> Found:
    settings = plan.settings(model, t)
    cond = plan.condition(model)
    x = model.sample_latents(len(plan.seeds), t, plan.seeds, cond, steps=SAMPLING_STEPS)
    start = time.perf_counter()
    found = basis_of(
        plan.of(model), x, t, plan.rank, cond,
        tol=plan.tol, seed=plan.seed, memory=memory, progress=watch.stepped,
    ).to("cpu")  # fmt: skip
    seconds = time.perf_counter() - start
    run = {"settings": settings, "seconds": seconds}
    found = replace(found, provenance={**found.provenance, "run": run})
    x = x.cpu()
    # The basis comes last: where it is, the latents are.
    with replacing(latents_path(folder, t)) as temporary:
        metadata = {"format": _LATENTS_FORMAT, "settings": json.dumps(settings)}
        save_file({"x": x.contiguous()}, temporary, metadata)
    found.save(basis_path(folder, t))
    return Found(t, x, found, seconds, reused=False)


def _read_latents(path: Path, settings: dict[str, Any]) -> torch.Tensor | None:
    """Latents of these settings; None where there are none."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if json.loads(metadata.get("settings", "null")) != settings:
                return None
            return file.get_tensor("x")
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Compute it again with --overwrite."
        ) from error


def summary(model: LatentModel, plan: Plan, found: Sequence[Found]) -> dict[str, Any]:
    """Settings, provenance and what was reached, as plain JSON values without NaN."""
    shared = plan.settings(model, plan.timesteps[0])
    del shared["t"]
    origin = found[0].basis.provenance
    return {
        "format": "pullback.summary/1",
        "settings": {**shared, "timesteps": list(plan.timesteps)},
        "shapes": {
            "x": list(model.latent_shape),
            "v": list(found[0].basis.v.shape[2:]),
            "u": list(found[0].basis.u.shape[2:]),
        },
        "versions": {name: origin[name] for name in ("pullback", "torch", "diffusers")},
        "timesteps": [_summary_of(item) for item in found],
    }


def _summary_of(found: Found) -> dict[str, Any]:
    basis = found.basis
    s = basis.s.double()
    low, median, high = torch.quantile(s, torch.tensor([0.25, 0.5, 0.75], dtype=s.dtype), dim=0)
    reasons = {reason: basis.stopped.count(reason) for reason in sorted(set(basis.stopped))}
    products = basis.products.double()
    return {
        "t": found.t,
        "basis": basis_path(Path(), found.t).name,
        "latents": latents_path(Path(), found.t).name,
        "samples": len(basis),
        "converged": int(basis.converged.sum()),
        "stopped": reasons,
        "s": {
            "median": median.tolist(),
            "lower_quartile": low.tolist(),
            "upper_quartile": high.tolist(),
        },
        "rank": {"min": int(basis.rank.min()), "max": int(basis.rank.max())},
        "residual": {
            "median": float(basis.residual.median()),
            "max": float(basis.residual.max()),
        },
        "angle_bound": {
            "median": float(basis.angle_bound.median()),
            "max": float(basis.angle_bound.max()),
        },
        "products": {
            "total": int(products.sum()),
            "per_direction": float(products.mean()) / basis.s.shape[1],
        },
        "seconds": found.seconds,
        "reused": found.reused,
    }
