"""Looking for what a basis misses: bases of known eigenvectors, with known eigenvalues outside."""

from dataclasses import dataclass

import pytest
import torch

import pullback_ext
from pullback.krylov.blocks import MOST_ROWS
from pullback.krylov.iteration import BlockKrylov
from pullback.testing import orthogonality_loss
from tests.krylov.invariant import iteration

N = 300
#: Eigenvalues outside, close to each other: they are told apart slowly.
DENSE = torch.linspace(1, 0, N, dtype=torch.float64)


@dataclass
class Look:
    """One look outside the bases of some samples, and what came of it."""

    solver: BlockKrylov
    gone: torch.Tensor
    outside: torch.Tensor
    """`[B, n - d]`, the eigenvalues outside the bases."""

    @property
    def products(self):
        return self.solver.results.products


def look(samples, rank=2, n=N, seed=0, allowed=1000, widened=0):
    """Look outside bases of which every vector is an eigenvector of A.

    Args:
        samples: of each sample the eigenvalues in the basis and the largest of those outside, the
            others of which are zero.
        rank: leading values.
        n: entries of an input.
        seed: of the eigenvectors.
        allowed: products.
        widened: how often blocks have become wider.
    """
    size = len(samples[0][0])
    values = torch.zeros(len(samples), n, dtype=torch.float64)
    for row, (inside, outside) in zip(values, samples, strict=True):
        row[:size] = torch.as_tensor(inside)
        row[size : size + len(outside)] = torch.as_tensor(outside)[: n - size]
    solver = iteration(values.sqrt(), size, rank, seed=seed, allowed=allowed)
    for _ in range(widened):
        solver.settings = solver.settings.wider()
    theta, vectors = pullback_ext.ritz(solver.state.projection)
    ranks = torch.full((len(samples),), rank)
    evidence = solver._evidence(theta, vectors @ solver.state.coupling.mT, ranks)
    gone = solver._look_outside(torch.arange(len(samples)), evidence)
    return Look(solver, gone, values[:, size:])


PLAIN = ([1.0, 0.9, 0.4, 0.3], 0.5 * DENSE)
TIE = ([1.0, 0.5, 0.5, 0.3], 0.4 * DENSE)  # of the last value and the next
MISSED = ([1.0, 0.5, 0.2, 0.1], [0.75])
MISSED_BESIDE_A_TIE = ([1.0, 0.5, 0.5, 0.3], [0.75])


@pytest.mark.parametrize("seed", range(3))
def test_every_sample_is_looked_at_by_itself(seed):
    samples = [PLAIN, MISSED, TIE, MISSED_BESIDE_A_TIE, PLAIN]
    found = look(samples, seed=seed)
    running = found.solver.running
    assert found.gone.tolist() == [False, True, False, True, False]
    # What is relied on is no less than what is there, and rules out what it is to rule out.
    stay = [0, 2, 4]
    assert running.certain[stay].all()
    assert (running.outside[stay] >= found.outside[stay].amax(1)).all()
    assert (running.outside[stay] < torch.tensor([0.9, 0.55, 0.9])).all()
    for sample in range(len(samples)):
        alone = look(samples[sample : sample + 1], seed=seed + 1 + sample)
        assert alone.gone.tolist() == found.gone[sample : sample + 1].tolist()
    # Who misses a direction goes on with it, in a block with one row more.
    (other,) = found.solver.others
    assert other.running.index.tolist() == [1, 3]
    assert (other.state.size, other.state.width) == (4, found.solver.state.width + 1)
    assert not other.running.certain.any()
    images = other.operator.matmat(other.state.pending)
    assert (torch.linalg.matrix_norm(images, ord=2).square() > 0.5).all()


def test_one_value_much_larger_than_all_others_that_are_known_is_no_limit():
    """Of a direction far above the rest, with more outside than the second value in the basis."""
    found = look([([1.0, 1e-6, 1e-7, 1e-8], 0.3 * DENSE)], rank=1)
    running = found.solver.running
    assert running.certain.all()
    assert 0.3 <= float(running.outside) < 1


@pytest.mark.parametrize("sample", [MISSED, MISSED_BESIDE_A_TIE])
def test_blocks_become_wider_if_there_are_products_for_one_step_of_them(sample):
    looked = int(look([sample]).products)
    step = 2 * (len(sample[0]) + 1)
    for left in range(step + 4):
        found = look([sample], allowed=looked + left)
        assert found.gone.tolist() == [left >= step]
        assert found.products.max() <= looked + left
        assert len(found.solver.others) == int(left >= step)


def test_no_block_becomes_wider_than_the_kernels_take():
    inside = torch.cat([torch.tensor([1.0, 0.9]), torch.linspace(0.4, 0.1, MOST_ROWS - 2)])
    found = look([(inside, [0.95])], n=2 * MOST_ROWS + 20)
    assert found.solver.state.width == MOST_ROWS
    assert not found.gone.any()
    assert not found.solver.others


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("widened", "more"), [(0, 1), (1, 3), (2, 1)])
@pytest.mark.parametrize("left", [1, 2, 3, N])
def test_a_wider_block_is_orthonormal_beside_its_basis(seed, widened, more, left):
    """By one row, then by as many as a block of three has, and again by one where none may be six.

    Nor by more than the dimensions that are left.
    """
    size = len(MISSED[0])
    found = look([MISSED, MISSED], n=2 * size + left, seed=seed, widened=widened)
    (other,) = found.solver.others
    width = min(more, left) + size
    assert other.state.pending.shape == (2, width, 2 * size + left)
    rows = torch.cat([other.state.basis, other.state.pending], dim=1)
    assert float(orthogonality_loss(rows).max()) < 1e-12
    assert torch.equal(other.state.basis, found.solver.state.basis)


@pytest.mark.parametrize("allowed", [6, 7, 8, 9])
def test_it_is_looked_for_as_long_as_there_are_products(allowed):
    found = look([([1.0, 0.9, 0.4, 0.3], 0.9 * (1 - 1e-6) * DENSE)], allowed=allowed)
    assert found.products.tolist() == [allowed // 2 * 2]
    # What is known when they are spent is no guess.
    assert found.solver.running.certain.all()
    assert (found.solver.running.outside >= found.outside.amax(1)).all()


@pytest.mark.parametrize("sample", [PLAIN, TIE])
def test_two_thirds_of_the_products_at_most_are_spent_on_it(sample):
    found = look([sample])
    looked = int(found.products)
    assert looked <= 2 / 3 * int(found.solver.running.patience)
