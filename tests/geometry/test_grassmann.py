"""Subspaces against closed forms, high precision and another library."""

import math

import mpmath
import pymanopt
import pytest
import scipy.linalg
import torch

from pullback.geometry import grassmann
from pullback.geometry.grassmann.angles import DISTANCES

#: From the smallest angle that is promised to a right one.
ANGLES = [1e-8, 1e-6, 1e-3, 0.4, 1.2, math.pi / 2 - 1e-8]


def orthonormal(rng, *shape):
    """Random orthonormal rows `[..., k, N]`."""
    rows = torch.randn(*shape, generator=rng, dtype=torch.float64)
    return torch.linalg.qr(rows.mT)[0].mT.contiguous()


def at_angles(rng, angles, n=40, batch=()):
    """Frames of two subspaces with given principal angles, each in a random frame of its own."""
    theta = torch.as_tensor(angles, dtype=torch.float64)
    k = len(theta)
    both = orthonormal(rng, *batch, 2 * k, n)
    a, c = both[..., :k, :], both[..., k:, :]
    b = theta.cos()[:, None] * a + theta.sin()[:, None] * c
    turns = [orthonormal(rng, *batch, k, k) for _ in range(2)]
    return turns[0] @ a, turns[1] @ b


def same_span(a, b):
    """The sine of the largest angle between the spans of orthonormal rows."""
    return float(torch.linalg.matrix_norm(b - (b @ a.mT) @ a, 2).max())


def test_angles_from_the_smallest_to_the_right_one(rng):
    found = grassmann.principal_angles(*at_angles(rng, ANGLES, batch=(5,)))
    assert found.dtype == torch.float64
    expected = torch.tensor(ANGLES, dtype=torch.float64).expand(5, -1)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=2e-15)


@pytest.mark.parametrize("theta", [1e-8, 1e-5, 0.1, math.pi / 4, 1.5, math.pi / 2])
def test_equal_angles(rng, theta):
    a, b = at_angles(rng, [theta] * 4)
    found = grassmann.principal_angles(a, b)
    torch.testing.assert_close(found, torch.full((4,), theta).double(), rtol=1e-7, atol=2e-15)


@pytest.mark.parametrize(("k", "p"), [(1, 1), (1, 5), (3, 3), (4, 2), (6, 6)])
def test_angles_are_those_of_high_precision(rng, k, p):
    """Of rows that are neither orthogonal nor of norm 1, in 50 digits."""
    a = torch.randn(k, 9, generator=rng, dtype=torch.float64)
    b = 1e-3 * a[:1].expand(p, -1) + torch.randn(p, 9, generator=rng, dtype=torch.float64) * 1e-2
    with mpmath.workdps(50):
        frames = [mpmath.qr(mpmath.matrix(x.mT.tolist()), mode="skinny")[0] for x in (a, b)]
        cosines = mpmath.svd_r(frames[0].T * frames[1], compute_uv=False)
        expected = sorted(float(mpmath.acos(min(mpmath.mpf(1), c))) for c in cosines)
    found = grassmann.principal_angles(a, b)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    scipys = scipy.linalg.subspace_angles(a.mT.numpy(), b.mT.numpy())[::-1].copy()
    # Its sines are of another projection, and angles of 0 come out as the root of the rounding.
    torch.testing.assert_close(found, torch.from_numpy(scipys), rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_angles_do_not_depend_on_which_rows_span_a_space(rng, dtype):
    rows = torch.randn(2, 3, 5, 64, generator=rng).to(dtype)
    a, b = rows
    found = grassmann.principal_angles(a, b)
    mix = torch.randn(5, 5, generator=rng, dtype=torch.float64)
    other = grassmann.principal_angles(mix @ a.double(), -b.flip(-2))
    torch.testing.assert_close(found, other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found, grassmann.principal_angles(b, a), rtol=1e-12, atol=1e-12)
    assert float(grassmann.principal_angles(a, mix @ a.double()).max()) < 1e-13
    every = grassmann.principal_angles(a[:, None], b[None])
    torch.testing.assert_close(every.diagonal().mT, found, rtol=1e-12, atol=1e-12)


def test_distances_are_their_formulas(rng):
    theta = torch.tensor([1e-7, 0.3, 1.1], dtype=torch.float64)
    a, b = at_angles(rng, theta)
    with mpmath.workdps(50):
        exact = [mpmath.mpf(float(one)) for one in theta]
        root = lambda terms: float(mpmath.sqrt(mpmath.fsum(terms)))  # noqa: E731
        expected = {
            "geodesic": root(x**2 for x in exact),
            "chordal": root(mpmath.sin(x) ** 2 for x in exact),
            "projection": float(mpmath.sin(exact[-1])),
            "max": float(exact[-1]),
            "procrustes": 2 * root(mpmath.sin(x / 2) ** 2 for x in exact),
            "fubini-study": float(mpmath.acos(mpmath.fprod(mpmath.cos(x) for x in exact))),
        }
    assert set(expected) == set(DISTANCES)
    for kind, value in expected.items():
        assert float(grassmann.distance(a, b, kind)) == pytest.approx(value, rel=1e-12), kind
        assert float(grassmann.distance(a, a, kind)) < 1e-13, kind


@pytest.mark.parametrize("kind", DISTANCES)
def test_small_and_right_angles_have_their_distance(rng, kind):
    near = grassmann.distance(*at_angles(rng, [1e-8] * 3), kind)
    root = 1 if kind in ("projection", "max") else math.sqrt(3)
    assert float(near) == pytest.approx(root * 1e-8, rel=1e-6)
    far = float(grassmann.distance(*at_angles(rng, [math.pi / 2] * 3), kind))
    right = {
        "chordal": 3**0.5,
        "projection": 1,
        "procrustes": 6**0.5,
        "geodesic": 3**0.5 * math.pi / 2,
    }
    assert far == pytest.approx(right.get(kind, math.pi / 2), rel=1e-12)


@pytest.mark.parametrize("largest", [1e-7, 0.5, 1.5, math.pi / 2 - 1e-6])
def test_the_exponential_undoes_the_logarithm(rng, largest):
    angles = [largest * share for share in (1e-1, 0.4, 0.99, 1.0)]
    a, b = at_angles(rng, angles, batch=(3,))
    tangent = grassmann.log(a, b)
    assert float((tangent @ grassmann.frame(a).mT).abs().max()) < 1e-14
    expected = torch.tensor(angles, dtype=torch.float64).flip(0).expand(3, -1)
    torch.testing.assert_close(torch.linalg.svdvals(tangent), expected, rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(
        torch.linalg.matrix_norm(tangent), grassmann.distance(a, b), rtol=1e-8, atol=1e-14
    )
    assert same_span(b, grassmann.exp(a, tangent)) < 1e-9
    half = grassmann.exp(a, tangent / 2)
    for end in (a, b):
        torch.testing.assert_close(
            grassmann.distance(half, end), grassmann.distance(a, b) / 2, rtol=1e-8, atol=1e-13
        )


def test_geodesics_are_those_of_another_library(rng):
    a, b = at_angles(rng, [0.1, 0.5, 1.0, 1.3], n=12)
    manifold = pymanopt.manifolds.Grassmann(12, 4)
    columns = [x.mT.numpy() for x in (grassmann.frame(a), grassmann.frame(b))]
    theirs = torch.from_numpy(manifold.log(*columns)).mT
    torch.testing.assert_close(grassmann.log(a, b), theirs, rtol=1e-10, atol=1e-11)
    arrived = torch.from_numpy(manifold.exp(columns[0], theirs.mT.numpy())).mT
    assert same_span(arrived, grassmann.exp(a, theirs)) < 1e-12
    assert float(grassmann.distance(a, b)) == pytest.approx(
        float(manifold.dist(*columns)), rel=1e-9
    )


def test_orthogonal_spaces_have_a_distance_and_no_logarithm(rng):
    a, b = at_angles(rng, [0.2, math.pi / 2])
    assert float(grassmann.distance(a, b, "max")) == pytest.approx(math.pi / 2, abs=1e-14)
    with pytest.raises(ValueError, match="logarithm is not defined"):
        grassmann.log(a, b)


def test_the_mean_of_two_is_the_midpoint_of_their_geodesic(rng):
    a, b = at_angles(rng, [0.01, 0.3, 0.9, 1.2])
    middle = grassmann.exp(a, grassmann.log(a, b) / 2)
    assert same_span(middle, grassmann.karcher_mean(torch.stack([a, b]))) < 1e-9
    assert same_span(middle, grassmann.chordal_mean(torch.stack([b, a]))) < 1e-9


def test_the_mean_of_many_is_where_their_tangents_cancel(rng):
    base = orthonormal(rng, 3, 20)
    noise = 0.15 * torch.randn(9, 3, 20, generator=rng, dtype=torch.float64)
    frames = orthonormal(rng, 9, 3, 3) @ grassmann.frame(base + noise)
    mean = grassmann.karcher_mean(frames)
    assert float(grassmann.log(mean, frames).mean(0).norm()) < 1e-9
    to_base = [float(grassmann.distance(one, base)) for one in (mean, *frames)]
    assert to_base[0] < min(to_base[1:])
    sums = [
        float(grassmann.distance(one, frames).square().sum())
        for one in (mean, grassmann.chordal_mean(frames), frames[0])
    ]
    assert sums[0] == min(sums)
    assert sums[0] < sums[1]


def test_frames_are_averaged_row_by_row(rng):
    subspace = orthonormal(rng, 4, 15)
    turn = torch.linalg.matrix_exp(0.2 * torch.randn(6, 4, 4, generator=rng).double().triu(1))
    turn = torch.linalg.qr(turn)[0]
    turn = turn * turn.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)
    frames = turn @ subspace
    found = grassmann.frame_mean(frames, orthonormal(rng, 4, 4) @ subspace)
    assert same_span(subspace, found) < 1e-12
    # The mean of rotations is stationary: what they differ by from it has no skew part in sum.
    differences = (frames @ found.mT).sum(0)
    torch.testing.assert_close(differences, differences.mT, rtol=0, atol=1e-12)
    same = grassmann.frame_mean(frames[:1].expand(3, -1, -1), subspace)
    torch.testing.assert_close(same, frames[0], rtol=0, atol=1e-12)


def test_directions_are_matched_whatever_their_order_and_signs(rng):
    a = orthonormal(rng, 2, 5, 30)
    order, sign = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([1.0, -1, -1, 1, -1])
    noisy = a + 0.02 * torch.randn(a.shape, generator=rng, dtype=torch.float64)
    b = (sign[:, None] * noisy)[:, order]
    for one_to_one in (True, False):
        found = grassmann.match(a, b, one_to_one=one_to_one)
        assert torch.equal(found.order, order.argsort().expand(2, -1))
        assert torch.equal(found.sign, sign.double().expand(2, -1))
        assert torch.equal(found.apply(b), noisy)
        assert bool((found.cosine > 0.95).all())


def test_one_to_one_takes_the_best_sum_and_nearest_may_take_one_twice():
    a = torch.eye(2, 3, dtype=torch.float64)
    b = torch.tensor([[0.8, 0.6, 0.0], [0.5, 0.0, math.sqrt(0.75)]], dtype=torch.float64)
    assert grassmann.match(a, b, one_to_one=False).order.tolist() == [0, 0]
    assert grassmann.match(a, b).order.tolist() == [1, 0]  # 0.5 + 0.6 is more than 0.8 + 0


EYE = torch.eye(3, 5, dtype=torch.float64)
BAD = [
    (lambda: grassmann.frame(torch.ones(3, 5)), ValueError, "row 1 lies in the span"),
    (lambda: grassmann.frame(torch.zeros(2, 1, 4)), ValueError, r"row 0 of frame \[0\]"),
    (lambda: grassmann.frame(torch.ones(6, 5)), ValueError, "k from 1 to N"),
    (lambda: grassmann.frame(EYE * float("nan")), ValueError, "finite rows"),
    (lambda: grassmann.frame(EYE.long()), TypeError, "floating numbers, got torch.int64"),
    (lambda: grassmann.frame([[1.0]]), TypeError, "floating numbers, got list"),
    (lambda: grassmann.principal_angles(EYE, EYE[:, :4]), ValueError, "5 and 4 entries"),
    (
        lambda: grassmann.principal_angles(EYE.expand(2, 3, 5), EYE.expand(3, 3, 5)),
        ValueError,
        "broadcast",
    ),
    (lambda: grassmann.distance(EYE, EYE[:2]), ValueError, "3 and 2 rows"),
    (
        lambda: grassmann.distance(EYE, EYE, "cosine"),
        ValueError,
        "geodesic, chordal, .* got 'cosine'",
    ),
    (lambda: grassmann.exp(EYE, EYE[:2]), ValueError, r"tangent of shape \[..., 3, 5\]"),
    (lambda: grassmann.karcher_mean(EYE), ValueError, r"frames \[S, k, N\]"),
    (lambda: grassmann.chordal_mean(EYE[:2, None]), ValueError, "no single mean"),
    (lambda: grassmann.karcher_mean(EYE[None], steps=0), ValueError, "steps to be at least 1"),
    (lambda: grassmann.frame_mean(EYE[None], EYE[:2]), ValueError, r"shape \[3, 5\]"),
    (lambda: grassmann.match(EYE, EYE[:2]), ValueError, "at least 3 rows"),
    (lambda: grassmann.polar(torch.zeros(2, 2)), ValueError, "full rank"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_what_does_not_fit_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_a_mean_that_does_not_arrive_says_so(rng):
    frames = orthonormal(rng, 5, 2, 12)
    with pytest.raises(RuntimeError, match="has not arrived after 1 steps"):
        grassmann.karcher_mean(frames, steps=1)
