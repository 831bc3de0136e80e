"""Algebra of blocks of rows that is not the native kernels'."""

import pytest
import torch

from pullback.krylov.blocks import unit_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_rows_have_norm_one_and_their_direction_whatever_their_size(rng, dtype):
    rows = torch.randn(2, 5, 40, generator=rng, dtype=dtype)
    info = torch.finfo(dtype)
    sizes = torch.tensor([info.tiny * 1e3, 1e-3, 1.0, 1e3, info.max / 1e3], dtype=dtype)
    found = unit_rows(rows * sizes[None, :, None]).double()
    expected = rows.double() / rows.double().norm(dim=2, keepdim=True)
    assert (found - expected).abs().max() < 1e2 * info.eps


def test_a_zero_row_stays_zero(rng):
    rows = torch.randn(1, 3, 7, generator=rng)
    rows[0, 1] = 0
    found = unit_rows(rows)
    assert torch.equal(found[0, 1], torch.zeros(7))
    assert found[0, ::2].norm(dim=1).sub(1).abs().max() < 1e-6
