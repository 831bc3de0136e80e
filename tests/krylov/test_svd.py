"""The block Krylov SVD on matrices with a prescribed spectrum, against dense float64 SVDs."""

import math

import numpy as np
import pytest
import torch

from pullback import krylov
from pullback.testing import (
    MatrixOperator,
    leading,
    orthogonality_loss,
    residuals,
    sine,
    with_spectrum,
)


def assert_triplets(result, matrices, k):
    """What every result must satisfy, whatever the matrix."""
    bound = 1e-11 if matrices.dtype == torch.float64 else 2e-5
    assert float(orthogonality_loss(result.u).max()) < bound
    assert float(orthogonality_loss(result.v).max()) < bound
    for field in (result.u, result.s, result.v, result.residual, result.angle_bound):
        assert torch.isfinite(field).all()
    assert (result.s.diff(dim=1) <= 0).all()
    assert ((result.s > 0).sum(1) == result.rank).all()
    largest = result.v.abs().argmax(dim=2, keepdim=True)
    assert (result.v.gather(2, largest) > 0).all()
    # The residual is what its definition says, computed afresh in float64.
    true = residuals(matrices, result.u, result.s, result.v)
    floor = 1e-11 if matrices.dtype == torch.float64 else 1e-5
    assert (result.residual.double() - true).abs().max() <= floor + 0.05 * true.max()


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
    operator = MatrixOperator(with_spectrum(SPECTRA["harmonic"], 90, 80, batch=1))
    result = krylov.svd(operator, 5)
    assert int(result.products) == operator.columns


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [0, 1, 3, 7])
def test_rank_deficient_maps_end_in_exact_zeros(rank, dtype):
    values = [1.0, 0.9, 0.7, 0.5, 0.4, 0.35, 0.3][:rank] or [0.0]
    matrices = with_spectrum(values, 64, 50, dtype=dtype)
    result = krylov.svd(MatrixOperator(matrices), 10)
    assert (result.rank == rank).all()
    assert (result.s[:, rank:] == 0).all()
    assert result.converged.all()
    assert_triplets(result, matrices, 10)
    if rank:
        _, s, v = leading(matrices, rank)
        assert sine(result.v[:, :rank], v).max() < (1e-4 if dtype == torch.float32 else 1e-9)
        assert torch.allclose(result.s[:, :rank].double(), s, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_copies_of_a_singular_value_than_a_block_has_rows(dtype):
    # Block Krylov with b rows meets b copies; the rest must not be overlooked silently.
    matrices = with_spectrum([1.0] * 12 + [0.5] * 20 + [0.1] * 30, 90, 80, dtype=dtype)
    result = krylov.svd(MatrixOperator(matrices), 12)
    true = sine(result.v, leading(matrices, 12)[2])
    assert (~result.converged | (true <= result.angle_bound)).all()
    assert torch.allclose(result.s.double(), torch.ones(3, 12, dtype=torch.float64), atol=1e-5)


def test_a_tie_is_never_called_converged():
    matrices = with_spectrum([1.0, 0.9, 0.5, 0.5, 0.2, 0.1], 40, 30)
    result = krylov.svd(MatrixOperator(matrices), 3)
    assert not result.converged.any()
    assert result.stopped == ("floor",) * 3
    assert torch.allclose(result.s[:, :3], torch.tensor([1.0, 0.9, 0.5]).double())


def test_floor_of_float32_is_said_and_not_hidden():
    # s_k and s_k+1 differ by less than float32 products resolve.
    values = [1.0, 0.5, 0.01, 0.01 * (1 - 1e-6), *[0.005 / i for i in range(1, 60)]]
    matrices = with_spectrum(values, 80, 70, dtype=torch.float32)
    result = krylov.svd(MatrixOperator(matrices), 3)
    assert result.stopped == ("floor",) * 3
    assert not result.converged.any()


def test_max_products_stops_and_says_so():
    matrices = with_spectrum([i**-0.1 for i in range(1, 200)], 250, 240)
    result = krylov.svd(MatrixOperator(matrices), 10, max_products=60)
    assert result.stopped == ("max_products",) * 3
    assert (result.products <= 60).all()
    assert not result.converged.any()
    assert (sine(result.v, leading(matrices, 10)[2]) <= result.angle_bound).all()


def test_full_rank_of_a_small_map():
    matrices = with_spectrum([3.0, 2.0, 1.0, 0.5, 0.25], 5, 5)
    result = krylov.svd(MatrixOperator(matrices), 5)
    assert result.converged.all()
    assert_triplets(result, matrices, 5)
    rebuilt = torch.einsum("bkm,bk,bkn->bmn", result.u, result.s, result.v)
    assert torch.allclose(rebuilt, matrices, atol=1e-12)


@pytest.mark.parametrize(("m", "n", "rank"), [(3, 200, 3), (200, 3, 2), (1, 1, 1), (40, 7, 1)])
def test_extreme_shapes(m, n, rank):
    matrices = torch.randn(2, m, n, dtype=torch.float64)
    result = krylov.svd(MatrixOperator(matrices), rank)
    assert_triplets(result, matrices, rank)
    assert torch.allclose(result.s, leading(matrices, rank)[1], rtol=1e-8)


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_products_end_at_their_floor_without_nan(dtype):
    matrices = with_spectrum([2.0 ** (-i / 2) for i in range(60)], 90, 80, dtype=dtype)
    result = krylov.svd(MatrixOperator(matrices), 6)
    assert result.v.dtype == torch.float32
    assert float(orthogonality_loss(result.v).max()) < 2e-5
    assert float(orthogonality_loss(result.u).max()) < 2e-5
    eps = torch.finfo(dtype).eps
    assert sine(result.v[:, :3], leading(matrices, 3)[2]).max() < 4 * eps
    _, s, _ = leading(matrices, 6)
    assert ((result.s.double() - s) / s).abs().max() < 4 * eps


def test_progress_is_reported_after_every_step():
    matrices = with_spectrum(SPECTRA["slow"], 260, 240)
    seen = []
    result = krylov.svd(MatrixOperator(matrices), 6, progress=seen.append)
    assert [p.products for p in seen] == sorted(p.products for p in seen)
    assert seen[-1].active == 0
    assert seen[0].angle_bound == math.inf  # fewer rows than directions say nothing yet
    assert seen[-1].angle_bound <= result.tol
    assert all(p.samples == 3 for p in seen)


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
