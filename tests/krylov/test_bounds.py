"""The bound on the angle as a theorem, and the bound on what lies outside the basis."""

import math

import pytest
import torch

from pullback.krylov import bounds
from pullback.krylov.outside import MISSED, Outside
from pullback.testing import sine

DTYPE = torch.float64


def symmetric(spectrum, generator):
    """A matrix with this spectrum, and its eigenvectors as rows."""
    n = len(spectrum)
    q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=DTYPE))[0]
    return (q * spectrum) @ q.mT, q.mT


def rayleigh_ritz(a, basis):
    """Ritz values and vectors, the residuals' coordinates and their rows, as an iteration has them.

    The residuals of d rows span at most d directions, which stand for the pending rows.
    """
    values, turn = torch.linalg.eigh(basis @ a @ basis.mT)
    values, ritz = values.flip(0), turn.flip(1).mT @ basis
    outside = ritz @ a - values[:, None] * ritz
    rows = torch.linalg.svd(outside, full_matrices=False).Vh
    return values, ritz, outside @ rows.mT


def largest_outside(a, basis):
    """The largest eigenvalue of a between vectors orthogonal to the basis."""
    others = torch.eye(a.shape[0], dtype=DTYPE) - basis.mT @ basis
    return float(torch.linalg.eigvalsh(others @ a @ others)[-1])


def angle_bound(values, residual, rank, outside, noise=0.0):
    number = torch.tensor([float(outside)], dtype=DTYPE)
    return bounds.angle_bound(
        values[None], residual[None], torch.tensor([rank]), number * 0 + noise, number
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_bound_holds_for_any_subspace(seed):
    """Also where the basis lacks a large eigenvalue, as long as that is said."""
    generator = torch.Generator().manual_seed(seed)
    n, d, rank = 30, 8, 3
    spectrum = torch.cat([torch.tensor([1.0, 0.8, 0.6]), 0.5 * 0.7 ** torch.arange(n - 3.0)])
    a, eigenvectors = symmetric(spectrum.to(DTYPE), generator)
    noise = torch.randn(d, n, generator=generator, dtype=DTYPE) / n**0.5
    known = [0, 1, 2, *range(3 + seed % 3, d + seed % 3)]  # some lack the fourth and the fifth
    basis = eigenvectors[known] + 10.0 ** -(1 + seed % 5) * noise
    basis = torch.linalg.qr(basis.mT)[0].mT
    values, ritz, residual = rayleigh_ritz(a, basis)
    found = angle_bound(values, residual, rank, largest_outside(a, basis))
    true = float(sine(ritz[None, :rank], eigenvectors[None, :rank]))
    norm = float(torch.linalg.matrix_norm(ritz[:rank] @ a - values[:rank, None] * ritz[:rank], 2))
    assert float(found.residual_norm) == pytest.approx(norm)
    assert true <= float(found.sine) * (1 + 1e-9)
    assert float(found.sine) <= 12 * true  # and is not idle
    if seed % 5:  # a basis that is any good: Davis and Kahan alone would be weaker
        assert float(found.sine) <= norm / (float(values[rank - 1]) - 0.5)


@pytest.mark.parametrize("seed", range(200))
def test_the_bound_holds_where_the_following_value_is_barely_known(seed):
    """Random bases of random spectra with narrow gaps: found by searching for the worst."""
    generator = torch.Generator().manual_seed(seed)
    n, d = 14, 4 + seed % 5
    rank = 1 + seed % 3
    spectrum = torch.rand(n, generator=generator, dtype=DTYPE).sort(descending=True).values
    spectrum[rank:] = spectrum[rank:].clamp_max(float(spectrum[rank - 1]) * 0.97)
    a, eigenvectors = symmetric(spectrum, generator)
    size = 10 ** float(-3 * torch.rand((), generator=generator))
    tilt = size * torch.randn(d, n, generator=generator, dtype=DTYPE)
    basis = torch.linalg.qr((eigenvectors[:d] + tilt).mT)[0].mT
    values, ritz, residual = rayleigh_ritz(a, basis)
    found = angle_bound(values, residual, rank, largest_outside(a, basis))
    true = float(sine(ritz[None, :rank], eigenvectors[None, :rank]))
    assert true <= float(found.sine) * (1 + 1e-9)


def test_the_bound_of_a_sample_does_not_depend_on_its_batch(rng):
    """Nor on the ranks of the others, of which one may be zero."""
    values = torch.tensor([1.0, 0.8, 0.5, 0.3, 0.2], dtype=DTYPE).expand(4, 5)
    residual = 1e-2 * torch.randn(4, 5, 2, generator=rng, dtype=DTYPE)
    ranks, noise = torch.tensor([3, 1, 0, 2]), torch.full((4,), 1e-4, dtype=DTYPE)
    together = bounds.angle_bound(values, residual, ranks, noise, 0.1 + 0 * noise)
    for i, rank in enumerate(ranks.tolist()):
        alone = angle_bound(values[i], residual[i], rank, 0.1, noise=1e-4)
        for name in ("sine", "residual_norm", "least"):
            torch.testing.assert_close(getattr(together, name)[i], getattr(alone, name)[0])
        assert not together.reach[i, rank:].any()
        torch.testing.assert_close(together.reach[i, :rank], alone.reach[0, :rank])
    assert float(together.sine[2]) == 0


def test_the_schur_complement_is_that_of_dense_matrices(rng):
    """rᵢᵀM⁻¹rᵢ and λ_max(M⁻¹(I + BᵀB)) of the theorem, with inverses in full."""
    leading, others = torch.tensor([1.0, 0.9], dtype=DTYPE), torch.tensor([0.5, 0.3, 0.2])
    coupling = 0.1 * torch.randn(5, 4, generator=rng, dtype=DTYPE)
    coupling[:2] = 0
    rows = torch.randn(2, 4, generator=rng, dtype=DTYPE)
    inverse = torch.zeros(2, 5, dtype=DTYPE)
    inverse[:, 2:] = 1 / (leading[:, None] - others)
    found = bounds._schur((leading - 0.4)[None], inverse[None], coupling[None], rows[None])
    assert found[2].all()
    for i, (value, row) in enumerate(zip(leading, rows, strict=True)):
        b = inverse[i, :, None] * coupling
        m = (value - 0.4) * torch.eye(4) - coupling.mT @ b
        torch.testing.assert_close(found[0][0, i], row @ torch.linalg.inv(m) @ row)
        growth = torch.linalg.eigvals(torch.linalg.inv(m) @ (torch.eye(4) + b.mT @ b)).real.max()
        torch.testing.assert_close(found[1][0, i], growth)


def test_a_value_that_may_overtake_leaves_no_bound():
    values = torch.tensor([1.0, 0.9, 0.5], dtype=DTYPE)
    residual = torch.zeros(3, 2, dtype=DTYPE)
    residual[0, 0] = residual[1, 1] = 1e-4
    assert float(angle_bound(values, residual, 2, 0.1).sine) < 1e-3
    assert float(angle_bound(values, residual, 2, 0.9).sine) == 1.0  # outside the basis
    residual[2, 0] = 0.7  # the third may yet grow past the second
    assert float(angle_bound(values, residual, 2, 0.1).sine) == 1.0
    assert math.isinf(float(angle_bound(values, residual, 2, 0.1).least))


def test_rounding_counts_for_the_bound_and_alone_leaves_the_least():
    values = torch.tensor([1.0, 0.9, 0.5], dtype=DTYPE)
    residual = torch.zeros(3, 2, dtype=DTYPE)
    found = angle_bound(values, residual, 2, 0.1, noise=1e-5)
    assert float(found.sine) >= float(found.least) >= 1e-5 / 0.4
    assert float(found.sine) < 3e-5 / 0.4


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_rounding_of_every_vector_counts(rank):
    """A wide gap and nothing left over: each of them may be tilted, all the same way."""
    values = torch.cat([torch.linspace(1, 0.99, rank, dtype=DTYPE), torch.zeros(3, dtype=DTYPE)])
    residual = torch.zeros(rank + 3, 2, dtype=DTYPE)
    found = angle_bound(values, residual, rank, 0.0, noise=1e-6)
    assert 1e-6 * rank**0.5 <= float(found.sine) <= 2.3e-6 * rank**0.5
    assert float(found.least) == pytest.approx(float(found.sine), rel=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.4, 0.49])
@pytest.mark.parametrize("following", [0.6, 0.8, 0.88])
def test_the_bound_holds_for_the_worst_that_rounding_may_hide(share, following):
    """Of all matrices of norm e one turns two eigenvectors a gap g apart by half of asin(2e/g)."""
    noise = share * (0.9 - following)
    cosine = 2 * share
    hidden = torch.zeros(4, 4, dtype=DTYPE)
    hidden[1, 1], hidden[2, 2] = -cosine, cosine
    hidden[1, 2] = hidden[2, 1] = math.sqrt(1 - cosine**2)
    values = torch.tensor([1.0, 0.9, following, 0.1], dtype=DTYPE)
    true = torch.linalg.eigh(torch.diag(values) + noise * hidden)[1].flip(1).mT
    turned = float(sine(torch.eye(4, dtype=DTYPE)[None, :2], true[None, :2]))
    assert turned == pytest.approx(math.sin(math.asin(cosine) / 2))
    found = angle_bound(values[:3], torch.zeros(3, 1, dtype=DTYPE), 2, 0.1, noise)
    assert turned <= float(found.least)
    # Without residuals hᵢ is what the two gaps leave, either narrowed by the noise.
    reach = [1 / (v - following - noise) + 1 / (v - 0.1 - noise) for v in (1.0, 0.9)]
    assert float(found.least) == pytest.approx(noise * math.hypot(*reach))
    assert turned <= float(found.sine) <= 5 * turned


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_is_the_one_of_the_theorem(seed):
    """By the inverses that Schur's complement avoids: of θᵢ − A₂ on the rest of the basis and W."""
    generator = torch.Generator().manual_seed(seed)
    rank, d, pending = 2, 5, 3
    values = torch.tensor([1.0, 0.8, 0.4, 0.3, 0.1], dtype=DTYPE)
    residual = torch.randn(d, pending, generator=generator, dtype=DTYPE)
    residual *= torch.tensor([0.03, 0.02, 0.1, 0.1, 0.1], dtype=DTYPE).unsqueeze(1)
    noise, outside = 1e-3, 0.2
    reach, tilts = [], []
    for value, row in zip(values[:rank], residual[:rank], strict=True):
        others = torch.diag(value - values[rank:] - noise)
        corner = torch.eye(pending, dtype=DTYPE) * (value - outside - noise)
        across = -residual[rank:]
        whole = torch.cat(
            [torch.cat([others, across], dim=1), torch.cat([across.mT, corner], dim=1)]
        )
        inverse = torch.linalg.inv(whole)
        there = torch.cat([row.new_zeros(d - rank), row])
        # ‖D⁻¹r‖² <= g rᵀM⁻¹r, where M⁻¹ is the corner of D⁻¹ that belongs to W.
        m = inverse[d - rank :, d - rank :]
        b = torch.linalg.solve(others, residual[rank:])
        root = torch.linalg.cholesky(m)
        g = float(torch.linalg.eigvalsh(root.mT @ (torch.eye(pending) + b.mT @ b) @ root)[-1])
        tilts.append(math.sqrt(g * float(row @ m @ row)))
        reach.append(1 / float(others.diagonal().min()) + g)
        assert float((inverse @ there).norm()) <= tilts[-1] * (1 + 1e-12)
        assert float(torch.linalg.matrix_norm(inverse, 2)) <= reach[-1]
    found = angle_bound(values, residual, rank, outside, noise)
    assert found.reach[0].tolist() == pytest.approx(reach)
    rounding = noise * math.hypot(*reach)
    q = float(torch.linalg.matrix_norm(residual[:rank], 2)) * reach[-1] + rounding
    fine = (math.hypot(*tilts) + rounding) / (1 - q**2)
    assert float(found.sine) == pytest.approx(min(q, fine))


# -------------------------------------------------------------------------- outside the basis


def follow(a, basis, start, steps):
    """Lanczos outside a basis: the bound and the Ritz value after each product."""
    seen = Outside(basis[None], start)
    top = torch.linalg.eigvalsh(a)[-1:]
    for _ in range(steps):
        seen.extend(seen.vector @ a, top)
        yield float(seen.lower), float(seen.upper), seen


@pytest.mark.parametrize("seed", range(20))
def test_the_largest_eigenvalue_outside_lies_between_its_bounds(seed):
    generator = torch.Generator().manual_seed(seed)
    n, d = 80, 10
    spectrum = [0.9 ** torch.arange(n), torch.linspace(1, 0.1, n), torch.ones(n)][seed % 3]
    a, eigenvectors = symmetric(spectrum.to(DTYPE), generator)
    basis = eigenvectors[2 * (seed % 2) : 2 * (seed % 2) + d]  # half of them lack the first two
    true = largest_outside(a, basis)
    start = torch.randn(n, generator=generator, dtype=DTYPE)
    earlier = math.inf
    for lower, upper, _ in follow(a, basis, start, 24):
        assert lower <= true * (1 + 1e-9)
        assert true <= upper <= earlier * (1 + 1e-9)
        earlier = upper
    assert upper < 1.5 * true


def test_what_the_start_has_within_the_basis_does_not_count():
    generator = torch.Generator().manual_seed(0)
    a, eigenvectors = symmetric(0.9 ** torch.arange(60, dtype=DTYPE), generator)
    basis, start = eigenvectors[2:9], torch.randn(60, generator=generator, dtype=DTYPE)
    plain = [found[:2] for found in follow(a, basis, start, 8)]
    moved = [found[:2] for found in follow(a, basis, start + 7 * basis[0] - 9 * basis[3], 8)]
    torch.testing.assert_close(torch.tensor(moved), torch.tensor(plain), rtol=1e-6, atol=0)


def test_the_ritz_vector_has_the_ritz_value_after_every_product():
    generator = torch.Generator().manual_seed(0)
    a, eigenvectors = symmetric(0.9 ** torch.arange(60, dtype=DTYPE), generator)
    basis, start = eigenvectors[1:9], torch.randn(60, generator=generator, dtype=DTYPE)
    for lower, _, seen in follow(a, basis, start, 6):
        top = seen.top()[0, 0]
        assert float(top.norm()) == pytest.approx(1)
        assert float((basis @ top).norm()) < 1e-10
        assert float(top @ a @ top) == pytest.approx(lower)


def test_the_first_bound_is_where_the_mass_of_the_start_ends():
    """One product shows two moments: of g with mass |g|², mean α and deviation β the bound is
    α + β (|g|²/t − 1)^½ with t = π p² / 2, and the grid finds it to 15 %.
    """
    generator = torch.Generator().manual_seed(0)
    diagonal = 0.5 + 1e-8 * torch.randn(60, generator=generator, dtype=DTYPE)
    start = torch.randn(60, generator=generator, dtype=DTYPE)
    weights = start.square() / start.square().sum()
    mean = float(weights @ diagonal)
    deviation = math.sqrt(float(weights @ (diagonal - mean).square()))
    reach = deviation * math.sqrt(float(start.square().sum()) / (math.pi / 2 * MISSED**2) - 1)
    ((_, upper, _),) = follow(torch.diag(diagonal), torch.zeros(0, 60, dtype=DTYPE), start, 1)
    assert 0.999 * reach <= upper - mean <= 1.151 * reach


def test_the_ritz_vector_outside_is_the_missing_direction():
    generator = torch.Generator().manual_seed(0)
    a, eigenvectors = symmetric(0.8 ** torch.arange(60, dtype=DTYPE), generator)
    basis = eigenvectors[1:9]
    *_, (_, _, seen) = follow(a, basis, torch.randn(60, generator=generator, dtype=DTYPE), 20)
    assert float(sine(seen.top(), eigenvectors[None, :1])) < 1e-6


def test_a_start_that_hardly_sees_the_largest_is_the_only_way_to_miss_it():
    """The bound fails for a component below its probability's, and holds for one above."""
    generator = torch.Generator().manual_seed(0)
    n = 60
    a = torch.diag(torch.cat([torch.ones(1), 0.1 * 0.5 ** torch.arange(n - 1)]).to(DTYPE))
    level = math.sqrt(math.pi / 2) * MISSED
    for component, holds in ((2 * level, True), (level * 1e-6, False)):
        start = torch.randn(n, generator=generator, dtype=DTYPE)
        start[0] = component
        bound = min(u for _, u, _ in follow(a, torch.zeros(1, 0, n, dtype=DTYPE)[0], start, 4))
        assert (bound >= 1) is holds


def test_a_space_that_is_exhausted_has_its_largest_ritz_value():
    a = torch.zeros(20, 20, dtype=DTYPE)
    a[3, 3] = 2.0
    basis = torch.eye(20, dtype=DTYPE)[:3]
    start = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=DTYPE)
    *_, (lower, upper, _) = follow(a, basis, start, 3)
    assert lower == pytest.approx(2.0)
    assert lower <= upper < 2.001
