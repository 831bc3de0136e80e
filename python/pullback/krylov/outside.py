"""What the basis may have missed: the largest eigenvalue of A on its orthogonal complement.

A Krylov space sees of an eigenvalue at most as many copies as its block has rows, and a start that
lacks a direction may lack it for long. So the largest eigenvalue outside the basis is bounded by
something that owes nothing to the iteration: Lanczos from one Gaussian vector of its own.
"""

from __future__ import annotations

import math

import torch

import pullback_ext

#: Probability with which the bound on the largest eigenvalue outside one basis may be wrong.
MISSED = 1e-5

# Distances from the largest Ritz value at which the bound is looked for, in units of the largest
# value of all: each is 1.15 times the one before, and the first is below the rounding of float64.
_GRID = 1.15 ** torch.arange(-290.0, 6.0, dtype=torch.float64)


class Outside:
    """Lanczos on A₃, which is A between vectors orthogonal to a basis, for a batch of samples.

    The vector g that it starts from is Gaussian and independent of the basis. Seen from g, A₃ has
    the measure ρ with mass (gᵀw)² at the eigenvalue of every eigenvector w. No measure with the
    moments that j products have shown has more mass at λ than 1 / Σ_{m≤j} φ_m(λ)², the Christoffel
    function of its orthonormal polynomials φ_m. And gᵀw is standard normal for the w of the largest
    eigenvalue: its square is at least t = π p² / 2 with probability 1 − p. Hence, with that
    probability, the largest eigenvalue of A₃ is at most the μ beyond the zeros of φ_j with
    Σ φ_m(μ)² = 1/t. (Kuczyński and Woźniakowski 1992 bound the same estimate before it is made.)

    Args:
        basis: `[A, d, n]`, orthonormal rows.
        start: `[n]`, the Gaussian vector.

    Attributes:
        vector: `[A, 1, n]`, what A is to be multiplied with next.
        lower: `[A]`, float64, the largest Ritz value: some vector outside the basis has it.
        upper: `[A]`, float64, μ; inf before it can be told.
    """

    def __init__(self, basis: torch.Tensor, start: torch.Tensor) -> None:
        batch, size, n = basis.shape
        self._others = basis.new_zeros(batch, size + 1, n)  # the basis, and the vector before
        self._others[:, :size] = basis
        start = start.to(basis).expand(batch, 1, n)
        along = pullback_ext.gram(basis, start).square().sum((1, 2))
        mass = pullback_ext.gram(start).flatten() - along
        self.vector = pullback_ext.orthonormalize(start, basis).q
        self._vectors = [self.vector]
        self._diagonal: list[torch.Tensor] = []
        self._beside: list[torch.Tensor] = []
        self._mass = mass.clamp_min(torch.finfo(basis.dtype).eps * n)
        self.lower = torch.zeros_like(self._mass)
        self.upper = torch.full_like(self._mass, math.inf)

    @property
    def steps(self) -> int:
        """Products with A so far."""
        return len(self._diagonal)

    def extend(self, product: torch.Tensor, largest: torch.Tensor) -> None:
        """Take what A made of `vector`.

        Args:
            product: A `vector`, `[A, 1, n]`.
            largest: `[A]`, float64, the largest eigenvalue of A that is known: beyond twice that
                no bound is looked for.
        """
        size = self._others.shape[1] - 1
        basis = self._others if self.steps else self._others[:, :size]
        step = pullback_ext.block_step(product, self.vector, basis, self.steps)
        self._diagonal.append(step.projection[:, -1, 0])
        self._beside.append(step.residual[:, 0, 0].abs())
        self._others[:, size] = self.vector[:, 0]
        self.vector = step.q
        self._vectors.append(self.vector)
        self.lower = self._tridiagonal()[0][:, -1].clamp_min(0.0)
        self.upper = torch.minimum(self.upper, self._limit(largest))

    def top(self) -> torch.Tensor:
        """The Ritz vector of `lower`, `[A, 1, n]`, orthogonal to the basis."""
        turn = self._tridiagonal()[1][:, :, -1]
        vectors = torch.cat(self._vectors[: self.steps], dim=1)
        return turn.unsqueeze(1).to(vectors.dtype) @ vectors

    def select(self, rows: torch.Tensor) -> None:
        """Keep the samples at the indices `rows` only."""
        self._others, self.vector, self._mass = (
            self._others[rows],
            self.vector[rows],
            self._mass[rows],
        )
        self._vectors = [value[rows] for value in self._vectors]
        self._diagonal = [value[rows] for value in self._diagonal]
        self._beside = [value[rows] for value in self._beside]
        self.lower, self.upper = self.lower[rows], self.upper[rows]

    def _tridiagonal(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvalues `[A, j]`, ascending, and eigenvectors `[A, j, j]` of the projection of A₃."""
        matrix = torch.diag_embed(torch.stack(self._diagonal, dim=1))
        if self.steps > 1:
            beside = torch.stack(self._beside[:-1], dim=1)
            matrix = matrix + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors

    def _limit(self, largest: torch.Tensor) -> torch.Tensor:
        """μ: the smallest value of a grid at which the measure cannot have the mass t."""
        largest = torch.where(largest > 0, largest, 1.0)
        # From above what rounding may have left of the Ritz value.
        lower = self.lower * (1 + 64 * torch.finfo(torch.float64).eps)
        grid = lower.unsqueeze(1) + largest.unsqueeze(1) * _GRID.to(largest.device)
        before, value = torch.zeros_like(grid), self._mass.rsqrt().unsqueeze(1).expand_as(grid)
        total, above = value.square(), torch.zeros_like(self._mass).unsqueeze(1)
        for alpha, beta in zip(self._diagonal, self._beside, strict=True):
            ahead = (grid - alpha.unsqueeze(1)) * value - above * before
            above = beta.unsqueeze(1).clamp_min(1e-30 * largest.unsqueeze(1))
            before, value = value, ahead / above
            total = total + value.square()
        enough = total.nan_to_num(nan=math.inf) >= 1 / (math.pi / 2 * MISSED**2)
        first = enough.to(torch.int64).argmax(1, keepdim=True)
        return torch.where(enough.any(1), grid.gather(1, first).squeeze(1), math.inf)
