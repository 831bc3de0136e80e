"""The block Krylov SVD where it is hard: too few ranks, ties, odd shapes, half precision."""

import pytest
import torch

from pullback import krylov
from pullback.testing import (
    MatrixOperator,
    leading,
    orthogonality_loss,
    sine,
    with_spectrum,
)
from tests.krylov.triplets import assert_triplets


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


def test_a_hundred_products_a_direction_are_taken_by_default():
    """Of values so close that neither rounding nor the end of the space stops it before."""
    matrices = with_spectrum([1 - 1e-4 * i for i in range(300)], 310, 300, batch=1)
    result = krylov.svd(MatrixOperator(matrices), 2, quality="tight")
    assert result.stopped == ("max_products",)
    assert 190 < int(result.products) <= 200


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


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_map_that_is_zero(batch, dtype):
    result = krylov.svd(MatrixOperator(torch.zeros(batch, 20, 30, dtype=dtype)), 3)
    assert result.stopped == ("converged",) * batch
    assert result.rank.tolist() == [0] * batch
    assert not result.s.any()
    assert result.products.max() <= 2 * 4 + 2 + 3  # two blocks, one look outside, Jᵀu


@pytest.mark.parametrize("seed", range(12))
def test_a_small_singular_value_is_not_called_zero(seed):
    matrices = with_spectrum([1.0, 0.5, 5e-4], 60, 50, dtype=torch.float32, seed=seed)
    result = krylov.svd(MatrixOperator(matrices), 3, seed=seed)
    assert result.rank.tolist() == [3, 3, 3]
    assert torch.allclose(result.s[:, 2], torch.tensor(5e-4), rtol=0.05)


@pytest.mark.parametrize(
    ("dtype", "value", "rank"),
    [
        (torch.float64, 4e-8, 3),
        (torch.float64, 4e-9, 2),
        (torch.float32, 4e-4, 3),
        (torch.float32, 4e-5, 2),
    ],
)
@pytest.mark.parametrize("largest", [1e-3, 1.0, 1e3])
def test_values_are_zero_below_the_level_that_is_said(dtype, value, rank, largest):
    """1e-8 of the largest in float64 and 1e-4 in float32; a value above is there, and right."""
    spectrum = [largest, largest / 2, largest * value]
    matrices = with_spectrum(spectrum, 60, 50, dtype=dtype)
    result = krylov.svd(MatrixOperator(matrices), 3)
    assert result.rank.tolist() == [rank] * 3
    if rank == 3:
        expected = torch.tensor(spectrum[2], dtype=dtype).expand(3)
        torch.testing.assert_close(result.s[:, 2], expected, rtol=0.05, atol=0)
    else:
        assert not result.s[:, 2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_are_certain_before_they_are_called_converged(dtype):
    """A value above the zero level outside of a warm start that seems to span all of the map."""
    matrices = with_spectrum([1.0, 0.5, 0.3, 0.05], 60, 50, dtype=dtype)
    v = leading(matrices, 4)[2].to(dtype)
    result = krylov.svd(MatrixOperator(matrices), 6, init=v[:, :3])
    assert result.rank.tolist() == [4, 4, 4]
    assert result.converged.all()


def test_values_at_a_tie_are_nearly_right():
    """Of twelve copies a block of two rows sees two, and takes what follows for the rest."""
    matrices = with_spectrum([1.0] * 12 + [0.88] * 20, 90, 80)
    for seed in range(6):
        result = krylov.svd(MatrixOperator(matrices), 4, seed=seed)
        assert not result.converged.any()
        assert (result.s >= 0.99).all()


def test_products_stay_within_what_is_allowed():
    """Also where blocks become wider."""
    matrices = with_spectrum([1.0] * 12 + [0.999] * 20 + [0.5] * 20, 90, 80)
    for allowed in range(20, 120, 7):
        operator = MatrixOperator(matrices)
        result = krylov.svd(operator, 4, max_products=allowed)
        assert result.products.max() <= allowed


@pytest.mark.parametrize(
    ("dtype", "power"),
    [
        *((torch.float64, power) for power in (-290, -200, -160, 160, 200, 290)),
        *((torch.float32, power) for power in (-36, -30, 30, 36)),
    ],
)
def test_the_unit_of_a_map_does_not_matter(dtype, power):
    """Squares of such numbers are zero or infinite."""
    matrices = with_spectrum([1, 0.8, 0.6, 0.3, 0.1, 0.05], 30, 20, dtype=torch.float64)
    plain = krylov.svd(MatrixOperator(matrices.to(dtype)), 3)
    found = krylov.svd(MatrixOperator((matrices * 10.0**power).to(dtype)), 3)
    assert found.stopped == plain.stopped == ("converged",) * 3
    assert sine(found.v, leading(matrices, 3)[2]).max() < (
        1e-6 if dtype == torch.float32 else 1e-13
    )
    torch.testing.assert_close(found.s.double() / 10.0**power, plain.s.double(), rtol=1e-5, atol=0)
    assert found.residual.isfinite().all()


def test_the_samples_that_overflow_are_named():
    matrices = with_spectrum([1, 0.8, 0.6, 0.3], 30, 20, batch=5, dtype=torch.float32)
    matrices[[1, 4]] *= 1e30

    class Squared(MatrixOperator):
        def rmatmat(self, u):
            return super().rmatmat(u * self.matrices.abs().amax((1, 2))[:, None, None] ** 0.4)

    with pytest.raises(FloatingPointError, match=r"in samples 1, 4\. .* overflow in torch.float32"):
        krylov.svd(Squared(matrices), 3)
