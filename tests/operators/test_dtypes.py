"""Products in the dtype of the map, whatever that of the block."""

import numpy as np
import pytest
import torch

from pullback import JacobianOperator
from pullback.operators import BlockOperator
from pullback.testing import MatrixOperator, dense_jacobian
from tests.operators.small_net import points, small_net

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("given", FLOATS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_blocks_of_any_dtype_are_multiplied_in_that_of_the_map(dtype, given, recorded):
    f, (x, shift) = small_net(dtype), points(dtype=dtype)
    operator = JacobianOperator(f, x, shift)
    assert operator.way.refused is None
    if not recorded:
        operator.way.refused = "this test asks for torch.func"
    v = torch.randn(3, 2, 2, 5, 7).to(given)
    u = torch.randn(3, 2, *operator.h_shape).to(given)
    jv, ju = operator.matmat(v), operator.rmatmat(u)
    assert (jv.dtype, ju.dtype) == (dtype, dtype)
    # Rounded once, when the block was made, and never again.
    truth = dense_jacobian(small_net(), x.double(), shift.double(), mode="reverse")
    expected = torch.einsum("bmn,bkn->bkm", truth, v.double().flatten(2))
    pulled = torch.einsum("bmn,bkm->bkn", truth, u.double().flatten(2))
    tol = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(jv.flatten(2).double(), expected, rtol=tol, atol=tol)
    torch.testing.assert_close(ju.flatten(2).double(), pulled, rtol=tol, atol=tol)


@pytest.mark.parametrize("given", FLOATS)
def test_a_block_without_columns_has_the_dtype_of_the_map_too(given):
    operator = JacobianOperator(small_net(torch.float32), *points(dtype=torch.float32))
    found = operator.matmat(torch.zeros(3, 0, *operator.x_shape, dtype=given))
    assert found.shape == (3, 0, *operator.h_shape)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("recorded", [False, True])
def test_a_map_may_answer_in_another_dtype_than_it_is_asked_in(recorded, rng):
    weight = torch.randn(5, 6, generator=rng, dtype=torch.float64)
    x = torch.randn(2, 6, generator=rng)

    def f(x):
        return torch.sin(x).double() @ weight.T

    operator = JacobianOperator(f, x)
    assert operator.way.refused is None
    if not recorded:
        operator.way.refused = "this test asks for torch.func"
    truth = weight * x.double().cos().unsqueeze(1)
    jv = operator.matmat(torch.eye(6).expand(2, 6, 6))
    ju = operator.rmatmat(torch.eye(5).expand(2, 5, 5))
    assert (jv.dtype, ju.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(jv.mT, truth, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ju.double(), truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_estimates_and_stacks_multiply_in_the_dtype_of_the_operator(dtype, rng):
    class Strict(MatrixOperator):
        def matmat(self, v):
            assert v.dtype == dtype
            return super().matmat(v)

    matrices = torch.randn(2, 4, 4, generator=rng, dtype=torch.float64).to(dtype)
    operator = Strict(matrices)
    assert operator.trace(3).value.dtype == torch.float64
    assert operator.diag(3).value.dtype == torch.float64
    stack = operator.stacked()
    v = torch.randn(1, 2, 4, generator=rng, dtype=torch.float64).to(dtype)
    assert stack.rmatmat(stack.matmat(v)).dtype == dtype
    assert stack.gram().matmat(v).dtype == dtype


def test_scipy_is_served_in_the_dtype_of_the_operator(rng):
    class Strict(BlockOperator):
        """A product of its own that converts nothing, as users write it."""

        def __init__(self, matrices):
            super().__init__(len(matrices), (4,), (3,), matrices.dtype, matrices.device)
            self.matrices = matrices

        def matmat(self, v):
            return v @ self.matrices.mT

        def rmatmat(self, u):
            return u @ self.matrices

        def select(self, samples):
            return Strict(self.matrices[samples])

    matrices = torch.randn(2, 3, 4, generator=rng, dtype=torch.float32)
    linear = Strict(matrices).to_scipy(1)
    v, u = torch.randn(4, 2, generator=rng).numpy(), torch.randn(3, generator=rng).numpy()
    matrix = matrices[1].numpy()
    np.testing.assert_allclose(linear @ v, matrix @ v, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(linear.rmatvec(u), u @ matrix, rtol=1e-5, atol=1e-5)
    assert (linear @ v).dtype == linear.dtype == np.float64
