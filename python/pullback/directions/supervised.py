"""Directions from labelled features: the difference of means, linear discriminants, pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from pullback._numbers import seed_of, whole
from pullback.directions import samples
from pullback.directions.direction import Direction
from pullback.models import LatentModel, TapName

#: Ways to a direction from the features of two classes.
METHODS = ("mean", "lda", "logistic")

_STEPS, _TOL = 10_000, 1e-8  # of scikit-learn's solver


@dataclass(frozen=True, eq=False)
class SupervisedDirection:
    """A direction along which two classes of features differ: made by `supervised`.

    Attributes:
        directions: the direction, or one for each of several timesteps.
        method: "mean", "lda", "logistic" or "pairs".
        separation: the difference of the two classes' means along the direction, in pooled standard
            deviations, of the samples that it was found from: where features have more entries than
            there are samples it flatters, and `accuracy` does not.
        accuracy: the share of samples, each held out once, that a direction of the other samples
            puts on the right side of its threshold; None without cross-validation.
        counts: samples of the first class and of the second, which the direction leads to.
    """

    directions: tuple[Direction, ...]
    method: str
    separation: float
    accuracy: float | None
    counts: tuple[int, int]

    def direction(self) -> Direction:
        """The direction; strength 1 adds the distance of the two classes' means along it.

        Raises:
            ValueError: the features were of several timesteps, so that it changes with them.
        """
        if len(self.directions) > 1:
            raise ValueError(
                f"Expected features of one timestep, got those of {len(self.directions)}: entry() "
                "gives a direction for each of them, which pullback.edit takes together."
            )
        return self.directions[0]

    def entry(self) -> tuple[Direction, ...]:
        """What `pullback.edit` takes: the direction of each timestep, with the window of its step.

        Strength 1 adds the distance of the two classes' means over all steps together. Edit with
        the steps that the features are of. `pullback.directions.save` keeps it in one file.
        """
        return self.directions


class _Fit(NamedTuple):
    """A hyperplane in the coordinates of samples.

    Attributes:
        weights: normal to it, `[r]`.
        intercept: rows @ weights + intercept is above 0 for the second class.
        shrinkage: of the covariance, where there is one.
    """

    weights: torch.Tensor
    intercept: float
    shrinkage: float | None = None


#: The hyperplane of rows `[N, r]` and classes, bool `[N]`.
_Fitter = Callable[[torch.Tensor, torch.Tensor], _Fit]


def supervised(
    features: torch.Tensor,
    labels: torch.Tensor | Sequence[float],
    *,
    method: str = "mean",
    top: int | None = None,
    shrinkage: float | None = None,
    C: float | None = None,
    folds: int = 5,
    seed: int = 0,
    space: str = "h",
    tap: TapName | None = None,
    pool: str | None = None,
    t: int | Sequence[int] | None = None,
    model: LatentModel | None = None,
    name: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> SupervisedDirection:
    """The direction from one class of features to another.

    Args:
        features: `[N, *shape]`, or `[N, T, *shape]` of T timesteps, which count as one long vector.
        labels: two values, `[N]`, of which the larger one is the class that the direction leads to;
            with `top` scores of any values.
        method: "mean" is the difference of the classes' means, as published; "lda" that difference
            by the inverse of the covariance within classes; "logistic" the normal of a logistic
            regression with an L2 penalty, on features as they are.
        top: how many samples of the highest scores, and of the lowest, are the two classes.
        shrinkage: for "lda", 0 to 1, how far the covariance is shrunk towards a multiple of the
            identity; by default that of Ledoit and Wolf.
        C: for "logistic", the inverse of the penalty; 1 by default.
        folds: of the cross-validation; 0 for none.
        seed: of its division of the samples.
        space: "x", "h" or "prompt".
        tap: where h was read: a module path, or (path, index) where the module returns a tuple.
        pool: "space" for pooled features.
        t: the features' timestep in training units, or the T of them, descending.
        model: that the features are of, for the provenance.
        name: a label of one line.
        provenance: what is known of the samples, as JSON holds it.

    Returns:
        A `SupervisedDirection`, in float32 or wider.

    Raises:
        TypeError: features, labels or the model are of another type.
        ValueError: features have NaN or Inf; labels are of another number, of one class or of more
            than two; there are fewer than two samples of a class, or than folds; the classes do not
            differ; or an option is not what it must be or belongs to another method.
        ImportError: "logistic" without scikit-learn.

    Cost: a float64 copy of the features; where they have more entries p than there are samples N,
    N² p products for their Gram matrix, and all else on N x N numbers. No passes of the network.

    Source: mean differences of N = 100 highest and lowest scores: Haas et al. 2023,
    arXiv:2303.11073; shrinkage: Ledoit and Wolf 2004.
    """
    features = samples.check_features(features)
    place = samples.Place.of(features, space=space, tap=tap, pool=pool, t=t, model=model)
    folds, seed, dims = whole("folds", folds, 0), seed_of(seed), features[0].numel()
    features, positive = samples.classes_of(features, labels, top)
    counts = samples.check_counts(positive, folds)
    fitter = _fitter(method, dims, len(positive), shrinkage, C)
    rows = samples.rows_of(features)
    where = positive.to(rows.device)
    difference = rows[where].mean(0) - rows[~where].mean(0)
    span = _Span.of(rows)
    fit = fitter(span.rows, positive)
    vector = difference if method == "mean" else span.lifted(fit.weights)
    vector = _normalised(vector)
    along = rows @ vector
    gap = float(along[where].mean() - along[~where].mean())
    if not gap > 0:
        raise ValueError(
            "Expected classes that differ in their means, got two with the same one along the "
            "direction found. Check that labels and features belong to each other."
        )

    def judge(train: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
        found = fitter(span.rows[train], positive[train])
        return span.rows[test] @ found.weights + found.intercept

    accuracy = samples.held_out(positive, folds, seed, judge)
    separation = samples.separation_of(along[~where], along[where])
    known = {
        **(provenance or {}),
        **_told(method, counts, separation, accuracy, folds, seed),
        "top": top,
        "shrinkage": fit.shrinkage,
        "C": (1.0 if C is None else C) if method == "logistic" else None,
    }
    directions = place.directions(vector, gap, features, name, known)
    return SupervisedDirection(directions, method, separation, accuracy, counts)


def from_pairs(
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    folds: int = 5,
    seed: int = 0,
    space: str = "h",
    tap: TapName | None = None,
    pool: str | None = None,
    t: int | Sequence[int] | None = None,
    model: LatentModel | None = None,
    name: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> SupervisedDirection:
    """The mean difference of pairs that differ in one attribute, such as a face and its smile.

    Args:
        first: features without the attribute, `[N, *shape]`, or `[N, T, *shape]` of T timesteps.
        second: those of the same subjects with it, `[N, *shape]` or `[N, T, *shape]` likewise.
        folds: of the cross-validation, at most N; 0 for none.
        seed: of its division of the pairs.
        space: as for `supervised`.
        tap: as for `supervised`.
        pool: as for `supervised`.
        t: the features' timestep in training units, or the T of them, descending.
        model: as for `supervised`.
        name: a label of one line.
        provenance: what is known of the samples, as JSON holds it.

    Returns:
        A `SupervisedDirection` whose accuracy is the share of held-out pairs that differ in the
        sense of the direction of the other pairs.

    Raises:
        TypeError: features or the model are of another type.
        ValueError: features have NaN or Inf, or not the same shape; there are fewer than two pairs,
            or than folds; or the pairs do not differ in the mean.

    Cost: two float64 copies of the features, and N² p products of their entries p for the
    cross-validation.

    Source: Haas et al. 2023, arXiv:2303.11073, whose first version has pairs of faces.
    """
    first = samples.check_features(first, "first")
    second = samples.check_features(second, "second")
    if first.shape != second.shape or first.device != second.device:
        raise ValueError(
            f"Expected pairs of features of one shape on one device, got {list(first.shape)} on "
            f"{first.device} and {list(second.shape)} on {second.device}."
        )
    place = samples.Place.of(first, space=space, tap=tap, pool=pool, t=t, model=model)
    count, folds, seed = len(first), whole("folds", folds, 0), seed_of(seed)
    if folds == 1 or count < max(2, folds):
        raise ValueError(
            f"Expected two pairs or more, and folds = 0 or from 2 to their number, got {count} "
            f"pairs and folds = {folds}."
        )
    before, after = samples.rows_of(first), samples.rows_of(second)
    change = after - before
    mean = change.mean(0)
    gap = float(torch.linalg.vector_norm(mean))
    vector = _normalised(mean)
    gram = (change @ change.T).cpu()
    judge: samples.Judge = lambda train, test: gram[test][:, train].mean(1)  # noqa: E731
    all_positive = torch.ones(count, dtype=torch.bool, device="cpu")
    accuracy = samples.held_out(all_positive, folds, seed, judge)
    separation = samples.separation_of(before @ vector, after @ vector)
    told = _told("pairs", (count, count), separation, accuracy, folds, seed)
    known = {**(provenance or {}), **told}
    directions = place.directions(vector, gap, first, name, known)
    return SupervisedDirection(directions, "pairs", separation, accuracy, (count, count))


@dataclass(frozen=True, eq=False)
class _Span:
    """Samples in orthonormal coordinates of the space that they span around their mean.

    Attributes:
        rows: coordinates `[N, r]` on the CPU, r at most N.
        axes: of the coordinates by the centred samples, `[N, r]`; None where the coordinates are
            the entries themselves.
        centred: the samples without their mean, `[N, p]`.
    """

    rows: torch.Tensor
    axes: torch.Tensor | None
    centred: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> _Span:
        """Those of rows `[N, p]`, by their Gram matrix where p is above N."""
        count, dims = rows.shape
        centred = rows - rows.mean(0)
        if dims <= count:
            return cls(centred.cpu(), None, centred)
        values, vectors = torch.linalg.eigh((centred @ centred.T).cpu())
        # One at least is zero, that of the mean; its vector would be noise.
        kept = values > values[-1] * count * torch.finfo(values.dtype).eps
        values, vectors = values[kept], vectors[:, kept]
        return cls(vectors * values.sqrt(), vectors / values.sqrt(), centred)

    def lifted(self, weights: torch.Tensor) -> torch.Tensor:
        """The vector `[p]` of coordinates `[r]`."""
        if self.axes is None:
            return weights.to(self.centred.device)
        return (self.axes @ weights).to(self.centred.device) @ self.centred


def _normalised(vector: torch.Tensor) -> torch.Tensor:
    """A vector `[p]` by its norm; raises ValueError where it is zero."""
    length = torch.linalg.vector_norm(vector)
    if not float(length):
        raise ValueError(
            "Expected features that differ between the classes, got the same mean in both. Check "
            "that labels and features belong to each other."
        )
    return vector / length


def _fitter(
    method: str, dims: int, count: int, shrinkage: float | None, C: float | None
) -> _Fitter:
    """What finds a hyperplane by a method, with its options checked."""
    if method not in METHODS:
        raise ValueError(f"Expected a method of {', '.join(METHODS)}, got {method!r:.60}.")
    if shrinkage is not None and method != "lda":
        raise ValueError(f'Expected no shrinkage for the method "{method}": it is for "lda".')
    if C is not None and method != "logistic":
        raise ValueError(f'Expected no C for the method "{method}": it is for "logistic".')
    if method == "logistic":
        return _logistic(1.0 if C is None else C)
    if method == "lda":
        # Two dimensions of the samples are those of the classes' means.
        share = None if shrinkage is None else samples.share_of(shrinkage, count - 2, dims)
        return lambda rows, positive: _lda(rows, positive, dims, share)
    return lambda rows, positive: _between(_means(rows, positive))


def _means(rows: torch.Tensor, positive: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rows[~positive].mean(0), rows[positive].mean(0)


def _between(
    means: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor | None = None,
    shrinkage: float | None = None,
) -> _Fit:
    """The hyperplane in the middle of two means `[r]`, normal to weights or to their difference."""
    first, second = means
    normal = second - first if weights is None else weights
    return _Fit(normal, -float((first + second) @ normal) / 2, shrinkage)


def _lda(rows: torch.Tensor, positive: torch.Tensor, dims: int, share: float | None) -> _Fit:
    """Fisher's discriminant with a covariance that is shrunk as one of all entries of a feature."""
    first, second = _means(rows, positive)
    centred = rows - torch.where(positive[:, None], second, first)
    share = samples.shrinkage_of(centred, dims) if share is None else share
    covariance = centred.T @ centred / len(rows)
    level = float(covariance.trace()) / dims
    covariance = (1 - share) * covariance
    covariance.diagonal().add_(share * level)
    factor, info = torch.linalg.cholesky_ex(covariance)
    if int(info) or not level:
        raise ValueError(
            f"Expected a covariance within classes that can be inverted, got a singular one at "
            f"shrinkage {share:.3g}. Take a larger shrinkage, more samples or fewer folds."
        )
    weights = torch.cholesky_solve((second - first)[:, None], factor)[:, 0]
    return _between((first, second), weights, share)


def _logistic(C: float) -> _Fitter:
    """A logistic regression of scikit-learn; in orthonormal coordinates its penalty is the same."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ImportError(samples.NO_SKLEARN.format('method="logistic"')) from None
    if isinstance(C, bool) or not isinstance(C, (int, float)) or not 0 < C < float("inf"):
        raise ValueError(f"Expected C as a finite number above 0, got {C!r:.60}.")

    def fitted(rows: torch.Tensor, positive: torch.Tensor) -> _Fit:
        found = LogisticRegression(C=C, tol=_TOL, max_iter=_STEPS)
        found.fit(rows.numpy(), positive.numpy())
        return _Fit(torch.from_numpy(found.coef_[0]), float(found.intercept_[0]))

    return fitted


def _told(
    method: str,
    counts: tuple[int, int],
    separation: float,
    accuracy: float | None,
    folds: int,
    seed: int,
) -> dict[str, Any]:
    """What every direction here says of itself."""
    return {
        "how": f"supervised, {method}",
        "counts": list(counts),
        "separation": separation if separation < float("inf") else None,
        "accuracy": accuracy,
        "folds": folds,
        "seed": seed,
    }
