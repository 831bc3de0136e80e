"""Distances between tangent spaces of bases: those of their rows, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch

import pullback
from pullback.geometry import grassmann


@pytest.fixture(scope="module")
def bases(digits):
    x = digits.sample_latents(4, 500, seed=0)
    times = torch.tensor([500, 500, 300, 900])
    return pullback.local_basis(digits, x, times, 4)


@pytest.mark.parametrize("space", ["h", "x"])
@pytest.mark.parametrize("count", [None, 2])
def test_distances_are_those_of_the_rows(bases, space, count):
    rows = (bases.u if space == "h" else bases.v).flatten(2)[:, :count]
    expected = grassmann.principal_angles(rows[:, None], rows[None])
    for given in (bases, [bases[:1], bases[1:]]):
        found = pullback.tangent_distances(given, space=space, count=count, angles=True)
        torch.testing.assert_close(found.angles, expected, rtol=0, atol=1e-5)
        assert found.kind == "geodesic"
    chordal = pullback.tangent_distances(bases, "chordal", space=space, count=count).distance
    torch.testing.assert_close(chordal, expected.sin().norm(dim=-1), rtol=0, atol=1e-5)


def test_samples_that_have_not_converged_are_told_with_what_it_means(bases):
    loose = replace(
        bases,
        converged=torch.tensor([True, False, False, True]),
        angle_bound=torch.tensor([1e-3, 0.1, 0.2, 1e-3], dtype=bases.angle_bound.dtype),
    )
    off = math.asin(0.1) + math.asin(0.2)
    with pytest.warns(UserWarning, match=f"2 of 4 samples .* off by {off:.1e} rad") as told:
        pullback.tangent_distances(loose)
    assert told[0].filename == __file__
    unknown = replace(loose, angle_bound=torch.full_like(loose.angle_bound, float("inf")))
    with pytest.warns(UserWarning, match="off by any amount"):
        pullback.tangent_distances(unknown)


def other(basis, **changes):
    return replace(basis, provenance={**basis.provenance, **changes})


BAD = [
    (lambda b: [], ValueError, "one basis or more"),
    (lambda b: b.u, TypeError, "Expected a LocalBasis"),
    (lambda b: b[:1], ValueError, "two samples or more to compare, got 1"),
    (lambda b: [b, other(b, fingerprint="0")], ValueError, "bases of one weights"),
    (lambda b: [b, other(b, tap="up_blocks.0")], ValueError, "bases of one tap"),
    (lambda b: [b, other(b, map="output")], ValueError, "bases of one map"),
    (lambda b: replace(b, rank=b.rank - 1), ValueError, "numerical rank of at least 4"),
    (lambda b: replace(b, u=b.u * float("nan")), ValueError, r"finite u, got NaN or Inf"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD)
def test_what_does_not_fit_is_refused(bases, change, kind, message):
    with pytest.raises(kind, match=message):
        pullback.tangent_distances(change(bases))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"kind": "cosine"}, ValueError, "got 'cosine'"),
        ({"count": 5}, ValueError, "between 1 and 4"),
        ({"space": "prompt"}, ValueError, "prompt"),
        ({"memory": 8}, MemoryError, "Expected more memory="),
    ],
)
def test_options_that_do_not_fit_are_refused(bases, options, kind, message):
    with pytest.raises(kind, match=message):
        pullback.tangent_distances(bases, **options)
