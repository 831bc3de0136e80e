"""What every result must satisfy."""

import torch

from pullback.testing import orthogonality_loss, residuals


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
