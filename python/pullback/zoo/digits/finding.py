"""Directions of the digit model by every way to find one, and what finding them cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import pullback
from pullback import LatentModel, analysis, directions, maps
from pullback.directions import Direction
from pullback.editing import Entry, PerSample
from pullback.zoo.digits.attributes import NAMES

_SLANT = NAMES.index("slant")
#: The digit that pairs and a target condition lead to.
GOAL = 8
_OWN = "own"  # of each sample
_DRAWS = 3  # of noise, at least
_SHUFFLES = 5  # of labels, each of which is right by chance to some degree


@dataclass(frozen=True)
class Way:
    """Directions that one way found.

    Attributes:
        name: of the way, and its variant.
        space: "x" or "h".
        directions: D edits for all samples, or own ones of each of the samples.
        attribute: the one that they are meant for, of `NAMES`; None where nobody knows.
        samples: that they were found from; those of `PerSample` from one each.
        products: with Jacobians, for all D directions of all samples.
        rows: of the network, for all of them.
        seconds: of wall clock, for all of them.
    """

    name: str
    space: str
    directions: Sequence[Entry] | PerSample
    attribute: int | None
    samples: int
    products: int
    rows: int
    seconds: float

    def cost(self) -> dict[str, Any]:
        """What it cost, for all D directions; of own ones, for one sample."""
        own = isinstance(self.directions, PerSample)
        shared = len(self.directions.entries) if isinstance(self.directions, PerSample) else 1
        return {
            "samples": _OWN if own else self.samples,
            "products": self.products / shared,
            "rows": self.rows / shared,
            "seconds": self.seconds / shared,
        }


@dataclass(frozen=True)
class _Found:
    """What a way gave: edits, and products with Jacobians."""

    directions: Sequence[Entry] | PerSample
    products: int = 0
    samples: int = 1


class Finder:
    """Finds directions, each way timed and counted by itself.

    Args:
        model: the digit model.
        x: latents at t that own directions are of, `[B, 1, 16, 16]`.
        t: timestep of the edits in training units.
        count: directions of ways that order them by size.
        learning: seeds of the samples that others learn from.
        score: attributes of images.
        steps: of the whole schedule.
        region: bool `[16, 16]`, of masked ways.
    """

    def __init__(
        self,
        model: LatentModel,
        x: torch.Tensor,
        t: int,
        count: int,
        learning: Sequence[int],
        score: Callable[[torch.Tensor], torch.Tensor],
        steps: int,
        region: torch.Tensor,
    ) -> None:
        self.model, self.x, self.t, self.count = model, x, t, count
        self.learning, self.score, self.steps, self.region = learning, score, steps, region
        self._labelled: dict[str, Any] = {}

    def ways(self, tell: Callable[[str], None]) -> list[Way]:
        """Every way; samples are drawn and labelled once, and counted where they are needed."""
        tell("labelled samples")
        with analysis.counted(self.model) as labelling:
            self._label()
        ways: list[tuple[str, str, int | None, bool, Callable[[], _Found]]] = [
            ("pullback, local", "x", None, False, self._pullback),
            ("pullback, mean metric", "x", None, False, self._metric),
            ("local, projected", "x", None, False, lambda: self._local(joint=False)),
            ("local, joint", "x", None, False, lambda: self._local(joint=True)),
            ("toward a condition", "x", NAMES.index(f"digit {GOAL}"), False, self._toward),
            ("spectral", "h", None, False, self._spectral),
            ("pca, joint", "h", None, False, self._pca),
            ("attention, v", "h", None, False, self._attention),
            *(
                (f"supervised, {kind}", "h", _SLANT, True, lambda kind=kind: self._supervised(kind))
                for kind in ("mean", "lda", "logistic")
            ),
            ("boundary in h", "h", _SLANT, True, lambda: self._boundary("h")),
            ("boundary in x", "x", _SLANT, True, lambda: self._boundary("x")),
            ("pairs", "h", NAMES.index(f"digit {GOAL}"), False, self._pairs),
            (
                "labels shuffled, mean",
                "h",
                _SLANT,
                True,
                lambda: self._supervised("mean", _SHUFFLES),
            ),
            (
                "labels shuffled, boundary",
                "h",
                _SLANT,
                True,
                lambda: self._boundary("h", _SHUFFLES),
            ),
        ]
        found = []
        for name, space, attribute, labels, find in ways:
            tell(f"finding: {name}")
            with analysis.counted(self.model) as cost:
                one = find()
            rows, seconds = cost.rows, cost.seconds
            if labels:
                rows, seconds = rows + labelling.rows, seconds + labelling.seconds
            found.append(
                Way(
                    name, space, one.directions, attribute, one.samples, one.products, rows, seconds
                )
            )
        return found

    def _own(self, direction: Callable[[int, int], Direction], count: int) -> PerSample:
        return PerSample(
            [[direction(i, sample) for i in range(count)] for sample in range(len(self.x))]
        )

    def _pullback(self) -> _Found:
        basis = pullback.local_basis(self.model, self.x, self.t, self.count)
        return _Found(self._own(basis.direction, self.count), int(basis.products.sum()))

    def _metric(self) -> _Found:
        x = self._latents(self.learning[: len(self.x)])
        found = pullback.mean_metric(self.model, x, self.t, self.count)
        entries = [found.direction(i) for i in range(self.count)]
        return _Found(entries, found.provenance["products"], len(x))

    def _local(self, *, joint: bool) -> _Found:
        found = directions.local(self.model, self.x, self.t, self.region, self.count, joint=joint)
        return _Found(self._own(found.direction, self.count), int(found.products.sum()))

    def _toward(self) -> _Found:
        target = {"class_labels": torch.full((len(self.x),), GOAL)}
        everywhere = torch.ones_like(self.region)
        everywhere[0, 0] = False  # a mask leaves something out
        found = directions.toward(self.model, self.x, self.t, target, everywhere, null=0)
        return _Found(self._own(found.direction, 1), int(found.products.sum()))

    def _spectral(self) -> _Found:
        found = directions.spectral(self.model, self.x, self.t, self.count)
        return _Found(self._own(found.direction, self.count), int(found.basis.products.sum()))

    def _pca(self) -> _Found:
        found = directions.pca(
            self.model, len(self.learning), self.count, steps=self.steps, seed=list(self.learning)
        )
        return _Found([found.entry(i) for i in range(self.count)], 0, len(self.learning))

    def _attention(self) -> _Found:
        found = directions.attention(self.model, rank=self.count)
        return _Found([found.direction(i) for i in range(self.count)], 0, 0)

    def _label(self) -> None:
        found = directions.label_samples(
            self.model, self.learning, self.t, self.score, steps=self.steps
        )
        self._labelled = {"features": found.features, "place": found.place}
        self._labelled["labels"] = (
            found.scores[:, _SLANT] > found.scores[:, _SLANT].median()
        ).long()

    def _supervised(self, kind: str, shuffles: int = 0) -> _Found:
        known = self._labelled
        found = [
            directions.supervised(
                known["features"], labels, method=kind, folds=0, **known["place"]
            ).direction()
            for labels in self._labels(shuffles)
        ]
        return _Found(found, 0, len(self.learning))

    def _boundary(self, space: str, shuffles: int = 0) -> _Found:
        known = self._labelled
        features, place = known["features"], known["place"]
        if space == "x":
            features = self._latents(self.learning)
            place = {"space": "x", "t": self.t, "model": self.model}
        found = [
            directions.boundary(features, labels, folds=0, **place).direction()
            for labels in self._labels(shuffles)
        ]
        return _Found(found, 0, len(self.learning))

    def _labels(self, shuffles: int) -> list[torch.Tensor]:
        """The labels, or as many orders of them that say nothing."""
        labels = self._labelled["labels"]
        return [analysis.shuffled(labels, seed) for seed in range(shuffles)] or [labels]

    def _pairs(self) -> _Found:
        seeds = self.learning[: len(self.learning) // 4]
        x = self._latents(seeds)
        both = [
            maps.encoder(self.model).at(x, self.t, cond).value()
            for cond in (None, {"class_labels": torch.full((len(x),), GOAL)})
        ]
        found = directions.from_pairs(
            *both, folds=0, tap=self.model.default_tap, t=self.t, model=self.model
        )
        return _Found([found.direction()], 0, len(seeds))

    def _latents(self, seeds: Sequence[int]) -> torch.Tensor:
        return self.model.sample_latents(len(seeds), self.t, seed=list(seeds), steps=self.steps)


def controls(way: Way, seed: int) -> Sequence[Entry] | PerSample:
    """Noise of the same norms in the place of a way's directions, drawn anew until there are three.

    One draw alone would have an effect of its own, and the same one at every sample.
    """
    own = isinstance(way.directions, PerSample)
    rows = way.directions.entries if isinstance(way.directions, PerSample) else [way.directions]
    draws = -(-_DRAWS // len(rows[0]))
    noise = [
        [
            analysis.random_like(entry, seed + 1000 * sample + 10 * place + draw)
            for place, entry in enumerate(row)
            for draw in range(draws)
        ]
        for sample, row in enumerate(rows)
    ]
    return PerSample(noise) if own else noise[0]
