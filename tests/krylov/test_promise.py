"""No sample is called converged above its bound, whatever the spectrum and the start."""

import pytest
import torch

from pullback import krylov
from pullback.testing import leading, sine, with_spectrum
from tests.krylov.problems import Drawing


def check(problem):
    """The samples called converged are within their bounds of the true space."""
    result = krylov.svd(
        problem.operator(),
        problem.rank,
        quality=problem.quality,
        init=problem.init,
        seed=problem.seed,
    )
    true = leading(problem.matrices, problem.rank)[2]
    for sample in torch.nonzero(result.converged).flatten().tolist():
        rank = int(result.rank[sample])
        if rank:
            found = sine(result.v[sample, None, :rank], true[sample, None, :rank])
            assert found <= result.angle_bound[sample], (problem.kind, sample, problem.seed)
    return int(result.converged.sum()), len(result)


def test_random_problems():
    drawing = Drawing(0)
    counts = [check(drawing.problem()) for _ in range(60)]
    # Ties in the middle of the rank cannot converge; of the others most do.
    assert sum(converged for converged, _ in counts) > 0.3 * sum(total for _, total in counts)


@pytest.mark.slow
def test_many_random_problems():
    drawing = Drawing(1)
    for _ in range(300):
        check(drawing.problem())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("copies", [3, 5, 30])
def test_copies_beyond_the_rows_of_a_block(copies, dtype):
    """One block of two rows sees two of them, and takes what follows for the next value."""
    values = torch.cat([torch.ones(copies), 0.8 * 0.97 ** torch.arange(80 - copies)])
    drawing = Drawing(copies)
    for _ in range(4):
        problem = drawing.problem()
        problem.kind, problem.init, problem.rank = "copies", None, min(copies, 4)
        problem.matrices = with_spectrum(values, 90, 85, 5, dtype, problem.seed)
        converged, _ = check(problem)
        assert converged == (5 if copies == problem.rank else 0)
