"""Matching the directions of one frame to those of another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment

from pullback.geometry.grassmann.frames import check_pair


class Matching(NamedTuple):
    """Which direction of b stands for each direction of a.

    Attributes:
        order: int64 `[..., k]`: `b[order[i]]` goes with `a[i]`.
        sign: float64 `[..., k]`, 1 or −1: which way.
        cosine: float64 `[..., k]`: of the angle between them, 0 or above.
    """

    order: torch.Tensor
    sign: torch.Tensor
    cosine: torch.Tensor

    def apply(self, b: torch.Tensor) -> torch.Tensor:
        """The rows of b `[..., p, N]` in the order and with the signs of a, `[..., k, N]`."""
        index = self.order.unsqueeze(-1).expand(*self.order.shape, b.shape[-1])
        batch = index.shape[:-2]
        rows = b.expand(*batch, *b.shape[-2:]).gather(-2, index.to(b.device))
        return rows * self.sign.unsqueeze(-1).to(rows)


def match(a: torch.Tensor, b: torch.Tensor, *, one_to_one: bool = True) -> Matching:
    """The directions of b that stand for those of a, by the size of their cosines.

    Args:
        a: unit rows `[..., k, N]`.
        b: unit rows `[..., p, N]`, p at least k where the matching is one to one.
        one_to_one: the assignment with the largest sum of |cos| (Hungarian method), no direction
            of b twice; otherwise the nearest of b for each of a.

    Raises:
        TypeError, ValueError: as `principal_angles`; or there are fewer rows in b than in a.

    Source: the matching of Park et al. 2023, arXiv:2307.12868, whose cost is 1/|cos|.
    """
    check_pair(a, b)
    k, p = a.shape[-2], b.shape[-2]
    if one_to_one and p < k:
        raise ValueError(f"Expected at least {k} rows to match one to one, got {p}.")
    unit = [x.double() / x.double().norm(dim=-1, keepdim=True) for x in (a, b)]
    cosines = unit[0] @ unit[1].mT
    if one_to_one:
        flat = cosines.abs().reshape(-1, k, p).cpu().numpy()
        found = [linear_sum_assignment(one, maximize=True)[1] for one in flat]
        order = torch.stack([torch.from_numpy(one) for one in found]).to(torch.int64)
        order = order.reshape(cosines.shape[:-1]).to(cosines.device)
    else:
        order = cosines.abs().argmax(-1)
    chosen = cosines.gather(-1, order.unsqueeze(-1)).squeeze(-1)
    return Matching(order, torch.where(chosen < 0, -1.0, 1.0).double(), chosen.abs())
