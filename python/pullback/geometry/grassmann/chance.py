"""What distances between subspaces are by chance."""

from __future__ import annotations

import torch

from pullback._numbers import whole
from pullback.geometry.grassmann.angles import check_kind, distance_of

_DRAWS = 256


def random_distance(rank: int, size: int, kind: str = "geodesic") -> float:
    """The mean distance of two random subspaces, with which those of samples can be compared.

    The squared cosines of the principal angles of random subspaces are the eigenvalues of
    (A + B)⁻¹A, where A and B are k × k Wishart matrices of k and of N − k degrees of freedom
    (Muirhead 1982, theorem 3.3.3): of their triangular factors, whatever N is.

    Args:
        rank: dimension k of the subspaces.
        size: dimension N of the space, at least k.
        kind: as for `distance`.

    Returns:
        The mean of 256 draws, always the same ones; its error is below 1 % where N is large.

    Raises:
        ValueError: there is no such distance, or no such subspaces.

    Cost: 256 decompositions of k × k matrices.
    """
    check_kind(kind)
    rank = whole("rank", rank, 1)
    size = whole("size", size, rank)
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(_DRAWS, rank, rank, generator=rng, dtype=torch.float64)
    b = _factor(rank, size - rank, rng)
    # The cosines are the singular values of R⁻¹A, with RRᵀ = AAᵀ + BBᵀ: of the first columns of an
    # orthonormal basis of the rows of [A B].
    rows = torch.linalg.qr(torch.cat([a, b], -1).mT)[0]
    cosines = torch.linalg.svdvals(rows[:, :rank])
    return float(distance_of(cosines.clamp(max=1).acos(), kind).mean())


def _factor(rank: int, freedom: int, rng: torch.Generator) -> torch.Tensor:
    """Factors `[draws, k, ...]` of Wishart matrices: Bartlett's where they have all degrees."""
    if freedom < 2 * rank + 10:
        return torch.randn(_DRAWS, rank, freedom, generator=rng, dtype=torch.float64)
    lower = torch.randn(_DRAWS, rank, rank, generator=rng, dtype=torch.float64).tril(-1)
    degrees = torch.arange(freedom, freedom - rank, -1, dtype=torch.float64)
    # Of many degrees the χ² of Wilson and Hilferty, which is exact to 1e-3 from ten on.
    noise = torch.randn(_DRAWS, rank, generator=rng, dtype=torch.float64)
    shift = 2 / (9 * degrees)
    chi = degrees * (1 - shift + noise * shift.sqrt()).pow(3)
    return lower + torch.diag_embed(chi.clamp(min=0).sqrt())
