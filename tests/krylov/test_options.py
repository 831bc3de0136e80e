"""What the solver is asked for: numbers that are none, or too large for it."""

import numpy as np
import pytest
import torch

from pullback import krylov
from pullback.krylov.blocks import MOST_ROWS
from pullback.krylov.options import check_block, whole
from pullback.testing import MatrixOperator


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
