"""What is refused before any product, and how it is told."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from pullback import JacobianOperator
from tests.operators.known import wrong_by_a_percent
from tests.operators.small_net import points


def test_dependent_samples_are_refused():
    x, _ = points()
    with pytest.raises(ValueError, match="samples are not independent"):
        JacobianOperator(lambda x: x * x.mean(0, keepdim=True), x)


@pytest.mark.parametrize("weight", [1e-9, 1.0])
@pytest.mark.parametrize(("reads", "writes"), [(0, 1), (1, 0)])
def test_a_sample_that_reads_another_one_is_refused_however_little(weight, reads, writes):
    """Each way by itself: the value of one of the two is what it is alone."""
    x, _ = points(2)

    def f(x):
        if len(x) == 1:
            return x
        rest = torch.zeros_like(x)
        rest[writes] = weight * x[reads].sin()
        return x + rest

    with pytest.raises(ValueError, match="samples are not independent"):
        JacobianOperator(f, x)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_a_refusal_says_by_how_much_a_value_differs(unit, rng):
    """Relative to the whole, in the Euclidean norm."""
    x = unit * torch.randn(2, 70, generator=rng, dtype=torch.float64)

    def f(x):
        return torch.cat([x[:, :1] * (0.99 + 0.01 * len(x)), x[:, 1:]], dim=1)

    with pytest.raises(ValueError, match="depends on the number of samples") as refusal:
        JacobianOperator(f, x)
    (said,) = re.findall(r"differs by (\S+) relative", str(refusal.value))
    assert float(said) == pytest.approx(0.01 * float(x[0, 0].abs() / x[0].norm()), rel=0.1)


def test_a_refusal_names_the_shapes_that_differ():
    x, _ = points()
    with pytest.raises(ValueError, match=r"shape \[4, 5, 7\] and not \[2, 5, 7\]"):
        JacobianOperator(lambda x: torch.cat([x] * len(x), dim=1), x)


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
    rate = torch.linspace(200, 400, 50, dtype=x.dtype, device=x.device)
    rate = rate * (torch.finfo(torch.float32).eps / torch.finfo(x.dtype).eps)
    return torch.sin(x.flatten(1).sum(1, keepdim=True) * rate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_map_itself_rounds_is_no_error(dtype):
    """Its value alone and beside another sample may differ by more than rounding does as a rule."""

    def depends_on_the_order(x):  # as kernels for one row and for many do
        order = slice(None) if len(x) == 1 else torch.arange(699, -1, -1)
        return ill_conditioned(x[:, order])

    differences = []
    for seed in range(12):
        x = torch.randn(2, 700, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        alone, both = depends_on_the_order(x[:1]), depends_on_the_order(x)[:1]
        differences.append(float((alone - both).norm() / both.norm()))
        assert JacobianOperator(depends_on_the_order, x).batch == 2
    assert sum(difference > 1e-4 for difference in differences) >= 6


@pytest.mark.parametrize("usual_device", ["cpu", "meta"])
def test_a_check_draws_on_the_cpu_and_leaves_the_global_random_state_alone(usual_device):
    """For maps that are measured for what they round, too."""

    def depends_on_the_order(x):
        return ill_conditioned(x if len(x) == 1 else x.flip(1))

    x = torch.randn(2, 700)
    state = torch.get_rng_state()
    with torch.device(usual_device):
        for f in (torch.sin, lambda x: 0 * x + 1, depends_on_the_order):
            assert JacobianOperator(f, x).batch == 2
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", range(4))
def test_what_the_map_itself_rounds_excuses_nothing_else(seed):
    x = torch.randn(2, 700, generator=torch.Generator().manual_seed(seed))
    for wrong in (lambda x: ill_conditioned(x) * len(x), lambda x: ill_conditioned(x / len(x))):
        with pytest.raises(ValueError, match="depends on the number of samples"):
            JacobianOperator(wrong, x)
    with pytest.raises(ValueError, match="not deterministic"):
        JacobianOperator(lambda x: ill_conditioned(x) * (1 + 1e-2 * torch.randn(1)), x)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_dropped_derivative_is_told_from_a_constant_map(batch):
    x, _ = points(batch)
    with pytest.raises(ValueError, match="drops its derivative"):
        JacobianOperator(lambda x: x.detach().sin(), x)
    constant = JacobianOperator(
        lambda x: torch.ones(len(x), 4, dtype=x.dtype) + 0 * x[:, 0, 0, :4], x
    )
    assert constant.matmat(torch.randn(batch, 2, 2, 5, 7)).abs().max() == 0


def test_a_dropped_derivative_is_noticed_where_f_overflows_nearby():
    x = torch.full((2, 70), 88.5)  # e^89 is beyond float32
    with pytest.raises(ValueError, match="drops its derivative"):
        JacobianOperator(lambda x: x.detach().exp(), x)


def test_a_map_that_is_flat_around_a_point_is_no_error():
    """Within a tenth of its norm, as what lies far behind the kink of a ReLU is."""
    x, _ = points()

    def f(x, center):
        far = (x - center).flatten(1).square().sum(1) / center.flatten(1).square().sum(1)
        return torch.relu(far - 0.01).unsqueeze(1) * 1e3

    operator = JacobianOperator(f, x, x)
    assert not bool(operator.matmat(torch.randn(3, 2, 2, 5, 7)).any())


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_a_wrong_rule_is_noticed_however_many_features_there_are(unit, rng):
    """A cotangent that is nearly at right angles to J v, as most are, would hardly show it."""

    with pytest.raises(ValueError, match="Forward and reverse mode disagree"):
        JacobianOperator(wrong_by_a_percent(unit), torch.randn(1, 300_000, generator=rng))


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
        (lambda x: JacobianOperator(torch.sin, x.tolist()), TypeError, "Expected x as a tensor"),
        (lambda x: JacobianOperator(torch.sin, x.long()), TypeError, "floating dtype"),
        (lambda x: JacobianOperator(torch.sin, x[0, 0, 0]), ValueError, "unsqueeze"),
        (lambda x: JacobianOperator(torch.sin, x[:0]), ValueError, "at least one sample"),
        (lambda x: JacobianOperator(lambda x: x.sum(), x), ValueError, r"got \(\)"),
        (lambda x: JacobianOperator(lambda x: (x, x), x), TypeError, "got tuple"),
        (lambda x: JacobianOperator(torch.add, x, x[:2]), ValueError, "argument 0 has shape"),
        (lambda x: JacobianOperator(torch.add, x, x[0, 0, 0, 0]), ValueError, "argument 0 has"),
        (lambda x: JacobianOperator(torch.sin, x, chunk=0), ValueError, "got 0"),
        (lambda x: JacobianOperator(torch.sin, x, chunk=True), ValueError, "got True"),
        (lambda x: JacobianOperator(torch.sin, x, chunk=2.5), ValueError, r"got 2\.5"),
        (lambda x: JacobianOperator(torch.sin, x, chunk="all"), ValueError, "got 'all'"),
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
    for name, product in (("v", operator.matmat), ("u", operator.rmatmat)):
        with pytest.raises(TypeError, match=f"Expected {name} as a tensor, got list"):
            product([1.0])
