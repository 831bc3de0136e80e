"""The Krylov decomposition: its relation holds after every operation."""

import pytest
import torch

from pullback.krylov.blocks import MOST_ROWS, lq
from pullback.krylov.decomposition import Decomposition

BATCH, N, M = 3, 60, 25


@pytest.fixture
def maps(rng):
    """J [B, m, n] with singular values that fall off slowly."""
    j = torch.randn(BATCH, M, N, generator=rng, dtype=torch.float64)
    return j / torch.linalg.matrix_norm(j, ord=2)[:, None, None]


def orthonormal(rng, count, dtype=torch.float64):
    rows = torch.linalg.qr(torch.randn(BATCH, N, count, generator=rng, dtype=torch.float64))[0].mT
    return rows.to(dtype)


def step(state, maps, rng, seed=0):
    image = state.pending @ maps.mT
    state.extend(
        image,
        image @ maps,
        lambda count: torch.randn(len(maps), count, N, generator=rng, dtype=torch.float64),
        seed,
    )


def check(state, maps, size, width):
    basis, pending = state.basis, state.pending
    assert basis.shape == (len(maps), size, N)
    assert pending.shape == (len(maps), width, N)
    whole = torch.cat([basis, pending], dim=1)
    eye = torch.eye(size + width, dtype=torch.float64).expand(len(maps), -1, -1)
    torch.testing.assert_close(whole @ whole.mT, eye, rtol=0, atol=1e-12)
    product = basis @ maps.mT @ maps
    relation = state.projection @ basis + state.coupling.mT @ pending
    torch.testing.assert_close(product, relation, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.images, basis @ maps.mT, rtol=0, atol=1e-12)
    assert torch.equal(state.projection, state.projection.mT)


def test_the_relation_holds_from_step_to_step(rng, maps):
    state = Decomposition(orthonormal(rng, 4), 20, M)
    for count in range(1, 6):
        step(state, maps, rng)
        check(state, maps, 4 * count, 4)
        assert bool((state.asymmetry < 1e-12).all())
        assert bool((state.remainder > 1e-3).all())


def test_restart_and_selection(rng, maps):
    state = Decomposition(orthonormal(rng, 4), 20, M)
    for _ in range(4):
        step(state, maps, rng)
    values, vectors = torch.linalg.eigh(state.projection)
    state.restart(values.flip(1)[:, :5], vectors.flip(2).mT[:, :5])
    check(state, maps, 5, 4)
    step(state, maps, rng)
    check(state, maps, 9, 4)
    some = state.part(torch.tensor([2, 0]))
    check(some, maps[[2, 0]], 9, 4)
    step(some, maps[[2, 0]], rng)
    check(some, maps[[2, 0]], 13, 4)
    check(state, maps, 9, 4)  # as it was


def test_more_rows_may_be_pending(rng, maps):
    state = Decomposition(orthonormal(rng, 4), 12, M)
    for _ in range(3):
        step(state, maps, rng)
    wider = state.part(
        torch.arange(BATCH), 1e3 * torch.randn(BATCH, 2, N, generator=rng).double(), 20
    )
    check(wider, maps, 12, 6)
    torch.testing.assert_close(wider.pending[:, :4], state.pending)
    step(wider, maps, rng)
    check(wider, maps, 18, 6)
    check(state, maps, 12, 4)


def test_rows_that_bring_nothing_are_random_and_may_be_renewed(rng):
    left = torch.linalg.qr(torch.randn(BATCH, M, 2, generator=rng, dtype=torch.float64))[0]
    maps = left @ orthonormal(rng, 2)  # rank 2
    state = Decomposition(orthonormal(rng, 3), 20, M)
    step(state, maps, rng)
    check(state, maps, 3, 3)
    step(state, maps, rng)
    check(state, maps, 6, 3)
    assert bool((state.remainder < 1e-12).all())
    before = state.pending.clone()
    which = torch.tensor([True, False, True])
    state.renew(which, lambda count: torch.randn(BATCH, count, N, dtype=torch.float64), 9)
    assert torch.equal(state.pending[1], before[1])
    assert bool(((state.pending - before).flatten(1).norm(dim=1)[which] > 0.1).all())
    check(state, maps, 6, 3)


def test_renewed_rows_are_coupled_to_nothing(rng, maps):
    """Whatever W was coupled to, the rows in its place are not; other samples keep theirs."""
    state = Decomposition(orthonormal(rng, 4), 20, M)
    step(state, maps, rng)
    before = state.coupling.clone()
    assert bool((before.flatten(1).norm(dim=1) > 1e-2).all())
    which = torch.tensor([True, False, True])
    state.renew(which, lambda count: torch.randn(BATCH, count, N, dtype=torch.float64), 9)
    assert not state.coupling[which].any()
    assert torch.equal(state.coupling[~which], before[~which])


def test_the_last_step_fills_the_space(rng, maps):
    state = Decomposition(orthonormal(rng, 25), N, M)
    step(state, maps, rng)
    check(state, maps, 25, 25)
    step(state, maps, rng)
    check(state, maps, 50, 10)
    step(state, maps, rng)
    check(state, maps, 60, 0)


def test_the_last_rows_are_coupled_to_all_that_came_before(rng):
    """Where J has full rank, A leads out of every basis that is not complete."""
    maps = torch.randn(BATCH, N, N, generator=rng, dtype=torch.float64) / N**0.5
    state = Decomposition(orthonormal(rng, 25), N, N)
    for size, width in ((25, 25), (50, 10), (60, 0)):
        step(state, maps, rng)
        check(state, maps, size, width)
        assert bool((state.remainder > 1e-3).all()) is (width > 0)


@pytest.mark.parametrize("k", [1, 7, MOST_ROWS, MOST_ROWS + 40])
def test_lq_of_any_number_of_rows_and_any_rank(rng, k):
    rows = torch.randn(2, k, 400, generator=rng)
    rows[1, k // 2] = 0
    lower, q = lq(rows)
    assert lower.dtype == torch.float64
    assert torch.equal(lower, lower.tril())
    torch.testing.assert_close(lower @ q.double(), rows.double(), rtol=0, atol=1e-4)
    eye = torch.eye(k).expand(2, k, k)
    torch.testing.assert_close(q @ q.mT, eye, rtol=0, atol=1e-6)
