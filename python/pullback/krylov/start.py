"""The block that an iteration starts from."""

from __future__ import annotations

import torch

import pullback_ext
from pullback.krylov.blocks import rotate, unit_rows
from pullback.krylov.draws import Draws
from pullback.krylov.state import Settings
from pullback.operators import BlockOperator

#: Norm of the random part of the start beside that of the given vectors.
_RANDOM_SHARE = 0.1


def first_block(
    operator: BlockOperator, settings: Settings, draws: Draws, init: torch.Tensor | None
) -> torch.Tensor:
    """Orthonormal rows `[B, b, n]`, random or from vectors `[B, p, *x_shape]`.

    Of given vectors it takes random mixtures: a few multiplications spread them over the whole
    space that the vectors span. A random part finds what the vectors lack.
    """
    rows = draws.rows(settings.block, settings.n).to(operator.device, settings.dtype)
    rows = rows.expand(operator.batch, *rows.shape)
    if init is not None:
        given = unit_rows(init.to(operator.device, settings.dtype).flatten(2))
        mixing = draws.mixture(settings.block, given.shape[1]).to(operator.device)
        mixed = rotate(mixing.expand(len(given), *mixing.shape), given)
        rows = unit_rows(mixed) + _RANDOM_SHARE * unit_rows(rows)
    return pullback_ext.orthonormalize(rows, seed=draws.next_seed()).q
