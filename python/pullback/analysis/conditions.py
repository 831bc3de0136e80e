"""Tangent spaces under several conditions: prompts and their similarity, classes of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pullback.analysis.findings import Analysis, Finding, verdict
from pullback.analysis.intervals import summary
from pullback.analysis.tangent_spaces import chance_of
from pullback.analysis.trends import (
    check_rows,
    check_times,
    orders,
    over_time,
    rank_correlation,
    unit_ranks,
)
from pullback.geometry import grassmann

_SOURCE = "Park et al. 2023, arXiv:2307.12868"
_ORDERS = 2000


@dataclass(frozen=True, eq=False)
class AcrossConditions(Analysis):
    """Tangent spaces at the same latents under P prompts or classes: made by `across_conditions`.

    Attributes:
        similarity: of the Q = P (P − 1) / 2 pairs of conditions.
        distance: of each pair's tangent spaces, `[N, T, Q]`, float64: geodesic, in radians.
        mean: over the pairs, `[N, T]`.
        correlation: rank correlation of similarity and closeness over the pairs, `[N, T]`.
        chance: the distance of random subspaces.
    """

    similarity: tuple[float, ...]
    distance: torch.Tensor
    mean: torch.Tensor
    correlation: torch.Tensor
    chance: float


@dataclass(frozen=True, eq=False)
class ByClass(Analysis):
    """Tangent spaces of samples of G classes: made by `by_class`.

    Attributes:
        names: of the classes.
        complexity: of each class.
        distance: of each sample's tangent space from those of its class, the mean, `[N, T, G]` for
            N samples of each class, float64: geodesic, in radians.
        correlation: over the classes, of complexity with the mean distance of all samples, at each
            of the T timesteps.
        chance: the distance of random subspaces.
    """

    names: tuple[str, ...]
    complexity: tuple[float, ...]
    distance: torch.Tensor
    correlation: tuple[float, ...]
    chance: float


def across_conditions(
    rows: torch.Tensor, similarity: torch.Tensor, times: Sequence[int]
) -> AcrossConditions:
    """Distances between tangent spaces at the same latents under different conditions.

    Args:
        rows: that span the spaces, `[N, T, P, k, ...]`, of the same latents for all P conditions.
        similarity: of the conditions, `[P, P]`, such as cosines of their embeddings.
        times: timesteps in training units, T of them, descending.

    Returns:
        `AcrossConditions`; its correlation has to lie beyond those of random orders of the
        conditions.

    Raises:
        TypeError: rows are no tensor of floating numbers.
        ValueError: they have another shape, NaN or Inf, or are dependent; there are fewer than
            three conditions, or not as many in the similarity.

    Cost: as `grassmann.all_pairs` for each sample and timestep.
    Source: Park et al. 2023, arXiv:2307.12868, section 4.
    """
    times = check_times(times)
    frames = check_rows("rows", rows, times, 5).flatten(4)
    count = frames.shape[2]
    if count < 3 or tuple(similarity.shape) != (count, count):
        raise ValueError(
            f"Expected rows of three conditions or more, and their similarity [P, P], got "
            f"{count} and {list(similarity.shape)}."
        )
    similarity = check_rows("similarity", similarity, range(count), 2).double().cpu()
    i, j = torch.triu_indices(count, count, 1, device="cpu")
    distance = torch.stack(
        [
            torch.stack([grassmann.all_pairs(one).distance.cpu()[i, j] for one in sample])
            for sample in frames
        ]
    )
    alike = similarity[i, j].expand_as(distance)
    correlation = rank_correlation(alike, -distance)
    # Ranks go with their pairs, so that those of other orders need not be found again.
    ranks = similarity.new_zeros(count, count)
    ranks[i, j] = ranks[j, i] = unit_ranks(similarity[i, j])
    order = orders(_ORDERS, count)
    chance = ranks[order[:, i], order[:, j]] @ unit_ranks(-distance).mean((0, 1))
    mean = distance.mean(2)
    return AcrossConditions(
        times=times,
        findings=(
            _beyond(
                "similar prompts have similar tangent spaces",
                f"Rank correlation of similarity and closeness over pairs of {count} conditions, "
                "mean over t", correlation.mean(1), "conditions", chance,
            ),
            over_time(
                "the prompt matters less as t falls", _SOURCE, "Distance across prompts", mean,
                times, falls=True,
            ),
        ),
        similarity=tuple(similarity[i, j].tolist()),
        distance=distance,
        mean=mean,
        correlation=correlation,
        chance=chance_of(frames),
    )  # fmt: skip


def by_class(
    rows: torch.Tensor,
    complexity: Sequence[float],
    times: Sequence[int],
    names: Sequence[str] | None = None,
) -> ByClass:
    """Whether tangent spaces agree more within classes of simpler data.

    Args:
        rows: that span the spaces, `[N, T, G, k, ...]`: of N samples of each of G classes.
        complexity: of the G classes, such as `spread` of their images.
        times: timesteps in training units, T of them, descending.
        names: of the G classes; their places by default.

    Returns:
        `ByClass`. The finding is of the mean over t. Few classes are alike in order by chance, so
        that its interval has to lie beyond what 95 % of random orders of the classes reach.

    Raises:
        TypeError: rows are no tensor of floating numbers.
        ValueError: they have another shape, NaN or Inf, or are dependent; there are fewer than
            three classes, or not as many complexities or names.

    Cost: as `grassmann.all_pairs` for each class and timestep.
    Source: Park et al. 2023, arXiv:2307.12868, section 4, who compare models of different data.
    """
    times = check_times(times, 1)
    frames = check_rows("rows", rows, times, 5).flatten(4)
    samples, _, count = frames.shape[:3]
    levels = torch.tensor(list(complexity), dtype=torch.float64, device="cpu")
    names = tuple(map(str, range(count) if names is None else names))
    if len(names) != count:
        raise ValueError(f"Expected a name for each of {count} classes, got {list(names)}.")
    if count < 3 or len(levels) != count or not bool(torch.isfinite(levels).all()):
        raise ValueError(
            f"Expected rows of three classes or more, and the complexity of each, got {count} and "
            f"{list(complexity)}."
        )
    distance = torch.empty(samples, len(times), count, dtype=torch.float64, device="cpu")
    for place in range(len(times)):
        for one in range(count):
            pairs = grassmann.all_pairs(frames[:, place, one]).distance.cpu()
            distance[:, place, one] = pairs.sum(1) / (samples - 1)
    by_sample = distance.mean(1)
    by_time = rank_correlation(distance.mean(0), levels.expand(len(times), -1))
    return ByClass(
        times=times,
        findings=(
            _beyond(
                "the simpler the data, the more do the tangent spaces of its samples agree",
                f"Rank correlation of complexity and distance over {count} classes, of the mean "
                "over t", rank_correlation(by_sample, levels.expand_as(by_sample)), "classes",
                unit_ranks(levels)[orders(_ORDERS, count)] @ unit_ranks(by_sample).mean(0),
            ),
        ),
        names=names,
        complexity=tuple(levels.tolist()),
        distance=distance,
        correlation=tuple(by_time.tolist()),
        chance=chance_of(frames),
    )  # fmt: skip


def spread(images: torch.Tensor) -> float:
    """How much the images `[N, ...]` of a class differ: the mean squared distance from their mean.

    Raises:
        ValueError: there are fewer than two.
    """
    if images.dim() < 2 or len(images) < 2:
        raise ValueError(f"Expected images [N, ...], two or more, got {list(images.shape)}.")
    rows = images.flatten(1).double()
    return float((rows - rows.mean(0)).square().sum() / (len(rows) - 1))


def _beyond(
    claim: str, measure: str, values: torch.Tensor, things: str, chance: torch.Tensor
) -> Finding:
    """The finding of correlations `[N]`, against those of random orders of what is correlated.

    Few things are alike in order by chance, which any number of samples would confirm. So the
    interval over the samples has to lie beyond what 95 % of random orders reach.

    Args:
        claim: what was published, as a clause.
        measure: what the values are.
        values: of each sample.
        things: that are put in random orders, in a word.
        chance: the mean of the values in each of many random orders.
    """
    value = summary(values)
    low, high = torch.quantile(chance, chance.new_tensor([0.025, 0.975])).tolist()
    control = {"mean": float(chance.mean()), "low": low, "high": high}
    above = value["mean"] >= 0
    difference = {
        "mean": value["mean"] - control["mean"],
        "low": value["low"] - (high if above else control["mean"]),
        "high": value["high"] - (control["mean"] if above else low),
    }
    return Finding(
        claim, _SOURCE, measure, value, f"95 % of random orders of the {things}", control,
        difference, verdict(difference, len(values)), len(values),
    )  # fmt: skip
