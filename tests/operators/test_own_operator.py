"""An operator of one's own: three methods, and everything else comes with the base class."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from pullback import krylov
from pullback.operators import BlockOperator
from pullback.testing import MatrixOperator, dense
from tests.operators.known import close, smooth_operator


class Shift(BlockOperator):
    """Cyclic shifts of rows, scaled per entry: singular values known, no matrix anywhere."""

    def __init__(self, scale):  # [B, n]
        super().__init__(len(scale), scale.shape[1:], scale.shape[1:], scale.dtype, scale.device)
        self.scale = scale

    def matmat(self, v):
        return (v * self.scale[:, None]).roll(1, 2)

    def rmatmat(self, u):
        return u.roll(-1, 2) * self.scale[:, None]

    def select(self, index):
        return Shift(self.scale[index])


@pytest.fixture
def scale(rng):
    return torch.rand(3, 40, generator=rng, dtype=torch.float64) ** 4


def test_three_methods_are_enough_for_the_solver_and_the_algebra(scale):
    operator = Shift(scale)
    found = krylov.svd(operator, 4, quality="tight")
    expected = scale.sort(dim=1, descending=True).values[:, :4]
    torch.testing.assert_close(found.s, expected, rtol=1e-8, atol=0)
    doubled = krylov.svd(operator + operator, 4, quality="tight")
    torch.testing.assert_close(doubled.s, 2 * expected, rtol=1e-8, atol=0)
    trace = operator.gram().diag(40, seed=1)
    torch.testing.assert_close(trace.value, scale.square(), rtol=1e-10, atol=0)


def test_any_operator_serves_scipy(scale):
    for operator in (Shift(scale), 2 * Shift(scale), Shift(scale).gram()):
        single = operator.to_scipy(1)
        assert single.shape == (40, 40)
        s = scipy.sparse.linalg.svds(single, k=3, return_singular_vectors=False)
        dense = np.linalg.svd(single @ np.eye(40), compute_uv=False)[:3]
        np.testing.assert_allclose(np.sort(s)[::-1], dense, rtol=1e-10)
    with pytest.raises(IndexError, match="between 0 and 2, got 3"):
        operator.to_scipy(3)


def test_what_lacks_a_method_cannot_be_made():
    class Half(BlockOperator):
        def matmat(self, v):
            return v

    with pytest.raises(TypeError, match="rmatmat"):
        Half(1, (2,), (2,), torch.float32, "cpu")


def test_the_solver_asks_for_the_base_class():
    class Duck:
        batch, x_shape, h_shape = 1, (4,), (4,)

    with pytest.raises(TypeError, match=r"got Duck.*pullback\.operators\.BlockOperator"):
        krylov.svd(Duck(), 1)
    with pytest.raises(TypeError, match="unsupported operand"):
        MatrixOperator(torch.eye(2)[None]) + Duck()


@pytest.mark.parametrize("given", [np.float64, np.float32, np.int64])
def test_scipy_multiplies_whole_blocks_of_numbers_in_float64(scale, given):
    shapes = []

    class Watched(Shift):
        def matmat(self, v):
            shapes.append((v.dtype, *v.shape))
            return super().matmat(v)

        def rmatmat(self, u):
            shapes.append((u.dtype, *u.shape))
            return super().rmatmat(u)

        def select(self, index):
            return Watched(self.scale[index])

    linear = Watched(scale).to_scipy(1)
    assert linear.dtype == np.float64
    assert not shapes  # making it takes no product
    block = np.random.default_rng(0).integers(-9, 9, (40, 5)).astype(given)
    truth = np.roll(np.diag(scale[1].numpy()), 1, axis=0)
    np.testing.assert_allclose(linear @ block, truth @ block)
    np.testing.assert_allclose(linear.T @ block, truth.T @ block)
    assert shapes == [(torch.float64, 1, 5, 40)] * 2


@pytest.mark.parametrize("sample", [-1, -2, -3])
def test_a_negative_sample_counts_from_the_end(scale, sample):
    operator = Shift(scale)
    v = np.arange(40.0)
    from_the_end = operator.to_scipy(sample) @ v
    np.testing.assert_array_equal(from_the_end, operator.to_scipy(3 + sample) @ v)
    np.testing.assert_allclose(from_the_end, np.roll(v * scale[sample].numpy(), 1))
    with pytest.raises(IndexError, match="between 0 and 2, got -4"):
        operator.to_scipy(-4)


def test_an_own_operator_is_asked_for_samples_that_it_has():
    """Its `select` may look them up by their number."""

    class Numbered(MatrixOperator):
        def select(self, index):
            by_number = dict(enumerate(self.matrices))
            return MatrixOperator(torch.stack([by_number[one] for one in index.tolist()]))

    matrices = torch.arange(1.0, 4).reshape(3, 1, 1)
    found = [Numbered(matrices).to_scipy(sample) @ np.ones(1) for sample in range(-3, 3)]
    np.testing.assert_array_equal(np.ravel(found), [1, 2, 3, 1, 2, 3])


def test_negative_indices_select_from_the_end(rng):
    a, matrices = smooth_operator(rng)
    rows = torch.tensor([-1, 0, -2])
    close(dense(a.select(rows)), matrices[rows])
    dense(a)
    assert a._products._pieces
    close(dense(a.select(rows)), matrices[rows])
    close(dense((2 * a).gram().select(rows)), 4 * (matrices.mT @ matrices)[rows])
