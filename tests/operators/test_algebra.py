"""Operator algebra against dense matrices in float64."""

import math

import pytest
import torch

from pullback import krylov
from pullback.operators import Combination, Stacked
from pullback.testing import MatrixOperator, dense, leading, sine
from tests.operators.known import B, M, N, close, dense_operator, smooth_operator


def test_sums_differences_multiples_and_what_is_nested_of_them(make, rng):
    (a, A), (b, B_) = make(rng), make(rng)
    close(dense(a + b), A + B_)
    close(dense(a - b), A - B_)
    close(dense(3 * a), 3 * A)
    close(dense(a * -0.5), -0.5 * A)
    close(dense(-a), -A)
    close(dense(a / 4), A / 4)
    close(dense(2 * (a - b) - (-a + b / 2) * 3), 2 * (A - B_) - 3 * (B_ / 2 - A))
    close(
        dense(torch.tensor(2.0) * a if isinstance(a, MatrixOperator) else a * torch.tensor(2.0)),
        2 * A,
    )


def test_a_plain_operator_and_a_jacobian_combine(rng):
    (a, A), (b, B_) = dense_operator(rng), smooth_operator(rng)
    close(dense(a - b), A - B_)
    close(dense(b + 2 * a), B_ + 2 * A)


def test_some_samples_of_a_combination(make, rng):
    (a, A), (b, B_) = make(rng), make(rng)
    rows = torch.tensor([2, 0])
    chosen = (a - 2 * b).select(rows)
    assert chosen.batch == 2
    close(dense(chosen), (A - 2 * B_)[rows])


def test_singular_vectors_of_a_difference(make, rng):
    (a, A), (b, B_) = make(rng), make(rng)
    found = krylov.svd(a - b, 3, quality="tight")
    _, s, v = leading(A - B_, 3)
    assert bool(found.converged.all())
    assert float(sine(found.v, v).max()) < 1e-4
    torch.testing.assert_close(found.s, s, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (torch.zeros(2, M, N, dtype=torch.float64), "batch"),
        (torch.zeros(B, M, N + 1, dtype=torch.float64), "x_shape"),
        (torch.zeros(B, M + 1, N, dtype=torch.float64), "h_shape"),
        (torch.zeros(B, M, N), "dtype"),
        (torch.zeros(B, M, N, dtype=torch.float64, device="meta"), "device"),
    ],
)
def test_operators_that_do_not_agree_are_told_in_what(other, name):
    ours = MatrixOperator(torch.zeros(B, M, N, dtype=torch.float64))
    for combine in (lambda: ours + MatrixOperator(other), lambda: MatrixOperator(other) - ours):
        with pytest.raises(ValueError, match=f"Expected operators of one {name}, got"):
            combine()


def test_what_is_no_operator_or_number_is_a_type_error(rng):
    a, _ = dense_operator(rng)
    for wrong in (lambda: a + 1, lambda: a - "b", lambda: a * a, lambda: a * "b"):
        with pytest.raises(TypeError, match=r"unsupported operand|multiply"):
            wrong()
    with pytest.raises(ValueError, match="one or more operators to combine, got none"):
        Combination([])


def test_products_of_a_combination_are_counted_by_its_parts(rng):
    (a, _), (b, _) = smooth_operator(rng), smooth_operator(rng)
    before = a.count.total, b.count.total
    both = a - 2 * b
    both.matmat(torch.randn(B, 5, 3, 4, dtype=torch.float64))
    both.rmatmat(torch.randn(B, 2, M, dtype=torch.float64))
    assert (a.count.total - before[0], b.count.total - before[1]) == (B * 7, B * 7)
    chosen = both.select(torch.tensor([1]))
    chosen.matmat(torch.randn(1, 5, 3, 4, dtype=torch.float64))
    assert a.count.total - before[0] == B * 7 + 5


def test_release_reaches_every_part(rng):
    a, b, c = (smooth_operator(rng)[0] for _ in range(3))
    whole = (a - b).stacked() + c.stacked() * 2
    whole.rmatmat(torch.randn(1, 2, B, M, dtype=torch.float64))
    assert all(part._products._pieces for part in (a, b, c))
    whole._release()
    assert all(part._products._pieces == {} for part in (a, b, c))
    a.gram().matmat(torch.randn(B, 1, 3, 4, dtype=torch.float64))
    assert a._products._pieces
    a.gram()._release()
    assert a._products._pieces == {}


@pytest.mark.parametrize(("samples", "kept"), [(None, True), (B, True), (1, False)])
def test_a_stack_keeps_the_points_where_all_samples_go_through_at_once(rng, samples, kept):
    a, A = smooth_operator(rng)
    stack = a.stacked(samples)
    metric = (A.mT @ A).mean(0)
    v = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    close(stack.gram().matmat(v).flatten(2)[0], v.flatten(2)[0] @ metric)
    assert [bool(part._products._pieces) for part in stack._parts] == [kept] * len(stack._parts)
    stack._release()
    assert not any(part._products._pieces for part in stack._parts)


@pytest.mark.parametrize("samples", [None, 1, 2, 5, 100])
def test_the_stack_has_the_eigenvectors_of_the_mean_metric(make, rng, samples):
    count = 5
    a, A = make(rng, count=count)
    stack = a.stacked(samples)
    assert (stack.batch, stack.x_shape, stack.h_shape) == (1, (3, 4), (count, M))
    metric = (A.mT @ A).mean(0)
    close(dense(stack.gram())[0], metric)
    close(dense(stack)[0], A.reshape(count * M, N) / math.sqrt(count))
    values, vectors = torch.linalg.eigh(metric)
    found = krylov.svd(stack, 4, quality="tight")
    assert found.stopped == ("converged",)
    torch.testing.assert_close(found.s[0].square(), values.flip(0)[:4], rtol=1e-6, atol=0)
    assert float(sine(found.v, vectors.flip(1)[:, :4].mT.unsqueeze(0)).max()) < 1e-4


def test_a_stack_in_float32_sums_in_float64(rng):
    # 1e8 + 1 - 1e8 is 0 in float32, so a running sum there would lose the second sample.
    matrices = torch.tensor([1e8, 1.0, -1e8]).reshape(3, 1, 1)
    u = torch.ones(1, 1, 3, 1)
    for samples in (1, 2, 3):
        pulled = MatrixOperator(matrices).stacked(samples).rmatmat(u)
        assert pulled.dtype == torch.float32
        assert float(pulled) == pytest.approx(1 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_a_streamed_stack_keeps_nothing_of_its_samples(rng, samples):
    a, _ = smooth_operator(rng, count=4)
    stack = a.stacked(samples)
    before = a.count.total
    stack.gram().matmat(torch.randn(1, 3, 3, 4, dtype=torch.float64))
    stack.rmatmat(torch.randn(1, 3, 4, M, dtype=torch.float64))
    assert a.count.total - before == 4 * 3 * 3
    assert all(part._products._pieces == {} for part in stack._parts)
    # All samples in one product: then it is up to the operator what it keeps.
    a.stacked().rmatmat(torch.randn(1, 3, 4, M, dtype=torch.float64))
    assert a._products._pieces


def test_the_metric_of_a_stack_never_holds_the_images_of_more_samples_than_asked(rng):
    a, _ = dense_operator(rng, count=6)
    order = []

    class Watched(MatrixOperator):
        def matmat(self, v):
            order.append(v.shape[0])
            return super().matmat(v)

        def rmatmat(self, u):
            order.append(-u.shape[0])
            return super().rmatmat(u)

    stack = Watched(a.matrices, (3, 4)).stacked(samples=2)
    stack.gram().matmat(torch.randn(1, 3, 3, 4, dtype=torch.float64))
    # The images of two samples are pulled back before those of the next two are made.
    assert order == [2, -2, 2, -2, 2, -2]


def test_a_stack_has_one_sample(rng):
    a, _ = dense_operator(rng)
    stack = a.stacked()
    assert stack.select(torch.tensor([0])) is stack
    with pytest.raises(IndexError, match=r"the one sample of a stack, \[0\], got \[1\]"):
        stack.select(torch.tensor([1]))
    with pytest.raises(ValueError, match="one or more samples in a product, got 0"):
        Stacked(a, 0)


def test_the_gram_operator_is_the_metric(make, rng):
    a, A = make(rng)
    gram = a.gram()
    assert (gram.x_shape, gram.h_shape) == ((3, 4), (3, 4))
    close(dense(gram), A.mT @ A)
    close(dense(gram.select(torch.tensor([1]))), (A.mT @ A)[1:2])
    close(dense(gram - a.gram() / 2), A.mT @ A / 2)
    _, s, v = leading(A, 3)
    found = krylov.svd(gram, 3, quality="tight")
    torch.testing.assert_close(found.s, s.square(), rtol=1e-6, atol=0)
    assert float(sine(found.v, v).max()) < 1e-4
