"""The block that an iteration starts from, and the random numbers it is made of."""

import pytest
import torch

from pullback.krylov.draws import Draws
from pullback.krylov.start import first_block
from pullback.krylov.state import Settings
from pullback.testing import MatrixOperator, orthogonality_loss

N = 200


def start(init, seed=0):
    operator = MatrixOperator(torch.zeros(2, 30, N, dtype=torch.float64))
    settings = Settings(operator, 6, block=3, tol=1e-3, max_products=100)
    return first_block(operator, settings, Draws(seed), init)


def test_without_vectors_every_sample_starts_from_the_same_random_rows():
    rows = start(None)
    assert rows.shape == (2, 3, N)
    assert torch.equal(rows[0], rows[1])
    assert float(orthogonality_loss(rows).max()) < 1e-12
    assert not torch.allclose(rows, start(None, seed=1), atol=1e-3)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_a_start_lies_along_given_vectors_with_a_random_part_beside_them(rng, size):
    """Or a direction that they lack and that A does not lead to could never be found."""
    given = torch.linalg.qr(torch.randn(2, N, 6, generator=rng, dtype=torch.float64))[0].mT
    rows = start(size * given)
    assert float(orthogonality_loss(rows).max()) < 1e-12
    along = rows @ given.mT
    beside = rows - along @ given
    # Nearly all of a row lies in their span, a tenth or so does not, whatever their unit.
    ratio = beside.norm(dim=2) / along.norm(dim=2)
    assert bool(((ratio > 0.03) & (ratio < 0.5)).all())
    # What lies beside is a direction of its own in every row.
    unit = beside / beside.norm(dim=2, keepdim=True)
    assert bool((torch.linalg.matrix_norm(unit, ord=-2) > 0.5).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.float16])
def test_a_start_is_of_the_dtype_that_the_solver_holds_whatever_the_vectors_are_of(dtype, given):
    """Half precision is that of the products alone."""
    operator = MatrixOperator(torch.zeros(2, 30, N, dtype=dtype))
    settings = Settings(operator, 6, block=3, tol=1e-3, max_products=100)
    rows = first_block(operator, settings, Draws(0), torch.ones(2, 4, N, dtype=given))
    assert rows.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_numbers_differ_from_draw_to_draw_and_from_iteration_to_iteration():
    draws = [Draws(3), Draws(3).following(), Draws(3).following().following(), Draws(4)]
    kinds = [
        lambda one: one.rows(1, 50)[0],
        lambda one: one.rows(1, 50)[0],  # the next of the same
        lambda one: one.mixture(1, 50)[0],
        lambda one: one.probe(50),
    ]
    found = torch.stack([kind(one) for one in draws for kind in kinds])
    alike = torch.corrcoef(found) - torch.eye(len(found))
    assert float(alike.abs().max()) < 0.7
    again = Draws(3)
    assert torch.equal(torch.stack([kind(again) for kind in kinds]), found[: len(kinds)])


def test_what_is_the_same_at_every_call_is_so_whatever_was_drawn_before():
    one, other = Draws(5), Draws(5)
    other.rows(3, 7)
    other.next_seed()
    assert torch.equal(one.mixture(2, 9), other.mixture(2, 9))
    assert torch.equal(one.probe(9), other.probe(9))
    assert torch.equal(one.signs(2, 9), other.signs(2, 9))


def test_signs_are_plus_or_minus_one_about_as_often():
    draws = Draws(0)
    rows = draws.signs(3, 1000)
    assert rows.shape == (3, 1000)
    assert set(rows.flatten().tolist()) == {-1.0, 1.0}
    assert rows.mean(1).abs().max() < 0.1
    assert (torch.corrcoef(rows) - torch.eye(3)).abs().max() < 0.15  # each has its own
    # They are no signs of the other numbers.
    others = [
        draws.probe(1000),
        *draws.mixture(1, 1000),
        *(draws.rows(1, 1000)[0] for _ in "abcde"),
    ]
    for numbers in others:
        assert (rows * numbers.sign()).mean(1).abs().max() < 0.15


def test_a_sample_that_misses_a_direction_goes_on_with_one_row_more_and_then_with_twice_as_many():
    operator = MatrixOperator(torch.zeros(1, 300, N, dtype=torch.float64))
    settings = Settings(operator, 60, block=5, tol=1e-3, max_products=100)
    blocks = []
    for _ in range(6):
        blocks.append(settings.block)
        settings = settings.wider()
    assert blocks == [5, 6, 12, 24, 48, 64]  # never more than 4 beyond the rank
    assert (settings.rank, settings.tol, settings.max_products) == (60, 1e-3, 100)


def test_what_follows_depends_on_the_seed_too():
    following = [Draws(seed).following().rows(1, 8) for seed in (1, 2)]
    assert not torch.equal(*following)


def test_numbers_do_not_depend_on_the_default_dtype():
    expected = Draws(3).rows(2, 8)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = Draws(3).rows(2, 8)
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
