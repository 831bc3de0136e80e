"""Geodesic shooting against the same thing step by step, and where the truth is known."""

import math
import warnings
from itertools import pairwise

import pytest
import torch

import pullback
from pullback import Direction, edit, local_basis, shoot
from pullback.editing import Shooting
from pullback.geometry.transport import shooting
from pullback.testing import leading
from tests.geometry.known import H, T, X, linear_model

K = 5


@pytest.fixture(scope="module")
def linear():
    """A model with one Jacobian everywhere, and the v and u of its leading space."""
    model, matrix = linear_model()
    u, _, v = leading(matrix[None], K)
    return model, v[0], u[0]


@pytest.fixture(scope="module")
def x(digits):
    return digits.sample_latents(3, 500, seed=4, steps=10)


def latents(count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *X, generator=generator, dtype=torch.float64)


def straight(model, x, direction, **options):
    return shoot(model, x, T, direction, **{"rank": K, "tap": "first", "tol": 1e-9, **options})


def test_where_the_jacobian_is_the_same_everywhere_the_way_is_straight(linear):
    """The first step takes the part in the basis, and the others retain all of it."""
    model, v, u = linear
    start, direction = latents(), torch.randn(2, *X, dtype=torch.float64)
    found = straight(model, start, direction, length=3.0, steps=4)
    along = direction.flatten(1) @ v.T
    share = along.norm(dim=1) / direction.flatten(1).norm(dim=1)
    along = along / along.norm(dim=1, keepdim=True)
    for step in range(5):
        expected = start + ((along @ v) * 3.0 * step / 4).reshape(start.shape)
        torch.testing.assert_close(found.points[step], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.retained[0], share, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.retained[1:], torch.ones(3, 2).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.u, (along @ u).reshape(2, *H), rtol=0, atol=1e-6)
    assert found.stopped_at.tolist() == [4, 4]
    assert torch.equal(found.points[0], start)


def test_every_step_has_the_same_length_and_lengths_are_of_each_sample(digits, x):
    lengths = torch.tensor([2.0, -1.0, 0.0])
    basis = local_basis(digits, x, 500, 3, quality="draft")
    options = {"steps": 2, "rank": 3, "quality": "draft"}
    found = shoot(digits, x, 500, basis.v[:, 0], length=lengths, **options)
    taken = found.points.double().diff(dim=0).flatten(2).norm(dim=2)
    torch.testing.assert_close(taken, (lengths.abs() / 2).double().expand(2, 3), rtol=1e-5, atol=0)
    back = shoot(digits, x[1:2], 500, -basis.v[1, 0], length=1.0, **options)
    torch.testing.assert_close(found.points[:, 1:2], back.points, rtol=0, atol=2e-2)


def test_it_is_the_transport_of_the_tangent_at_every_step(digits, x):
    """Against cold bases and a loop by hand, and against the way of edits."""
    start = local_basis(digits, x, 500, 4, quality="tight")
    direction = start.v[:, 0] + start.v[:, 1]
    options = {"rank": 4, "quality": "tight"}
    found = shoot(digits, x, 500, direction, length=4.0, steps=3, **options)
    at, tangents = x, None
    for step in range(3):
        basis = local_basis(digits, at, 500, 4, quality="tight")
        moves = []
        for sample in range(3):
            if tangents is None:
                rows, vector = basis.v[sample].flatten(1), direction[sample]
            else:
                rows, vector = basis.u[sample].flatten(1), tangents[sample]
            along = rows @ vector.flatten() / vector.norm()
            kept = float(along.norm())
            assert float(found.retained[step, sample]) == pytest.approx(kept, abs=2e-3)
            along = along / along.norm()
            moves.append(
                (
                    torch.einsum("k,k...->...", along, basis.v[sample]),
                    torch.einsum("k,k...->...", along, basis.u[sample]),
                )
            )
        at = at + 4.0 / 3 * torch.stack([v for v, _ in moves])
        tangents = torch.stack([u for _, u in moves])
        torch.testing.assert_close(found.points[step + 1], at, rtol=0, atol=5e-3)
    torch.testing.assert_close(found.u, tangents, rtol=0, atol=5e-3)
    whole = Direction.of(start.v[0, 0] + start.v[0, 1], "x")
    edited = edit(digits, x[:1], 500, whole, 4.0, way=Shooting(3, 4, "tight"), stop=500, steps=10)
    torch.testing.assert_close(edited, found.points[-1, :1], rtol=0, atol=5e-3)


def test_an_edit_of_no_strength_stays_where_it_is(digits, x):
    way = Shooting(1, rank=2, quality="draft")
    direction = Direction.of(torch.ones(digits.latent_shape), "x")
    edits = pullback.sweep(
        digits, x[:1], 500, [direction], [0.0, 2.0], way=way, stop=500, steps=10
    ).latents
    assert torch.equal(edits[0, 0, 0], x[0])
    assert (edits[0, 0, 1] - x[0]).norm() == pytest.approx(2.0, rel=1e-4)


def test_a_sample_that_retains_too_little_stops_and_the_others_go_on(digits, x):
    basis = local_basis(digits, x, 500, 3, quality="draft")
    outside = torch.randn(x.shape[1:])
    direction = torch.stack([basis.v[0, 0], outside, basis.v[2, 0]])
    options = {"length": 3.0, "steps": 3, "rank": 3, "quality": "draft"}
    found = shoot(digits, x, 500, direction, least=0.3, **options)
    assert found.stopped_at.tolist() == [3, 0, 3]
    assert torch.equal(found.points[:, 1], x[1].expand(4, *x.shape[1:]))
    assert 0 < float(found.retained[0, 1]) < 0.3
    assert bool((found.retained[1:, 1] == 0).all())
    assert bool((found.u[1] == 0).all())
    assert bool((found.retained[:, [0, 2]] >= 0.3).all())
    alone = shoot(digits, x[2:], 500, direction[2:], least=0.3, **options)
    torch.testing.assert_close(found.points[:, 2:], alone.points, rtol=0, atol=3e-2)
    # A bar that all but the first step fail: the sample stays where it came to.
    later = found.retained[1:, 0].max()
    high = shoot(digits, x[:1], 500, direction[:1], least=float(later) + 1e-2, **options)
    assert high.stopped_at.tolist() == [1]
    moved = (high.points[1] - x[:1]).norm()
    assert float(moved) == pytest.approx(1.0, rel=1e-4)
    assert torch.equal(high.points[1], high.points[3])
    assert float(high.u.norm()) == pytest.approx(1.0, rel=1e-5)


def test_all_samples_may_stop_at_once(linear):
    model, v, _ = linear
    outside = torch.linalg.svd(v).Vh[K].reshape(X)
    found = straight(model, latents(), outside, length=1.0, steps=3, least=0.5)
    assert found.stopped_at.tolist() == [0, 0]
    assert torch.equal(found.points[3], latents())
    assert not found.u.any()


def test_later_bases_start_from_those_before(digits, x, monkeypatch):
    made = []
    found_of = pullback.geometry.local_basis

    def counted(*args, **options):
        made.append((options["init"], found_of(*args, **options)))
        return made[-1][1]

    monkeypatch.setattr("pullback.geometry.transport.following.local_basis", counted)
    shoot(digits, x, 500, torch.ones(digits.latent_shape), length=1.0, steps=3, rank=4)
    assert made[0][0] is None
    for (_, before), (init, _) in pairwise(made):
        assert torch.equal(init, before.v)
    cold, *warm = [int(basis.products.sum()) for _, basis in made]
    assert max(warm) < cold


def test_a_direction_is_checked_and_its_unit_is_left_out(linear):
    model, v, _ = linear
    direction = Direction.of(v[0].reshape(X), "x", unit=7.0, t=T)
    found = straight(model, latents(), direction, length=2.0, steps=1)
    expected = latents() + 2.0 * v[0].reshape(X)
    torch.testing.assert_close(found.points[1], expected, rtol=0, atol=1e-6)
    other = Direction.of(v[0].reshape(X), "x", t=300)
    with pytest.warns(UserWarning, match="meant for t=300, and is to be applied at t=400"):
        straight(model, latents(), other, length=2.0, steps=1)


def test_conditions_timesteps_and_pooled_features_reach_the_bases(digits, x):
    """Each sample with its own timestep and class, as in its basis alone."""
    times, labels = torch.tensor([500, 300]), torch.tensor([3, 8])
    found = shoot(
        digits, x[:2], times, torch.ones(digits.latent_shape), length=1.0, steps=1, rank=2,
        cond={"class_labels": labels}, pool="space", tap="down_blocks.1", quality="tight",
    )  # fmt: skip
    for sample in range(2):
        cond = {"class_labels": labels[sample : sample + 1]}
        basis = local_basis(
            digits, x[sample : sample + 1], int(times[sample]), 2, "down_blocks.1", cond,
            pool="space", quality="tight",
        )  # fmt: skip
        v = basis.v[0].flatten(1)
        along = v @ torch.ones(v.shape[1])
        expected = x[sample].flatten() + (along / along.norm()) @ v
        torch.testing.assert_close(found.points[1, sample].flatten(), expected, rtol=0, atol=2e-3)
    assert found.u.shape == (2, basis.u.shape[2])


def test_progress_and_bases_that_did_not_converge(linear):
    model, v, _ = linear
    seen = []
    options = {"length": 1.0, "steps": 2, "progress": lambda *done: seen.append(done)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        straight(model, latents(), v[0].reshape(X), **options)
    assert seen == [(1, 2), (2, 2)]
    with pytest.warns(UserWarning, match="4 bases of the way did not converge to 1e-09") as told:
        shoot(
            model, latents(), T, v[0].reshape(X), rank=K, tap="first", tol=1e-9, max_products=K,
            **options,
        )  # fmt: skip
    assert told[0].filename == __file__


ONES = torch.ones(X, dtype=torch.float64)
BAD = [
    ({"direction": ONES[0]}, ValueError, r"shape \[2, 2, 3, 4\], or \[2, 3, 4\] for all"),
    ({"direction": 0 * ONES}, ValueError, "the direction other than zero"),
    ({"direction": ONES * math.nan}, ValueError, "finite numbers in the direction"),
    ({"direction": "v0"}, TypeError, "the direction as a tensor .* got str"),
    ({"direction": Direction.of(torch.ones(H), "h", tap="first")}, ValueError, 'got one in "h"'),
    ({"direction": Direction.of(torch.ones(3), "x")}, ValueError, "shape"),
    ({"length": math.inf}, ValueError, "finite lengths"),
    ({"length": torch.ones(3)}, ValueError, r"number or \[2\], got shape \[3\]"),
    ({"steps": 0}, ValueError, "steps to be at least 1"),
    ({"steps": 1.5}, ValueError, "whole number"),
    ({"least": 1.0}, ValueError, "least from 0 to below 1"),
    ({"least": math.nan}, ValueError, "least from 0 to below 1"),
    ({"x": latents()[0]}, ValueError, "shape"),
    ({"x": latents() * math.nan}, ValueError, "NaN"),
    ({"t": 5000}, ValueError, "between 0 and 999"),
    ({"rank": 0}, ValueError, "between 1 and min"),
    ({"tap": "middle"}, ValueError, "first"),
    ({"quality": "best"}, ValueError, "draft"),
    ({"model": "digits"}, TypeError, "Expected a LatentModel, got str"),
    ({"init": latents()}, TypeError, r"shoot\(\) got an unexpected .*'init'.*tol, seed"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD)
def test_what_does_not_fit_is_refused(linear, change, kind, message):
    given = {
        "model": linear[0], "x": latents(), "t": T, "direction": ONES, "length": 1.0, "steps": 2,
        "rank": K, "tap": "first",
    } | change  # fmt: skip
    with pytest.raises(kind, match=message):
        shoot(**given)


def test_a_direction_without_a_part_in_the_basis_is_refused(linear):
    model = linear[0]
    start, options = latents(1), {"rank": K, "tap": "first", "quality": "tight"}
    found = local_basis(model, start, T, **options).v[0].flatten(1)
    outside = torch.linalg.svd(found).Vh[K].reshape(X)
    with pytest.raises(ValueError, match=r"no part in the local basis .* higher rank than 5"):
        shoot(model, start, T, outside, length=1.0, steps=1, **options)
    way, direction = Shooting(1, **options), Direction.of(outside, "x")
    with pytest.raises(ValueError, match="another way than Shooting"):
        edit(model, start, T, direction, 1.0, way=way, stop=T)


def test_rows_beyond_the_numerical_rank_are_left_out():
    model, matrix = linear_model(spectrum=[3.0, 2.0])
    v = leading(matrix[None], 2)[2][0]
    found = straight(model, latents(), ONES, length=2.0, steps=2)
    along = v @ ONES.flatten()
    expected = latents() + 2.0 * ((along / along.norm()) @ v).reshape(X)
    torch.testing.assert_close(found.points[-1], expected, rtol=0, atol=1e-6)
    assert shooting.Shot is pullback.geometry.transport.Shot
