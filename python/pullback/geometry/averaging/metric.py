"""The leading directions of the mean pullback metric over many samples."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from typing_extensions import Unpack

from pullback import krylov, maps
from pullback._numbers import whole
from pullback.geometry import provenance
from pullback.geometry.averaging.checks import check_samples, check_times
from pullback.geometry.averaging.result import GlobalDirections
from pullback.geometry.options import OF_PRODUCTS, Options, check_options, with_options
from pullback.models import Condition, LatentModel

_CURES = {
    "max_products": "Allow more max_products, or ask for a larger tol.",
    "floor": "The dtype of the network allows no more, or two singular values at the end are "
    "equal: take another rank, leave samples= out, or use a wider dtype.",
}


@with_options
def mean_metric(
    model_or_map: LatentModel | maps.Map,
    x: torch.Tensor,
    t: int | torch.Tensor,
    rank: int,
    cond: Condition | None = None,
    *,
    samples: int | None = None,
    **options: Unpack[Options],
) -> GlobalDirections:
    """The directions that move the features of all samples most: leading eigenvectors of E[JᵀJ].

    They need no matching, and no reference: a direction counts where many samples, or a few very
    much, are moved by it. They are orthonormal, and lie in the space of the map's variable.

    Args:
        model_or_map: a model, for the map x → h at its middle block, or any map of `pullback.maps`.
        x: latents x_t of two samples or more, `[B, *x_shape]`, in the model's dtype and on its
            device.
        t: their timestep in training units: one for all, or int64 `[B]` of one value.
        rank: directions, at most as many entries as the variable has.
        cond: as for `local_basis`.
        samples: None multiplies with the stack of the Jacobians, whose images of all samples are
            kept, (rank + 10 b) B m numbers for features of m entries and blocks of b rows. A number
            multiplies with E[JᵀJ] instead, that many samples at a time, and never holds the images
            or activations of more. It takes about half as many products again, each of them dearer
            since activations are made anew, and in float32 resolves singular values down to a
            hundredth of the largest only.
        **options: as for `local_basis`; `init` is `[1, p, *x_shape]`.

    Returns:
        `GlobalDirections` with `s`, and s_i² / s_1² as `agreement`. The signs are fixed: in each
        direction the entry of largest magnitude is positive. The provenance says whether it
        `converged`, and the `angle_bound`.

    Raises:
        TypeError: there is no model or map, or an option does not exist.
        ValueError: there is one sample only, samples are at several timesteps, or as
            `local_basis`; or the map does not depend on its variable at all.
        MemoryError: one tangent of one sample does not fit the device.

    Warns:
        UserWarning: it has not converged, or E[JᵀJ] has a numerical rank below `rank`, and as many
            directions are given.

    Cost: as many products per direction and sample as `local_basis`.

    Source: the mean of the metric of Park et al. 2023, arXiv:2307.12868; the solver is
    `pullback.krylov.svd`.
    """
    check_options("mean_metric", options)
    map = _map_of(model_or_map)
    model = map.model
    model.check_latents(x)
    check_samples(len(x))
    timesteps = model.schedule.timesteps(t, len(x), model.device)
    check_times(timesteps.tolist())
    if samples is not None:
        samples = whole("samples", samples, 1)
    given: dict[str, Any] = {**options}
    products = {name: given.pop(name) for name in OF_PRODUCTS if name in given}
    seed = given.setdefault("seed", 0)
    model.check_mode()
    operator = map.at(x, timesteps, cond).operator(**products)
    stack = operator.stacked(samples)
    try:
        found = krylov.svd(stack if samples is None else stack.gram(), rank, **given)
    finally:
        stack._release()
        operator._release()
    # The singular values of E[JᵀJ] itself are the squares of those of the stack.
    s = found.s[0].double() if samples is None else found.s[0].double().sqrt()
    known = {
        **provenance.of_map(map, seed),
        "t": int(timesteps[0]),
        "samples": len(x),
        "products": operator.count.total,
    }
    return _directions(map, found, s, operator.x_shape, known, streamed=samples is not None)


def _directions(
    map: maps.Map,
    found: krylov.SVDResult,
    s: torch.Tensor,
    shape: tuple[int, ...],
    known: dict[str, Any],
    *,
    streamed: bool,
) -> GlobalDirections:
    """The result of the solver as directions, with warnings where it falls short."""
    rank, asked = int(found.rank[0]), len(s)
    if not rank:
        raise ValueError(
            f"Expected a map that depends on {map.wrt}, got {map.name}, whose Jacobians are zero "
            "at all samples."
        )
    if rank < asked:
        why = "samples= resolves no smaller ones" if streamed else "further ones move no feature"
        warnings.warn(
            f"The mean metric has a numerical rank of {rank}, below the {asked} directions asked "
            f"for: {rank} are given, since {why}.",
            stacklevel=3,
        )
    bound, stopped = float(found.angle_bound[0]), found.stopped[0]
    if not bool(found.converged[0]):
        warnings.warn(
            f"The mean metric has not converged: the sine of the largest angle between the "
            f"directions and the true ones is bounded by {bound:.1e}, not by tol = {found.tol:.1e} "
            f"({stopped}). {_CURES[stopped]}",
            stacklevel=3,
        )
    s = s[:rank]
    rows = found.v[0, :rank].double()
    rows = rows / rows.norm(dim=1, keepdim=True)
    return GlobalDirections(
        vectors=rows.to(found.v.dtype).unflatten(1, shape),
        space=map.wrt,
        how="metric",
        agreement=(s / s[0]).square(),
        s=s,
        provenance={
            **known,
            "how": "global directions, metric",
            "vector": "v",
            "pool": None,
            "converged": bool(found.converged[0]),
            "angle_bound": bound if math.isfinite(bound) else None,
            "tol": found.tol,
            "stopped": stopped,
        },
    )


def _map_of(model_or_map: LatentModel | maps.Map) -> maps.Map:
    if isinstance(model_or_map, LatentModel):
        return maps.encoder(model_or_map)
    if not isinstance(model_or_map, maps.Map):
        raise TypeError(
            f"Expected a model or a map, got {type(model_or_map).__name__}. pullback.load makes a "
            "model, and pullback.maps.encoder(model) a map."
        )
    return model_or_map
