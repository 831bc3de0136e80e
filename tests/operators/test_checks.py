"""What is refused before any product, and how it is told."""

import math

import pytest
import torch
import torch.nn.functional as F

from pullback import JacobianOperator
from tests.operators.small_net import points


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


def ill_conditioned(x):
    """Rounding in x changes it by about 1e-3 relative, and so does the order of a sum."""
    return torch.sin(x.flatten(1).sum(1, keepdim=True) * torch.linspace(200, 400, 50).to(x.dtype))


def test_what_the_map_itself_rounds_is_no_error():
    """Its value alone and beside another sample may differ by more than rounding does as a rule."""

    def depends_on_the_order(x):  # as kernels for one row and for many do
        order = slice(None) if len(x) == 1 else torch.arange(699, -1, -1)
        return ill_conditioned(x[:, order])

    differences = []
    for seed in range(12):
        x = torch.randn(2, 700, generator=torch.Generator().manual_seed(seed))
        alone, both = depends_on_the_order(x[:1]), depends_on_the_order(x)[:1]
        differences.append(float((alone - both).norm() / both.norm()))
        assert JacobianOperator(depends_on_the_order, x).batch == 2
    assert sum(difference > 1e-4 for difference in differences) >= 6


@pytest.mark.parametrize("seed", range(4))
def test_what_the_map_itself_rounds_excuses_nothing_else(seed):
    x = torch.randn(2, 700, generator=torch.Generator().manual_seed(seed))
    for wrong in (lambda x: ill_conditioned(x) * len(x), lambda x: ill_conditioned(x / len(x))):
        with pytest.raises(ValueError, match="depends on the number of samples"):
            JacobianOperator(wrong, x)
    with pytest.raises(ValueError, match="not deterministic"):
        JacobianOperator(lambda x: ill_conditioned(x) * (1 + 1e-2 * torch.randn(1)), x)


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
