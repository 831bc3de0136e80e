"""A direction without what it shares with others: exact projections."""

import pytest
import torch

from pullback import Direction
from pullback.directions import disentangle, supervised

SHAPE = (5, 3, 2)


def made(seed, shape=SHAPE, **given):
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fields = {"space": "h", "tap": "mid_block", "unit": 2.0, "name": f"d{seed}", **given}
    return Direction.of(fields.pop("vector", vector), **fields)


def dot(first, second):
    return float((first.vector * second.vector).sum())


def test_the_projection_is_exact_and_takes_nothing_else():
    direction, others = made(0), [made(1), made(2), made(3)]
    found = disentangle(direction, others)
    assert max(abs(dot(found, one)) for one in others) < 1e-12
    # What was taken lies in the span of the others.
    taken = (direction.displacement(1.0) - found.displacement(1.0)).flatten()
    rows = torch.stack([one.vector.flatten() for one in others])
    coefficients = torch.linalg.lstsq(rows.T, taken).solution
    assert float((rows.T @ coefficients - taken).norm()) < 1e-12
    assert float(taken.norm()) > 0.1
    assert found.unit == pytest.approx(float(found.displacement(1.0).norm()), rel=1e-12)
    assert found.unit < direction.unit


def test_it_is_exact_for_others_that_nearly_agree():
    first = made(1)
    near = made(2, vector=first.vector + 1e-6 * made(4).vector)
    found = disentangle(made(0), [first, near])
    assert max(abs(dot(found, one)) for one in (first, near)) < 1e-12


def test_provenance_tells_what_was_taken():
    direction, other = made(0, provenance={"how": "drawn"}), made(1)
    found = disentangle(direction, other)
    known = found.provenance["disentangled"]
    assert found.provenance["how"] == "drawn"
    assert known["from"] == ["d1"]
    assert known["metric"] == "euclidean"
    assert known["cosines_before"] == pytest.approx([dot(direction, other)])
    assert known["cosines_after"] == pytest.approx([0.0], abs=1e-12)
    assert known["kept"] == pytest.approx((1 - dot(direction, other) ** 2) ** 0.5)
    assert found.name == direction.name


def test_whitened_the_discriminants_of_the_features_are_decorrelated():
    torch.manual_seed(1)
    mixing = torch.randn(30, 30, dtype=torch.float64)
    features = (torch.randn(200, 30, dtype=torch.float64) @ mixing).reshape(-1, *SHAPE)
    direction, others = made(0), [made(1), made(2)]
    found = disentangle(direction, others, features=features, shrinkage=0.0)
    rows = features.flatten(1) - features.flatten(1).mean(0)
    covariance = rows.T @ rows / len(rows)
    scores = [
        rows @ torch.linalg.solve(covariance, one.vector.flatten())
        for one in (found, *others, direction)
    ]
    correlation = torch.corrcoef(torch.stack(scores))
    assert float(correlation[0, 1:3].abs().max()) < 1e-11
    assert float(correlation[3, 1:3].abs().max()) > 0.05
    known = found.provenance["disentangled"]
    assert known["cosines_before"] == pytest.approx(correlation[3, 1:3].tolist())
    assert (known["metric"], known["samples"], known["shrinkage"]) == ("whitened", 200, 0.0)
    assert abs(dot(found, others[0])) > 1e-3  # not the plain projection


@pytest.mark.parametrize("shrinkage", [None, 0.2])
def test_whitened_in_more_dimensions_than_samples(shrinkage):
    features = torch.randn(12, *SHAPE, dtype=torch.float64) * torch.rand(SHAPE).double()
    direction, other = made(0), made(1)
    found = disentangle(direction, other, features=features, shrinkage=shrinkage)
    share = found.provenance["disentangled"]["shrinkage"]
    rows = features.flatten(1) - features.flatten(1).mean(0)
    covariance = rows.T @ rows / len(rows)
    level = covariance.trace() / 30 * torch.eye(30, dtype=torch.float64)
    inverse = torch.linalg.inv((1 - share) * covariance + share * level)
    a, b, c = (one.vector.flatten() for one in (found, other, direction))
    lengths = ((a @ inverse @ a) * (b @ inverse @ b)).sqrt()
    assert abs(float(a @ inverse @ b / lengths)) < 1e-10
    before = c @ inverse @ b / ((c @ inverse @ c) * (b @ inverse @ b)).sqrt()
    assert found.provenance["disentangled"]["cosines_before"] == pytest.approx([float(before)])


def test_it_separates_attributes_that_come_together():
    """Labels of two factors that agree mostly: each mean difference has some of the other."""
    torch.manual_seed(2)
    factors = torch.randn(2, 40, dtype=torch.float64)
    factors = torch.linalg.qr(factors.T).Q.T
    first = torch.arange(800) % 2
    second = torch.where(torch.rand(800) < 0.8, first, 1 - first)
    rows = torch.randn(800, 40, dtype=torch.float64)
    rows += 6 * first[:, None] * factors[0] + 6 * second[:, None] * factors[1]
    found = [supervised(rows, one, tap="mid_block").direction() for one in (first, second)]
    clean = disentangle(found[0], found[1])
    assert float(found[0].vector @ factors[1]) > 0.3
    # It is orthogonal to the other mean difference, which has some of the first factor itself.
    assert abs(dot(clean, found[1])) < 1e-12
    assert float(clean.vector @ factors[0]) > 0.6


def test_half_precision_stays_what_it_was():
    found = disentangle(made(0).to(torch.float16), made(1).to(torch.float32))
    assert found.vector.dtype == torch.float16
    assert abs(dot(found.to(torch.float64), made(1))) < 1e-3


@pytest.mark.parametrize(
    ("from_", "words"),
    [
        ([], "at least one"),
        ([made(1), made(1).renamed("again")], "linearly independent"),
        ([made(1).to(torch.float32), made(1)], "linearly independent"),
        ([made(0)], "lies in it"),
        ([-made(0).to(torch.float32)], "lies in it"),
        ([made(1), made(3, tap="down_blocks.0")], "one tap.*other direction 2"),
        ([made(1, space="x", tap=None)], "one space"),
        ([made(1, shape=(4, 3))], r"shape \[5, 3, 2\], got \[4, 3\]"),
        ([made(1, provenance={"fingerprint": "b"})], r"one model.*\['a', 'b'\]"),
    ],
)
def test_what_does_not_fit_is_named(from_, words):
    with pytest.raises(ValueError, match=words):
        disentangle(made(0, provenance={"fingerprint": "a"}), from_)


def test_what_is_no_direction_is_named():
    with pytest.raises(TypeError, match="Expected directions, got str"):
        disentangle(made(0), ["smile"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"shrinkage": 0.1}, "features with a shrinkage"),
        ({"features": torch.randn(9, 4)}, r"\[N, 5, 3, 2\] like the direction"),
        ({"features": torch.randn(1, *SHAPE)}, "two samples"),
        ({"features": torch.full((9, *SHAPE), torch.nan)}, "NaN"),
        ({"features": torch.randn(9, *SHAPE), "shrinkage": 0.0}, "above 0 for features of 30"),
        ({"features": torch.ones(9, *SHAPE)}, "singular"),
    ],
)
def test_features_that_do_not_fit_are_named(given, words):
    with pytest.raises(ValueError, match=words):
        disentangle(made(0), made(1), **given)
