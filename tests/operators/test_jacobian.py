"""Products with the Jacobian and its transpose, their plan, and the checks before them."""

import gc
import math
import weakref

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
import torch.nn.functional as F
from torch import nn

from pullback import JacobianOperator
from pullback.operators.memory import measure
from pullback.operators.passes import Chunk
from pullback.testing import dense_jacobian
from pullback_ext.intercept import forward_mode_ready


def small_net(dtype=torch.float64):
    """Convolution, normalisation, attention: what a diffusion network is made of."""
    torch.manual_seed(5)
    conv, out = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 3, 3, stride=2, padding=1)
    norm = nn.GroupNorm(4, 8)
    parts = nn.ModuleList([conv, norm, out]).to(dtype).requires_grad_(False)

    def f(x, shift):
        h = F.silu(parts[1](parts[0](x) + shift[:, :, None, None]))
        tokens = h.flatten(2).transpose(1, 2)
        h = h + F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).view(h.shape)
        return parts[2](h)

    return f


def points(batch=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(batch, 2, 5, 7, generator=generator, dtype=torch.float64)
    shift = torch.randn(batch, 8, generator=generator, dtype=torch.float64)
    return x.to(dtype), shift.to(dtype)


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
    calls = []

    def counted(x, shift):
        calls.append(1)
        return f(x, shift)

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
    calls = []

    def counted(x, shift):
        calls.append(1)
        return f(x, shift)

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


def test_a_small_budget_gives_small_passes_and_the_same_numbers():
    f, (x, shift) = small_net(), points()
    v = torch.randn(3, 6, 2, 5, 7, dtype=torch.float64)
    u = torch.randn(3, 6, 3, 3, 4, dtype=torch.float64)
    wide = JacobianOperator(f, x, shift)
    need = wide.chunk.bytes_per_tangent + wide.chunk.bytes_per_closure
    narrow = JacobianOperator(f, x, shift, memory=need)
    assert (narrow.chunk.samples, narrow.chunk.tangents) == (1, 1)
    assert wide.chunk.tangents > 6
    assert torch.allclose(wide.matmat(v), narrow.matmat(v), atol=1e-12)
    assert torch.allclose(wide.rmatmat(u), narrow.rmatmat(u), atol=1e-12)


def test_the_plan_can_be_printed():
    f, (x, shift) = small_net(), points()
    text = str(JacobianOperator(f, x, shift, memory=1 << 20).chunk)
    assert "within 1 MiB" in text
    assert "samples x" in text


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError("none left")]
)
def test_out_of_memory_shrinks_the_pass_and_goes_on(error):
    f, (x, shift) = small_net(), points()
    v = torch.randn(3, 8, 2, 5, 7, dtype=torch.float64)
    expected = JacobianOperator(f, x, shift, check=False).matmat(v)
    made = []

    def hungry(x, shift):
        if made and made[0].chunk.tangents > 2:
            raise error
        return f(x, shift)

    operator = JacobianOperator(hungry, x, shift, check=False, chunk=8)
    made.append(operator)
    assert torch.allclose(operator.matmat(v), expected, atol=1e-12)
    assert operator.chunk.tangents <= 2
    assert operator.count.jvp == 24


def test_one_tangent_that_does_not_fit_raises_a_memory_error():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift, check=False, chunk=4)

    def fails(_block):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    operator._push = fails
    with pytest.raises(MemoryError, match=r"does not fit .*Tried to allocate.*smaller dtype"):
        operator.matmat(torch.randn(3, 4, 2, 5, 7))


def test_other_errors_of_f_come_through_unchanged():
    f, (x, shift) = small_net(), points()
    broken = False

    def breaks(x, shift):
        if broken:
            raise RuntimeError("sizes do not match")
        return f(x, shift)

    operator = JacobianOperator(breaks, x, shift, check=False)
    broken = True
    with pytest.raises(RuntimeError, match="sizes do not match"):
        operator.matmat(torch.randn(3, 4, 2, 5, 7))


def test_halving_ends():
    chunk = Chunk(samples=3, tangents=5, budget=1, bytes_per_tangent=1, bytes_per_closure=1)
    steps = []
    while chunk.halve():
        steps.append((chunk.samples, chunk.tangents))
    assert steps == [(3, 3), (3, 2), (3, 1), (2, 1), (1, 1)]


def test_memory_counts_what_is_alive_at_once_and_nothing_made_outside():
    outside = torch.ones(1000)

    def run():
        a = outside * 2  # 4000 bytes
        b = a.view(10, 100) + 1  # 4000 more, both alive
        del a
        c = b * 3  # 4000 more, two alive
        return c.sum()

    value, (peak, total) = measure(run)
    assert float(value) == 9000
    assert 8000 <= peak <= 8000 + 64
    assert 12000 <= total <= 12000 + 64


def test_the_plan_is_an_upper_estimate_of_what_products_need():
    f, (x, shift) = small_net(torch.float32), points(1, torch.float32)
    chunk = JacobianOperator(f, x, shift).chunk

    def tangents(count):
        v = torch.randn(count, *x.shape)
        return lambda: torch.func.vmap(
            lambda w: torch.func.jvp(lambda p: f(p, shift), (x,), (w,))[1]
        )(v)

    with torch.no_grad(), forward_mode_ready():
        few, many = (measure(tangents(count))[1][0] for count in (2, 12))
        closure = measure(lambda: torch.func.vjp(lambda p: f(p, shift), x))[1][0]
    assert (many - few) / 10 <= chunk.bytes_per_tangent <= 8 * (many - few) / 10
    assert closure / 1.5 <= chunk.bytes_per_closure <= 4 * closure


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


# ------------------------------------------------------------------------------- what is refused


def test_dependent_samples_are_refused():
    x, _ = points()
    with pytest.raises(ValueError, match="samples are not independent"):
        JacobianOperator(lambda x: x * x.mean(0, keepdim=True), x)


def test_a_random_map_is_refused():
    x, _ = points()
    with pytest.raises(ValueError, match="not deterministic"):
        JacobianOperator(lambda x: x + 0.1 * torch.randn(x.shape, dtype=x.dtype), x)


def test_active_dropout_is_refused():
    x, _ = points()
    with pytest.raises((ValueError, RuntimeError), match=r"not deterministic|random"):
        JacobianOperator(lambda x: F.dropout(x, 0.1, training=True), x)


def test_a_dropped_derivative_is_told_from_a_constant_map():
    x, _ = points()
    with pytest.raises(ValueError, match="drops its derivative"):
        JacobianOperator(lambda x: x.detach().sin(), x)
    constant = JacobianOperator(
        lambda x: torch.ones(len(x), 4, dtype=x.dtype) + 0 * x[:, 0, 0, :4], x
    )
    assert constant.matmat(torch.randn(3, 2, 2, 5, 7)).abs().max() == 0


def test_a_wrong_derivative_rule_is_refused():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, _output):
            ctx.save_for_forward(*inputs)
            ctx.save_for_backward(*inputs)

        @staticmethod
        def jvp(ctx, tangent):
            return 0 * tangent

        @staticmethod
        def backward(ctx, cotangent):
            return 2 * ctx.saved_tensors[0] * cotangent

    x, _ = points()
    with pytest.raises(ValueError, match="Forward and reverse mode disagree"):
        JacobianOperator(Square.apply, x)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_points_that_are_not_finite_are_refused_before_any_work(value):
    x, _ = points()
    x[1, 0, 2, 3] = value

    def never(_x):
        raise AssertionError("f was called")

    with pytest.raises(ValueError, match=r"NaN or Inf in samples \[1\]"):
        JacobianOperator(never, x)


def test_features_that_are_not_finite_are_refused():
    x, _ = points()
    with pytest.raises(ValueError, match=r"f\(x\) is not finite"):
        JacobianOperator(lambda x: torch.log(x - x), x)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda x: JacobianOperator(torch.sin, x.long()), TypeError, "floating dtype"),
        (lambda x: JacobianOperator(torch.sin, x[0, 0, 0]), ValueError, "unsqueeze"),
        (lambda x: JacobianOperator(torch.sin, x[:0]), ValueError, "at least one sample"),
        (lambda x: JacobianOperator(lambda x: x.sum(), x), ValueError, r"got \(\)"),
        (lambda x: JacobianOperator(lambda x: (x, x), x), TypeError, "got tuple"),
        (lambda x: JacobianOperator(torch.add, x, x[:2]), ValueError, "argument 0 has shape"),
        (lambda x: JacobianOperator(torch.sin, x, chunk=0), ValueError, "got 0"),
        (lambda x: JacobianOperator(torch.sin, x, memory=0), ValueError, "got 0"),
    ],
)
def test_bad_arguments_are_named(build, error, message):
    with pytest.raises(error, match=message):
        build(points()[0])


def test_bad_blocks_are_named():
    operator = JacobianOperator(torch.sin, points()[0])
    with pytest.raises(ValueError, match=r"\[3, k, 2, 5, 7\], got \[3, 2, 5, 7\]"):
        operator.matmat(torch.randn(3, 2, 5, 7))
    with pytest.raises(ValueError, match="Expected u of shape"):
        operator.rmatmat(torch.randn(2, 4, 2, 5, 7))
    with pytest.raises(TypeError, match="floating dtype"):
        operator.matmat(torch.ones(3, 1, 2, 5, 7, dtype=torch.int64))


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
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product = JacobianOperator(watched, x, shift).matmat(v)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision(precision)
    assert torch.equal(product, expected)
    assert set(seen) == {"ieee"}


def test_measuring_memory_leaves_nothing_behind():
    f, (x, shift) = small_net(), points()
    JacobianOperator(f, x, shift)
    before = len(weakref.finalize._registry)
    JacobianOperator(f, x, shift)
    gc.collect()
    assert len(weakref.finalize._registry) <= before


def test_an_empty_out_of_memory_message_is_enough():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift, check=False)
    attempts = []

    def fails(_block):
        attempts.append(1)
        raise MemoryError

    operator._push = fails
    with pytest.raises(MemoryError, match="does not fit the memory of cpu: out of memory"):
        operator.matmat(torch.randn(3, 4, 2, 5, 7))
    assert len(attempts) <= 6  # halved from what is asked for, not from what would fit


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
