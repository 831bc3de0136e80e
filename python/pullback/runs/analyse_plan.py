"""Which of the papers' analyses are made of a run, and of how many of its samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pullback.analysis import Bases
from pullback.runs.batch_plan import BatchPlan
from pullback.runs.batch_run import BatchRun
from pullback.runs.batch_store import unit_path

#: Those that stored bases are enough for, in the order in which they are made.
OF_BASES = ("spectra", "frequencies", "samples", "times")
#: All of them; the others need the model, too.
ANALYSES = (
    *OF_BASES,
    "conditions", "classes", "ablation", "curvature", "linearity", "ranks", "radius",
)  # fmt: skip

#: Entries of latents up to which all singular values of a Jacobian are computed.
_LARGEST = 2048
_FEWEST_TIMES, _FEWEST_SAMPLES, _FEWEST_CONDITIONS = 3, 4, 3


@dataclass(frozen=True)
class AnalysesPlan:
    """Which analyses are made of a run.

    Attributes:
        names: of the analyses; none for all.
        samples: of each condition, the first so many of the run, or all that it has.
        segments: of a path; 30 were published.
        pairs: of samples that paths join, 50 were published; None for half of the samples.
    """

    names: tuple[str, ...] = ()
    samples: int = 32
    segments: int = 15
    pairs: int | None = None

    def check(self) -> None:
        """Raise unless there are such analyses, and all numbers are large enough.

        Raises:
            ValueError: they are not.
        """
        if not set(self.names) <= set(ANALYSES) or len(set(self.names)) < len(self.names):
            raise ValueError(
                f"Expected analyses among {', '.join(ANALYSES)}, each once, got "
                f"{', '.join(self.names)}."
            )
        pairs = self.samples // 2 if self.pairs is None else self.pairs
        if self.samples < _FEWEST_SAMPLES or self.segments < 1 or pairs < 2:
            raise ValueError(
                f"Expected {_FEWEST_SAMPLES} samples or more, and one segment and two pairs at "
                f"least, got {self.samples}, {self.segments} and {pairs}."
            )

    def seeds(self, run: BatchRun, fewest: int = _FEWEST_SAMPLES) -> tuple[int, ...]:
        """Those of the run's samples that are analysed: units that have failed are left out.

        Args:
            run: all of whose units are done or have failed.
            fewest: how many there have to be.

        Raises:
            ValueError: units of the run are yet to be computed, or it has too few samples.
        """
        left = run.left()
        if left:
            raise ValueError(
                f"{len(left)} of the {len(run.units)} units of the run in {run.folder} are not "
                f"done. Expected a run that is: `pullback run start {run.folder}` goes on with it."
            )
        places = range(len(run.plan.conditions))
        there = [
            {
                seed
                for unit in run.units
                if unit.condition == place and unit_path(run.folder, unit.number).exists()
                for seed in unit.seeds
            }
            for place in places
        ]
        found = tuple(seed for seed in run.plan.seeds if all(seed in one for one in there))
        if len(found) < fewest:
            raise ValueError(
                f"Expected {fewest} samples or more under every condition, the run in "
                f"{run.folder} has {len(found)}."
            )
        return found[: self.samples]

    def chosen(
        self, bases: Bases, run: BatchPlan, compared: BatchPlan | None
    ) -> tuple[tuple[str, ...], dict[str, str]]:
        """The analyses that are made, and those that are left out, each with the reason.

        Args:
            bases: of the run.
            run: its plan.
            compared: that of the run whose conditions are compared, if there is one.
        """
        out: dict[str, str] = {}
        count = 0 if compared is None else len(compared.conditions)
        if run.map != "encoder":
            reason = f"it is of the map x → h, and the run of {run.map}"
            out |= dict.fromkeys(("conditions", "ablation", "curvature"), reason)
        if count < _FEWEST_CONDITIONS:
            reason = f"{count or 'no'} classes or prompts to compare, {_FEWEST_CONDITIONS} needed"
            out |= dict.fromkeys(("conditions", "classes"), reason)
        size = bases.x[0, 0].numel()
        if size > _LARGEST:
            out["ranks"] = f"all {size} singular values of each Jacobian take as many products"
        if bases.v.dim() < 5:
            out["frequencies"] = "latents have no places"
        asked = [name for name in ANALYSES if name in self.names or not self.names]
        return tuple(name for name in asked if name not in out), {
            name: out[name] for name in asked if name in out
        }

    def settings(
        self, run: BatchRun, seeds: tuple[int, ...], compared: BatchRun | None
    ) -> dict[str, Any]:
        """All that the numbers depend on, as JSON has it."""
        of = None if compared is None else compared.plan
        return {
            **{name: value for name, value in run.settings.items() if name != "seeds"},
            "sample_seeds": list(seeds),
            "compared": [] if of is None else list(of.conditions),
            "compared_seeds": [] if of is None else list(of.seeds),
            "compared_timesteps": [] if of is None else list(of.timesteps),
            "segments": self.segments,
            "pairs": self.pairs,
        }


def check_timesteps(timesteps: tuple[int, ...]) -> None:
    """Raise ValueError unless there are enough timesteps, and they descend."""
    if len(timesteps) < _FEWEST_TIMES or list(timesteps) != sorted(timesteps, reverse=True):
        raise ValueError(
            f"Expected {_FEWEST_TIMES} timesteps or more, descending, got {list(timesteps)}."
        )


def check_conditions(given: tuple[int | str, ...]) -> None:
    """Raise ValueError unless conditions to compare are enough, and all different."""
    if given and (len(given) < _FEWEST_CONDITIONS or len(set(given)) < len(given)):
        raise ValueError(
            f"Expected {_FEWEST_CONDITIONS} different conditions or more to compare, got "
            f"{list(given)}."
        )
