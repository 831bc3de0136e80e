"""Features of labelled samples: their checks, their classes, and how well these are told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from pullback._memory import check_free
from pullback._numbers import is_several, whole
from pullback.directions import checks
from pullback.directions.direction import Direction
from pullback.models import LatentModel, TapName, check_model

#: By the samples of a training, on which side those of a test lie: above 0 for the second class,
#: `[M]`. Both are indices.
Judge = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

NO_SKLEARN = (
    "{} is solved by scikit-learn, which is not installed. Install it: pip install scikit-learn"
)


@dataclass(frozen=True, eq=False)
class Place:
    """Where features lie, all checked.

    Attributes:
        shape: `[*shape]` of one feature, without samples and timesteps.
        space: "x", "h" or "prompt".
        tap: where h is read; None in the other spaces.
        pool: "space" for pooled features, else None.
        times: timesteps in training units, one for each feature of a sample, or the one of all, or
            None where that is not known.
        several: whether samples hold a feature for each of the times.
        model: that the features are of, where it is known.
    """

    shape: tuple[int, ...]
    space: str
    tap: str | None
    pool: str | None
    times: tuple[int | None, ...]
    several: bool
    model: LatentModel | None

    @classmethod
    def of(
        cls,
        features: torch.Tensor,
        *,
        space: str,
        tap: TapName | None,
        pool: str | None,
        t: int | Sequence[int] | None,
        model: LatentModel | None,
    ) -> Place:
        """The place of features `[N, *shape]`, or `[N, T, *shape]` at T times t in training units.

        Raises:
            TypeError: the model is none, or the tap no tap's name.
            ValueError: space, tap, pool, t and the shape do not go together.
        """
        checks.check_space(space)
        if model is not None:
            check_model(model)
        several = is_several(t)
        times = times_of(t) if several else (None if t is None else whole("t", t, 0),)  # type: ignore[arg-type]
        shape = tuple(features.shape[1:])
        if several:
            if len(shape) < 2 or shape[0] != len(times):
                raise ValueError(
                    f"Expected features [N, {len(times)}, *shape] at {len(times)} timesteps, got "
                    f"{list(features.shape)}. Give one timestep for features of one."
                )
            shape = shape[1:]
        checks.check_shape(shape, space, pool)
        return cls(shape, space, checks.tap_of(tap, space), pool, times, several, model)

    def directions(
        self,
        vector: torch.Tensor,
        unit: float,
        like: torch.Tensor,
        name: str,
        provenance: Mapping[str, Any],
    ) -> tuple[Direction, ...]:
        """A vector as one direction, or as one for each timestep, each with the window of its step.

        Args:
            vector: of norm 1, `[p]`: entries of one feature after the other.
            unit: the norm that strength 1 adds, of all steps together.
            like: features `[N, ...]`, whose dtype the directions get.
            name: a label of one line.
            provenance: what is known.

        Raises:
            ValueError: at one of the timesteps the vector is zero.
        """
        found = []
        parts = vector.reshape(-1, *self.shape)
        for part, t, window in zip(parts, self.times, self._windows(), strict=True):
            length = float(part.norm())
            if not length:
                raise ValueError(
                    f"Expected features in which the classes differ at every timestep, got the "
                    f"same at t = {t}. Leave that timestep out."
                )
            direction = Direction.of(
                part, self.space, tap=self.tap, pool=self.pool, t=t, window=window,
                unit=unit * length, name=name, model=self.model, provenance=provenance,
            )  # fmt: skip
            found.append(direction.to(torch.promote_types(like.dtype, torch.float32)))
        return tuple(found)

    def _windows(self) -> list[tuple[int, int] | None]:
        """From each of several timesteps, in training units, down to just above the next."""
        if not self.several:
            return [None]
        starts = [t for t in self.times if t is not None]
        # The last step is as long as the one before.
        last = max(2 * starts[-1] - starts[-2] + 1, 0) if len(starts) > 1 else starts[-1]
        return [*((t, end + 1) for t, end in pairwise(starts)), (starts[-1], last)]


def times_of(t: Sequence[int]) -> tuple[int, ...]:
    """Timesteps in training units, one or more, descending, as ints.

    Raises:
        ValueError: there is none, one is no whole number from 0, or they do not go down.
    """
    times = tuple(whole("a timestep", one, 0) for one in t)
    if not times or sorted(set(times), reverse=True) != list(times):
        raise ValueError(f"Expected timesteps that go down, one or more, got {list(times)}.")
    return times


def check_features(features: object, name: str = "features") -> torch.Tensor:
    """Features `[N, *shape]`, dense, floating and finite.

    Raises:
        TypeError: they are no tensor.
        ValueError: what else is wrong with them, and in which samples.
    """
    if not isinstance(features, torch.Tensor):
        raise TypeError(
            f"Expected {name} as a tensor [N, *shape], got {type(features).__name__}. Convert them "
            "with torch.as_tensor."
        )
    if not features.is_floating_point() or features.layout != torch.strided:
        raise ValueError(
            f"Expected {name} as a dense floating tensor, got {features.dtype}, {features.layout}. "
            "Convert them with .float()."
        )
    if features.dim() < 2 or not features.numel():
        raise ValueError(
            f"Expected {name} as [N, *shape], one row for each sample, got {list(features.shape)}."
        )
    finite = torch.isfinite(features).flatten(1).all(1)
    if not bool(finite.all()):
        wrong = torch.nonzero(~finite).flatten().tolist()
        shown = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
        raise ValueError(
            f"Expected finite {name}, got NaN or Inf in samples {shown}. Leave these samples out; "
            "the usual cause is a half-precision overflow."
        )
    return features.detach()


def rows_of(features: torch.Tensor) -> torch.Tensor:
    """Checked features `[N, *shape]` as rows `[N, p]` of float64.

    Raises:
        MemoryError: the rows do not fit the device.
    """
    if features.dtype != torch.float64:
        check_free(
            8 * features.numel(),
            features.device,
            f"{len(features)} features of {features[0].numel()} numbers in float64",
            'Take fewer samples, or features that are pooled over space (pool="space").',
        )
    return features.flatten(1).double()


def numbers_of(values: object, count: int, name: str) -> torch.Tensor:
    """Labels or scores, one for each sample, as float64 `[N]` on the CPU.

    Raises:
        TypeError: they are no numbers.
        ValueError: there are more or fewer of them, or one is not finite.
    """
    try:
        found = torch.as_tensor(values, device="cpu").detach().double()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"Expected {name} as numbers [{count}], one for each sample, got "
            f"{type(values).__name__}."
        ) from None
    if tuple(found.shape) != (count,):
        raise ValueError(
            f"Expected {name} [{count}], one for each sample, got shape {list(found.shape)}."
        )
    if not bool(torch.isfinite(found).all()):
        wrong = torch.nonzero(~torch.isfinite(found)).flatten().tolist()[:8]
        raise ValueError(
            f"Expected finite {name}, got NaN or Inf for samples {wrong}. Leave these samples out."
        )
    return found


def two_classes(labels: torch.Tensor) -> torch.Tensor:
    """Whether each sample is of the second class, that of the larger label, bool `[N]`.

    Raises:
        ValueError: labels `[N]` are of one class only, or of more than two.
    """
    values = labels.unique()
    if len(values) == 1:
        raise ValueError(
            f"Expected labels of two classes, got {float(values[0]):g} for all {len(labels)} "
            "samples. Add samples of the other class."
        )
    if len(values) > 2:
        raise ValueError(
            f"Expected labels of two classes, got {len(values)} values. For scores, say with top= "
            "how many of the highest and lowest count, or compare them with a threshold."
        )
    return labels == values[1]


def classes_of(
    features: torch.Tensor, labels: object, top: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples that count, and their classes.

    Args:
        features: `[N, *shape]`.
        labels: two values, `[N]`, or with `top` scores of any values.
        top: how many of the highest scores, and of the lowest, count; None for all samples.

    Returns:
        Features of the samples that count `[M, *shape]`, and whether each is of the second class,
        bool `[M]` on the CPU.

    Raises:
        As `numbers_of`, `two_classes` and `extremes`.
    """
    numbers = numbers_of(labels, len(features), "labels" if top is None else "scores")
    if top is None:
        return features, two_classes(numbers)
    index, positive = extremes(numbers, top)
    return features[index.to(features.device)], positive


def extremes(scores: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples of the lowest scores and of the highest.

    Args:
        scores: `[N]`.
        top: how many of either.

    Returns:
        Indices int64 `[2 top]` and whether each is one of the highest, bool `[2 top]`.

    Raises:
        ValueError: there are too few samples, or the two groups meet in one score.
    """
    top = whole("top", top, 2)
    if 2 * top > len(scores):
        raise ValueError(
            f"Expected top up to half of the {len(scores)} samples, got {top}. Score more samples."
        )
    order = torch.argsort(scores, stable=True)
    index = torch.cat([order[:top], order[-top:]])
    if float(scores[index[top - 1]]) == float(scores[index[top]]):
        raise ValueError(
            f"Expected scores that tell the {top} highest from the {top} lowest, got "
            f"{float(scores[index[top]]):g} in both groups. Take a smaller top, or other scores."
        )
    return index, torch.arange(2 * top, device="cpu") >= top


def check_counts(positive: torch.Tensor, folds: int) -> tuple[int, int]:
    """How many samples of the first and of the second class there are, bool `[N]`.

    Raises:
        ValueError: too few of one of them, for themselves or for the folds.
    """
    if folds == 1:
        raise ValueError("Expected folds = 0 for no cross-validation, or 2 or more, got 1.")
    second = int(positive.sum())
    counts, least = (len(positive) - second, second), max(2, folds)
    if min(counts) < least:
        why = f" for {folds} folds" if folds > 2 else ""
        raise ValueError(
            f"Expected at least {least} samples of each class{why}, got {counts[0]} and "
            f"{counts[1]}. Add samples{', or ask for fewer folds' if folds > 2 else ''}."
        )
    return counts


def held_out(positive: torch.Tensor, folds: int, seed: int, judge: Judge) -> float | None:
    """Accuracy on samples that were held out, each once; None without folds.

    Every fold has its share of both classes.

    Args:
        positive: the classes, bool `[N]`.
        folds: how many parts the samples are divided into.
        seed: of the division, checked.
        judge: learns from all parts but one.
    """
    if not folds:
        return None
    generator = torch.Generator("cpu").manual_seed(seed)
    part = torch.empty(len(positive), dtype=torch.int64, device="cpu")
    begun = 0
    for kind in (False, True):
        members = torch.nonzero(positive == kind).flatten()
        order = torch.randperm(len(members), generator=generator, device="cpu")
        # The second class goes on where the first one stopped, so that folds are of one size.
        part[members[order]] = (torch.arange(len(members), device="cpu") + begun) % folds
        begun += len(members)
    right = 0
    for fold in range(folds):
        test = torch.nonzero(part == fold).flatten()
        if len(test):
            train = torch.nonzero(part != fold).flatten()
            right += int(((judge(train, test) > 0) == positive[test]).sum())
    return right / len(positive)


def separation_of(first: torch.Tensor, second: torch.Tensor) -> float:
    """The difference of two means in pooled standard deviations, of projections `[N]`, `[M]`.

    Infinite where neither class has any spread.
    """
    gap = float(second.mean() - first.mean())
    spread = ((first - first.mean()).square().sum() + (second - second.mean()).square().sum()) / (
        len(first) + len(second) - 2
    )
    return gap / float(spread.sqrt()) if float(spread) else float("inf")


def shrinkage_of(centred: torch.Tensor, dims: int) -> float:
    """How far a covariance is best shrunk towards a multiple of the identity, 0 to 1.

    Args:
        centred: rows without their mean `[N, r]`, in any orthonormal coordinates.
        dims: entries of the features that they are of.

    Source: Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance
    matrices.
    """
    count = len(centred)
    squares = centred.square().sum(1)
    small = centred if centred.shape[1] > count else centred.T
    frobenius = float((small @ small.T).square().sum()) / count**2
    level = float(squares.sum()) / (count * dims)
    distance = frobenius / dims - level**2
    error = (float(squares.square().sum()) / count - frobenius) / (dims * count)
    error = min(error, distance)
    return error / distance if error > 0 else 0.0


def share_of(shrinkage: float, count: int, dims: int) -> float:
    """A shrinkage that was asked for, of the covariance of N samples of features of some entries.

    Raises:
        ValueError: it lies outside 0 to 1, or is 0 where the covariance has no inverse.
    """
    if isinstance(shrinkage, bool) or not isinstance(shrinkage, (int, float)):
        raise ValueError(f"Expected shrinkage as a number, got {shrinkage!r:.60}.")
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"Expected shrinkage from 0 to 1, got {shrinkage!r}.")
    if shrinkage == 0 and count < dims:
        raise ValueError(
            f"Expected shrinkage above 0 for features of {dims} entries, whose covariance cannot "
            f"be inverted from {count} samples, got 0. Leave it out for that of Ledoit and Wolf."
        )
    return float(shrinkage)
