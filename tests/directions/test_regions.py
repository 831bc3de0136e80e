"""Some rows of an operator, by its own products."""

import torch

from pullback.directions.regions import Rows
from pullback.operators import JacobianOperator
from pullback.testing import MatrixOperator, dense


def test_the_rows_of_an_operator_are_those_of_its_matrices(rng):
    matrices = torch.randn(3, 6, 4, generator=rng, dtype=torch.float64)
    places = torch.tensor([0, 2, 5])
    rows = Rows(MatrixOperator(matrices, (2, 2), (3, 2)), places)
    torch.testing.assert_close(dense(rows), matrices[:, places])
    torch.testing.assert_close(dense(rows.select(torch.tensor([2]))), matrices[2:, places])
    assert rows.nearby(0) is None  # these products are exact


def test_what_is_nearby_and_counts_are_those_of_the_operator(rng):
    x = torch.randn(2, 3, generator=rng)
    operator = JacobianOperator(torch.sin, x)
    rows = Rows(operator, torch.tensor([1]))
    other = rows.nearby(0)
    difference = (dense(other, 1e-5) - dense(rows, 1e-5)).abs().max()
    assert 0 < float(difference) < 1e-5
    before = operator.count.total
    rows.matmat(torch.ones(2, 2, 3))
    rows._release()
    assert operator.count.total == before + 4
