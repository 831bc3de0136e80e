"""What rounding inside an operator does to the leading space: measured, since it knows no bound."""

from __future__ import annotations

import math

import torch

import pullback_ext
from pullback.krylov.blocks import rotate
from pullback.krylov.decomposition import Decomposition
from pullback.krylov.stopping import Evidence
from pullback.operators import BlockOperator

#: Nearby operators that are compared: in a saturated network single differences spread over several
#: orders of magnitude, and a few may all be small.
DRAWS = 3

#: By how much the sum of what they show is multiplied. In 896 leading spaces (seven families of
#: networks, weights as drawn and tripled, two sets of draws each) what rounding did was at most
#: 0.72 times the outcome, and 0.04 times in the median. Part of it Jᵀ does not show.
_MARGIN = 2.0


def nearby(operator: BlockOperator) -> list[BlockOperator]:
    """Operators that rounding cannot tell from this one; none where its products are exact."""
    others = (operator.nearby(draw) for draw in range(DRAWS))
    return [other for other in others if other is not None]


class Probe:
    """A few vectors that show how far rounding inside J tilts the leading space of each sample.

    Rounding makes J + E of J, which tilts v_i towards y_j, to first order, by
    (s_i u_iᵀE y_j + s_j u_jᵀE v_i) / (θ_i − θ_j). The second is of the size of the first, or less,
    since s_j < s_i. The vectors are w = Σ ± v_i: y_jᵀEᵀJ w has, on average, the sum of the squares
    of the first over i as its square. E is the difference to a nearby operator, another for each w.

    Args:
        state: the decomposition of the samples.
        vectors: all their Ritz vectors in coordinates of the basis, `[B, d, d]`.
        evidence: what is known of them.
        reach: `[B, r]`, as in `Bound`.
        signs: ±1, `[DRAWS, r]`, at random.

    Attributes:
        turn: the w in coordinates of the basis, `[B, DRAWS, d]`.
    """

    def __init__(
        self,
        state: Decomposition,
        vectors: torch.Tensor,
        evidence: Evidence,
        reach: torch.Tensor,
        signs: torch.Tensor,
    ) -> None:
        self._state, self._vectors, self._reach = state, vectors, reach
        count = reach.shape[1]
        self.turn = (signs.double() * (reach > 0).unsqueeze(1)) @ vectors[:, :count]
        self._known = (self.turn @ state.projection, self.turn @ state.coupling.mT)
        place = torch.arange(vectors.shape[1], device=reach.device)
        self._others = place >= evidence.ranks.to(reach.device).unsqueeze(1)
        last = evidence.last.unsqueeze(1)
        self._gaps = torch.where(self._others, last - evidence.values, 1.0)
        self._gap = (last - evidence.outside.unsqueeze(1)).squeeze(1)

    def noise(self, products: list[torch.Tensor]) -> torch.Tensor:
        """The noise in the product of every v_i that would tilt them as far as rounding does.

        Args:
            products: Jᵀ of nearby operators times J w of this one, `[B, 1, n]`, one for each w.

        Returns:
            `[B]`, float64; inf where a product is not finite, which says nothing good.
        """
        tilt = torch.stack([self._tilt(*each) for each in enumerate(products)]).sum(0)
        total = torch.linalg.vector_norm(self._reach, dim=1)
        return (_MARGIN * tilt / torch.where(total > 0, total, 1.0)).nan_to_num(nan=math.inf)

    def _tilt(self, draw: int, product: torch.Tensor) -> torch.Tensor:
        """The sine, to first order, by which the difference of one product tilts the space."""
        state, (inside, pending) = self._state, (each[:, draw, None] for each in self._known)
        difference = pullback_ext.gram(product, state.basis) - inside
        known = rotate(inside + difference, state.basis) + rotate(pending, state.pending)
        rest = torch.linalg.vector_norm((product - known).double(), dim=(1, 2))
        along = (difference @ self._vectors.mT).squeeze(1).abs() * self._others
        # Which of the y_j a difference hits is chance: none is taken to be hit less than they are
        # on average.
        count = self._others.sum(1).clamp_min(1)
        average = (along.square().sum(1) / count).sqrt().unsqueeze(1)
        along = torch.maximum(along, average) * self._others
        tilt = torch.linalg.vector_norm(along / self._gaps, dim=1)
        return torch.hypot(tilt, rest / self._gap)
