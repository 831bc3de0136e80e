"""Use that nobody meant: what is protected, and what is refused in a paragraph."""

import math

import pytest
import torch
from torch import nn

from pullback import JacobianOperator, krylov
from pullback.testing import MatrixOperator, dense, dense_jacobian
from tests.operators.known import smooth, wrong_by_a_percent
from tests.operators.small_net import counting, points, small_net

EXTREMES = [
    (torch.float32, 1e30),
    (torch.float32, 1e-30),
    (torch.float64, 1e160),
    (torch.float64, 1e-160),
    (torch.float64, 1e290),
    (torch.float64, 1e-290),
]


# ----------------------------------------------------------------------------- what is protected


def test_editing_the_arguments_in_place_later_changes_nothing():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift)
    u = torch.randn(3, 2, *operator.h_shape, dtype=torch.float64)
    before = operator.rmatmat(u)
    shift.zero_()
    operator._release()
    assert torch.equal(operator.rmatmat(u), before)


@pytest.mark.parametrize("batch", [2, 3])
def test_a_copy_of_an_argument_repeats_itself_where_the_argument_does(batch):
    shift = torch.ones(1, 8, dtype=torch.float64).expand(batch, 8)
    (kept,) = JacobianOperator(small_net(), points(batch)[0], shift).points.args
    assert torch.equal(kept, shift)
    assert kept.untyped_storage().nbytes() == 8 * 8
    assert kept.data_ptr() != shift.data_ptr()


def test_arguments_that_require_gradients_collect_none():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift.requires_grad_())
    operator.rmatmat(operator.matmat(torch.randn(3, 2, 2, 5, 7)))
    assert shift.grad is None


@pytest.mark.parametrize("batch", [1, 3])
def test_a_map_that_begins_with_an_in_place_relu_has_the_jacobian_of_any_other(batch, rng):
    weight = torch.randn(4, 6, generator=rng, dtype=torch.float64)
    x = torch.randn(batch, 6, generator=rng, dtype=torch.float64)
    given = x.clone()

    def f(x):
        return nn.ReLU(inplace=True)(x).square() @ weight.T

    operator = JacobianOperator(f, x)
    truth = 2 * weight * given.relu().unsqueeze(1)
    torch.testing.assert_close(dense(operator), truth, rtol=1e-12, atol=1e-12)
    assert operator.way.refused is None
    operator.way.refused = "this test asks for torch.func"
    operator._release()
    torch.testing.assert_close(dense(operator), truth, rtol=1e-12, atol=1e-12)
    assert torch.equal(x, given)
    assert torch.equal(operator.points.x, given)


def test_an_argument_that_f_changes_is_refused_and_that_of_the_caller_left():
    x, shift = torch.randn(2, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"f changes argument 1 of args in place.*clone\(\)"):
        JacobianOperator(lambda x, _, shift: x * shift.add_(1), x, "mode", shift)
    assert not bool(shift.any())


# ----------------------------------------------------------------------------------- what differs


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.sin() * len(x),
        lambda x: x.sin() / len(x),
        lambda x: x[:, : len(x)].sin(),
        lambda x: torch.cat([x] * len(x), dim=1),
    ],
)
def test_a_map_that_depends_on_the_number_of_samples_is_refused(f, batch, rng):
    x = torch.randn(batch, 7, generator=rng, dtype=torch.float64)
    with pytest.raises(ValueError, match="depends on the number of samples: with two of them"):
        JacobianOperator(f, x)


def test_a_single_sample_of_a_map_that_mixes_samples_has_a_jacobian_of_its_own(rng):
    """One sample may be passed alone, as the refusal says: its products are then its own."""
    x = torch.randn(1, 6, generator=rng, dtype=torch.float64)

    def f(x):
        return x * x.mean(0, keepdim=True)

    operator = JacobianOperator(f, x)
    torch.testing.assert_close(dense(operator)[0], torch.diag(2 * x[0]))


@pytest.mark.parametrize(("dtype", "unit"), EXTREMES)
@pytest.mark.parametrize("batch", [1, 2])
def test_maps_of_any_unit_pass_the_check_and_have_their_jacobian(dtype, unit, batch, rng):
    weight = torch.randn(1, 5, 6, generator=rng, dtype=torch.float64).expand(batch, 5, 6)
    x = torch.randn(batch, 2, 3, generator=rng, dtype=torch.float64).to(dtype)
    operator = JacobianOperator(lambda x, w: unit * smooth(x, w), x, weight.to(dtype))
    assert operator.way.refused is None
    truth = dense_jacobian(smooth, x.double(), weight, mode="reverse")
    found = dense(operator, tol=math.inf).double() / unit
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)
    if dtype == torch.float32:
        s = krylov.svd(operator, 2, quality="draft").s.double() / unit
        torch.testing.assert_close(s, torch.linalg.svdvals(truth)[:, :2], rtol=1e-2, atol=0)


@pytest.mark.parametrize(("dtype", "unit"), EXTREMES)
def test_points_of_any_unit_pass_the_check(dtype, unit, rng):
    x = unit * torch.randn(2, 6, generator=rng, dtype=torch.float64).to(dtype)
    assert JacobianOperator(lambda x: torch.tanh(x / unit), x).way.refused is None
    # A dead ReLU has no derivative here, and is no error however small x is.
    dead = JacobianOperator(lambda x: torch.relu(x / unit - 100), x)
    assert not bool(dead.matmat(torch.ones(2, 1, 6)).any())


@pytest.mark.parametrize(("dtype", "unit"), EXTREMES)
def test_a_wrong_rule_is_noticed_at_any_unit(dtype, unit, rng):
    x = torch.randn(2, 6, generator=rng, dtype=torch.float64).to(dtype)
    with pytest.raises(ValueError, match="Forward and reverse mode disagree"):
        JacobianOperator(wrong_by_a_percent(unit), x)
    with pytest.raises(ValueError, match="drops its derivative"):
        JacobianOperator(lambda x: x.detach() * unit, x)
    with pytest.raises(ValueError, match="not deterministic"):
        JacobianOperator(lambda x: x * unit * (1 + 0.01 * torch.rand(x.shape)), x)


# -------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("f", "x", "error", "message"),
    [
        (None, torch.ones(2, 3), TypeError, "Expected f as a function of x and args, got NoneType"),
        (torch.sin, torch.eye(3).to_sparse(), TypeError, r"dense tensor.*sparse_coo.*to_dense\(\)"),
        (lambda x: x[:, :0], torch.ones(2, 3), ValueError, r"one entry or more.*\(1, 0\), which"),
        (
            torch.sqrt,
            torch.zeros(2, 3),
            ValueError,
            r"its derivative is not: J v .*samples \[0, 1\]",
        ),
        (
            lambda x: x * 1e30 * 1e30,
            torch.full((2, 3), 1e-30),
            ValueError,
            r"derivative is not.*wider dtype than torch\.float32",
        ),
    ],
)
def test_what_has_no_jacobian_says_why(f, x, error, message):
    with pytest.raises(error, match=message):
        JacobianOperator(f, x)


@pytest.mark.parametrize("memory", ["4GiB", -1, 0, 1.5, math.inf, math.nan, True, [8]])
def test_a_budget_is_a_number_of_bytes_and_refused_before_any_work(memory):
    f, calls = counting(torch.sin)
    with pytest.raises(ValueError, match=r"budget in bytes, a whole number such as 4 \* 2\*\*30"):
        JacobianOperator(f, torch.ones(2, 3), memory=memory)
    assert not calls


def test_a_budget_may_be_of_any_size_and_type_that_is_whole():
    x = torch.ones(2, 3)
    for memory in (1e9, 10**30, torch.tensor(2**30)):
        assert JacobianOperator(torch.sin, x, memory=memory).chunk.budget == int(memory)


@pytest.mark.parametrize("what", ["trace", "diag"])
@pytest.mark.parametrize("seed", [1.7, "57", None, -1, 2**32, 2**64])
def test_seeds_of_estimates_are_not_cut_off(what, seed):
    operator = MatrixOperator(torch.eye(4).unsqueeze(0))
    with pytest.raises(ValueError, match="Expected seed to be"):
        getattr(operator, what)(seed=seed)
    with pytest.raises(ValueError, match=r"samples to be a whole number, got 2\.5"):
        getattr(operator, what)(2.5)


def test_everything_computes_where_the_default_device_holds_no_numbers():
    f, (x, shift) = small_net(), points(1)
    v = torch.randn(1, 2, *x.shape[1:], dtype=torch.float64)
    expected = JacobianOperator(f, x, shift).matmat(v)
    with torch.device("meta"):
        operator = JacobianOperator(f, x, shift)
        assert operator.way.refused is None
        assert torch.equal(operator.gram().trace(4).value.isfinite(), torch.ones(1, device="cpu"))
        found = operator.matmat(v)
        whole = operator.stacked().rmatmat(found.unsqueeze(2))
        s = krylov.svd(operator, 2).s
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert whole.device.type == s.device.type == "cpu"
