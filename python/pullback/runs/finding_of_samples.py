"""Ways to find directions of many samples, or of none: components, classes, weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from typing_extensions import override

from pullback import directions
from pullback.directions import Direction, LabelledSamples
from pullback.models import Condition, LatentModel
from pullback.runs.finding import Finding, OfOneKind, Progress, called


@dataclass(frozen=True, eq=False, kw_only=True)
class OfWeights(Finding):
    """`directions.attention`.

    Attributes:
        layer: name of the layer; None for the last of the middle block.
        matrix: "v", "q", "k", "qkv", "bilinear" or "ov".
        side: "input" or "output".
        rank: directions.
    """

    method: ClassVar[str] = "attention"
    layer: str | None = None
    matrix: str = "v"
    side: str = "input"
    rank: int = 5

    @override
    def check(self, model: LatentModel) -> None:
        """Nothing takes long, so that all is told when they are found."""

    @override
    def found(
        self, model: LatentModel, memory: int | None, progress: Progress | None
    ) -> Sequence[Sequence[Direction]]:
        """The eigenvectors of the largest eigenvalues."""
        found = directions.attention(
            model, self.layer, matrix=self.matrix, side=self.side, rank=self.rank
        )
        return [[found.direction(index)] for index in range(len(found))]


@dataclass(frozen=True, eq=False, kw_only=True)
class OfTrajectories(OfOneKind):
    """`directions.pca`.

    Attributes:
        samples: trajectories.
        rank: components.
        t: where they start, in training units; None for the noisiest timestep.
        steps: over the whole schedule.
        tap: where h is read; None for the middle block.
        pool: "space" for the mean of the feature over space.
    """

    method: ClassVar[str] = "pca"
    samples: int = 100
    rank: int = 5
    t: int | None = None
    steps: int = 50
    tap: str | None = None
    pool: str | None = None

    @override
    def check(self, model: LatentModel) -> None:
        """As `OfOneKind`, and raise unless the tap and t exist."""
        super().check(model)
        model.site(self.tap)
        if self.t is not None:
            model.schedule.check_timestep(self.t)

    @override
    def found(
        self, model: LatentModel, memory: int | None, progress: Progress | None
    ) -> Sequence[Sequence[Direction]]:
        """The components, each a direction for every step."""
        found = directions.pca(
            model, self.samples, self.rank, t=self.t, tap=self.tap, pool=self.pool,
            steps=self.steps, seed=self.seed, cond=self.condition(model), memory=memory,
            progress=progress,
        )  # fmt: skip
        return [found.entry(index) for index in range(len(found))]


@dataclass(frozen=True, eq=False, kw_only=True)
class OfClasses(OfOneKind):
    """A way that tells two classes of samples apart: of two conditions, or of scores.

    Attributes:
        t: timesteps of the features in training units, one or several, descending.
        classes: two class labels of the model, of which the direction leads to the second one.
        prompts: two prompts, likewise.
        scores: `[N]`, of the samples of N seeds from the first one on, in place of two conditions.
        samples: of each of the two conditions.
        top: how many of the highest scores, and of the lowest, are the two classes; None where
            there are two values.
        steps: over the whole schedule.
        tap: where h is read; None for the middle block.
        pool: "space" for the mean of the feature over space.
        folds: of the cross-validation.
    """

    t: tuple[int, ...] = (500,)
    classes: tuple[int, int] | None = None
    prompts: tuple[str, str] | None = None
    scores: torch.Tensor | None = None
    samples: int = 50
    top: int | None = None
    steps: int = 50
    tap: str | None = None
    pool: str | None = None
    folds: int = 5

    @property
    @override
    def labelled(self) -> bool:
        """Whether all conditions are class labels."""
        return self.classes is not None or (self.prompts is None and super().labelled)

    @property
    def count(self) -> int:
        """How many samples there are."""
        return 2 * self.samples if self.scores is None else len(self.scores)

    @property
    def times(self) -> int | tuple[int, ...]:
        """One timestep alone, or several, in training units."""
        return self.t if len(self.t) > 1 else self.t[0]

    @property
    def name(self) -> str:
        """What the direction is called."""
        first, second = self.classes or self.prompts or ("low", "high")
        return called(f"{first} to {second}")

    @property
    def labels(self) -> torch.Tensor:
        """Of all samples, `[N]`, float64; of two conditions 0 for the first, 1 for the second."""
        if self.scores is not None:
            return self.scores
        return torch.arange(2, dtype=torch.float64).repeat_interleave(self.samples)

    def conditions(self, model: LatentModel) -> Condition | None:
        """The condition of all samples, of one row or of one for each."""
        if self.classes is not None:
            pair = model.encode(class_label=list(self.classes))
        elif self.prompts is not None:
            pair = model.encode(prompt=list(self.prompts))
        else:
            return self.condition(model)
        # Each is encoded once, and not for every sample.
        return {
            name: value.repeat_interleave(self.samples, 0) if len(value) == 2 else value
            for name, value in pair.items()
        }

    @abstractmethod
    def made(
        self, features: torch.Tensor, labels: torch.Tensor, **place: Any
    ) -> Sequence[Direction]:
        """The edit that tells features `[N, ...]` apart by their labels `[N]`."""

    @override
    def check(self, model: LatentModel) -> None:
        """As `OfOneKind`, and raise what is wrong with labels, options, timesteps or the tap."""
        pair = self.classes or self.prompts
        if pair is not None and pair[0] == pair[1]:
            raise ValueError(
                f"Expected two different classes or prompts, got {pair[0]!r:.60} twice, between "
                "which there is no direction."
            )
        model.conditions.of(self.conditions(model), self.count)
        model.site(self.tap)
        for t in self.t:
            model.schedule.check_timestep(t)
        # Features that their labels tell apart raise what those of real samples would. The steps
        # of the ramp differ, as those of any two samples do.
        ramp = torch.linspace(0, 1, self.count, dtype=torch.float64).square()
        features = torch.stack([self.labels / self.labels.abs().max().clamp(min=1), ramp], 1)
        if len(self.t) > 1:
            features = torch.stack([features] * len(self.t), 1)
        self.made(features, self.labels, space="h", tap="labels", pool="space", t=self.times)

    def drawn(self, model: LatentModel, progress: Progress | None) -> LabelledSamples:
        """The features of all samples."""
        seeds = range(self.seed, self.seed + self.count)
        return directions.label_samples(
            model, seeds, self.times, None, tap=self.tap, pool=self.pool, steps=self.steps,
            cond=self.conditions(model), progress=progress,
        )  # fmt: skip

    @override
    def found(
        self, model: LatentModel, memory: int | None, progress: Progress | None
    ) -> Sequence[Sequence[Direction]]:
        """The one edit, a direction for each timestep."""
        drawn = self.drawn(model, progress)
        return [self.made(drawn.features, self.labels, **drawn.place)]


@dataclass(frozen=True, eq=False, kw_only=True)
class OfSupervised(OfClasses):
    """`directions.supervised`.

    Attributes:
        how: "mean", "lda" or "logistic".
    """

    method: ClassVar[str] = "supervised"
    how: str = "mean"

    @override
    def made(
        self, features: torch.Tensor, labels: torch.Tensor, **place: Any
    ) -> Sequence[Direction]:
        """The direction `[*shape]` from one class of features `[N, *shape]` to the other."""
        return directions.supervised(
            features,
            labels,
            method=self.how,
            top=self.top,
            folds=self.folds,
            name=self.name,
            **place,
        ).entry()


@dataclass(frozen=True, eq=False, kw_only=True)
class OfBoundary(OfClasses):
    """`directions.boundary`.

    Attributes:
        C: the price of a sample on the wrong side of its margin.
    """

    method: ClassVar[str] = "boundary"
    C: float = 1.0

    @override
    def made(
        self, features: torch.Tensor, labels: torch.Tensor, **place: Any
    ) -> Sequence[Direction]:
        """The normal `[*shape]` of the boundary of features `[N, *shape]`."""
        found = directions.boundary(
            features, labels, C=self.C, top=self.top, folds=self.folds, name=self.name, **place
        )
        return [found.direction()]
