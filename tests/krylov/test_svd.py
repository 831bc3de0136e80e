"""The block Krylov SVD on matrices with a prescribed spectrum, against dense float64 SVDs."""

import math

import numpy as np
import pytest
import torch

from pullback import krylov
from pullback.testing import (
    MatrixOperator,
    leading,
    sine,
    with_spectrum,
)
from tests.krylov.triplets import assert_triplets

SPECTRA = {
    "slow": [i**-0.5 for i in range(1, 201)],
    "harmonic": [1 / i for i in range(1, 201)],
    "exponential": [math.exp(-i / 12) for i in range(200)],
    "step": [1.0] * 10 + [0.1 + 0.001 * i for i in range(100, 0, -1)],
    "tiny": [1e-20 / i for i in range(1, 201)],
    "huge": [1e15 / i for i in range(1, 201)],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("m", "n"), [(257, 203), (201, 301)])
def test_rank_ten_reaches_its_bound(name, dtype, m, n):
    matrices = with_spectrum(SPECTRA[name], m, n, dtype=dtype)
    result = krylov.svd(MatrixOperator(matrices), 10)
    _, s, v = leading(matrices, 10)
    true = sine(result.v, v)
    assert result.converged.all()
    assert result.stopped == ("converged",) * 3
    assert (true <= result.angle_bound).all()
    assert true.max() <= 2e-3
    assert ((result.s.double() - s) / s).abs().max() < 1e-5
    assert_triplets(result, matrices, 10)


@pytest.mark.parametrize("quality", krylov.QUALITIES)
def test_quality_is_a_bound_on_the_sine(quality):
    matrices = with_spectrum(SPECTRA["slow"], 260, 240)
    result = krylov.svd(MatrixOperator(matrices), 7, quality=quality)
    assert result.tol == krylov.QUALITIES[quality]
    assert (sine(result.v, leading(matrices, 7)[2]) <= result.angle_bound).all()
    assert (result.angle_bound <= result.tol).all()


def test_a_tighter_bound_costs_more_products():
    matrices = with_spectrum(SPECTRA["slow"], 260, 240)
    costs = [
        int(krylov.svd(MatrixOperator(matrices), 7, tol=tol).products.max())
        for tol in (1e-1, 1e-4, 1e-8)
    ]
    assert costs == sorted(costs)
    assert costs[0] < costs[2]


def test_products_are_counted_per_sample():
    made = []

    class Counted(MatrixOperator):
        def matmat(self, v):
            made.append(v.shape[1])
            return super().matmat(v)

        def rmatmat(self, u):
            made.append(u.shape[1])
            return super().rmatmat(u)

    result = krylov.svd(Counted(with_spectrum(SPECTRA["harmonic"], 90, 80, batch=1)), 5)
    assert int(result.products) == sum(made)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("missing", [0, 2])
def test_products_for_the_left_vectors_and_for_zeros_are_counted_too(dtype, missing):
    """J v_i is taken afresh in half precision, and Jᵀu_i where a singular value is zero."""

    class Counted(MatrixOperator):
        def select(self, index):
            chosen = Counted(self.matrices[index])
            chosen.made = self.made
            return chosen

        def matmat(self, v):
            self.made[0] += v.shape[1]
            return super().matmat(v)

        def rmatmat(self, u):
            self.made[0] += u.shape[1]
            return super().rmatmat(u)

    spectrum = [2.0**-i for i in range(5 - missing)]
    operator = Counted(with_spectrum(spectrum, 60, 50, batch=1, dtype=dtype))
    operator.made = [0]
    result = krylov.svd(operator, 5)
    assert int(result.products) == operator.made[0]


def test_converged_samples_leave_and_cost_no_more():
    easy = with_spectrum([2.0**-i for i in range(60)], 90, 80, batch=1)
    hard = with_spectrum([i**-0.25 for i in range(1, 81)], 90, 80, batch=1)
    both = krylov.svd(MatrixOperator(torch.cat([easy, hard])), 6)
    assert int(both.products[0]) < int(both.products[1])
    alone = krylov.svd(MatrixOperator(easy), 6)
    assert int(both.products[0]) == int(alone.products)


def test_a_sample_does_not_depend_on_its_batch():
    matrices = with_spectrum(SPECTRA["harmonic"], 150, 140, batch=4, dtype=torch.float32)
    together = krylov.svd(MatrixOperator(matrices), 8)
    for sample in range(4):
        alone = krylov.svd(MatrixOperator(matrices[sample : sample + 1]), 8)
        assert torch.allclose(alone.v[0], together.v[sample], atol=1e-4)
        assert torch.allclose(alone.s[0], together.s[sample], rtol=1e-5)


def test_same_seed_same_answer_other_seed_same_space():
    matrices = with_spectrum(SPECTRA["harmonic"], 150, 140)
    first, again, other = (
        krylov.svd(MatrixOperator(matrices), 8, seed=s, tol=1e-9) for s in (3, 3, 4)
    )
    assert torch.equal(first.v, again.v)
    assert not torch.equal(first.v, other.v)
    assert sine(first.v, other.v).max() < 1e-8


@pytest.mark.parametrize("block", [2, 3, 9, 40])
def test_any_block_size_finds_the_same_space(block):
    matrices = with_spectrum(SPECTRA["harmonic"], 120, 100)
    result = krylov.svd(MatrixOperator(matrices), 6, block=block, tol=1e-7)
    assert result.converged.all()
    assert sine(result.v, leading(matrices, 6)[2]).max() < 1e-7


def test_restarts_do_not_lose_the_answer():
    # 300 dimensions and a flat spectrum need many more rows than the basis may hold.
    matrices = with_spectrum([i**-0.2 for i in range(1, 301)], 320, 300)
    result = krylov.svd(MatrixOperator(matrices), 4, tol=1e-6, max_products=4000)
    assert result.converged.all()
    assert int(result.products.min()) > 2 * max(3 * 4, 4 + 6 * 2)
    assert (sine(result.v, leading(matrices, 4)[2]) <= 1e-6).all()


def test_warm_start_from_the_answer_is_cheap():
    matrices = with_spectrum(SPECTRA["slow"], 260, 240)
    cold = krylov.svd(MatrixOperator(matrices), 8, tol=1e-3)
    warm = krylov.svd(MatrixOperator(matrices), 8, tol=1e-3, init=cold.v)
    assert (warm.products < cold.products).all()
    assert sine(warm.v, leading(matrices, 8)[2]).max() < 1e-3


@pytest.mark.parametrize("quality", ["draft", "standard"])
def test_warm_start_finds_a_leading_direction_it_does_not_hold(quality):
    matrices = with_spectrum(SPECTRA["harmonic"], 120, 100)
    v = leading(matrices, 9)[2]
    result = krylov.svd(MatrixOperator(matrices), 6, init=v[:, 1:7], quality=quality)
    assert (sine(result.v, v[:, :6]) <= result.angle_bound).all()
    assert result.converged.all()


def test_warm_start_scales_and_dependence_do_not_matter():
    matrices = with_spectrum(SPECTRA["harmonic"], 120, 100, dtype=torch.float32)
    v = leading(matrices, 4)[2].float()
    init = torch.cat([v * 1e30, v * 1e-30, torch.zeros_like(v)], dim=1)
    result = krylov.svd(MatrixOperator(matrices), 4, init=init)
    assert result.converged.all()
    assert sine(result.v, leading(matrices, 4)[2]).max() < 2e-3


def test_progress_is_reported_after_every_step():
    matrices = with_spectrum(SPECTRA["slow"], 260, 240)
    seen = []
    result = krylov.svd(MatrixOperator(matrices), 6, progress=seen.append)
    assert [p.products for p in seen] == sorted(p.products for p in seen)
    assert seen[-1].active == 0
    assert seen[0].angle_bound == math.inf  # fewer rows than directions say nothing yet
    assert seen[-1].angle_bound <= result.tol
    assert all(p.samples == 3 for p in seen)


def test_progress_tells_the_largest_bound_of_those_that_still_run():
    tie = with_spectrum([1.0, 0.9, 0.5, 0.5, 0.2, 0.1], 60, 50, dtype=torch.float64)[:1]
    slow = with_spectrum([0.97**i for i in range(50)], 60, 50, dtype=torch.float64)[:1]
    seen = []
    result = krylov.svd(MatrixOperator(torch.cat([tie, slow])), 3, progress=seen.append)
    assert result.angle_bound[0] == 1  # as large as can be
    after = [report for report in seen if 0 < report.active < report.samples]
    assert min(report.angle_bound for report in after) < 0.1


def test_progress_tells_nothing_of_those_that_have_just_stopped():
    """From the report on that it is alone a sample has the bounds that it has by itself."""
    tie = with_spectrum([1.0, 0.9, 0.5, 0.5, 0.2, 0.1], 60, 50)[:1]
    fast = with_spectrum([0.7**i for i in range(50)], 60, 50)[:1]
    both, alone = [], []
    krylov.svd(MatrixOperator(torch.cat([tie, fast])), 3, tol=1e-7, progress=both.append)
    krylov.svd(MatrixOperator(fast), 3, tol=1e-7, progress=alone.append)
    assert len(both) == len(alone)
    assert {report.tol for report in both} == {1e-7}
    compared = 0
    for report, expected in zip(both, alone, strict=True):
        if report.active == expected.active == 1:
            assert report.angle_bound == pytest.approx(expected.angle_bound, rel=1e-3)
            compared += 1
    assert compared > 1


def test_gradients_of_a_users_operator_are_not_recorded():
    operator = MatrixOperator(with_spectrum(SPECTRA["harmonic"], 60, 50))
    expected = krylov.svd(operator, 3)
    operator.matrices.requires_grad_()
    result = krylov.svd(operator, 3, init=expected.v.clone().requires_grad_())
    assert not result.v.requires_grad
    assert torch.allclose(result.s, expected.s)


def test_whole_numbers_of_any_type_and_large_seeds():
    operator = MatrixOperator(with_spectrum(SPECTRA["harmonic"], 60, 50))
    result = krylov.svd(operator, np.int64(3), seed=2**62, block=np.int32(2))
    assert result.v.shape == (3, 3, 50)


def test_products_with_nan_raise():
    matrices = with_spectrum(SPECTRA["harmonic"], 60, 50)
    matrices[1, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="NaN or Inf"):
        krylov.svd(MatrixOperator(matrices), 3)


def test_an_operator_that_is_not_its_own_transpose_raises():
    operator = MatrixOperator(with_spectrum(SPECTRA["harmonic"], 60, 50))
    wrong = torch.randn(60, 50, dtype=torch.float64)
    operator.rmatmat = lambda u: torch.einsum("mn,bkm->bkn", wrong, u)
    with pytest.raises(ValueError, match="do not belong to one operator"):
        krylov.svd(operator, 3)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-5), (torch.float32, 0.2)])
def test_a_transpose_that_is_nearly_right_raises(dtype, error):
    """Jᵀ + δ v₂u₁ᵀ makes of JᵀJ a matrix with δ s₁ on one side of its diagonal alone."""
    matrices = with_spectrum(SPECTRA["harmonic"], 60, 50, dtype=dtype)
    u, _, v = (part.to(dtype) for part in leading(matrices, 2))

    class Wrong(MatrixOperator):
        def rmatmat(self, w):
            return super().rmatmat(w) + error * (w @ u[:, :1].mT) * v[:, 1:]

    right = krylov.svd(MatrixOperator(matrices), 3, init=v)
    assert right.converged.all()
    with pytest.raises(ValueError, match="do not belong to one operator"):
        krylov.svd(Wrong(matrices), 3, init=v)


def test_a_transpose_that_is_not_right_is_noticed_whatever_else_is_in_the_batch():
    """Beside a map of rank one, which is far larger in its unit, the same errors raise."""
    flat, one = (with_spectrum(s, 60, 50, batch=1) for s in ([1.0, 0.95, *[0.9] * 48], [1.0]))
    u, _, v = leading(flat, 2)

    class Wrong(MatrixOperator):
        def select(self, index):
            chosen = super().select(index)
            chosen.error = self.error
            return chosen

        def rmatmat(self, w):
            pulled = super().rmatmat(w)
            pulled[:1] += self.error * (w[:1] @ u[:, :1].mT) * v[:, 1:]
            return pulled

    def raises(matrices, error):
        operator = Wrong(matrices)
        operator.error = error
        try:
            krylov.svd(operator, 4, max_products=12)
        except ValueError as problem:
            return "do not belong to one operator" in str(problem)
        return False

    errors = [10 ** (-9 + i / 4) for i in range(17)]
    alone = [raises(flat, error) for error in errors]
    assert 0 < sum(alone) < len(alone)
    assert [raises(torch.cat([flat, one]), error) for error in errors] == alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "between 1 and min"),
        ({"rank": 31}, "min\\(30, 40\\) = 30, got 31"),
        ({"rank": 2.0}, "whole number"),
        ({"rank": 3, "quality": "fast"}, '"draft" \\(0.05\\)'),
        ({"rank": 3, "tol": 0.0}, "tol between 0 and 1"),
        ({"rank": 3, "block": 1}, "block to be at least 2"),
        ({"rank": 3, "block": 2.5}, "block to be a whole number, got 2.5"),
        ({"rank": 3, "seed": "a"}, "seed to be a whole number"),
        ({"rank": True}, "rank to be a whole number, got True"),
        ({"rank": 3, "max_products": 0}, "max_products to be at least 1"),
        ({"rank": 3, "init": torch.zeros(3, 2, 29)}, "\\[3, p, 30\\], got \\[3, 2, 29\\]"),
        ({"rank": 3, "init": torch.full((3, 2, 30), math.inf)}, "init contains NaN or Inf"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    operator = MatrixOperator(torch.randn(3, 40, 30, dtype=torch.float64))
    with pytest.raises(ValueError, match=message):
        krylov.svd(operator, **arguments)


@pytest.mark.cuda
def test_cuda_agrees_with_the_dense_answer():
    matrices = with_spectrum(SPECTRA["harmonic"], 900, 800, dtype=torch.float32).cuda()
    result = krylov.svd(MatrixOperator(matrices), 10)
    assert result.converged.all()
    assert sine(result.v.cpu(), leading(matrices.cpu(), 10)[2]).max() < 2e-3
