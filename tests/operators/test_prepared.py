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


def test_a_selection_of_most_samples_goes_on_with_the_graph_of_all():
    f, (x, shift) = small_net(), points(5)
    counted, calls = counting(f)
    operator = JacobianOperator(counted, x, shift)
    operator.prepare(2)
    before = len(calls)
    part = operator
    for rows in ([4, 0, 1, 3], [2, 0, 1]):  # as a solver goes on with those that are left
        part = part.select(torch.tensor(rows))
        part.prepare(2)
        v = torch.randn(len(rows), 2, *operator.x_shape, dtype=torch.float64)
        part.rmatmat(part.matmat(v))
    assert len(calls) == before


def test_a_selection_of_few_samples_may_have_a_graph_of_its_own():
    operator = JacobianOperator(small_net(), *points(5))
    operator.prepare(2)
    v = torch.randn(5, 2, *operator.x_shape, dtype=torch.float64)
    expected = operator.matmat(v)
    alone = operator.select(torch.tensor([3]))
    alone.prepare(2)
    assert alone._graph.graph.batch == 1
    assert torch.allclose(alone.matmat(v[3:4]), expected[3:4], atol=1e-12)
    assert operator._graph.graph.batch == 5


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


def once(error):
    """x³, right in forward and in reverse mode, with an error where that is differentiated."""

    class Once(Cube):
        @staticmethod
        def backward(ctx, cotangent):
            return Fails.apply(3 * ctx.saved_tensors[0] ** 2 * cotangent)

    class Fails(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, cotangent):
            raise error

    return Once.apply


def test_a_backward_pass_without_a_derivative_is_not_differentiated():
    x, _ = points()
    operator = JacobianOperator(once(RuntimeError("this derivative is not implemented")), x)
    operator.prepare(2)
    assert operator._graph is None
    v = torch.randn(3, 2, 2, 5, 7, dtype=torch.float64)
    for product in (operator.matmat(v), operator.rmatmat(v)):
        assert torch.allclose(product, 3 * x.unsqueeze(1) ** 2 * v)


def test_a_lack_of_memory_while_graphs_are_checked_is_told():
    x, _ = points()
    with pytest.raises(MemoryError, match="Tried to allocate 2 GiB"):
        JacobianOperator(once(torch.OutOfMemoryError("Tried to allocate 2 GiB.")), x)


def test_no_columns_give_no_products_after_preparing():
    operator = JacobianOperator(small_net(), *points())
    operator.prepare(2)
    assert operator._graph is not None
    before = operator.count.total
    assert operator.matmat(torch.zeros(3, 0, 2, 5, 7)).shape == (3, 0, *operator.h_shape)
    assert operator.rmatmat(torch.zeros(3, 0, *operator.h_shape)).shape == (3, 0, 2, 5, 7)
    assert operator.count.total == before
