"""How products are cut into passes that fit the memory."""

import gc
import itertools
import random
import weakref
from dataclasses import replace

import pytest
import torch

from pullback import JacobianOperator
from pullback.operators.memory import measure
from pullback.operators.passes import Chunk, plan
from tests.operators.small_net import counting, points, small_net


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


def test_a_selection_takes_no_more_samples_in_a_pass_than_the_whole():
    f, (x, shift) = small_net(), points(4)
    widths = []

    def watched(x, shift):
        widths.append(len(x))
        return f(x, shift)

    operator = JacobianOperator(watched, x, shift)
    for samples, most in ((1, 1), (3, 2)):
        operator.chunk.samples = samples
        part = operator.select(torch.tensor([2, 0]))
        widths.clear()
        part.matmat(torch.randn(2, 3, *operator.x_shape, dtype=torch.float64))
        assert max(widths) == most
    alone = operator.select(torch.tensor([1]))
    assert alone.chunk.samples == 1


def test_the_plan_can_be_printed():
    f, (x, shift) = small_net(), points()
    text = str(JacobianOperator(f, x, shift, memory=1 << 20).chunk)
    assert "within 1 MiB" in text
    assert "samples x" in text
    assert "kept between products" in text
    tight = JacobianOperator(f, x, shift, memory=1)
    assert "recomputed between products" in str(tight.chunk)


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

    operator._products.push = fails
    with pytest.raises(MemoryError, match=r"does not fit .*Tried to allocate.*smaller dtype"):
        operator.matmat(torch.randn(3, 4, 2, 5, 7))


def test_an_empty_out_of_memory_message_is_enough():
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift, check=False)
    attempts = []

    def fails(_block):
        attempts.append(1)
        raise MemoryError

    operator._products.push = fails
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


@pytest.mark.parametrize("recorded", [True, False])
def test_the_plan_is_an_upper_estimate_of_what_products_need(recorded):
    f, (x, shift) = small_net(torch.float32), points(1, torch.float32)
    _, usage = measure(JacobianOperator(f, x, shift).points.value)
    chunk = plan(1, "auto", None, usage, x.device, recorded=recorded)

    def product(which, count):
        operator = JacobianOperator(f, x, shift, check=False)
        operator.way.refused = None if recorded else "this test asks for torch.func"
        shape = operator.x_shape if which == "matmat" else operator.h_shape
        multiply = getattr(operator, which)
        multiply(torch.randn(1, 1, *shape))  # the point is kept from here on
        return measure(lambda: multiply(torch.randn(1, count, *shape)))[1][0]

    for which in ("matmat", "rmatmat"):
        each = (product(which, 12) - product(which, 2)) / 10
        assert each <= chunk.bytes_per_tangent <= 8 * each

    def first():
        operator = JacobianOperator(f, x, shift, check=False)
        operator.way.refused = None if recorded else "this test asks for torch.func"
        return operator.rmatmat(torch.randn(1, 1, *operator.h_shape))

    made = measure(first)[1][0]
    assert made / 2 <= chunk.bytes_per_closure + chunk.bytes_per_tangent <= 8 * made


@pytest.mark.parametrize("fails_at", [2, 3, 4])
@pytest.mark.parametrize("product", ["matmat", "rmatmat"])
def test_passes_of_an_attempt_that_ran_out_of_memory_are_not_counted(product, fails_at):
    """What was multiplied before the error is multiplied again, and is one product to the user."""
    f, (x, shift) = small_net(), points(4)
    operator = JacobianOperator(f, x, shift, check=False, chunk=4)
    operator.chunk.samples = 1
    calls = []

    def hungry(x, shift):
        calls.append(1)
        if len(calls) == fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return f(x, shift)

    object.__setattr__(operator.points, "f", hungry)
    shape = operator.x_shape if product == "matmat" else operator.h_shape
    block = torch.randn(4, 4, *shape, dtype=torch.float64)
    found = getattr(operator, product)(block)
    assert len(calls) > 4
    assert operator.chunk.tangents == 2
    counts = (operator.count.jvp, operator.count.vjp)
    assert counts == ((16, 0) if product == "matmat" else (0, 16))
    whole = JacobianOperator(f, x, shift, check=False)
    assert torch.allclose(found, getattr(whole, product)(block), atol=1e-12)


# ------------------------------------------------------------------------------- passes and speed


def test_a_pass_keeps_the_tangents_of_a_sample_together_and_takes_samples_away():
    chunk = Chunk(300, 70, 1 << 40, 1, 1, rows=100)
    assert chunk.cut(5) == (20, 5)
    assert chunk.cut(1) == (100, 1)
    assert chunk.cut(64) == (1, 64)
    assert chunk.cut(500) == (1, 70)  # a single sample's tangents are the memory's business alone
    assert Chunk(3, 70, 1 << 40, 1, 1, rows=100).cut(5) == (3, 5)
    assert Chunk(300, 70, 1 << 40, 1, 1).cut(5) == (300, 5)


def test_halving_takes_rows_away_too():
    """Or a pass of fewer tangents would be filled up with samples, and be as large as before."""
    chunk = Chunk(1000, 8, 1 << 40, 1, 1, rows=80)
    sizes = []
    while True:
        samples, tangents = chunk.cut(8)
        sizes.append(samples * tangents)
        if not chunk.halve():
            break
    assert all(after <= before for before, after in itertools.pairwise(sizes))
    assert sizes[1] <= sizes[0] // 2
    assert sizes[-1] == 1


def test_halving_halves_where_everything_is_a_power_of_two():
    chunk = Chunk(64, 8, 1 << 40, 1, 1, rows=64)
    sizes = []
    while not sizes or sizes[-1] > 1:
        samples, tangents = chunk.cut(8)
        assert (type(samples), type(tangents)) == (int, int)
        sizes.append(samples * tangents)
        assert chunk.halve()
    assert sizes == [64, 32, 16, 8, 4, 2, 1]


@pytest.mark.parametrize("seed", range(30))
def test_a_planned_pass_fits_the_budget_and_fills_it_or_what_the_allocator_keeps(seed):
    generator = random.Random(seed)
    batch, columns = generator.randint(1, 10**4), generator.randint(1, 50)
    peak = int(10 ** generator.uniform(2, 9))
    total = peak * generator.randint(1, 20)
    budget = int(peak * 10 ** generator.uniform(-1, 5))
    chunk = plan(batch, "auto", budget, (peak, total), torch.device("cpu"))
    samples, tangents = chunk.cut(columns)
    assert (type(samples), type(tangents)) == (int, int)
    assert 1 <= samples <= batch
    assert 1 <= tangents <= columns

    def need(samples, tangents):
        return samples * (chunk.bytes_per_closure + tangents * chunk.bytes_per_tangent)

    heap = 128 * 2**20
    if samples * tangents > 1:
        assert need(samples, tangents) <= budget
    if samples > 1:
        assert samples * tangents * peak <= heap
    if tangents < columns:
        assert need(chunk.samples, tangents + 1) > budget
    more, _ = chunk.cut(1)
    assert more == 1 or more * peak <= heap
    if more < batch:
        assert need(more + 1, 1) > budget or (more + 1) * peak > heap
    assert plan(batch, 7, budget, (peak, total), torch.device("cpu")).tangents == 7


def test_passes_on_the_cpu_stay_within_what_the_allocator_keeps():
    """However much memory there is: 128 MiB alive at once."""
    f, (x, shift) = small_net(), points()
    _, (peak, total) = measure(JacobianOperator(f, x, shift).points.select(slice(0, 1)).value)
    planned = plan(10**6, "auto", None, (peak, total), torch.device("cpu"))
    samples, tangents = planned.cut(5)
    assert tangents == 5
    assert 64 * 2**20 < samples * tangents * peak <= 128 * 2**20
    # A budget stays a limit, also where it is the lower one.
    small = plan(10**6, "auto", 2**20, (peak, total), torch.device("cpu"))
    samples, tangents = small.cut(5)
    need = samples * (small.bytes_per_closure + tangents * small.bytes_per_tangent)
    assert need <= 2**20
    # On a GPU torch keeps what it has, and passes are planned for the memory alone.
    there = plan(10**6, "auto", 2**40, (peak, total), torch.device("cuda"))
    assert there.rows is None
    assert there.cut(5) == (there.samples, 5)


def test_the_size_of_a_pass_changes_nothing_but_rounding():
    f, (x, shift) = small_net(), points(7)
    v = torch.randn(7, 4, 2, 5, 7, dtype=torch.float64)
    u = torch.randn(7, 4, 3, 3, 4, dtype=torch.float64)
    whole = JacobianOperator(f, x, shift)
    jv, ju = whole.matmat(v), whole.rmatmat(u)
    for rows in (1, 4, 9, 13, 28):
        counted, calls = counting(f)
        cut = JacobianOperator(counted, x, shift)
        cut.chunk.rows = rows
        before = len(calls)
        assert torch.allclose(cut.matmat(v), jv, atol=1e-12)
        assert len(calls) - before == -(-7 // max(1, rows // 4))
        assert torch.allclose(cut.rmatmat(u), ju, atol=1e-12)


def test_activations_of_several_passes_are_kept_where_they_fit():
    f, (x, shift) = small_net(), points(7)
    u = torch.randn(7, 4, 3, 3, 4, dtype=torch.float64)
    counted, calls = counting(f)
    operator = JacobianOperator(counted, x, shift)
    expected = operator.rmatmat(u)
    operator._release()
    operator.chunk.rows = 8
    pieces = operator._products
    for width, made in ((4, 4), (4, 0), (2, 0), (1, 0), (4, 0)):  # passes of 2 samples
        before = len(calls)
        assert torch.allclose(operator.rmatmat(u[:, :width]), expected[:, :width], atol=1e-12)
        assert len(calls) - before == made
    chunk = operator.chunk
    assert sorted(pieces._pieces) == [0, 2, 4, 6]
    # Beside what a pass takes they must fit the budget, which is a limit.
    chunk.budget = 7 * chunk.bytes_per_closure + 8 * chunk.bytes_per_tangent - 1
    operator.rmatmat(u)
    assert not pieces._pieces
    chunk.budget = 2 * 7 * chunk.bytes_per_closure + 8 * chunk.bytes_per_tangent
    operator.rmatmat(u)
    assert len(pieces._pieces) == 4
    operator._release()
    assert not pieces._pieces
    # On a GPU several passes mean that the memory takes no more at once.
    chunk.rows, chunk.samples = None, 2
    operator.rmatmat(u)
    assert not pieces._pieces


def test_more_columns_than_pieces_were_planned_for_go_through_a_part_at_a_time():
    f, (x, shift) = small_net(), points(6)
    u = torch.randn(6, 9, 3, 3, 4, dtype=torch.float64)
    operator = JacobianOperator(f, x, shift)
    expected = operator.rmatmat(u)
    operator._release()
    operator.chunk.rows = 6
    operator.rmatmat(u[:, :2])
    assert sorted(operator._products._pieces) == [0, 3]
    widths = []
    for piece in operator._products._pieces.values():

        def pull(part, pull=piece.derivative.pull):
            widths.append(tuple(part.shape[:2]))
            return pull(part)

        piece.derivative.pull = pull
    assert torch.allclose(operator.rmatmat(u), expected, atol=1e-12)
    assert widths == [(3, 2), (3, 2), (3, 2), (3, 2), (3, 1)] * 2
    assert operator.chunk.width(1) == operator.chunk.tangents


def test_activations_that_do_not_fit_are_freed_before_the_next_are_made():
    """Those of a pass of many columns may not fit where those of fewer would."""
    f, (x, shift) = small_net(), points(7)
    kept = []

    def watched(x, shift):
        kept.append(len(operator._products._pieces))
        return f(x, shift)

    operator = JacobianOperator(f, x, shift)
    object.__setattr__(operator.points, "f", watched)
    chunk = operator.chunk
    for columns in (4, 7):
        chunk.rows = 2 * columns
        # All of them would fit beside a pass of one row less.
        chunk.budget = 10**9
        chunk.bytes_per_closure = 1
        chunk.bytes_per_tangent = 10**9 // (2 * columns - 1)
        kept.clear()
        operator.rmatmat(torch.randn(7, columns, *operator.h_shape, dtype=torch.float64))
        assert kept == [0, 0, 0, 0]


@pytest.mark.parametrize("product", ["matmat", "rmatmat"])
def test_products_go_on_after_an_error_of_f(product):
    f, (x, shift) = small_net(), points()
    operator = JacobianOperator(f, x, shift)
    shape = operator.x_shape if product == "matmat" else operator.h_shape
    block = torch.randn(3, 2, *shape, dtype=torch.float64)
    expected = getattr(operator, product)(block)
    operator._release()
    operator.chunk.budget = 0  # nothing is kept

    def breaks(x, shift):
        raise RuntimeError("sizes do not match")

    object.__setattr__(operator.points, "f", breaks)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        getattr(operator, product)(block)
    object.__setattr__(operator.points, "f", f)
    assert torch.allclose(getattr(operator, product)(block), expected, atol=1e-12)


def least(holds, high):
    """The least whole number from which something holds on."""
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_takes_half_the_budget_and_passes_beside_it_all_of_it(seed):
    generator = random.Random(seed)
    batch, columns, rows = (generator.randint(2, 20) for _ in range(3))
    closure, tangent = (generator.randint(1, 10**6) for _ in range(2))

    def budget(samples, rows):
        chunk = Chunk(samples, columns, 0, tangent, closure, rows)
        return least(lambda bytes: replace(chunk, budget=bytes).keeps(batch, columns), 10**12)

    # All samples in one pass, on a GPU and on the CPU.
    assert budget(batch, None) == budget(batch, batch * columns) == 2 * batch * closure
    passed = max(1, min(batch - 1, rows // columns)) * columns
    need = batch * closure + passed * tangent
    assert budget(batch - 1, rows) == max(2 * batch * closure, need)
