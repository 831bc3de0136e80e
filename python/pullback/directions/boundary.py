"""Boundaries between two classes of features: linear machines, solved on their Gram matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pullback._numbers import seed_of, whole
from pullback.directions import dual, samples
from pullback.directions.direction import Direction
from pullback.models import LatentModel, TapName

#: Of the machine's optimality conditions, where its solution is made exact, and where it is not.
#: Its kernel is in float32, which may keep it from the second for very long.
_TOLS = 1e-3, 1e-8


@dataclass(frozen=True, eq=False)
class Boundary:
    """A hyperplane between two classes of features: made by `boundary`.

    Attributes:
        normal: `[*shape]` of norm 1 in float64, towards the second class.
        intercept: ⟨x, normal⟩ + intercept is 0 on the hyperplane.
        deviation: the features' standard deviation along the normal, in which distances are told.
        accuracy: the share of samples, each held out once, that a boundary of the other samples
            puts on the right side; None without cross-validation.
        counts: samples of the first class and of the second.
        support: how many of the samples are support vectors.
        t: the features' timestep in training units, or None.
    """

    normal: torch.Tensor
    intercept: float
    deviation: float
    accuracy: float | None
    counts: tuple[int, int]
    support: int
    t: int | None
    _direction: Direction

    def distance(self, x: torch.Tensor) -> torch.Tensor:
        """Signed distances of features x `[B, *shape]`, in deviations: `[B]`, float64.

        They are above 0 on the side of the second class.

        Raises:
            TypeError: x is no tensor.
            ValueError: it has another shape, or NaN or Inf.
        """
        x = samples.check_features(x, "x")
        if x.shape[1:] != self.normal.shape:
            raise ValueError(
                f"Expected features [B, {', '.join(map(str, self.normal.shape))}] like those of "
                f"the boundary, got {list(x.shape)}."
            )
        along = samples.rows_of(x) @ self.normal.flatten().to(x.device)
        return (along + self.intercept) / self.deviation

    def move(self, x: torch.Tensor, to: float | torch.Tensor) -> torch.Tensor:
        """Features at given signed distances, moved there along the normal in one step.

        Args:
            x: features `[B, *shape]`.
            to: the distance in deviations, one for all or `[B]`.

        Returns:
            `[B, *shape]` in the dtype of x.

        Raises:
            TypeError: x is no tensor.
            ValueError: x has another shape, or a number is not finite.

        Source: Zhu et al. 2023, arXiv:2302.08357, whose distances are from the parallel hyperplane
        through the origin.
        """
        here = self.distance(x)
        there = torch.as_tensor(to, dtype=torch.float64).to(x.device)
        if tuple(there.shape) not in ((), (len(x),)) or not bool(torch.isfinite(there).all()):
            raise ValueError(
                f"Expected one finite distance for all, or [{len(x)}], got {to!r:.60}."
            )
        steps = (there - here) * self.deviation
        rows = samples.rows_of(x) + steps[:, None] * self.normal.flatten().to(x.device)
        return rows.to(x.dtype).reshape(x.shape)

    def direction(self) -> Direction:
        """The normal as a direction; strength 1 adds one deviation, whatever the sample."""
        return self._direction


def boundary(
    features: torch.Tensor,
    labels: torch.Tensor | Sequence[float],
    *,
    C: float = 1.0,
    top: int | None = None,
    folds: int = 5,
    seed: int = 0,
    space: str = "h",
    tap: TapName | None = None,
    pool: str | None = None,
    t: int | None = None,
    model: LatentModel | None = None,
    name: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> Boundary:
    """The hyperplane between two classes of features that a linear support vector machine finds.

    The machine is solved in the dual, on the Gram matrix of the features around their mean, so that
    the number of entries of a feature enters once. scikit-learn rounds that matrix to float32; from
    its solution the exact one is found in float64, or, where none is found for which the conditions
    of optimality hold, its own is taken: the provenance says so under "exact". C is that of
    features as they are: where all are multiplied by a number, C is to be divided by its square for
    the same boundary.

    Args:
        features: `[N, *shape]`: latents x_t, or features at a tap.
        labels: two values, `[N]`, of which the larger one is the second class; with `top` scores of
            any values.
        C: the price of a sample on the wrong side of its margin; large is a hard margin.
        top: how many samples of the highest scores, and of the lowest, are the two classes.
        folds: of the cross-validation; 0 for none.
        seed: of its division of the samples.
        space: "x", "h" or "prompt".
        tap: where h was read: a module path, or (path, index) where the module returns a tuple.
        pool: "space" for pooled features.
        t: the features' timestep in training units.
        model: that the features are of, for the provenance.
        name: a label of one line.
        provenance: what is known of the samples, as JSON holds it.

    Returns:
        A `Boundary`.

    Raises:
        TypeError: features, labels or the model are of another type.
        ValueError: features have NaN or Inf; labels are of another number, of one class or of more
            than two; there are fewer than two samples of a class, or than folds; all samples are
            the same; or an option is not what it must be.
        ImportError: there is no scikit-learn.

    Cost: a float64 copy of the features, N² p products of their entries p, and 1 + folds machines
    on N x N numbers. No passes of the network.

    Source: Zhu et al. 2023, arXiv:2302.08357 (C = 1, N = 100 images); the intercept, which the
    published edits leave out, is kept.
    """
    try:
        from sklearn.svm import SVC
    except ImportError:
        raise ImportError(samples.NO_SKLEARN.format("A boundary")) from None
    features = samples.check_features(features)
    t = None if t is None else whole("t", t, 0)
    place = samples.Place.of(features, space=space, tap=tap, pool=pool, t=t, model=model)
    features, positive = samples.classes_of(features, labels, top)
    folds, seed = whole("folds", folds, 0), seed_of(seed)
    counts = samples.check_counts(positive, folds)
    if isinstance(C, bool) or not isinstance(C, (int, float)) or not 0 < C < float("inf"):
        raise ValueError(f"Expected C as a finite number above 0, got {C!r:.60}.")
    rows = samples.rows_of(features)
    mean = rows.mean(0)
    # The machine does not see where the origin is: around the mean the least is lost to rounding.
    centred = rows - mean
    gram = (centred @ centred.T).cpu()
    if not bool((gram.diagonal() > 0).any()):
        raise ValueError("Expected features that differ, got the same for all samples.")

    def machine(train: torch.Tensor) -> tuple[torch.Tensor, float, bool]:
        """Weights of samples, the intercept, and whether they are exact."""
        own, sides = gram[train][:, train], positive[train]
        for tol in _TOLS:
            found = SVC(kernel="precomputed", C=C, tol=tol).fit(own.numpy(), sides.numpy())
            weights = gram.new_zeros(len(train))
            weights[torch.from_numpy(found.support_).long()] = torch.from_numpy(found.dual_coef_[0])
            exact = dual.solved(own, sides, C, weights)
            if exact is not None:
                return *exact, True
        return weights, float(found.intercept_[0]), False

    def judge(train: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
        weights, offset, _ = machine(train)
        return gram[test][:, train] @ weights + offset

    weights, offset, exact = machine(torch.arange(len(rows), device="cpu"))
    normal = weights.to(rows.device) @ centred
    length = float(torch.linalg.vector_norm(normal))
    rounding = len(rows) * torch.finfo(gram.dtype).eps
    if length <= rounding * float(weights.abs() @ gram.diagonal().sqrt()):
        raise ValueError(
            "Expected classes that a hyperplane can tell apart, got two whose features are the "
            "same. Check that labels and features belong to each other."
        )
    normal = normal / length
    along = centred @ normal
    deviation, support = float(along.std()), int((weights != 0).sum())
    intercept = offset / length - float(mean @ normal)
    accuracy = samples.held_out(positive, folds, seed, judge)
    known = {
        **(provenance or {}),
        "how": "boundary of a linear support vector machine",
        "C": C,
        "top": top,
        "exact": exact,
        "intercept": intercept,
        "deviation": deviation,
        "accuracy": accuracy,
        "folds": folds,
        "seed": seed,
        "counts": list(counts),
        "support": support,
    }
    (direction,) = place.directions(normal, deviation, features, name, known)
    return Boundary(
        normal=normal.reshape(place.shape),
        intercept=intercept,
        deviation=deviation,
        accuracy=accuracy,
        counts=counts,
        support=support,
        t=t,
        _direction=direction,
    )
