"""What the iteration multiplies, how many products that takes, and what it makes of one step."""

import math
from dataclasses import fields

import pytest
import torch

import pullback_ext
from pullback import krylov
from pullback.krylov.state import Running
from pullback.krylov.triplets import zero_level
from pullback.testing import MatrixOperator, leading, residuals, sine, with_spectrum
from tests.krylov.invariant import iteration


class Watched(MatrixOperator):
    """Matrices that note what they are multiplied with, each part of the batch in the same list.

    Attributes:
        blocks: `(samples, columns)` of every product with J.
        made: single-sample products, those of all parts and nearby operators together.
        near: those of nearby operators among them.
        released: how often what is kept had to be freed.
    """

    def __init__(self, matrices, x_shape=None, h_shape=None, size=None):
        super().__init__(matrices, x_shape, h_shape)
        self.blocks, self.made, self.near, self.released = [], [0], [0], [0]
        self.size, self.is_near = size, False

    def of(self, matrices):
        """Other matrices with the same notes."""
        other = type(self)(matrices, self.x_shape, self.h_shape, self.size)
        for name in ("blocks", "made", "near", "released"):
            setattr(other, name, getattr(self, name))
        return other

    def select(self, index):
        assert index.dtype == torch.int64
        assert len(index) > 0
        return self.of(self.matrices[index])

    def nearby(self, draw):
        if self.size is None:
            return None
        generator = torch.Generator("cpu").manual_seed(draw)
        kind = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
        move = torch.randn(self.matrices.shape[1:], **kind)
        other = self.of((self.matrices.double() + self.size * move).to(self.dtype))
        other.is_near = True
        return other

    def _release(self):
        self.released[0] += 1

    def count(self, block):
        assert block.shape[0] == self.batch
        self.made[0] += block.shape[0] * block.shape[1]
        self.near[0] += block.shape[0] * block.shape[1] * self.is_near

    def matmat(self, v):
        self.count(v)
        self.blocks.append((v.shape[0], v.shape[1]))
        return super().matmat(v)

    def rmatmat(self, u):
        self.count(u)
        return super().rmatmat(u)


COPIES = [1.0] * 4 + [0.8 * 0.9**i for i in range(40)]
TIE = [1.0, 0.9, 0.5, 0.5, 0.2, 0.1]
SLOW = [i**-0.5 for i in range(1, 51)]


def widths(operator):
    """Those of the blocks, one after the other, without the single vectors that look outside."""
    return [columns for _, columns in operator.blocks if columns > 1]


@pytest.mark.parametrize("seed", range(3))
def test_blocks_have_one_row_more_where_a_copy_is_missed_and_then_twice_as_many(seed):
    operator = Watched(with_spectrum(COPIES, 60, 50, batch=1, seed=seed))
    result = krylov.svd(operator, 4, seed=seed)
    assert result.stopped == ("converged",)
    steps = widths(operator)
    assert steps == sorted(steps)
    assert sorted(set(steps)) == [2, 3, 6]


def test_samples_that_miss_a_copy_at_different_times_all_go_on():
    spectra = [[1.0] * 4 + [0.8 * decay**i for i in range(40)] for decay in (0.5, 0.8, 0.95)]
    matrices = torch.cat([with_spectrum(spectrum, 60, 50, batch=1) for spectrum in spectra])
    active = []
    result = krylov.svd(MatrixOperator(matrices), 4, progress=lambda p: active.append(p.active))
    assert result.stopped == ("converged",) * 3
    assert (sine(result.v, leading(matrices, 4)[2]) <= result.angle_bound).all()
    assert torch.allclose(result.s, torch.ones(3, 4, dtype=torch.float64))
    # Those that go on later are still running.
    assert active == sorted(active, reverse=True)
    assert active[0] == 3
    assert active[-1] == 0


def test_a_tie_that_the_basis_holds_makes_no_block_wider():
    operator = Watched(with_spectrum(TIE, 60, 50))
    assert krylov.svd(operator, 3).stopped == ("floor",) * 3
    assert set(widths(operator)) == {2}


def test_what_an_operator_keeps_stays_as_long_as_all_samples_go_on():
    operator = Watched(with_spectrum([i**-0.1 for i in range(1, 200)], 250, 240))
    assert krylov.svd(operator, 4, max_products=60).stopped == ("max_products",) * 3
    assert len(operator.blocks) > 10
    assert operator.released[0] == 1  # at the end


@pytest.mark.parametrize("spectrum", [COPIES, TIE, SLOW, [1.0, 0.5, 0.25], [1.0], [0.0]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [None, 1e-5])
def test_no_product_is_made_that_is_not_counted(spectrum, dtype, size):
    """Of several samples too, of which some leave before others."""
    matrices = [with_spectrum(values, 60, 50, batch=2, dtype=dtype) for values in (spectrum, SLOW)]
    operator = Watched(torch.cat(matrices), size=size)
    result = krylov.svd(operator, 4, quality="draft")
    assert int(result.products.sum()) == operator.made[0]


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float64, 2e-3), (torch.float32, 2e-3), (torch.float16, 0.1)]
)
@pytest.mark.parametrize("size", [None, 1e-9])
@pytest.mark.parametrize(
    ("spectrum", "n", "rank"), [(COPIES, 50, 4), (SLOW, 50, 1), (SLOW, 9, 2), (TIE, 50, 2)]
)
def test_the_products_that_an_answer_takes_are_enough_for_it(spectrum, n, rank, dtype, tol, size):
    matrices = with_spectrum(spectrum, 60, n, batch=1, dtype=dtype)
    free = krylov.svd(Watched(matrices, size=size), rank, tol=tol)
    assert free.stopped == ("converged",)
    needed = int(free.products)
    just = krylov.svd(Watched(matrices, size=size), rank, tol=tol, max_products=needed)
    assert just.stopped == ("converged",)
    assert torch.equal(just.products, free.products)
    assert torch.equal(just.v, free.v)
    less = krylov.svd(Watched(matrices, size=size), rank, tol=tol, max_products=needed - 1)
    assert int(less.products) < needed


def test_one_dimension_that_is_left_takes_one_product_to_look_at():
    """Three blocks of two hold the four directions of a map, two rows are pending."""
    operator = Watched(with_spectrum([1.0, 0.5, 0.3, 0.2], 30, 9, batch=1))
    result = krylov.svd(operator, 2, tol=1e-6)
    assert result.stopped == ("converged",)
    assert [columns for _, columns in operator.blocks] == [2, 2, 2, 1]


@pytest.mark.parametrize("seed", range(2))
def test_what_rounding_does_is_measured_once_a_sample(seed):
    """Whatever comes of it, and whoever stops before: three products of nearby operators each."""
    spectra = [[0.8**i for i in range(50)], SLOW, [0.6**i for i in range(50)]]
    matrices = torch.cat([with_spectrum(s, 60, 50, batch=1, seed=seed) for s in spectra])
    for size in 10 ** torch.linspace(-7, -3, 9, dtype=torch.float64):
        operator = Watched(matrices, size=float(size))
        result = krylov.svd(operator, 3, tol=1e-3)
        assert int(result.products.sum()) == operator.made[0]
        assert operator.near[0] == 9


def test_what_rounding_does_is_measured_beside_a_sample_of_which_nothing_can_be_told():
    """There is no leading space to be tilted at a tie."""
    tie = [1.0, 0.9, 0.5, *(0.5 * 0.98**i for i in range(40))]
    fast = [0.3**i for i in range(50)]
    matrices = [with_spectrum(spectrum, 60, 50, batch=1) for spectrum in (tie, fast)]
    operator = Watched(torch.cat(matrices), size=1e-9)
    result = krylov.svd(operator, 3)
    assert result.stopped == ("floor", "converged")
    assert int(result.products[0]) > int(result.products[1])
    assert operator.near[0] == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_the_default_device_does_not_matter(dtype):
    """Not even one that holds no numbers; where values are zero, copies or of unknown rounding."""
    spectra = [COPIES, SLOW, [1.0, 0.5], [0.0]]
    matrices = torch.cat([with_spectrum(s, 60, 50, batch=1, dtype=dtype) for s in spectra])
    init = leading(matrices, 2)[2].to(dtype)
    for operator, start in ((MatrixOperator(matrices), init), (Watched(matrices, size=1e-6), None)):
        expected = krylov.svd(operator, 4, quality="draft", init=start)
        with torch.device("meta"):
            found = krylov.svd(operator, 4, quality="draft", init=start)
            parts = found[1], found[[0, 2]]
        assert torch.equal(found.v, expected.v)
        assert found.stopped == expected.stopped
        for name in ("products", "converged", "rank", "angle_bound"):
            assert torch.equal(getattr(found, name), getattr(expected, name))
        assert torch.equal(parts[0].s, expected.s[1:2])
        assert torch.equal(parts[1].s, expected.s[[0, 2]])


# ---------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("spectrum", [[1.0, 5e-9, 1e-9], [1.0, 0.5, 4e-9], [0.0, 0.0, 0.0]])
def test_residuals_where_a_singular_value_is_called_zero(spectrum, unit):
    """Those of the vectors that are given, by what J makes of them, in units of the first value."""
    matrices = with_spectrum([unit * value for value in spectrum], 40, 30)
    result = krylov.svd(MatrixOperator(matrices), 3)
    assert bool((result.s[:, 2] == 0).all())
    true = residuals(matrices, result.u, result.s, result.v)
    torch.testing.assert_close(result.residual, true, rtol=1e-3, atol=1e-12)
    if spectrum[0]:
        assert bool((true[:, 2] > 1e-10).all())  # it is not for nothing that they are asked for


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [50, 2000])
def test_a_map_of_low_rank_between_large_spaces_has_converged(n, dtype):
    matrices = with_spectrum([1.0, 0.5], 30, n, dtype=dtype)
    result = krylov.svd(MatrixOperator(matrices), 3)
    assert result.rank.tolist() == [2, 2, 2]
    assert result.stopped == ("converged",) * 3


@pytest.mark.parametrize("unit", [2.0**-5, 1.0, 2.0**5])
@pytest.mark.parametrize("second", [0.9, 0.03])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_the_numerical_rank_is_the_number_of_values_above_the_zero_level(dtype, second, unit):
    """Of the largest value, however small the others and whatever the unit; or the rank asked."""
    level = 1e-8 if dtype == torch.float64 else 1e-4
    s = torch.zeros(5, 20, dtype=torch.float64)
    s[:, 0], s[:, 1] = 1, second
    s[0, 2], s[1, 2], s[2, 1], s[2, 2] = 1.3 * level, 0.7 * level, 0.7 * level, 0.6 * level
    s[3, 2], s[4, 2] = 1e-2, 0
    solver = iteration(unit * s, 3, 3, dtype=dtype, axes=True)
    theta, vectors = pullback_ext.ritz(solver.state.projection)
    assert solver._ranks(theta, vectors).tolist() == [3, 2, 1, 3, 2]


# ------------------------------------------------------------------------- one step at a time


def test_sizes_are_remembered_in_float64_and_places_on_the_cpu():
    running = Running.at_the_start(3, torch.device("cpu"))
    shapes = {"earlier": (3, 2)}
    for name in ("scale", "neglected", "earlier", "outside", "inner"):
        assert getattr(running, name).dtype == torch.float64
    for name in ("index", "patience"):
        assert getattr(running, name).dtype == torch.int64
        assert getattr(running, name).device.type == "cpu"
    for field in fields(running):
        assert getattr(running, field.name).shape == shapes.get(field.name, (3,))


def test_what_is_remembered_of_samples_is_a_tensor_of_its_own_each():
    """Or what is written to a part of one would be in others too."""
    running = Running.at_the_start(3, torch.device("cpu"))
    names = [field.name for field in fields(running)]
    for name in names:
        others = {other: getattr(running, other).clone() for other in names if other != name}
        getattr(running, name).fill_(1)
        for other, before in others.items():
            torch.testing.assert_close(
                getattr(running, other), before, rtol=0, atol=0, equal_nan=True
            )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(3))
def test_what_rounding_leaves_of_an_invariant_space_is_no_direction(dtype, seed):
    s = torch.linspace(1, 0.5, 300, dtype=torch.float64).expand(2, 300)
    solver = iteration(s, 6, 3, dtype=dtype, seed=seed)
    state = solver.state
    solver._watch_for_breakdown(state.projection.diagonal(dim1=1, dim2=2).amax(1))
    assert solver.running.breakdown.all()
    assert not state.coupling.any()


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_only_what_rounding_explains_is_replaced_by_random_rows_and_remembered(size):
    s = torch.linspace(1, 0, 40, dtype=torch.float64).expand(3, 40)
    solver = iteration(s, 4, 2)
    state, running = solver.state, solver.running
    state.coupling = torch.ones_like(state.coupling)
    below, above = 0.5 * solver.settings.floor * size, 2 * solver.settings.floor * size
    state.remainder = torch.tensor([below, above, below], dtype=torch.float64)
    running.neglected = torch.tensor([0.0, 0.0, 3 * below], dtype=torch.float64)
    pending = state.pending.clone()
    solver._watch_for_breakdown(torch.full((3,), size, dtype=torch.float64))
    assert running.breakdown.tolist() == [True, False, True]
    assert (state.coupling == 0).flatten(1).all(1).tolist() == [True, False, True]
    assert bool((state.coupling[1] == 1).all())
    assert torch.equal(state.pending[1], pending[1])
    assert bool((sine(state.pending, pending)[[0, 2]] > 0.1).all())
    assert running.neglected.tolist() == [below, 0, 3 * below]


def test_a_space_is_exhausted_where_two_steps_in_a_row_bring_nothing():
    solver = iteration(torch.ones(4, 30, dtype=torch.float64), 4, 2)
    one = torch.ones(4, dtype=torch.float64)
    steps = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]], dtype=torch.float64)
    seen = []
    for remainder in steps.T:
        solver.state.remainder = remainder
        solver._watch_for_breakdown(one)
        seen.append(solver.running.exhausted.tolist())
    nothing = [False] * 4
    assert seen == [nothing, [True, False, False, False], [True, False, True, False]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_what_is_known_of_a_sample_is_in_the_evidence(dtype):
    """Rounding by the largest value, what was neglected, what was measured, and the past."""
    s = torch.linspace(1, 0.1, 30, dtype=torch.float64).expand(3, 30)
    solver = iteration(s, 5, 2, dtype=dtype)
    running, ranks = solver.running, torch.full((3,), 2)

    def evidence(unit=1.0):
        theta, vectors = pullback_ext.ritz(solver.state.projection)
        return solver._evidence(unit * theta, vectors @ solver.state.coupling.mT, ranks)

    plain, larger = evidence(), evidence(1e3)
    eps = torch.finfo(dtype).eps
    # No product is more exact than its dtype. J v_i is taken afresh in half precision, which
    # rounds once, and is a sum of many others.
    assert bool((plain.noise >= eps).all())
    assert bool((plain.hidden >= eps * (0.49 if dtype == torch.float16 else 1)).all())
    for name in ("noise", "hidden"):
        torch.testing.assert_close(getattr(larger, name), 1e3 * getattr(plain, name))
    running.neglected = torch.tensor([0, 0.1, 0.2], dtype=torch.float64)
    torch.testing.assert_close(evidence().noise, plain.noise + running.neglected)
    running.inner = torch.tensor([math.nan, 0.5, math.inf], dtype=torch.float64)
    found = evidence()
    assert found.noise[0] == plain.noise[0]
    assert bool((found.noise[1:] >= running.inner[1:]).all())
    assert bool((found.hidden[1:] >= running.inner[1:]).all())
    running.earlier = torch.tensor([[3, 1], [5, 2], [8, 4]], dtype=torch.float64)
    assert evidence().earlier.tolist() == [3, 5, 8]
    # One more step multiplies what is pending with J and its transpose.
    solver.results.products += torch.tensor([3, 5, 7])
    last = 2 if dtype == torch.float16 else 0  # where J v_i is taken afresh
    width = solver.state.width
    expected = [count + 2 * width + last for count in (3, 5, 7)]
    assert evidence().following.tolist() == expected


def test_where_zeros_are_said_nothing_larger_may_be_outside():
    s = torch.zeros(4, 30, dtype=torch.float64)
    s[:, :2] = torch.tensor([1.0, 0.5])
    solver = iteration(s, 5, 3)
    theta, vectors = pullback_ext.ritz(solver.state.projection)
    solver.running.certain[:] = torch.tensor([True, True, True, False])
    zero = zero_level(torch.float64) ** 2
    solver.running.outside[:] = torch.tensor([zero, 1e-12, 1e-12, zero], dtype=torch.float64)
    ranks = torch.tensor([2, 2, 3, 2])
    evidence = solver._evidence(theta, vectors @ solver.state.coupling.mT, ranks)
    assert evidence.trusted.tolist() == [True, False, True, False]


def test_what_is_outside_is_not_looked_for_again_before_some_more_products():
    s = torch.tensor([1.0, 0.9, 0.4, 0.3] + [0.2] * 20, dtype=torch.float64).expand(3, 24)
    solver = iteration(s, 4, 2)
    solver.running.patience = torch.tensor([0, 10, 11])
    solver.results.products += 10
    solver._test()
    assert solver.results.stopped == ["converged", "converged", ""]
    assert solver.results.products[2] == 10
    assert bool((solver.results.products[:2] > 10).all())
    assert solver.running.index.tolist() == [2]
