"""Paths between latents: their points, and how far the tangent spaces turn on them."""

import math
from itertools import pairwise

import pytest
import torch

from pullback import latent_path, local_basis
from pullback.geometry import grassmann
from tests.geometry.known import T, X, linear_model

K = 4


@pytest.fixture(scope="module")
def linear():
    return linear_model()[0]


def latents(count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *X, generator=generator, dtype=torch.float64)


def path(model, start, end, **options):
    return latent_path(
        model, start, end, T, **{"rank": K, "tap": "first", "segments": 5, **options}
    )


def angles(points):
    """Angles of the points of each pair to its first, `[points, B]`."""
    rows = points.flatten(2) / points.flatten(2).norm(dim=2, keepdim=True)
    return (rows * rows[0]).sum(2).clamp(-1, 1).acos()


def test_lerp_is_a_straight_line_with_exact_ends(linear):
    start, end = latents(), latents(seed=1)
    found = path(linear, start, end, kind="lerp")
    for place in range(6):
        expected = start + place / 5 * (end - start)
        torch.testing.assert_close(found.points[place], expected, rtol=0, atol=1e-14)
    assert torch.equal(found.points[0], start)
    assert torch.equal(found.points[-1], end)
    whole = (end - start).flatten(1).norm(dim=1)
    torch.testing.assert_close(found.latent_length, whole)
    assert found.gap.tolist() == [0, 0]


def test_slerp_goes_evenly_along_the_great_circle(linear):
    start, end = latents(), latents(seed=1)
    end = end * (start.flatten(1).norm(dim=1) / end.flatten(1).norm(dim=1))[:, None, None, None]
    found = path(linear, start, end)
    assert found.kind == "slerp"
    norms = found.points.flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, norms[:1].expand(6, 2))
    turned = angles(found.points)
    shares = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(turned, shares * turned[-1], rtol=0, atol=1e-7)
    for pair in range(2):  # in the plane of the ends
        assert torch.linalg.svdvals(found.points[:, pair].flatten(1))[2] < 1e-12
    assert torch.equal(found.points[-1], end)
    assert found.gap.tolist() == [0, 0]
    chords = 5 * 2 * (turned[-1] / 10).sin() * norms[0]
    torch.testing.assert_close(found.latent_length, chords)


def test_slerp_has_the_norms_in_between_where_the_ends_have_others(linear):
    start = latents()
    found = path(linear, start, 3 * latents(seed=1))
    norms = found.points.flatten(2).norm(dim=2)
    shares = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(norms, norms[0] + shares * (norms[-1] - norms[0]))
    along = path(linear, start, 2 * start)  # in one direction: a straight line
    expected = (1 + shares[:, :, None, None, None]) * start
    torch.testing.assert_close(along.points, expected)


def test_where_the_jacobian_is_the_same_everywhere_nothing_turns(linear):
    for kind in ("lerp", "slerp", "shooting"):
        found = path(linear, latents(), latents(seed=1), kind=kind, tol=1e-10)
        assert found.distance.shape == (5, 2)
        assert found.distance.max() < 1e-8
        assert found.length.max() < 5e-8


def test_shooting_goes_along_the_part_of_the_difference_in_the_basis(linear):
    start, end = latents(), latents(seed=1)
    found = path(linear, start, end, kind="shooting", tol=1e-10)
    v = local_basis(linear, start, T, K, tap="first", tol=1e-10).v.flatten(2)
    between = (end - start).flatten(1)
    along = torch.einsum("bkn,bn->bk", v, between)
    along = along / along.norm(dim=1, keepdim=True)
    whole = between.norm(dim=1)
    step = torch.einsum("bk,bkn->bn", along, v) * whole[:, None]
    last = start + step.reshape(start.shape)
    torch.testing.assert_close(found.points[-1], last, rtol=0, atol=1e-6)
    gap = (last - end).flatten(1).norm(dim=1) / whole
    torch.testing.assert_close(found.gap, gap, rtol=0, atol=1e-6)
    assert found.gap.min() > 0.1
    torch.testing.assert_close(found.latent_length, whole)


@pytest.mark.parametrize("kind", ["slerp", "shooting"])
def test_distances_are_those_of_bases_found_alone(digits, kind):
    ends = digits.sample_latents(4, 500, seed=6, steps=10)
    options = {"kind": kind, "segments": 2, "rank": 3, "tol": 1e-3}
    found = latent_path(digits, ends[:2], ends[2:], 500, **options)
    frames = [local_basis(digits, x, 500, 3, tol=1e-4).u.flatten(2) for x in found.points]
    for segment in range(2):
        alone = grassmann.distance(frames[segment], frames[segment + 1])
        torch.testing.assert_close(found.distance[segment], alone, rtol=0, atol=2e-2)
    assert found.distance.min() > 0.1
    assert torch.equal(found.length, found.distance.sum(0))
    assert torch.equal(found.curvedness, found.distance)
    one = latent_path(digits, ends[1:2], ends[3:], 500, **options)
    torch.testing.assert_close(one.length, found.length[1:], rtol=0, atol=2e-2)
    assert found.points.dtype == torch.float32


def test_every_point_starts_from_the_one_before_and_progress_says_so(linear, monkeypatch):
    from pullback.geometry.transport import following

    made, seen, found_of = [], [], following.local_basis

    def kept(*args, **options):
        made.append((options["init"], found_of(*args, **options)))
        return made[-1][1]

    monkeypatch.setattr(following, "local_basis", kept)
    for kind in ("lerp", "shooting"):
        made.clear()
        seen.clear()
        progress = lambda *done: seen.append(done)  # noqa: E731
        path(linear, latents(), latents(seed=1), kind=kind, segments=3, progress=progress)
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert len(made) == 4
        assert made[0][0] is None
        for (_, before), (init, _) in pairwise(made):
            assert torch.equal(init, before.v)


def test_bases_that_did_not_converge_are_warned_of(linear):
    for kind in ("lerp", "shooting"):
        with pytest.warns(UserWarning, match="8 bases of the way did not converge to 1e-10"):
            path(
                linear, latents(), latents(seed=1), kind=kind, segments=3, tol=1e-10,
                max_products=K,
            )  # fmt: skip


def test_tangent_spaces_of_lower_rank_have_no_distance():
    flat = linear_model(spectrum=[3.0, 2.0])[0]
    with pytest.raises(
        ValueError, match=r"point 0 of pair 0 the numerical rank is 2. Choose rank=2"
    ):
        path(flat, latents(), latents(seed=1))
    assert path(flat, latents(), latents(seed=1), rank=2).length.max() < 1e-2


BAD = [
    ({"kind": "geodesic"}, ValueError, "slerp, lerp, shooting, got 'geodesic'"),
    ({"segments": 0}, ValueError, "segments to be at least 1"),
    ({"end": latents(3)}, ValueError, r"as many ends as starts, got \[3, 2, 3, 4\]"),
    ({"end": latents()[:, :1]}, ValueError, "shape"),
    ({"end": latents() * math.nan}, ValueError, "NaN"),
    ({"end": torch.cat([latents(1, seed=2), latents()[1:]])}, ValueError, "those of pair 1 are eq"),
    ({"end": -latents()}, ValueError, "pair 0 are opposite"),
    ({"end": 0 * latents()}, ValueError, "other than zero"),
    ({"t": -1}, ValueError, "between 0 and 999"),
    ({"rank": 0}, ValueError, "between 1 and min"),
    ({"quality": "best"}, ValueError, "draft"),
    ({"max_product": 3}, TypeError, r"latent_path\(\) got an unexpected .*'max_product'"),
    ({"model": None}, TypeError, "Expected a LatentModel, got NoneType"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD)
def test_what_does_not_fit_is_refused(linear, change, kind, message):
    given = {
        "model": linear, "start": latents(), "end": latents(seed=1), "t": T, "rank": K,
        "tap": "first", "segments": 2,
    } | change  # fmt: skip
    with pytest.raises(kind, match=message):
        latent_path(**given)
