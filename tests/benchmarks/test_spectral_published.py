"""The published loop for ∂ε/∂h: what it finds, when it stops and what it spends."""

import pytest
import torch

from benchmarks.spectral_published import deflated_power_iteration
from pullback.testing import leading, sine, with_spectrum

M, N, RANK = 14, 20, 3


@pytest.fixture
def counted():
    matrix = with_spectrum(2 * 0.5 ** torch.arange(M).double(), M, N, 1)[0]
    calls = []

    def f(h):
        calls.append(len(h))
        return h @ matrix.to(h).T

    f.calls, f.matrix = calls, matrix
    return f


def test_finds_the_singular_vectors_one_after_the_other(counted):
    got = deflated_power_iteration(counted, torch.ones(1, N), RANK)
    u, s, v = leading(counted.matrix[None], RANK)
    for found, wanted in ((got.u, u[0]), (got.v, v[0])):
        for one, other in zip(found, wanted, strict=True):
            assert float(sine(one[None, None], other[None, None])) < 1e-3
    torch.testing.assert_close(got.s.double(), s[0], rtol=1e-3, atol=0)


def test_spends_one_pass_for_each_vector_and_one_for_each_product(counted):
    got = deflated_power_iteration(counted, torch.ones(1, N), RANK, max_iter=5)
    assert got.iterations == (5, 5, 5)
    assert got.products == 2 * 15
    assert len(counted.calls) == RANK * (1 + 5)


def test_stops_after_eleven_small_changes(counted):
    # Anything is a small change, so that only the hits are counted.
    assert deflated_power_iteration(counted, torch.ones(1, N), 2, tol=1e9).iterations == (11, 11)
    assert deflated_power_iteration(counted, torch.ones(1, N), 1, tol=0.0).iterations == (50,)


def test_same_seed_same_start(counted):
    first, again, other = (
        deflated_power_iteration(counted, torch.ones(1, N), 1, max_iter=1, seed=s).u
        for s in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
