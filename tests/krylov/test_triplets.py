"""From Ritz vectors to singular triplets."""

import pytest
import torch

from pullback.krylov.triplets import resolved, triplets, zero_level


@pytest.mark.parametrize("m", [3, 8, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_singular_values_of_j_on_a_span_whatever_its_size(rng, m, dtype):
    """Of 8 vectors; where J has fewer rows some of their combinations are mapped to zero."""
    images = torch.randn(2, 8, m, generator=rng, dtype=torch.float64).to(dtype)
    s, turn = resolved(images)
    tol = 1e-5 if dtype == torch.float32 else 1e-12
    assert s.shape == (2, 8)
    assert turn.shape == (2, 8, 8)
    expected = torch.linalg.svdvals(images.double())
    torch.testing.assert_close(s[:, : expected.shape[1]], expected, rtol=tol, atol=tol)
    assert not s[:, expected.shape[1] :].any()
    eye = torch.eye(8, dtype=torch.float64).expand(2, 8, 8)
    torch.testing.assert_close(turn @ turn.mT, eye, rtol=0, atol=1e-12)
    # The turned vectors have images that are orthogonal, and as long as their values say.
    turned = turn @ images.double()
    torch.testing.assert_close(turned @ turned.mT, torch.diag_embed(s**2), rtol=tol, atol=10 * tol)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_triplets_of_known_ritz_vectors(rng, dtype, size):
    """Four vectors in two samples, the last of which are zero to rounding, and a zero sample."""
    level = zero_level(dtype)
    assert level == {torch.float32: 1e-4, torch.float64: 1e-8}[dtype]
    s = torch.tensor([[3.0, 2, 1, 1.2 * level * 3], [1.0, 0.5, 0.8 * level, 0], [0, 0, 0, 0]])
    s = size * s.double()
    q = torch.linalg.qr(torch.randn(2, 3, 30, 4, generator=rng, dtype=torch.float64))[0].mT
    right, left = q[0], q[1, :, :, :20]
    left = torch.linalg.qr(left.mT)[0].mT
    images = (s.unsqueeze(2) * left).to(dtype)
    residual = size**2 * 1e-3 * torch.randn(3, 4, 5, generator=rng, dtype=torch.float64)
    residual[2] = 0
    found = triplets(right.to(dtype), images, s**2, residual)
    assert found.rank.tolist() == [4, 2, 0]
    keep = torch.arange(4) < found.rank.unsqueeze(1)
    tol = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found.s, torch.where(keep, s, 0.0), rtol=tol, atol=0)
    # Signs: the largest entry of v is positive, and u goes with it.
    largest = found.v.gather(2, found.v.abs().argmax(2, keepdim=True)).squeeze(2)
    assert (largest > 0).all()
    along = (found.v.double() * right).sum(2), (found.u.double() * left).sum(2)
    assert (along[0].abs()[keep] > 1 - tol).all()
    assert (along[0].sign() == along[1].sign())[keep].all()
    # The residual of Jᵀu = sv is that of A v = s² v over s, in units of the first value.
    expected = residual.norm(dim=2) / (s * s[:, :1])
    torch.testing.assert_close(
        found.residual, torch.where(keep, expected, 0.0), rtol=1e-3, atol=tol
    )
