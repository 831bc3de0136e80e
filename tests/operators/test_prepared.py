"""Products that were prepared for, by graphs."""

import pytest
import torch

from pullback import JacobianOperator
from pullback.testing import dense_jacobian
from tests.operators.small_net import counting, points, small_net


@pytest.mark.parametrize("columns", [1, 3, 4, 9])
def test_prepared_products_equal_the_dense_jacobian(columns):
    f, (x, shift) = small_net(), points()
    jacobian = dense_jacobian(f, x, shift, mode="reverse")
    operator = JacobianOperator(f, x, shift)
    operator.prepare(4)
    assert operator._graph is not None
    checks = operator.count.total
    v = torch.randn(3, columns, 2, 5, 7, dtype=torch.float64)
    u = torch.randn(3, columns, *operator.h_shape, dtype=torch.float64)
    jv, ju = operator.matmat(v), operator.rmatmat(u)
    expected_v = torch.einsum("bmn,bkn->bkm", jacobian, v.flatten(2)).reshape(jv.shape)
    expected_u = torch.einsum("bmn,bkm->bkn", jacobian, u.flatten(2)).reshape(ju.shape)
    assert torch.allclose(jv, expected_v, atol=1e-12)
    assert torch.allclose(ju, expected_u, atol=1e-12)
    assert operator.count.total - checks == 2 * 3 * columns
    part = operator.select(torch.tensor([2, 0]))
    assert torch.allclose(part.matmat(v[[2, 0]]), jv[[2, 0]], atol=1e-12)  # by the same graphs
    assert torch.allclose(part.select(torch.tensor([1])).rmatmat(u[:1]), ju[:1], atol=1e-12)
    part.prepare(2)
    assert part._graph is None or part._graph.graph is not operator._graph.graph
    assert torch.allclose(part.matmat(v[[2, 0]]), jv[[2, 0]], atol=1e-12)
    operator.release()
    assert operator._graph is None
    assert torch.allclose(operator.matmat(v), jv, atol=1e-12)


def test_prepared_products_call_f_no_more():
    f, (x, shift) = small_net(), points()
    counted, calls = counting(f)
    operator = JacobianOperator(counted, x, shift)
    operator.prepare(2)
    before = len(calls)
    operator.rmatmat(operator.matmat(torch.randn(3, 2, 2, 5, 7, dtype=torch.float64)))
    assert len(calls) == before


def test_nothing_is_prepared_beyond_the_budget_or_unchecked():
    f, (x, shift) = small_net(), points()
    tight = JacobianOperator(f, x, shift, memory=1 << 14)
    tight.prepare(2)
    assert tight._graph is None
    unchecked = JacobianOperator(f, x, shift, check=False)
    unchecked.prepare(2)
    assert unchecked._graph is None


class Cube(torch.autograd.Function):
    """Right in forward and in reverse mode, and wrong where its backward pass is differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, _output):
        ctx.save_for_forward(*inputs)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def jvp(ctx, tangent):
        return 3 * ctx.saved_tensors[0] ** 2 * tangent

    @staticmethod
    def backward(ctx, cotangent):
        return 3 * ctx.saved_tensors[0] ** 2 * (cotangent.detach() + 0 * cotangent)


def test_a_backward_pass_that_drops_its_derivative_is_not_differentiated():
    x, _ = points()
    operator = JacobianOperator(Cube.apply, x)
    operator.prepare(2)
    assert operator._graph is None
    v = torch.randn(3, 2, 2, 5, 7, dtype=torch.float64)
    assert torch.allclose(operator.matmat(v), 3 * x.unsqueeze(1) ** 2 * v)
