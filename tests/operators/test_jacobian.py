"""Products with the Jacobian and its transpose."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import nn

from pullback import JacobianOperator
from pullback.testing import dense, dense_jacobian
from tests.operators.small_net import counting, points, small_net


@pytest.mark.parametrize("chunk", ["auto", 1, 3, 50])
@pytest.mark.parametrize("columns", [1, 4, 7])
def test_products_equal_the_dense_jacobian(chunk, columns):
    f, (x, shift) = small_net(), points()
    jacobian = dense_jacobian(f, x, shift, mode="reverse")
    operator = JacobianOperator(f, x, shift, chunk=chunk)
    v = torch.randn(3, columns, 2, 5, 7, dtype=torch.float64)
    u = torch.randn(3, columns, *operator.h_shape, dtype=torch.float64)
    jv, ju = operator.matmat(v), operator.rmatmat(u)
    assert jv.abs().min() > 0
    expected_v = torch.einsum("bmn,bkn->bkm", jacobian, v.flatten(2))
    expected_u = torch.einsum("bmn,bkm->bkn", jacobian, u.flatten(2))
    assert torch.allclose(jv.flatten(2), expected_v, atol=1e-12)
    assert torch.allclose(ju.flatten(2), expected_u, atol=1e-12)
    assert jv.shape == (3, columns, *operator.h_shape)
    assert ju.shape == (3, columns, *operator.x_shape)


def test_products_agree_with_finite_differences():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift)
    v = torch.randn(3, 1, 2, 5, 7, dtype=torch.float64)
    step = 1e-6
    numeric = (f(x + step * v[:, 0], shift) - f(x - step * v[:, 0], shift)) / (2 * step)
    assert torch.allclose(operator.matmat(v)[:, 0], numeric, atol=1e-7)


def layouts(block):
    """The same numbers in other layouts."""
    transposed = block.transpose(0, 1).contiguous().transpose(0, 1)
    channels_last = block.movedim(2, -1).contiguous().movedim(-1, 2)
    padded = torch.zeros(*block.shape[:-1], 2 * block.shape[-1], dtype=block.dtype)
    padded[..., ::2] = block
    return [block, transposed, channels_last, padded[..., ::2]]


def test_layouts_of_tangents_and_of_the_point_do_not_matter():
    f, (x, shift) = small_net(), points()
    v = torch.randn(3, 4, 2, 5, 7, dtype=torch.float64)
    expected = JacobianOperator(f, x, shift).matmat(v)
    for point in (x, x.to(memory_format=torch.channels_last)):
        operator = JacobianOperator(f, point, shift)
        for tangents in layouts(v):
            assert torch.allclose(operator.matmat(tangents), expected, atol=1e-12)
    one = v[:, :1].expand(3, 4, 2, 5, 7)
    assert torch.allclose(operator.matmat(one)[:, 3], expected[:, 0], atol=1e-12)


def test_no_columns_give_no_products():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift, check=False)
    assert operator.matmat(torch.zeros(3, 0, 2, 5, 7)).shape == (3, 0, *operator.h_shape)
    assert operator.rmatmat(torch.zeros(3, 0, *operator.h_shape)).shape == (3, 0, 2, 5, 7)
    assert operator.count.total == 0


def test_select_is_the_operator_of_some_samples_and_shares_the_count():
    f, (x, shift) = small_net(), points(5)
    operator = JacobianOperator(f, x, shift, check=False)
    v = torch.randn(5, 2, 2, 5, 7, dtype=torch.float64)
    whole = operator.matmat(v)
    rows = torch.tensor([4, 1])
    part = operator.select(rows)
    assert torch.allclose(part.matmat(v[rows]), whole[rows], atol=1e-12)
    assert part.batch == 2
    assert operator.count.jvp == 5 * 2 + 2 * 2


def test_arguments_that_are_no_tensors_reach_the_map_as_they_stand(rng):
    x = torch.randn(3, 6, generator=rng, dtype=torch.float64)
    power = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
    others = ("scaled", [2.0, 3.0, 4.0], {"by": 5.0}, None, 0.5)

    def f(x, *args):
        assert args[1:] == others
        return x.abs() ** args[0].unsqueeze(1) * args[3]["by"]

    operator = JacobianOperator(f, x, power, *others)
    slope = 5 * power.unsqueeze(1) * x.abs() ** (power.unsqueeze(1) - 1) * x.sign()
    torch.testing.assert_close(dense(operator), torch.diag_embed(slope))
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(dense(operator.select(rows)), torch.diag_embed(slope[rows]))


@pytest.mark.parametrize(("samples", "checked"), [(1, 1), (2, 2), (5, 2)])
def test_the_products_of_the_check_are_counted(samples, checked):
    """One of each kind with two samples, or with the only one."""
    f, (x, shift) = small_net(), points(samples)
    count = JacobianOperator(f, x, shift).count
    assert (count.jvp, count.vjp) == (checked, checked)
    assert JacobianOperator(f, x, shift, check=False).count.total == 0


def test_products_are_counted():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift)
    checks = (operator.count.jvp, operator.count.vjp)
    operator.matmat(torch.randn(3, 4, 2, 5, 7))
    operator.rmatmat(torch.randn(3, 5, *operator.h_shape))
    assert (operator.count.jvp - checks[0], operator.count.vjp - checks[1]) == (12, 15)
    assert operator.count.total == sum(checks) + 27


def test_the_vjp_closure_is_kept_between_products():
    f, (x, shift) = small_net(), points()
    counted, calls = counting(f)
    operator = JacobianOperator(counted, x, shift, check=False)
    u = torch.randn(3, 2, *operator.h_shape, dtype=torch.float64)
    operator.rmatmat(u)
    before = len(calls)
    operator.rmatmat(u)
    assert len(calls) == before
    tight = JacobianOperator(counted, x, shift, check=False, memory=1)
    tight.rmatmat(u)
    before = len(calls)
    tight.rmatmat(u)
    assert len(calls) > before


def test_to_scipy_gives_the_same_singular_values():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift)
    linear = operator.to_scipy(1)
    jacobian = dense_jacobian(f, x, shift, mode="reverse")[1].numpy()
    assert linear.shape == jacobian.shape
    v = np.random.default_rng(0).standard_normal((jacobian.shape[1], 3))
    assert np.allclose(linear @ v, jacobian @ v, atol=1e-12)
    assert np.allclose(linear.T @ (jacobian @ v), jacobian.T @ jacobian @ v, atol=1e-10)
    s = scipy.sparse.linalg.svds(linear, k=4, return_singular_vectors=False)
    expected = np.linalg.svd(jacobian, compute_uv=False)[:4]
    assert np.allclose(sorted(s, reverse=True), expected)
    with pytest.raises(IndexError, match="between 0 and 2, got 3"):
        operator.to_scipy(3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_products_do_not_care_for_the_grad_mode(mode):
    f, (x, shift) = small_net(), points()
    v = torch.randn(3, 2, 2, 5, 7, dtype=torch.float64)
    expected = JacobianOperator(f, x, shift).matmat(v)
    with mode():
        operator = JacobianOperator(f, x.clone(), shift.clone())
        product = operator.matmat(v)
        pulled = operator.rmatmat(product)
    assert torch.allclose(product, expected, atol=1e-12)
    assert not product.requires_grad
    assert not pulled.requires_grad


def test_parameters_collect_no_gradients():
    layer = nn.Linear(4, 6, dtype=torch.float64)
    operator = JacobianOperator(layer, torch.randn(2, 4, dtype=torch.float64))
    operator.rmatmat(operator.matmat(torch.randn(2, 3, 4, dtype=torch.float64)))
    assert layer.weight.grad is None
    assert layer.weight.requires_grad


def test_editing_the_points_in_place_later_changes_nothing():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift)
    v = torch.randn(3, 2, 2, 5, 7, dtype=torch.float64)
    before = operator.matmat(v)
    x.mul_(2)
    assert torch.equal(operator.matmat(v), before)


def test_autocast_and_reduced_matmul_precision_outside_do_not_reach_the_products():
    f, (x, shift) = small_net(torch.float32), points(dtype=torch.float32)
    v = torch.randn(3, 2, 2, 5, 7)
    expected = JacobianOperator(f, x, shift).matmat(v)
    seen = []

    def watched(x, shift):
        backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
        seen.extend(backend.fp32_precision for backend in backends)
        return f(x, shift)

    precision = torch.get_float32_matmul_precision()
    of_mkldnn = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product = JacobianOperator(watched, x, shift).matmat(v)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.mkldnn.matmul.fp32_precision = of_mkldnn
    assert torch.equal(product, expected)
    assert set(seen) == {"ieee"}


@pytest.mark.cuda
def test_products_on_a_gpu_equal_those_on_the_cpu():
    f, (x, shift) = small_net(), points()
    v = torch.randn(3, 4, 2, 5, 7, dtype=torch.float64)
    expected = JacobianOperator(f, x, shift).matmat(v)

    def on_gpu(x, shift):
        return f(x.cpu(), shift.cpu()).cuda()

    operator = JacobianOperator(on_gpu, x.cuda(), shift.cuda())
    product = operator.matmat(v.cuda())
    assert product.device.type == "cuda"
    assert torch.allclose(product.cpu(), expected, atol=1e-12)
