"""How products are cut into passes that fit the memory."""

import gc
import weakref

import pytest
import torch

from pullback import JacobianOperator
from pullback.operators.memory import measure
from pullback.operators.passes import Chunk
from pullback_ext.intercept import forward_mode_ready
from tests.operators.small_net import points, small_net


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


def test_measuring_memory_leaves_nothing_behind():
    f, (x, shift) = small_net(), points()
    JacobianOperator(f, x, shift)
    before = len(weakref.finalize._registry)
    JacobianOperator(f, x, shift)
    gc.collect()
    assert len(weakref.finalize._registry) <= before


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
