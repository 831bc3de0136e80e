"""From a plan to the papers' analyses of a model, each from bases that are computed once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pullback import analysis
from pullback.analysis import Analysis, Bases
from pullback.models import LatentModel, denoise
from pullback.runs.plan import SAMPLING_STEPS, Plan
from pullback.runs.settings import check_same, settings_of_summary

#: Of analyses.json.
ANALYSES_FORMAT = "pullback.analyses/1"

#: Steps of `linearity`, as shares of √n for latents of n entries; that published is 0.09.
STEPS = (0.01, 0.02, 0.05, 0.09, 0.18, 0.36)
_DIRECTIONS = 5
_SEGMENTS = 15
#: Entries of latents up to which all singular values of a Jacobian are computed.
_LARGEST = 2048
_FEWEST_TIMES, _FEWEST_SAMPLES, _FEWEST_CONDITIONS = 3, 4, 3

#: Is told what is being measured, how much of it is done, and of how much.
AnalysisWatch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AnalysesPlan:
    """Which analyses are made, and of what.

    Attributes:
        samples: the samples and timesteps, and their bases; under the null condition.
        names: of the analyses, some of `ANALYSES`.
        class_labels: that are compared, or none.
        prompts: that are compared, or none.
    """

    samples: Plan
    names: tuple[str, ...] = ()
    class_labels: tuple[int, ...] = ()
    prompts: tuple[str, ...] = ()

    def check(self, model: LatentModel) -> None:
        """Raise what can be known to be wrong before anything long is started.

        Raises:
            ValueError: as `Plan.check`; there are too few timesteps, samples or conditions, the
                timesteps do not descend, or there is no such analysis.
        """
        unknown = sorted(set(self.names) - set(ANALYSES))
        if unknown or len(set(self.names)) < len(self.names):
            raise ValueError(
                f"Expected analyses among {', '.join(ANALYSES)}, each once, got "
                f"{', '.join(self.names)}."
            )
        times = self.samples.timesteps
        if len(times) < _FEWEST_TIMES or list(times) != sorted(times, reverse=True):
            raise ValueError(
                f"Expected {_FEWEST_TIMES} timesteps or more, descending, got {list(times)}."
            )
        if len(self.samples.seeds) < _FEWEST_SAMPLES:
            raise ValueError(
                f"Expected {_FEWEST_SAMPLES} samples or more, got {len(self.samples.seeds)}."
            )
        given = self.class_labels or self.prompts
        if given and (len(given) < _FEWEST_CONDITIONS or len(set(given)) < len(given)):
            raise ValueError(
                f"Expected {_FEWEST_CONDITIONS} different conditions or more to compare, got "
                f"{list(given)}."
            )
        self.samples.check(model)
        self.conditions(model)

    def conditions(self, model: LatentModel) -> dict[str, torch.Tensor] | None:
        """The conditions that are compared, `[P, ...]` by the network's names."""
        if self.prompts:
            return model.encode(prompt=self.prompts)
        if self.class_labels:
            return model.encode(class_label=self.class_labels)
        return None

    def chosen(self, model: LatentModel) -> tuple[tuple[str, ...], dict[str, str]]:
        """The analyses that are made, and those that are left out, each with the reason."""
        out: dict[str, str] = {}
        size = math.prod(model.latent_shape)
        if not (self.class_labels or self.prompts):
            reason = "no classes or prompts to compare were given"
            out |= dict.fromkeys(("conditions", "classes"), reason)
        if size > _LARGEST:
            out["ranks"] = f"all {size} singular values of each Jacobian take as many products"
        if len(model.latent_shape) < 2:
            out["frequencies"] = "latents have no places"
        asked = self.names or tuple(ANALYSES)
        return tuple(one for one in asked if one not in out), {
            name: out[name] for name in asked if name in out
        }

    def settings(self, model: LatentModel) -> dict[str, Any]:
        """All that the numbers depend on, as JSON has it."""
        return {
            **self.samples.shared_settings(model),
            "timesteps": list(self.samples.timesteps),
            "analyses": list(self.names or ANALYSES),
            "compared": list(self.class_labels or self.prompts),
        }


@dataclass(frozen=True, eq=False)
class Analyses:
    """The analyses of a plan: made by `analyse`.

    Attributes:
        found: by name.
        seconds: that each took; the first one's include the bases that all share.
        left_out: why others were not made.
        space: in which the tangent spaces lie: "h", or "x" where no u were kept.
    """

    found: dict[str, Analysis]
    seconds: dict[str, float]
    left_out: dict[str, str]
    space: str


def check_analyses(path: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raise unless there are no analyses at a path, or they may be made again.

    Args:
        path: of analyses.json.
        settings: all that the numbers depend on.
        overwrite: whether those of other settings may be replaced.

    Raises:
        ValueError: they have other settings, or the file is damaged.
    """
    if path.exists() and not overwrite:
        check_same(path, settings_of_summary(path, ANALYSES_FORMAT), settings)


def read_bases(
    model: LatentModel, plan: Plan, options: Mapping[str, Any], step: Callable[[], None]
) -> Bases:
    """The bases of a plan's samples at all its timesteps.

    Args:
        model: the model.
        plan: of the samples.
        options: further ones of `local_basis`.
        step: called after each timestep.
    """
    x = analysis.sampled(model, plan.seeds, plan.timesteps, steps=SAMPLING_STEPS)
    return analysis.walked(model, x, plan.timesteps, plan.rank, progress=step, **options)


def analyse(
    model: LatentModel,
    plan: AnalysesPlan,
    *,
    memory: int | None = None,
    watch: AnalysisWatch | None = None,
) -> Analyses:
    """Make the analyses of a plan.

    Args:
        model: the model.
        plan: what to make; call `plan.check(model)` first for early errors.
        memory: memory budget of a pass, in bytes.
        watch: is told of the progress.

    Returns:
        The `Analyses`.

    Cost: N T local bases, and those that single analyses need: see `pullback.analysis`. What
    compares conditions, paths, linearity and ranks takes half of the samples.
    """
    bench = _Bench(model, plan, memory, watch)
    names, left_out = plan.chosen(model)
    found, seconds = {}, {}
    for name in names:
        begin = time.perf_counter()
        found[name] = ANALYSES[name](bench)
        seconds[name] = time.perf_counter() - begin
    return Analyses(found, seconds, left_out, "x" if bench.bases.u is None else "h")


class _Bench:
    """The model, the plan, and the bases that all analyses share."""

    def __init__(
        self,
        model: LatentModel,
        plan: AnalysesPlan,
        memory: int | None,
        watch: AnalysisWatch | None,
    ) -> None:
        self.model, self.plan, self._watch = model, plan, watch
        samples = plan.samples
        self.products: dict[str, Any] = {} if memory is None else {"memory": memory}
        self.options = {
            "tap": samples.tap, "tol": samples.tol, "seed": samples.seed, **self.products,
        }  # fmt: skip
        self.conditions = plan.conditions(model)

    @cached_property
    def bases(self) -> Bases:
        """Of all samples."""
        times = self.plan.samples.timesteps
        step = self.steps("bases", len(times))
        return read_bases(self.model, self.plan.samples, self.options, step)

    @cached_property
    def few(self) -> Bases:
        """Of half of the samples, at all timesteps."""
        return self.bases.few(-(-len(self.plan.samples.seeds) // 2))

    @property
    def fewer(self) -> Bases:
        """Of half of the samples, at every third timestep where three are left."""
        return self.few.few(len(self.few.x), 3 if len(self.few.times) > 6 else 1)

    def steps(self, name: str, total: int) -> Callable[[], None]:
        """What to call after each of the steps of a measurement."""
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if self._watch is not None:
                self._watch(name, done, total)

        return step


def _conditions(bench: _Bench) -> Analysis:
    conditions, bases = bench.conditions, bench.fewer
    assert conditions is not None
    step = bench.steps("conditions", len(next(iter(conditions.values()))) * len(bases.times))
    rows = analysis.under_conditions(bench.model, bases, conditions, progress=step, **bench.options)
    similarity = analysis.similarity_of(bench.model, conditions)
    return analysis.across_conditions(rows, similarity, bases.times)


def _classes(bench: _Bench) -> Analysis:
    conditions, model = bench.conditions, bench.model
    assert conditions is not None
    times = bench.fewer.times
    count = len(next(iter(conditions.values())))
    seeds = bench.plan.samples.seeds[: len(bench.few.x)]
    step = bench.steps("classes", count * len(times))
    rows, complexity = [], []
    for one in range(count):
        cond = analysis.repeated(conditions, one, len(seeds))
        x = analysis.sampled(model, seeds, times, cond, steps=SAMPLING_STEPS)
        bases = analysis.walked(
            model, x, times, bench.plan.samples.rank, cond, progress=step, **bench.options
        )
        rows.append(bases.tangents)
        clean = denoise(model, x[:, -1], times[-1], cond=cond, steps=SAMPLING_STEPS)
        complexity.append(analysis.spread(clean.cpu()))
    return analysis.by_class(torch.stack(rows, 2), complexity, times)


def _ablation(bench: _Bench) -> Analysis:
    bases = bench.bases
    step = bench.steps("ablation", 2 * len(bases.times))
    changed = analysis.ablated(bench.model, bases, progress=step, **bench.options)
    return analysis.ablation(bases.tangents, *changed, bases.times)


def _curvature(bench: _Bench) -> Analysis:
    bases = bench.bases
    # Near noise, where samples are joined in the papers, and half way.
    places = sorted({1, len(bases.times) // 2})
    kinds = ("lerp", "slerp", "shooting")
    total = len(kinds) * (_SEGMENTS + 1)
    options = {name: value for name, value in bench.options.items() if name != "tol"}
    found = analysis.joined(
        bench.model, bases, places, kinds, segments=_SEGMENTS, quality="draft",
        progress=bench.steps("curvature", total), **options,
    )  # fmt: skip
    size = bases.tangents[0, 0, 0].numel()
    times = [bases.times[place] for place in places]
    return analysis.curvature(found, times, rank=bases.s.shape[2], size=size)


def _linearity(bench: _Bench) -> Analysis:
    bases = bench.few
    size = bases.x[0, 0].numel()
    lengths = [share * size**0.5 for share in STEPS]
    rank = min(_DIRECTIONS, bases.s.shape[2])
    # Any directions of the leading space will do, and near data its spectrum is all but flat.
    found = analysis.moves(
        bench.model, bases, rank, lengths, progress=bench.steps("linearity", len(bases.times)),
        quality="draft", seed=bench.plan.samples.seed, **bench.products,
    )  # fmt: skip
    return analysis.linearity(
        *found, lengths, bases.times, size=size, num_timesteps=bench.model.schedule.num_timesteps
    )


def _ranks(bench: _Bench) -> Analysis:
    bases = bench.few
    s = analysis.whole_spectrum(bench.model, bases, progress=bench.steps("ranks", len(bases.times)))
    return analysis.rank_ratio(s, bases.times, size=s.shape[2])


def _radius(bench: _Bench) -> Analysis:
    bases = bench.bases
    step = bench.steps("radius", len(bases.times))
    clean, inverted = analysis.ends(bench.model, bases, steps=SAMPLING_STEPS, progress=step)
    levels = bench.model.schedule.signal_and_noise(torch.tensor(bases.times, device="cpu"))
    return analysis.radius(bases.x, inverted, clean, *levels, bases.times)


#: By name, what makes an analysis.
ANALYSES: dict[str, Callable[[_Bench], Analysis]] = {
    "spectra": lambda bench: analysis.spectra(bench.bases.s, bench.bases.times),
    "frequencies": lambda bench: analysis.frequencies(bench.bases.v, bench.bases.times),
    "samples": lambda bench: analysis.across_samples(bench.bases.tangents, bench.bases.times),
    "times": lambda bench: analysis.across_times(bench.bases.tangents, bench.bases.times),
    "conditions": _conditions,
    "classes": _classes,
    "ablation": _ablation,
    "curvature": _curvature,
    "linearity": _linearity,
    "ranks": _ranks,
    "radius": _radius,
}
