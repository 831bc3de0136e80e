"""The published loops for a region of x̂₀: what they find and what they spend."""

import pytest
import torch

from benchmarks.local_published import two_iterations
from pullback.testing import leading, sine, with_spectrum

M, N, RANK, NULL = 40, 24, 2, 3


@pytest.fixture
def problem():
    """A linear map whose two sides have spectra that fall fast, and a mask of its output."""
    generator = torch.Generator().manual_seed(3)
    places = torch.randperm(M, generator=generator)[: M // 4]
    mask = torch.zeros(M, dtype=torch.bool).index_fill(0, places, True)
    matrix = torch.zeros(M, N, dtype=torch.float64)
    for seed, side in enumerate((mask, ~mask)):
        rows = int(side.sum())
        matrix[side] = with_spectrum(0.5 ** torch.arange(rows).double(), rows, N, 1, seed=seed)[0]
    sizes = []

    def f(x):
        sizes.append(len(x))
        return (x @ matrix.to(x).T).unflatten(1, (4, 10))

    f.sizes, f.matrix, f.mask = sizes, matrix, mask.view(4, 10)
    return f


def projected(matrix, mask):
    """The same directions by dense decompositions, `[RANK, N]`."""
    inside, outside = matrix[mask.flatten()], matrix[~mask.flatten()]
    own, frame = leading(inside[None], RANK)[2][0], leading(outside[None], NULL)[2][0]
    left = own - (own @ frame.T) @ frame
    return left / left.norm(dim=1, keepdim=True)


def test_converges_to_the_dense_directions(problem):
    got = two_iterations(problem, torch.ones(1, N), problem.mask, RANK, NULL)
    wanted = projected(problem.matrix, problem.mask)
    for found, truth in zip(got.v, wanted, strict=True):
        assert float(sine(found[None, None], truth[None, None])) < 1e-3
    torch.testing.assert_close(got.v.norm(dim=1), torch.ones(RANK))
    assert float((got.v @ got.outside.v.T).abs().max()) < 1e-5


def test_is_still_far_away_after_one_iteration(problem):
    got = two_iterations(problem, torch.ones(1, N), problem.mask, RANK, NULL, max_iter=1)
    wanted = torch.linalg.qr(projected(problem.matrix, problem.mask).T).Q.T
    assert float(sine(got.v[None], wanted[None])) > 1e-2


def test_each_side_makes_passes_of_its_own(problem):
    got = two_iterations(problem, torch.ones(1, N), problem.mask, RANK, NULL, max_iter=3)
    assert (got.inside.products, got.outside.products) == (2 * RANK * 3, 2 * NULL * 3)
    assert got.products == 2 * (RANK + NULL) * 3
    # The shape of the output; then per iteration copies of the point, and the backward's primal.
    assert problem.sizes == [1, *3 * [RANK, 1], 1, *3 * [NULL, 1]]
    # Neither stops before its twelfth iteration.
    got = two_iterations(problem, torch.ones(1, N), problem.mask, RANK, NULL)
    assert min(got.inside.iterations, got.outside.iterations) >= 12


def test_a_map_that_is_not_linear(problem):
    def f(x):
        return torch.tanh(problem(x))

    x = 0.1 * torch.ones(1, N)
    jacobian = torch.func.jacrev(f)(x.double()).reshape(M, N)
    got = two_iterations(f, x, problem.mask, 1, NULL)
    wanted = projected(jacobian, problem.mask)[:1]
    assert float(sine(got.v[None], wanted[None])) < 1e-3
