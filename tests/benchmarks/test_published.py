import math

import pytest
import torch

from benchmarks.published import power_iteration
from benchmarks.subspace import subspace_iteration
from pullback import JacobianOperator
from pullback.testing import leading, sine

N, M, RANK = 30, 40, 4


@pytest.fixture(scope="module")
def weights():
    """Two layers of a smooth map whose singular values fall fast."""
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randn(M, N, generator=generator), torch.randn(M, M, generator=generator)]
    left, _, right = torch.linalg.svd(draws[0], full_matrices=False)
    return left @ torch.diag(0.6 ** torch.arange(N)) @ right, torch.linalg.qr(draws[1]).Q


@pytest.fixture
def smooth(weights):
    first, second = weights
    sizes = []

    def f(x):
        sizes.append(len(x))
        return torch.tanh(x @ first.to(x).T) @ second.to(x).T

    f.sizes = sizes
    return f


@pytest.fixture(scope="module")
def x():
    return 0.1 * torch.randn(1, N, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def truth(smooth, x):
    jacobian = torch.func.jacrev(smooth)(x.double()).reshape(1, M, N)
    smooth.sizes.clear()
    return leading(jacobian, RANK)


def test_converges_to_the_dense_basis(smooth, x, truth):
    got = power_iteration(smooth, x, RANK, max_iter=25, min_iter=25)
    _, s, v = truth
    assert sine(got.v.unsqueeze(0), v).item() < 1e-4
    torch.testing.assert_close(got.s.double(), s[0], rtol=1e-4, atol=0)
    assert got.stopped == "max_iter"


def test_is_still_far_away_after_few_iterations(smooth, x, truth):
    got = power_iteration(smooth, x, RANK, max_iter=2)
    assert sine(got.v.unsqueeze(0), truth[2]).item() > 1e-2


def test_costs_what_the_published_loop_costs(smooth, x):
    got = power_iteration(smooth, x, RANK, max_iter=3, chunk=2)
    assert got.iterations == 3
    assert got.products == 2 * RANK * 3
    # The shape of h; then per iteration two chunks of identical copies, and the backward's primal.
    assert smooth.sizes == [1] + 3 * [2, 2, 1]


def test_default_chunk_takes_all_of_ten(smooth, x):
    power_iteration(smooth, x, 10, max_iter=1)
    assert smooth.sizes == [1, 10, 1]


def test_takes_one_backward_pass_per_direction(x, weights):
    class Counted(torch.autograd.Function):
        backwards = 0

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def jvp(ctx, tangent):
            return tangent.clone()

        @staticmethod
        def backward(ctx, gradient):
            Counted.backwards += 1
            return gradient

        @staticmethod
        def vmap(info, in_dims, x):
            return Counted.apply(x), in_dims[0]

    power_iteration(lambda x: Counted.apply(x) @ weights[0].T, x, RANK, max_iter=2)
    assert Counted.backwards == 2 * RANK


def test_stops_at_agreement_but_not_before_the_twelfth_iteration(smooth, x):
    # Anything agrees within 10, so only the least number of iterations holds it back.
    got = power_iteration(smooth, x, RANK, atol=10)
    assert got.stopped == "allclose"
    assert got.iterations == 12
    assert power_iteration(smooth, x, RANK, atol=10, min_iter=3).iterations == 5


def test_does_not_stop_while_entries_differ(smooth, x):
    got = power_iteration(smooth, x, RANK, atol=0)
    assert (got.stopped, got.iterations) == ("max_iter", 50)


def test_shows_every_iteration_and_can_be_ended(smooth, x, truth):
    sines = []

    def watch(v):
        sines.append(sine(v.unsqueeze(0), truth[2]).item())
        return sines[-1] <= 2e-3

    got = power_iteration(smooth, x, RANK, min_iter=500, max_iter=500, watch=watch)
    assert got.stopped == "watch"
    assert got.iterations == len(sines)
    assert sines[-1] <= 2e-3 < sines[-2]


def test_same_seed_same_start(smooth, x):
    first, again, other = (power_iteration(smooth, x, RANK, max_iter=1, seed=s) for s in (3, 3, 4))
    assert torch.equal(first.v, again.v)
    assert not torch.equal(first.v, other.v)


def test_subspace_iteration_finds_the_same_space(smooth, x, truth):
    points = torch.cat([x, -x, 2 * x])
    jacobian = torch.stack(
        [torch.func.jacrev(smooth)(p.double().unsqueeze(0)).reshape(M, N) for p in points]
    )
    v = leading(jacobian, RANK)[2]

    def done(found, index):
        return sine(found, v[index]) <= 2e-3

    got = subspace_iteration(JacobianOperator(smooth, points), RANK, done)
    assert sine(got.v, v).max() <= 2e-3
    width = RANK + math.ceil(RANK / 2)
    assert torch.equal(got.products, 2 * width * got.iterations)
    assert got.iterations.max() < 50
