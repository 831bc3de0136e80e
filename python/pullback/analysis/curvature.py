"""How far tangent spaces turn along paths between samples: lengths and curvedness."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pullback.analysis.findings import Analysis, Finding, compare
from pullback.analysis.trends import check_rows, check_times
from pullback.geometry import grassmann

#: The order of lengths that was published, the longest first.
ORDER = ("lerp", "slerp", "shooting")

_SOURCE = "Park et al. 2023, arXiv:2302.12469"


@dataclass(frozen=True, eq=False)
class Curvature(Analysis):
    """Paths of several kinds between N pairs of samples at T timesteps: made by `curvature`.

    Attributes:
        kinds: of paths, K of them.
        curvedness: geodesic distance of the tangent spaces at both ends of each segment in radians,
            `[N, T, K, L]`, float64.
        length: their sum over the L segments, `[N, T, K]`.
        chance: that of a path whose tangent spaces are random.
    """

    kinds: tuple[str, ...]
    curvedness: torch.Tensor
    length: torch.Tensor
    chance: float


def curvature(
    distances: Mapping[str, torch.Tensor], times: Sequence[int], *, rank: int, size: int
) -> Curvature:
    """Lengths of paths between samples, and where they bend.

    Args:
        distances: by kind of path, such as "lerp": `[N, T, L]`, those of `LatentPath` of N pairs at
            T timesteps.
        times: timesteps in training units, T of them, descending.
        rank: of the tangent spaces.
        size: entries of the features in which they lie.

    Returns:
        `Curvature`; its findings compare the kinds that are there, each time of the means over t.

    Raises:
        TypeError: distances are no tensors of floating numbers.
        ValueError: there are none, they have different shapes, or NaN or Inf.

    Source: Park et al. 2023, arXiv:2302.12469, with L = 30 and 50 pairs.
    """
    times = check_times(times, 1)
    shapes = {tuple(one.shape) for one in distances.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise ValueError(
            f"Expected distances [N, T, L] of one shape for each kind, got {sorted(shapes)}."
        )
    found = {
        kind: check_rows(f"distances of {kind}", one, times, 3).double().cpu()
        for kind, one in distances.items()
    }
    lengths = {kind: one.sum(2) for kind, one in found.items()}
    segments = next(iter(shapes))[2]
    findings = [
        _shorter(shorter, longer, lengths)
        for longer, shorter in itertools.pairwise(ORDER)
        if longer in lengths and shorter in lengths
    ]
    if "lerp" in found and segments >= 5:
        findings.append(_bends(found["lerp"]))
    return Curvature(
        times=times,
        findings=tuple(findings),
        kinds=tuple(found),
        curvedness=torch.stack(list(found.values()), 2),
        length=torch.stack(list(lengths.values()), 2),
        chance=segments * grassmann.random_distance(rank, size),
    )


def _shorter(shorter: str, longer: str, lengths: Mapping[str, torch.Tensor]) -> Finding:
    return compare(
        f"{shorter} is shorter than {longer}", _SOURCE, f"Length of {shorter} in radians",
        lengths[shorter].mean(1), f"of {longer}", lengths[longer].mean(1), less=True,
    )  # fmt: skip


def _bends(lerp: torch.Tensor) -> Finding:
    """Of curvednesses `[N, T, L]`: a fifth at both ends against the fifth in the middle."""
    segments = lerp.shape[2]
    fifth = segments // 5
    middle = (segments - fifth) // 2
    ends = torch.cat([lerp[..., :fifth], lerp[..., -fifth:]], 2).mean((1, 2))
    return compare(
        "lerp bends at both ends, and less in the middle", _SOURCE,
        "Curvedness of the first and last fifth of segments in radians", ends,
        "of the fifth in the middle", lerp[..., middle : middle + fifth].mean((1, 2)),
    )  # fmt: skip
