"""Operators from inputs that differ by a few roundings."""

import pytest
import torch

from pullback import JacobianOperator
from pullback.operators.points import Points
from pullback.testing import MatrixOperator, dense
from tests.operators.known import close, dense_operator, smooth_operator

EPS = torch.finfo(torch.float32).eps


def points(*args, count=5, dtype=torch.float32):
    x = torch.randn(1, 300).expand(count, 300).to(dtype)
    return Points(lambda x, *args: x, x.clone(), args)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_entry_of_x_moves_by_a_few_roundings(dtype):
    here = points(dtype=dtype)
    there = here.nearby(0).x
    assert there.dtype == dtype
    moved = (there.double() / here.x.double() - 1) / torch.finfo(dtype).eps
    assert 1 < moved.std() < 16
    assert moved.abs().max() < 40
    assert (moved != 0).float().mean() > 0.8
    # Alike in all samples, so that the rest of a batch does not change what one of them shows.
    assert torch.equal(moved, moved[:1].expand_as(moved))


def test_draws_differ_and_repeat():
    here = points()
    assert torch.equal(here.nearby(1).x, here.nearby(1).x)
    assert not torch.equal(here.nearby(0).x, here.nearby(1).x)


def test_whole_numbers_among_the_arguments_stay():
    """A timestep, a class, a mask: the network may compare them with numbers of its own."""
    mask = torch.tensor([[0.0, 1.0, -10000.0]]).expand(5, 3)
    steps = torch.full((5,), 500)
    words = torch.randn(5, 7)
    moved = points(mask, steps, words, None, "x").nearby(0).args
    assert torch.equal(moved[0], mask)
    assert moved[1] is steps
    assert 0 < (moved[2] / words - 1).abs().max() < 40 * EPS
    assert moved[3:] == (None, "x")


def test_a_condition_that_is_expanded_takes_no_more_memory():
    words = torch.randn(1, 7, 8).expand(1000, 7, 8)
    (moved,) = points(words, count=1000).nearby(0).args
    assert moved.shape == words.shape
    assert moved.untyped_storage().nbytes() == words.untyped_storage().nbytes()


def test_the_jacobian_differs_as_much_as_the_condition_of_its_map_says():
    """x^p has the derivative p x^(p - 1), which grows by p - 1 times what x grows by."""
    x = 0.9 + 0.2 * torch.rand(2, 40)
    power = 200

    def f(x):
        return x**power

    operator = JacobianOperator(f, x)
    here, there = dense(operator), dense(operator.nearby(3))
    change = (there / here - 1).diagonal(dim1=1, dim2=2).double()
    moved = operator.points.nearby(3).x.double() / x.double() - 1
    torch.testing.assert_close(change, (power - 1) * moved, rtol=0.3, atol=30 * EPS)


def test_its_products_are_counted_with_those_of_the_operator(rng):
    operator, _ = smooth_operator(rng)
    before = operator.count.total
    other = operator.nearby(0)
    other.rmatmat(other.matmat(torch.randn(3, 2, 3, 4)))
    assert operator.count.total == before + 12


def test_explicit_matrices_have_none(rng):
    operator, _ = dense_operator(rng)
    assert operator.nearby(0) is None
    for combined in (operator + operator, operator.gram(), operator.stacked()):
        assert combined.nearby(0) is None


class Blurred(MatrixOperator):
    """Matrices with a given nearby one for each draw."""

    others: tuple = ()

    def nearby(self, draw):
        return MatrixOperator(self.others[draw], self.x_shape, self.h_shape)


def blurred(rng, count=6):
    operator, matrices = dense_operator(rng)
    operator = Blurred(matrices, (3, 4))
    operator.others = tuple(dense_operator(rng)[1] for _ in range(count))
    return operator, matrices


def test_those_of_sums_grams_and_stacks(rng):
    (a, _), (b, B_) = blurred(rng), dense_operator(rng)
    (c, _), draw = blurred(rng), 2
    close(dense((a + 2 * b).nearby(draw)), a.others[4] + 2 * B_)
    # Terms move by draws of their own.
    close(dense((a - c).nearby(draw)), a.others[4] - c.others[5])
    other = a.others[draw]
    close(dense(a.gram().nearby(draw)), other.mT @ other)
    stacked = a.stacked(2)
    stack = other.flatten(0, 1) / len(other) ** 0.5
    close(dense(stacked.nearby(draw)), stack[None])
    close(dense(stacked.gram().nearby(draw)), (stack.mT @ stack)[None])


def test_that_of_a_stack_takes_as_few_samples_at_a_time(rng):
    widths = []

    class Watched(MatrixOperator):
        def matmat(self, v):
            widths.append(v.shape[0])
            return super().matmat(v)

        def nearby(self, draw):
            return Watched(self.matrices * (1 + 1e-15 * draw), self.x_shape, self.h_shape)

    _, matrices = dense_operator(rng, count=5)
    stack = Watched(matrices, (3, 4)).stacked(samples=2).nearby(1)
    stack.matmat(torch.randn(1, 3, 3, 4, dtype=torch.float64))
    assert widths == [2, 2, 1]


def test_those_of_one_map_are_multiplied_together(rng):
    """Products of several small batches as one are those of each, and counted with them."""
    operator, _ = smooth_operator(rng)
    others = [operator.nearby(draw) for draw in range(3)]
    every = others[0]._beside(others[1:])
    assert every.batch == 3 * operator.batch
    u = torch.randn(3 * operator.batch, 2, *operator.h_shape, generator=rng, dtype=operator.dtype)
    before = operator.count.vjp
    found = every.rmatmat(u)
    assert operator.count.vjp == before + 6 * operator.batch
    want = [other.rmatmat(part) for other, part in zip(others, u.chunk(3), strict=True)]
    torch.testing.assert_close(found, torch.cat(want), rtol=1e-12, atol=1e-12)


def test_those_that_do_not_fit_one_pass_or_of_another_map_are_multiplied_by_themselves(rng):
    operator, _ = smooth_operator(rng)
    other, stranger = operator.nearby(0), JacobianOperator(torch.sin, operator.points.x)
    assert operator.nearby(1)._beside([stranger]) is None
    assert operator.nearby(1)._beside([dense_operator(rng)[0]]) is None
    other.chunk.budget = 2 * operator.batch * other.chunk.bytes_per_tangent
    assert other._beside([operator.nearby(1)]) is None
