"""By how much differences of products tilt a leading space, one difference at a time."""

import math
from types import SimpleNamespace

import pytest
import torch

from pullback.krylov.rounding import _MARGIN, DRAWS, Probe
from pullback.krylov.stopping import Evidence

N, SIZE, PENDING, RANK = 20, 8, 3, 3
THETA = torch.tensor(
    [[9.0, 4, 3.5, 3.0, 1, 0.5, 0.2, 0.1], [2.0, 1.9, 0.5, 0.3, 0.2, 0.1, 0.05, 0]]
)
OUTSIDE = torch.tensor([0.7, 0.03])
RANKS = torch.tensor([3, 2])
REACH = torch.tensor([[0.2, 0.9, 2.0], [0.6, 0.7, 0.0]])  # 0 beyond the rank


@pytest.fixture
def known(rng):
    """Two samples: a decomposition, its Ritz vectors in its coordinates, and A."""

    def orthonormal(size):
        return torch.linalg.qr(torch.randn(2, size, size, generator=rng, dtype=torch.float64))[0]

    rows, turn = orthonormal(N), orthonormal(SIZE)
    basis, pending = rows[:, :SIZE], rows[:, SIZE : SIZE + PENDING]
    projection = turn.mT @ torch.diag_embed(THETA.double()) @ turn
    coupling = torch.randn(2, PENDING, SIZE, generator=rng, dtype=torch.float64)
    state = SimpleNamespace(basis=basis, pending=pending, projection=projection, coupling=coupling)
    a = basis.mT @ projection @ basis + pending.mT @ coupling @ basis
    return state, turn, a, rows[:, SIZE + PENDING :]


def probe_of(state, turn, reach=REACH):
    nothing = torch.zeros(2, dtype=torch.float64)
    evidence = Evidence(
        values=THETA.double(),
        residual=turn @ state.coupling.mT,
        ranks=RANKS,
        noise=nothing,
        hidden=nothing,
        outside=OUTSIDE.double(),
        trusted=torch.ones(2, dtype=torch.bool),
        earlier=nothing,
        exhausted=torch.zeros(2, dtype=torch.bool),
        complete=False,
        following=torch.zeros(2, dtype=torch.int64),
    )
    signs = torch.tensor([[1.0, -1, 1], [-1.0, -1, 1], [1.0, 1, 1]])
    assert len(signs) == DRAWS
    return Probe(state, turn, evidence, reach.double(), signs), signs


def noise(known, differences, reach=REACH):
    """What the probe makes of A w + a difference [2, 1, N], for each of the w."""
    state, turn, a, _ = known
    probe, _ = probe_of(state, turn, reach)
    w = probe.turn @ state.basis
    exact = w @ a.mT
    return probe.noise([exact[:, k, None] + d for k, d in enumerate(differences)])


def tilted(tilts, reach=REACH):
    """The noise that stands for a sum of tilts."""
    return _MARGIN * tilts / reach.double().norm(dim=1)


def test_the_vectors_are_sums_of_those_that_noise_can_tilt(known):
    state, turn, _, _ = known
    probe, signs = probe_of(state, turn)
    expected = torch.stack([signs, signs * torch.tensor([1.0, 1, 0])]).double()
    assert torch.allclose(probe.turn @ turn.mT[..., :RANK], expected)


def test_products_that_agree_show_no_noise(known):
    nothing = torch.zeros(2, 1, N, dtype=torch.float64)
    assert noise(known, [nothing] * DRAWS).max() < 1e-12


@pytest.mark.parametrize("place", range(SIZE))
def test_a_difference_along_a_ritz_vector_tilts_by_its_share_of_the_gap(known, place):
    state, turn, _, _ = known
    size = torch.tensor([1e-3, 2e-4], dtype=torch.float64)
    along = size[:, None, None] * (turn[:, place, None] @ state.basis)
    nothing = torch.zeros_like(along)
    expected = torch.zeros(2, dtype=torch.float64)
    for sample, rank in enumerate(RANKS.tolist()):
        if place < rank:
            continue  # within the leading space nothing tilts it
        gaps = THETA[sample, rank - 1].double() - THETA[sample, rank:].double()
        # No other is taken to be hit less than all of them are on average.
        parts = torch.full_like(gaps, float(size[sample]) / math.sqrt(len(gaps)))
        parts[place - rank] = size[sample]
        expected[sample] = (parts / gaps).norm()
    assert torch.allclose(noise(known, [along, nothing, nothing]), tilted(expected), atol=1e-12)
    # What the points show adds up.
    both = noise(known, [along, nothing, -2 * along])
    assert torch.allclose(both, tilted(3 * expected), atol=1e-12)


@pytest.mark.parametrize("where", ["pending", "rest"])
def test_what_is_left_of_a_difference_tilts_by_its_norm_over_the_gap_to_what_is_outside(
    known, where
):
    state, _, _, rest = known
    direction = state.pending[:, 1:2] if where == "pending" else rest[:, 4:5]
    size = torch.tensor([3e-3, 1e-4], dtype=torch.float64)
    difference = size[:, None, None] * direction
    last = THETA[torch.arange(2), RANKS - 1].double()
    expected = tilted(size / (last - OUTSIDE.double()))
    nothing = torch.zeros_like(difference)
    assert torch.allclose(noise(known, [nothing, difference, nothing]), expected, atol=1e-12)


def test_where_nothing_can_be_tilted_there_is_no_noise(known):
    nothing = torch.zeros(2, 1, N, dtype=torch.float64)
    found = noise(known, [nothing] * DRAWS, reach=torch.tensor([[0.2, 0.9, 2.0], [0, 0, 0]]))
    assert found[1] == 0
