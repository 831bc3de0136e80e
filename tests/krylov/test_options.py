"""What the solver is asked for: numbers that are none, or too large for it."""

import numpy as np
import pytest
import torch

from pullback import krylov
from pullback.krylov.blocks import MOST_ROWS
from pullback.krylov.options import check_block, default_block, tolerance, whole
from pullback.krylov.state import Settings
from pullback.testing import MatrixOperator, with_spectrum


@pytest.mark.parametrize("name", ["max_products", "seed"])
@pytest.mark.parametrize("value", [10**20, 2**64, -(2**64), 1.5, "5", True])
def test_numbers_that_the_solver_cannot_hold_are_named(name, value):
    operator = MatrixOperator(torch.eye(5).unsqueeze(0))
    with pytest.raises(ValueError, match=f"Expected {name} to be (between -9|a whole number)"):
        krylov.svd(operator, 2, **{name: value})


def test_the_largest_numbers_are_taken():
    operator = MatrixOperator(torch.diag(0.5 ** torch.arange(9)).unsqueeze(0))
    most = 2**63 - 1
    for options in ({"max_products": most}, {"seed": most}, {"seed": -most}):
        assert krylov.svd(operator, 2, quality="draft", **options).stopped == ("converged",)


def test_a_block_has_from_two_rows_to_as_many_as_the_kernels_take():
    operator = MatrixOperator(torch.diag(0.5 ** torch.arange(9)).unsqueeze(0))
    for block in (1, MOST_ROWS + 1):
        with pytest.raises(
            ValueError, match=f"Expected block to be at least 2 and at most {MOST_ROWS}"
        ):
            krylov.svd(operator, 2, block=block)
    for block in (2, MOST_ROWS):
        assert check_block(block) == block
        assert krylov.svd(operator, 2, block=block).stopped == ("converged",)


@pytest.mark.parametrize("value", [7, np.int32(7), torch.tensor(7)])
def test_a_whole_number_may_be_of_any_integer_type(value):
    assert whole("rank", value) == 7
    assert type(whole("rank", value)) is int


def test_a_block_has_half_as_many_rows_as_are_asked_for_and_a_fifth_above_sixteen():
    """Never one, from which copies of a value are not told from each other."""
    found = [default_block(rank) for rank in (1, 2, 3, 4, 5, 10, 15, 16, 17, 20, 21, 25, 50, 100)]
    assert found == [2, 2, 2, 2, 3, 5, 8, 8, 4, 4, 5, 5, 10, 20]
    assert default_block(5 * MOST_ROWS) == default_block(10 * MOST_ROWS) == MOST_ROWS


def test_whole_numbers_have_sixty_four_bits():
    for value in (2**63 - 1, -(2**63)):
        assert whole("seed", value) == value
    for value in (2**63, 2**63 + 1, -(2**63) - 1):
        with pytest.raises(ValueError, match="Expected seed to be between"):
            whole("seed", value)


@pytest.mark.parametrize("tol", [-0.1, 0.0, 1.0, 1.5, float("nan"), float("inf")])
def test_a_bound_on_a_sine_lies_between_zero_and_one(tol):
    with pytest.raises(ValueError, match="Expected tol between 0 and 1"):
        tolerance("standard", tol)
    assert tolerance("standard", 0.999) == 0.999


def test_the_first_answer_is_given_however_few_products_are_allowed():
    """Four rows of the basis for three directions."""
    operator = MatrixOperator(with_spectrum([1 / i for i in range(1, 51)], 60, 50))
    for allowed in (1, 2, 8):
        result = krylov.svd(operator, 3, max_products=allowed)
        assert result.products.tolist() == [8, 8, 8]
        assert result.stopped == ("max_products",) * 3


def test_the_seed_is_zero_by_default():
    operator = MatrixOperator(with_spectrum([1 / i for i in range(1, 51)], 60, 50))
    assert torch.equal(krylov.svd(operator, 3).v, krylov.svd(operator, 3, seed=0).v)


@pytest.mark.parametrize("block", [2, 5, 20])
@pytest.mark.parametrize("rank", [1, 7, 20, 60])
def test_the_basis_is_no_larger_than_is_said(rank, block):
    """(k + 11b) n numbers with the pending rows, or 4k n, of blocks as they are at first."""
    operator = MatrixOperator(torch.zeros(1, 300, 300))
    settings = Settings(operator, rank, block=block, tol=1e-3, max_products=100)
    assert settings.capacity <= max(4 * rank, rank + 10 * settings.block)
    assert rank < settings.kept < settings.capacity
