"""Products by linear maps that were recorded, and what is kept of them."""

import threading

import pytest
import torch
from torch import nn

from pullback import JacobianOperator
from pullback.linearization.generic import Generic
from pullback.operators.derivative import Part, Recorded, Transformed
from pullback.testing import dense, dense_jacobian
from tests.operators.small_net import counting, points, small_net


def multiply(operator, columns=2):
    """One product of each kind with the same blocks at every call."""
    generator = torch.Generator().manual_seed(columns)
    v = torch.randn(len(operator.points), columns, *operator.x_shape, generator=generator)
    u = torch.randn(len(operator.points), columns, *operator.h_shape, generator=generator)
    return operator.matmat(v.double()), operator.rmatmat(u.double())


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("columns", [1, 3, 4, 9])
def test_recorded_products_equal_the_dense_jacobian(columns):
    f, (x, shift) = small_net(), points()
    jacobian = dense_jacobian(f, x, shift, mode="reverse")
    operator = JacobianOperator(f, x, shift)
    checks = operator.count.total
    v = torch.randn(3, columns, 2, 5, 7, dtype=torch.float64)
    u = torch.randn(3, columns, *operator.h_shape, dtype=torch.float64)
    jv, ju = operator.matmat(v), operator.rmatmat(u)
    expected_v = torch.einsum("bmn,bkn->bkm", jacobian, v.flatten(2)).reshape(jv.shape)
    expected_u = torch.einsum("bmn,bkm->bkn", jacobian, u.flatten(2)).reshape(ju.shape)
    torch.testing.assert_close(jv, expected_v, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ju, expected_u, rtol=1e-12, atol=1e-12)
    assert operator.count.total - checks == 2 * 3 * columns
    (piece,) = operator._products._pieces.values()
    assert isinstance(piece.derivative, Recorded)


def test_a_point_is_evaluated_once_for_products_of_any_kind_and_width():
    f, (x, shift) = small_net(), points()
    counted, calls = counting(f)
    operator = JacobianOperator(counted, x, shift)
    before = len(calls)
    for columns in (2, 5, 1):
        multiply(operator, columns)
    assert len(calls) == before + 1
    operator._release()
    multiply(operator)
    assert len(calls) == before + 2


def test_a_selection_of_most_samples_goes_on_with_what_is_kept_of_all():
    f, (x, shift) = small_net(), points(5)
    counted, calls = counting(f)
    operator = JacobianOperator(counted, x, shift)
    whole = multiply(operator)
    before = len(calls)
    part, left = operator, torch.arange(5)
    for rows in ([0, 1, 3, 4], [0, 2, 3]):  # as a solver goes on with those that are left
        part, left = part.select(torch.tensor(rows)), left[rows]
        v = torch.randn(len(rows), 2, *operator.x_shape, dtype=torch.float64)
        u = torch.randn(len(rows), 2, *operator.h_shape, dtype=torch.float64)
        found = part.matmat(v), part.rmatmat(u)
        assert len(calls) == before
        alone = JacobianOperator(f, x[left], shift[left])
        same(found, (alone.matmat(v), alone.rmatmat(u)))
    assert isinstance(part._products._pieces[0].derivative, Part)
    same(multiply(operator), whole)


@pytest.mark.parametrize("rows", [[3], [1, 4], [3, 0, 1, 4], [-1, 0, 1, 2]])
def test_a_selection_of_few_samples_or_in_another_order_has_its_own(rows):
    f, (x, shift) = small_net(), points(5)
    operator = JacobianOperator(f, x, shift)
    multiply(operator)
    part = operator.select(torch.tensor(rows))
    alone = JacobianOperator(f, x[rows], shift[rows])
    same(multiply(part), multiply(alone))


def test_pieces_of_which_most_samples_are_gone_are_made_again_and_others_not():
    f, (x, shift) = small_net(), points(9)
    counted, calls = counting(f)
    operator = JacobianOperator(counted, x, shift)
    operator.chunk.rows = 6  # passes of three samples for two columns
    multiply(operator)
    assert sorted(operator._products._pieces) == [0, 3, 6]
    before = len(calls)
    rows = torch.tensor([0, 2, 4, 6, 7, 8])  # two of the first three, one, all
    part = operator.select(rows)
    found = multiply(part)
    assert len(calls) == before + 1
    same(found, multiply(JacobianOperator(f, x[rows], shift[rows])))


def test_nothing_is_kept_beyond_the_budget():
    f, (x, shift) = small_net(), points()
    tight = JacobianOperator(f, x, shift, memory=1 << 14)
    found = multiply(tight)
    assert not tight._products._pieces
    same(found, multiply(JacobianOperator(f, x, shift)))


def test_what_is_recorded_takes_no_more_than_the_plan_says():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift)
    multiply(operator)
    kept = operator._products._pieces[0].derivative.tape.kept_bytes
    assert 0 < kept <= 3 * operator.chunk.bytes_per_closure


def test_no_columns_give_no_products():
    operator = JacobianOperator(small_net(), *points())
    before = operator.count.total
    assert operator.matmat(torch.zeros(3, 0, 2, 5, 7)).shape == (3, 0, *operator.h_shape)
    assert operator.rmatmat(torch.zeros(3, 0, *operator.h_shape)).shape == (3, 0, 2, 5, 7)
    assert operator.count.total == before
    assert not operator._products._pieces


def test_running_out_of_memory_lets_go_of_what_is_kept_and_multiplies_again():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift)
    expected = multiply(operator)
    derivative = operator._products._pieces[0].derivative
    failed = []

    def fails_once(block):
        failed.append(len(block))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    derivative.push = fails_once
    same(multiply(operator), expected)
    assert failed == [3]
    assert operator._products._pieces[0].derivative is not derivative


# ----------------------------------------------------------------- what a recording cannot follow


class Cube(torch.autograd.Function):
    """x³ with rules that somebody wrote, whatever its forward pass consists of."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.detach() ** 3

    @staticmethod
    def setup_context(ctx, inputs, _output):
        ctx.save_for_forward(*inputs)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def jvp(ctx, tangent):
        return 3 * ctx.saved_tensors[0] ** 2 * tangent

    @staticmethod
    def backward(ctx, cotangent):
        return 3 * ctx.saved_tensors[0] ** 2 * cotangent


@pytest.mark.parametrize("check", [True, False])
def test_rules_that_somebody_wrote_are_kept(check):
    x, _ = points()
    operator = JacobianOperator(lambda x: Cube.apply(x).sin(), x, check=check)
    v = torch.randn(3, 2, 2, 5, 7, dtype=torch.float64)
    truth = (x**3).cos().unsqueeze(1) * 3 * x.unsqueeze(1) ** 2 * v
    torch.testing.assert_close(operator.matmat(v), truth)
    torch.testing.assert_close(operator.rmatmat(v), truth)
    assert isinstance(operator._products._pieces[0].derivative, Transformed)
    assert "by torch.func, since f holds a function with rules of its own, CubeB" in operator.plan


@pytest.mark.parametrize("check", [True, False])
def test_what_a_recording_cannot_follow_is_left_to_torch(check):
    x, _ = points()

    def f(x):
        h = x * 2
        first = h[:, :1]
        h.mul_(x)
        return first.exp() + h

    operator = JacobianOperator(f, x, check=check)
    truth = dense_jacobian(lambda x: (2 * x * x)[:, :1].exp() + 2 * x * x, x, mode="reverse")
    torch.testing.assert_close(dense(operator), truth)
    assert "since f changes a tensor in place and goes on with another view" in operator.plan


def test_products_of_a_recording_that_fail_are_left_to_torch(monkeypatch):
    """As of an operation that torch knows as a part of others only."""

    def fail(self, tangents):
        raise NotImplementedError("no rule for this one.\nAnd more")

    monkeypatch.setattr(Generic, "push", fail)
    x, _ = points()
    operator = JacobianOperator(torch.special.i0, x)  # without a rule of ours
    assert "by torch.func, since products of a recording failed: no rule for this" in operator.plan
    truth = torch.special.i1(x).unsqueeze(1)
    v = torch.randn(3, 2, 2, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(operator.matmat(v), truth * v)


def test_threads_do_not_take_forward_mode_from_one_another():
    """torch counts its nesting for the whole process."""
    entered, left = threading.Event(), threading.Event()
    found, truth = {}, torch.ones(1, 1, 3, dtype=torch.float64)

    def first(x):
        entered.set()
        left.wait(0.3)  # so that the other one may come in meanwhile
        return x * 1

    def second(x):
        left.wait(1.0)  # until the first has gone
        return x * 1

    def run(name, f):
        x = torch.ones(1, 3, dtype=torch.float64)
        operator = JacobianOperator(f, x, check=False)
        operator.way.refused = "this test asks for torch.func"
        if name == "second":
            entered.wait(5)
        found[name] = operator.matmat(truth)
        left.set()

    threads = [threading.Thread(target=run, args=a) for a in (("first", first), ("second", second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {"first", "second"}
    assert all(torch.equal(one, truth) for one in found.values())


def test_the_plan_says_that_a_map_is_recorded():
    operator = JacobianOperator(small_net(), *points(), memory=1 << 20)
    assert operator.plan.startswith("recorded once for a point; ")
    assert str(operator.chunk) in operator.plan


def test_a_map_that_looks_at_values_is_recorded_at_each_point():
    x = torch.tensor([[1.0, 2.0], [-3.0, 1.0]], dtype=torch.float64)

    def f(x):
        return torch.cat([row.sin() if row[0, 0] > 0 else row.exp() for row in x.split(1)])

    operator = JacobianOperator(f, x)
    slopes = torch.stack([x[0].cos(), x[1].exp()])
    torch.testing.assert_close(dense(operator), torch.diag_embed(slopes))
    assert operator.way.refused is None


# ------------------------------------------------------------------------- what changes meanwhile


def network():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return net.requires_grad_(False), torch.randn(2, 4, dtype=torch.float64)


def scaled(module, _inputs, output):
    return 3 * output


def replaced(net):
    net[0].weight = nn.Parameter(2 * net[0].weight, requires_grad=False)


CHANGES = {
    "a weight in place": lambda net: net[0].weight.mul_(2),
    "a bias in place": lambda net: net[0].bias.add_(1),
    "another weight": replaced,
    "a hook": lambda net: net[2].register_forward_hook(scaled),
    "a hook before": lambda net: net[2].register_forward_pre_hook(lambda _, x: (2 * x[0],)),
    "another forward": lambda net: setattr(net[2], "forward", lambda x: 3 * x),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("recorded", [True, False])
def test_products_are_those_of_the_network_as_it_is_now(change, recorded):
    net, x = network()
    operator = JacobianOperator(lambda x: net(x), x)
    if not recorded:
        operator.way.refused = "this test asks for torch.func"
    first = multiply(operator)
    CHANGES[change](net)
    if change == "another forward":
        operator.h_shape = operator._products.h_shape = (6,)
        torch.testing.assert_close(dense(operator), dense_jacobian(net, x, mode="reverse"))
        return
    found = multiply(operator)
    same(found, multiply(JacobianOperator(net, x)))
    assert not torch.allclose(found[0], first[0])


def test_a_network_in_a_global_a_method_or_a_container_is_watched_too():
    net, x = network()

    class Holder:
        __slots__ = ("parts",)

        def __init__(self):
            self.parts = {"inner": [net]}

        def f(self, x):
            return self.parts["inner"][0](x)

        def __call__(self, x):
            return self.f(x)

    for f in (Holder().f, Holder(), [lambda x, net=net: net(x)][0]):
        operator = JacobianOperator(f, x)
        before = multiply(operator)
        handle = net[2].register_forward_hook(scaled)
        found = multiply(operator)
        handle.remove()
        same(found, tuple(3 * one for one in before))


def test_two_threads_that_use_one_network_get_what_one_gets():
    f, (x, shift) = small_net(), points()
    expected = multiply(JacobianOperator(f, x, shift))
    failed = []

    def work():
        operator = JacobianOperator(f, x, shift)
        for _ in range(5):
            operator._release()
            for one, other in zip(multiply(operator), expected, strict=True):
                if not torch.allclose(one, other, atol=1e-12):
                    failed.append(float((one - other).abs().max()))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
