"""What a recording follows, what it refuses, and what it leaves behind."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pullback.linearization import Tape
from pullback.linearization.normalization import Normalization


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Square(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, cotangent):
        return 5 * cotangent  # a rule of its own, that its forward pass does not tell


def view_written_later(x):
    h = x * 2
    row = h[0]
    h.mul_(3)
    return row + h


def viewed_before(y):
    row = y[1]
    y[:, 0].mul_(3)
    return row * y


def written(y, x):
    y[0].copy_(x[0])
    return y * x


def kept_and_written(x):
    a, b = x.sin(), x.cos()
    h = a * b
    b.add_(1)
    return h * b


REFUSED = {
    "a function with rules of its own": (lambda x: Square.apply(x.sin()), "rules of its own, Squ"),
    "what a derivative of no rule of ours needs": (
        lambda x: (x * 2).as_strided((2, 2), (4, 1), 1).mT.sin_() + x[:2, :2],
        "changes a tensor that its derivative needs",
    ),
    "no form out of place": (lambda x: (x * 2).t_().sin(), "t_.* has no form that"),
    "a part of what is not contiguous": (
        lambda x: written(torch.empty_strided((3, 4), (1, 3)).double(), x),
        "not contiguous",
    ),
    "a view from before": (lambda x: viewed_before(x * 2), "another view of it"),
    "a view of what was written": (view_written_later, "another view of it"),
    "what a derivative needs": (kept_and_written, "changes a tensor that its derivative needs"),
    "its own derivative": (
        lambda x: torch.autograd.grad(x.exp().sum(), x, create_graph=True)[0],
        "differentiates something itself|element 0",
    ),
    "no tensor": (lambda x: [x], "something else than a tensor"),
    "statistics of a normalisation": (
        lambda x: torch.native_group_norm(x, None, None, 3, 4, 1, 2, 1e-5)[1],
        "statistics of a normalisation",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_with_its_reason(name):
    f, reason = REFUSED[name]
    with pytest.raises(RuntimeError, match=reason):
        Tape(f, drawn(3, 4))


def test_constants_have_no_derivative():
    def f(x):
        with torch.no_grad():
            constant = x.exp()
        return x.sin() * constant + x.detach().cos() + x.data

    x = drawn(3, 4)
    v = drawn(2, 3, 4, seed=1)
    torch.testing.assert_close(Tape(f, x).push(v), x.cos() * x.exp() * v)
    # As for torch's reverse mode; its forward mode goes through torch.no_grad().
    back = torch.func.vjp(f, x)[1]
    torch.testing.assert_close(Tape(f, x).pull(v), torch.stack([back(one)[0] for one in v]))


def test_a_result_that_does_not_depend_on_x_has_a_derivative_of_zeros():
    tape = Tape(lambda x: x.detach()[:, :2].sin(), drawn(3, 4))
    assert len(tape) == 0
    assert torch.equal(tape.push(drawn(5, 3, 4)), torch.zeros(5, 3, 2).double())
    assert torch.equal(tape.pull(drawn(5, 3, 2)), torch.zeros(5, 3, 4).double())


def test_the_identity_has_no_steps():
    tape, v = Tape(lambda x: x, drawn(3, 4)), drawn(5, 3, 4)
    assert len(tape) == 0
    assert torch.equal(tape.push(v), v)
    assert torch.equal(tape.pull(v), v)


def test_only_what_leads_to_the_result_is_kept():
    def f(x):
        x.exp().matmul(drawn(4, 4)).sin()  # used by nobody
        return x.sin()

    assert len(Tape(f, drawn(3, 4))) == 1


def test_silu_becomes_a_part_of_the_normalisation_before_it():
    def f(x):
        return F.silu(F.group_norm(x, 2)) * 2

    tape = Tape(f, drawn(3, 4, 5))
    assert [type(step.linear).__name__ for step in tape._steps] == ["Normalization", "Scaled"]
    assert isinstance(tape._steps[0].linear, Normalization)
    assert tape._steps[0].linear.gain is not None


def test_a_constant_tangent_through_group_normalisation_is_zero():
    tape = Tape(lambda x: F.group_norm(x, 2, drawn(4)), drawn(3, 4, 5))
    assert float(tape.push(torch.full((2, 3, 4, 5), 7.0).double()).abs().max()) < 1e-13


def test_nothing_of_autograd_is_kept_and_no_gradient_collected():
    net = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4)).double()
    x = drawn(3, 4).requires_grad_()
    tape = Tape(net, x)
    found = tape.push(drawn(2, 3, 4)), tape.pull(drawn(2, 3, 4))
    assert not any(one.requires_grad for one in (*found, tape.value))
    assert all(parameter.grad is None for parameter in (*net.parameters(), x))
    kept = [one for step in tape._steps for one in step.linear.kept()]
    parameters = {id(parameter) for parameter in net.parameters()}
    assert all(
        one.grad_fn is None or id(one) in parameters or one._base is not None for one in kept
    )


def test_a_tensor_that_f_keeps_does_not_keep_the_recording():
    held = []

    def f(x):
        held.append(x.sin())
        return held[-1] * x

    tape = Tape(f, drawn(3, 4))
    gone = weakref.ref(tape._steps[0].linear)
    del tape
    gc.collect()
    assert gone() is None
    assert len(held) == 1
    # Nor does one recording take a tensor of another for its own.
    torch.testing.assert_close(
        Tape(lambda x: held[0] * x, drawn(3, 4)).push(drawn(1, 3, 4))[0], held[0] * drawn(3, 4)
    )


def test_what_is_kept_is_counted_without_the_parameters():
    net = nn.Linear(400, 30).requires_grad_(False)
    x = torch.randn(8, 400)
    assert Tape(net, x).kept_bytes == 0
    assert Tape(lambda x: net(x).sin(), x).kept_bytes == 8 * 30 * 4


def test_values_that_f_reads_are_those_of_the_point():
    def f(x):
        return x.sin() if x.sum() > 0 else x.exp()

    x, v = drawn(3, 4).abs(), torch.ones(1, 3, 4).double()
    torch.testing.assert_close(Tape(f, x).push(v)[0], x.cos())
    torch.testing.assert_close(Tape(f, -x).push(v)[0], (-x).exp())
