"""One vector of a local basis as a direction: in which space it lies, and what is known of it."""

from __future__ import annotations

import math
from typing import Any

from pullback._numbers import whole
from pullback.directions.checks import check_space
from pullback.geometry import LocalBasis


def fields(basis: LocalBasis, index: int, sample: int, space: str | None) -> dict[str, Any]:
    """What `Direction.of` takes, of one singular vector of one sample.

    Raises:
        TypeError: it is no basis.
        ValueError: no such sample, index or space in this basis.
    """
    if not isinstance(basis, LocalBasis):
        raise TypeError(
            f"Expected a LocalBasis, got {type(basis).__name__}. pullback.local_basis makes one."
        )
    sample = whole("sample", sample, 0, len(basis) - 1)
    index = whole("index", index, 0, basis.s.shape[1] - 1)
    known = basis.provenance
    if space is None:
        space = known["wrt"]
    check_space(space)
    side, pool = side_of(known, space)
    rank = int(basis.rank[sample])
    if index >= rank:
        raise ValueError(
            f"Expected an index below {rank}, the numerical rank of sample {sample}, got {index}: "
            "the singular value is zero up to rounding, and the vector is arbitrary."
        )
    bound = float(basis.angle_bound[sample])
    return {
        "vector": (basis.v if side == "v" else basis.u)[sample, index],
        "space": space,
        "tap": known["tap"] if space == "h" else None,
        "pool": pool,
        "t": known["t"][sample],
        "name": f"{side}{index} of sample {sample}",
        "provenance": {
            **known,
            "t": known["t"][sample],
            "how": "local basis",
            "vector": side,
            "index": index,
            "sample": sample,
            "s": float(basis.s[sample, index]),
            "converged": bool(basis.converged[sample]),
            "angle_bound": bound if math.isfinite(bound) else None,
        },
    }


def side_of(known: dict[str, Any], space: str) -> tuple[str, str | None]:
    """Whether v or u lies in the space, and how it is pooled."""
    if space == known["wrt"]:
        return "v", None
    whole_feature = f"encoder {known['tap']}"
    pools = {whole_feature: None, f"{whole_feature}, pooled over space": "space"}
    # A feature that is restricted, or followed by a function, is no longer the one at the tap.
    if space == "h" and known["map"] in pools:
        return "u", pools[known["map"]]
    also = ' (v) or "h" (u)' if known["map"] in pools else " (v)"
    raise ValueError(
        f'Expected the space as "{known["wrt"]}"{also} for a basis of the map {known["map"]!r}, '
        f'got "{space}". For another space, compute the basis of another map of pullback.maps.'
    )
