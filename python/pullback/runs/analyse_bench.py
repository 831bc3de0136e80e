"""What each of the papers' analyses needs of a run and its model, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count, islice
from typing import Any

import torch

from pullback import analysis
from pullback.analysis import Analysis, Bases
from pullback.models import Condition, LatentModel, denoise
from pullback.runs.analyse_plan import AnalysesPlan
from pullback.runs.batch_run import BatchRun
from pullback.runs.plan import SAMPLING_STEPS, Plan

#: Steps of `linearity`, as shares of √n for latents of n entries; that published is 0.09.
STEPS = (0.01, 0.02, 0.05, 0.09, 0.18, 0.36)
_DIRECTIONS = 5
_PATHS = ("lerp", "slerp", "shooting")

#: Is told what is being measured, how much of it is done, and of how much.
AnalysisWatch = Callable[[str, int, int], None]


def stored(run: BatchRun, condition: int, seeds: Sequence[int]) -> Bases:
    """Bases of some samples of a run, under one of its conditions.

    Args:
        run: all of whose units with these seeds are done.
        condition: which of its conditions, from 0.
        seeds: of the samples, in the order of the run.

    Raises:
        ValueError: a file is damaged.

    Cost: the bytes of the units up to that of the last seed.
    """
    wanted, times = set(seeds), run.plan.timesteps
    names = ("x", "s", "v", "u") if run.plan.keep_u else ("x", "s", "v")
    parts: dict[str, dict[int, list[torch.Tensor]]] = {
        name: {t: [] for t in times} for name in names
    }
    for one in run.bases(conditions=[condition]):
        rows = [row for row, seed in enumerate(one.unit.seeds) if seed in wanted]
        for name in names:
            parts[name][one.t].append(getattr(one, name)[rows])
        if one.t == times[-1] and seeds[-1] in one.unit.seeds:
            break
    fields: dict[str, Any] = {
        name: torch.stack([torch.cat(found[t]) for t in times], 1) for name, found in parts.items()
    }
    return Bases(times, **fields)


def part_of(run: BatchRun, condition: int) -> Plan:
    """The plan of one sample under one of the conditions of a run, from 0."""
    unit = next(one for one in run.units if one.condition == condition)
    return run.plan.part(unit, slice(1))


class Bench:
    """The bases of a run's first condition, and what single analyses need beside them.

    Args:
        run: whose bases are analysed.
        compared: the run whose conditions are compared, if there is one.
        plan: what is made of them.
        memory: budget of a pass, in bytes.
        watch: is told of the progress.
    """

    def __init__(
        self,
        run: BatchRun,
        compared: BatchRun | None,
        plan: AnalysesPlan,
        memory: int | None = None,
        watch: AnalysisWatch | None = None,
    ) -> None:
        self.run, self.compared, self.plan, self._watch = run, compared, plan, watch
        self.seeds = plan.seeds(run)
        self.bases = stored(run, 0, self.seeds)
        self.model: LatentModel | None = None
        self.products: dict[str, Any] = {} if memory is None else {"memory": memory}
        self.options = {
            "tap": run.plan.tap, "tol": run.plan.tol, "seed": run.plan.seed, **self.products,
        }  # fmt: skip

    @property
    def network(self) -> LatentModel:
        """The model, which those who ask for it need."""
        assert self.model is not None
        return self.model

    @property
    def few(self) -> Bases:
        """Of half of the samples, at all timesteps."""
        return self.bases.few(-(-len(self.seeds) // 2))

    @property
    def fewer(self) -> Bases:
        """Of half of the samples, at every third timestep where three are left."""
        return self.few.few(len(self.few.x), 3 if len(self.few.times) > 6 else 1)

    def condition(self, samples: int) -> Condition | None:
        """The run's first condition, for so many samples."""
        one = part_of(self.run, 0).condition(self.network)
        return one and analysis.repeated(one, 0, samples)

    def steps(self, name: str, total: int) -> Callable[[], None]:
        """What to call after each of the steps of a measurement."""
        done = count(1)
        return lambda: None if self._watch is None else self._watch(name, next(done), total)


def _conditions(bench: Bench) -> Analysis:
    """At the same latents under all conditions: those that a run stores follow their condition."""
    assert bench.compared is not None
    plan, model, bases = bench.compared.plan, bench.network, bench.fewer
    told = (
        model.encode(class_label=plan.class_labels)
        if plan.prompts is None
        else model.encode(prompt=plan.prompts)
    )
    step = bench.steps("conditions", len(plan.conditions) * len(bases.times))
    rows = analysis.under_conditions(model, bases, told, progress=step, **bench.options)
    return analysis.across_conditions(rows, analysis.similarity_of(model, told), bases.times)


def _classes(bench: Bench) -> Analysis:
    assert bench.compared is not None
    plan, model = bench.compared.plan, bench.network
    step = bench.steps("classes", len(plan.conditions))
    seeds = bench.plan.seeds(bench.compared, 2)
    rows, complexity = [], []
    for place in range(len(plan.conditions)):
        bases = stored(bench.compared, place, seeds)
        rows.append(bases.tangents)
        last = bases.x[:, -1].to(model.device)
        one = part_of(bench.compared, place).condition(model)
        cond = one and analysis.repeated(one, 0, len(last))
        clean = denoise(model, last, plan.timesteps[-1], cond=cond, steps=SAMPLING_STEPS)
        complexity.append(analysis.spread(clean.cpu()))
        step()
    names = list(map(str, plan.conditions))
    return analysis.by_class(torch.stack(rows, 2), complexity, plan.timesteps, names)


def _ablation(bench: Bench) -> Analysis:
    bases = bench.bases
    step = bench.steps("ablation", 2 * len(bases.times))
    cond = bench.condition(len(bases.x))
    changed = analysis.ablated(bench.network, bases, cond, progress=step, **bench.options)
    return analysis.ablation(bases.tangents, *changed, bases.times)


def _curvature(bench: Bench) -> Analysis:
    plan, model, times = bench.plan, bench.network, bench.bases.times
    # Near noise, where samples are joined in the papers, and half way.
    times = tuple(times[place] for place in sorted({1, len(times) // 2}))
    samples = 2 * (plan.pairs or len(bench.seeds) // 2)
    # As many as there are of the run, and more of the numbers behind.
    seeds = (*bench.seeds, *islice(count(max(bench.seeds) + 1), samples))[:samples]
    x = analysis.sampled(model, seeds, times, bench.condition(samples), steps=SAMPLING_STEPS)
    step = bench.steps("curvature", len(_PATHS) * (plan.segments + 1))
    options = {name: value for name, value in bench.options.items() if name != "tol"}
    rank = bench.run.plan.rank
    found = analysis.joined(
        model, x, times, _PATHS, bench.condition(samples // 2), rank=rank, segments=plan.segments,
        quality="draft", progress=step, **options,
    )  # fmt: skip
    _, size = part_of(bench.run, 0).sizes(model)
    return analysis.curvature(found, times, rank=rank, size=size)


def _linearity(bench: Bench) -> Analysis:
    bases, model = bench.few, bench.network
    size = bases.x[0, 0].numel()
    lengths = [share * size**0.5 for share in STEPS]
    rank = min(_DIRECTIONS, bases.s.shape[2])
    # Any directions of the leading space will do, and near data its spectrum is all but flat.
    found = analysis.moves(
        model, bases, rank, lengths, bench.condition(len(bases.x)), quality="draft",
        progress=bench.steps("linearity", len(bases.times)), seed=bench.run.plan.seed,
        **bench.products,
    )  # fmt: skip
    return analysis.linearity(
        *found, lengths, bases.times, size=size, num_timesteps=model.schedule.num_timesteps
    )


def _ranks(bench: Bench) -> Analysis:
    bases = bench.few
    step, cond = bench.steps("ranks", len(bases.times)), bench.condition(len(bases.x))
    s = analysis.whole_spectrum(bench.network, bases, cond, progress=step)
    return analysis.rank_ratio(s, bases.times, size=s.shape[2])


def _radius(bench: Bench) -> Analysis:
    bases, model = bench.bases, bench.network
    step, cond = bench.steps("radius", len(bases.times)), bench.condition(len(bases.x))
    clean, inverted = analysis.ends(model, bases, cond, steps=SAMPLING_STEPS, progress=step)
    levels = model.schedule.signal_and_noise(torch.tensor(bases.times, device="cpu"))
    return analysis.radius(bases.x, inverted, clean, *levels, bases.times)


#: What makes an analysis, by its name.
MEASURES: dict[str, Callable[[Bench], Analysis]] = {
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
