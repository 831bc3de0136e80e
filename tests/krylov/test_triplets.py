"""From Ritz vectors to singular triplets."""

import pytest
import torch

from pullback.krylov.triplets import resolved


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
