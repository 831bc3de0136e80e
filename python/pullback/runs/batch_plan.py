"""What a large run is to compute, cut into units of work that do not depend on one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import torch

from pullback._numbers import whole
from pullback.models import LatentModel
from pullback.runs.plan import SAMPLING_STEPS, Plan
from pullback.runs.settings import settings_of_model

#: The condition of all samples of a unit: a class label, a prompt, or None; or that of each.
Conditions = int | str | tuple[int, ...] | tuple[str, ...] | None


@dataclass(frozen=True)
class Unit:
    """A block of samples under one condition, at all timesteps of a plan.

    Attributes:
        number: from 0, in the names of its files.
        condition: which of the plan's conditions, from 0; 0 where each sample has its own.
        first: which of the plan's seeds is that of its first sample, from 0.
        seeds: of its samples' noise.
    """

    number: int
    condition: int
    first: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class BatchPlan:
    """What a large run computes for a given model: bases of all seeds under all conditions.

    Its numbers follow from it and the model alone, on machines of one kind, whoever computes them
    and in which order: so the budget of memory, which decides what is multiplied together, and the
    number of threads are parts of it.

    Attributes:
        timesteps: where, in the scheduler's training units, downwards. A basis starts from the one
            at the timestep before it.
        rank: directions per sample.
        seeds: of the noise that samples start from.
        tap: path of the module whose output is h, or "path:index"; None for maps without h.
        tol: bound on the sine of the largest principal angle.
        batch: samples in a unit.
        seed: of the solver's random start.
        class_labels: conditions, each of them for all seeds; or None.
        prompts: conditions likewise; without labels and prompts it is the null condition.
        prompts_hash: of the file that the prompts were read from, where there was one.
        paired: whether each label or prompt is that of one seed, and not a condition of all.
        map: which map's Jacobian: one of `Plan`'s.
        keep_u: whether u is stored too, which may be larger than all the rest.
        memory: budget of a pass, in bytes.
        threads: of torch, in each worker on the CPU.
    """

    timesteps: tuple[int, ...]
    rank: int
    seeds: tuple[int, ...]
    tap: str | None
    tol: float
    batch: int = 32
    seed: int = 0
    class_labels: tuple[int, ...] | None = None
    prompts: tuple[str, ...] | None = None
    prompts_hash: str | None = None
    paired: bool = False
    map: str = "encoder"
    keep_u: bool = False
    memory: int = 2**30
    threads: int = 1

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> BatchPlan:
        """The plan that settings were made of.

        Raises:
            KeyError: they lack something.
        """
        values = {field.name: settings[field.name] for field in fields(cls)}
        told: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**told)

    @classmethod
    def of(cls, plan: Plan, *, batch: int, memory: int, threads: int) -> BatchPlan:
        """The run that computes the bases of a plan's samples, and keeps u."""
        given = plan.class_labels or plan.prompts or ()
        paired = len(set(given)) > 1
        few = slice(None if paired else 1)
        return cls(
            tuple(sorted(plan.timesteps, reverse=True)), plan.rank, plan.seeds, plan.tap, plan.tol,
            batch, plan.seed,
            class_labels=None if plan.class_labels is None else plan.class_labels[few],
            prompts=None if plan.prompts is None else plan.prompts[few],
            paired=paired, map=plan.map, keep_u=True, memory=memory, threads=threads,
        )  # fmt: skip

    @property
    def conditions(self) -> tuple[Conditions, ...]:
        """The class labels or prompts, None alone for the null condition; or all pairs as one."""
        given = self.prompts or self.class_labels
        return (given,) if self.paired else given or (None,)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """All units, by their numbers: block by block of the seeds, one condition after another."""
        blocks = [
            (i, self.seeds[i : i + self.batch]) for i in range(0, len(self.seeds), self.batch)
        ]
        return tuple(
            Unit(condition * len(blocks) + number, condition, first, seeds)
            for condition in range(len(self.conditions))
            for number, (first, seeds) in enumerate(blocks)
        )

    def condition_of(self, unit: Unit) -> Conditions:
        """The condition of a unit's samples, or that of each of them."""
        whole = self.conditions[unit.condition]
        return whole[unit.first :][: len(unit.seeds)] if isinstance(whole, tuple) else whole

    def part(self, unit: Unit, samples: slice = slice(None)) -> Plan:
        """The plan of some samples of a unit."""
        one, seeds = self.condition_of(unit), unit.seeds[samples]
        each: Any = one[samples] if isinstance(one, tuple) else (one,) * len(seeds)
        return Plan(
            self.timesteps, self.rank, seeds, self.tap, self.tol, self.seed,
            class_labels=None if self.class_labels is None else each,
            prompts=None if self.prompts is None else each,
            map=self.map,
        )  # fmt: skip

    def check(self, model: LatentModel) -> None:
        """Raise what can be known to be wrong before anything long is started.

        Raises:
            ValueError: as `Plan.check`; timesteps do not go down, a condition comes twice, there
                are labels and prompts, or a number is no number of samples, bytes or threads.

        Cost: one forward pass of one sample for each class label, up to the tap; one for prompts.
        """
        for name in ("batch", "memory", "threads"):
            whole(name, getattr(self, name), 1)
        if sorted(self.timesteps, reverse=True) != list(self.timesteps):
            raise ValueError(
                "Expected timesteps from the largest to the smallest, since each basis starts from "
                f"the one before it, got {list(self.timesteps)}."
            )
        if self.prompts is not None and self.class_labels is not None:
            raise ValueError("Expected class labels or prompts, got both.")
        if self.prompts_hash is not None and self.prompts is None:
            raise ValueError("Expected the prompts beside the hash of their file, got none.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("Expected one or more different seeds, got none, or some twice.")
        given = self.prompts or self.class_labels or ()
        if self.paired and len(given) != len(self.seeds):
            raise ValueError(
                f"Expected one condition for each of the {len(self.seeds)} seeds, got {len(given)}."
            )
        conditions = self.conditions
        if () in (self.prompts, self.class_labels) or len(set(conditions)) < len(conditions):
            raise ValueError(f"Expected one or more different conditions, got {list(conditions)}.")
        if self.class_labels is None:
            few = self.units[:1]
        elif self.paired:
            few = self.units
        else:
            few = self.units[:: len(self.units) // len(conditions)]
        for unit in few:
            self.part(unit, slice(None) if self.paired else slice(1)).check(model)
        # Of the others only what they are is looked at.
        for seed in self.seeds:
            whole("a seed", seed, 0, 2**32 - 1)

    def settings(self, model: LatentModel) -> dict[str, Any]:
        """All that the numbers depend on, as JSON has it.

        Cost: as `settings_of_model`.
        """
        own = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {
            **settings_of_model(model, labelled=self.class_labels is not None),
            "wrt": self.part(self.units[0]).map_of(model).wrt,
            "sampling_steps": SAMPLING_STEPS,
            **own,
        }


def default_memory(device: torch.device) -> int:
    """A budget for passes that is the same every time: 1 GiB, or half of a GPU's memory.

    Args:
        device: where the work is done.

    Returns:
        Bytes, a power of two.
    """
    if device.type != "cuda":
        return 2**30
    return 2 ** ((torch.cuda.get_device_properties(device).total_memory // 2).bit_length() - 1)
