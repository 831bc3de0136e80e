"""Operators of matrices, prescribed spectra, and the measures of how far an answer is."""

import pytest
import torch

from pullback.testing import (
    MatrixOperator,
    dense,
    dense_jacobian,
    leading,
    orthogonality_loss,
    residuals,
    sample_map,
    with_spectrum,
)


def test_an_operator_of_matrices_multiplies_with_them_and_counts(rng):
    matrices = torch.randn(2, 5, 6, generator=rng, dtype=torch.float64)
    operator = MatrixOperator(matrices, (2, 3), (5, 1))
    v = torch.randn(2, 4, 2, 3, generator=rng, dtype=torch.float64)
    image = operator.matmat(v)
    assert image.shape == (2, 4, 5, 1)
    torch.testing.assert_close(image.flatten(2), v.flatten(2) @ matrices.mT)
    assert operator.rmatmat(image[:, :1]).shape == (2, 1, 2, 3)
    assert operator.columns == 2 * 4 + 2
    assert torch.equal(dense(operator), matrices)
    part = operator.select(torch.tensor([1]))
    assert part.columns == 0
    assert torch.equal(dense(part), matrices[1:])
    torch.testing.assert_close(dense(operator.gram()), matrices.mT @ matrices)


def test_an_operator_with_another_transpose_is_not_taken_for_dense(rng):
    class Wrong(MatrixOperator):
        def rmatmat(self, u):
            return super().rmatmat(u) * (1 + 1e-10)

    with pytest.raises(AssertionError):
        dense(Wrong(torch.randn(2, 5, 6, generator=rng, dtype=torch.float64)))


@pytest.mark.parametrize(("m", "n"), [(7, 9), (9, 7), (3, 9)])
def test_matrices_have_the_spectrum_that_is_asked_for(m, n):
    asked = [3.0, 1.0, 0.5, 1e-6]
    matrices = with_spectrum(asked, m, n, batch=2)
    found = torch.linalg.svdvals(matrices)
    truth = torch.tensor((asked + [0.0] * 9)[: min(m, n)], dtype=torch.float64)
    torch.testing.assert_close(found, truth.expand(2, -1), rtol=0, atol=1e-14)
    assert not torch.allclose(matrices[0], matrices[1])
    same = with_spectrum(torch.tensor(asked, dtype=torch.float64), m, n, batch=2)
    assert torch.equal(matrices, same)
    assert with_spectrum(asked, m, n, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_both_modes_give_the_jacobian_in_closed_form(rng, chunk):
    weight = torch.randn(3, 5, 6, generator=rng)
    x = torch.randn(3, 2, 3, generator=rng)

    def f(x, weight, scale):
        return torch.sin(scale * torch.einsum("bmn,bn->bm", weight, x.flatten(1)))

    inner = torch.einsum("bmn,bn->bm", weight.double(), x.double().flatten(1))
    truth = 2 * torch.cos(2 * inner).unsqueeze(2) * weight
    for mode in (None, "forward", "reverse"):
        found = dense_jacobian(f, x, weight, 2, mode=mode, chunk=chunk)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, truth, rtol=1e-13, atol=1e-14)
    copies = sample_map(f, weight, 2, sample=1)(x[1:2].expand(4, 2, 3))
    torch.testing.assert_close(copies, f(x, weight, 2)[1].expand(4, 5))


def test_jacobians_of_what_computes_in_float32_are_refused():
    x = torch.randn(1, 3)
    for mode in (None, "forward", "reverse"):
        with pytest.raises(ValueError, match=r"computes in float64, got torch\.float32"):
            dense_jacobian(lambda x: x.float(), x, mode=mode)
    with pytest.raises(ValueError, match='"forward", "reverse" or None, got \'both\''):
        dense_jacobian(torch.sin, x, mode="both")


def test_true_triplets_leave_no_residual_and_wrong_ones_theirs(rng):
    matrices = with_spectrum([4.0, 2.0, 1.0], 6, 5)
    u, s, v = leading(matrices, 2)
    assert residuals(matrices, u, s, v).max() < 1e-14
    torch.testing.assert_close(residuals(matrices, u, s + 1, v), 1 / (s[:, :1] + 1).expand(3, 2))
    assert residuals(0 * matrices, u, 0 * s, v).max() == 0


def test_the_loss_of_orthogonality_of_known_rows(rng):
    rows = torch.linalg.qr(torch.randn(2, 12, 3, generator=rng, dtype=torch.float64)).Q.mT
    assert orthogonality_loss(rows).max() < 1e-14
    rows[1] *= 2  # QQᵀ = 4 I
    assert orthogonality_loss(rows.unflatten(2, (3, 4))).tolist() == pytest.approx([0, 27**0.5])
