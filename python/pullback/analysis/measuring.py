"""What the analyses need of a model beside its local bases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pullback import maps
from pullback.analysis.bases import Bases, walked
from pullback.analysis.linearity import Moves
from pullback.analysis.tangent_spaces import random_rows
from pullback.geometry import basis
from pullback.geometry.transport import latent_path
from pullback.models import Condition, LatentModel, denoise, invert

Step = Callable[[], None]

_AT_ONCE = 256  # latents of a forward pass


def ablated(
    model: LatentModel,
    bases: Bases,
    cond: Condition | None = None,
    *,
    progress: Step | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tangent spaces where x_t alone changes, and where t alone does: for `ablation`.

    Args:
        model: the model of the bases.
        bases: of N samples at T timesteps.
        cond: as for the bases.
        progress: called after each of 2 T steps.
        **options: further ones of `local_basis`.

    Returns:
        Rows at (x_t, T) and at (x_T, t), `[N, T, k, ...]` each, as `bases.tangents`; T is the first
        timestep.

    Cost: 2 N T local bases.
    """
    rank, first = bases.s.shape[2], bases.times[0]
    still = bases.x[:, :1].expand_as(bases.x)
    told = [first] * len(bases.times)
    only_x = walked(
        model, bases.x, bases.times, rank, cond, told=told, progress=progress, **options
    )
    only_t = walked(model, still, bases.times, rank, cond, progress=progress, **options)
    if bases.u is None:
        return only_x.v, only_t.v
    return only_x.tangents, only_t.tangents


def under_conditions(
    model: LatentModel,
    bases: Bases,
    conditions: Mapping[str, torch.Tensor],
    *,
    progress: Step | None = None,
    **options: Any,
) -> torch.Tensor:
    """Tangent spaces at the same latents under each of P conditions: for `across_conditions`.

    Args:
        model: the model of the bases.
        bases: whose latents are taken.
        conditions: tensors `[P, ...]` by the names of the network's arguments.
        progress: called after each of P T steps.
        **options: further ones of `local_basis`.

    Returns:
        Rows `[N, T, P, k, *h_shape]`.

    Cost: N T P local bases.
    """
    samples, rank = len(bases.x), bases.s.shape[2]
    found = [
        walked(
            model, bases.x, bases.times, rank, repeated(conditions, one, samples),
            progress=progress, **options,
        ).tangents
        for one in range(_count(conditions))
    ]  # fmt: skip
    return torch.stack(found, 2)


def repeated(
    conditions: Mapping[str, torch.Tensor], one: int, samples: int
) -> dict[str, torch.Tensor]:
    """One of the conditions `[P, ...]`, for a batch of samples: `[samples, ...]`."""
    return {name: value[[one] * samples] for name, value in conditions.items()}


def similarity_of(model: LatentModel, conditions: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Cosines of what the network is told, `[P, P]`: for `across_conditions`.

    Of prompts the means of their tokens' embeddings, of class labels the rows of the network's own
    table of them.

    Args:
        model: the model.
        conditions: tensors `[P, ...]` by the names of the network's arguments.

    Raises:
        ValueError: there are no embeddings; give a similarity of your own.
    """
    rows = None
    if "encoder_hidden_states" in conditions:
        rows = conditions["encoder_hidden_states"].flatten(1, -2).mean(1)
    elif "class_labels" in conditions:
        table = getattr(model.network, "class_embedding", None)
        if isinstance(table, nn.Embedding):
            rows = table.weight.detach()[conditions["class_labels"].to(table.weight.device)]
    if rows is None:
        raise ValueError(
            f"Expected prompts, or labels of a network with a table of their embeddings, got "
            f"{', '.join(conditions)}. Pass a similarity [P, P] of your own to across_conditions."
        )
    unit = torch.nn.functional.normalize(rows.double().cpu(), dim=1)
    return unit @ unit.T


def joined(
    model: LatentModel,
    x: torch.Tensor,
    times: Sequence[int],
    kinds: Sequence[str],
    cond: Condition | None = None,
    *,
    rank: int = 10,
    segments: int = 30,
    progress: Callable[[], None] | None = None,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Distances along paths between samples: for `curvature`.

    Args:
        model: the model.
        x: latents of 2 N samples, of which each two are joined, `[2 N, T, *x_shape]`.
        times: timesteps in training units, T of them.
        kinds: of paths, as for `latent_path`.
        cond: the condition of each path, N of them; None is the null condition.
        rank: of the tangent spaces.
        segments: of each path.
        progress: called after each point of a path of all pairs.
        **options: further ones of `latent_path`.

    Returns:
        Geodesic distances `[N, T, segments]` by kind, in radians.

    Cost: N T (segments + 1) local bases for each kind.
    """
    pairs = len(x) // 2
    x = x[: 2 * pairs].to(model.device)
    # All timesteps at once: a pass takes about as long for a few latents more.
    start, end = x[::2].flatten(0, 1), x[1::2].flatten(0, 1)
    at = torch.tensor(list(times) * pairs, device="cpu")
    if cond is not None:
        cond = {name: value.repeat_interleave(len(times), 0) for name, value in cond.items()}
    found = {}
    for kind in kinds:
        path = latent_path(
            model, start, end, at, kind=kind, segments=segments, rank=rank, cond=cond,
            progress=None if progress is None else (lambda _done, _total: progress()), **options,
        )  # fmt: skip
        found[kind] = path.distance.T.cpu().unflatten(0, (pairs, len(times)))
    return found


def moves(
    model: LatentModel,
    bases: Bases,
    directions: int,
    lengths: Sequence[float],
    cond: Condition | None = None,
    *,
    progress: Step | None = None,
    **options: Any,
) -> tuple[torch.Tensor, Moves, Moves]:
    """What steps do to the denoised estimate x̂₀: for `linearity`.

    Args:
        model: the model of the bases.
        bases: whose latents are taken.
        directions: leading ones of the Jacobian of x̂₀ with respect to x.
        lengths: K lengths of steps, in the unit of x.
        cond: as for the bases.
        progress: called after each timestep.
        **options: further ones of `pullback.basis`.

    Returns:
        x̂₀ `[N, T, *x_shape]`, and what the steps along the directions and along as many random
        ones do.

    Cost: N T local bases, 2 N T D products, and 2 N T D K forward passes.
    """
    estimate = maps.output(model, "denoised")
    origins, products, moved = [], [], []
    by = torch.tensor(list(lengths), dtype=model.dtype, device=model.device)
    for place, t in enumerate(bases.times):
        x = bases.x[:, place].to(model.device)
        own = basis(estimate, x, t, directions, cond, **options).v
        noise = random_rows(own).to(own).flatten(2)
        random = torch.nn.functional.normalize(noise, dim=2).reshape(own.shape)
        both = torch.cat([own, random], 1)
        at = estimate.at(x, t, cond)
        origins.append(at.value().cpu())
        products.append(at.operator().matmat(both).cpu())
        steps = by.reshape(-1, *[1] * (x.dim() - 1))
        points = x[:, None, None] + both[:, :, None] * steps  # [N, 2 D, K, *x_shape]
        moved.append(_values(estimate, points, t, cond))
        if progress is not None:
            progress()
    j, far = torch.stack(products, 1), torch.stack(moved, 1)
    along, random_ones = (
        Moves(j[:, :, part], far[:, :, part])
        for part in (slice(0, directions), slice(directions, None))
    )
    return torch.stack(origins, 1), along, random_ones


def whole_spectrum(
    model: LatentModel,
    bases: Bases,
    cond: Condition | None = None,
    *,
    progress: Step | None = None,
) -> torch.Tensor:
    """All singular values of the Jacobians of x̂₀, `[N, T, n]`: for `rank_ratio`.

    Args:
        model: the model of the bases.
        bases: whose latents are taken.
        cond: as for the bases.
        progress: called after each timestep.

    Cost: N T n products, and as many singular value decompositions of n × n.
    """
    estimate = maps.output(model, "denoised")
    size = bases.x[0, 0].numel()
    shape = bases.x.shape[2:]
    found = []
    for place, t in enumerate(bases.times):
        x = bases.x[:, place].to(model.device)
        identity = torch.eye(size, dtype=x.dtype, device=x.device).reshape(1, size, *shape)
        jacobian = estimate.at(x, t, cond).operator().matmat(identity.expand(len(x), size, *shape))
        found.append(torch.linalg.svdvals(jacobian.flatten(2).double()).cpu())
        if progress is not None:
            progress()
    return torch.stack(found, 1)


def ends(
    model: LatentModel,
    bases: Bases,
    cond: Condition | None = None,
    *,
    steps: int = 50,
    progress: Step | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The data that samples lead to, and the latents that these are inverted to: for `radius`.

    Args:
        model: the model of the bases.
        bases: whose latents are taken.
        cond: as for the bases.
        steps: of the whole schedule.
        progress: called after each timestep.

    Returns:
        Data `[N, *x_shape]` and latents `[N, T, *x_shape]`.

    Cost: a walk down from the last timestep, and one up to each of the timesteps.
    """
    last = bases.x[:, -1].to(model.device)
    clean = denoise(model, last, bases.times[-1], cond=cond, steps=steps)
    found = []
    for t in bases.times:
        found.append(invert(model, clean, t, check=False, cond=cond, steps=steps).x.cpu())
        if progress is not None:
            progress()
    return clean.cpu(), torch.stack(found, 1)


def _values(
    estimate: maps.Map, points: torch.Tensor, t: int, cond: Condition | None
) -> torch.Tensor:
    """A map at points `[N, D, K, *x_shape]` of N samples, on the CPU."""
    rows = points.flatten(0, 2)
    samples = torch.arange(len(points), device="cpu").repeat_interleave(len(rows) // len(points))
    found = []
    for few, which in zip(rows.split(_AT_ONCE), samples.split(_AT_ONCE), strict=True):
        own = cond and {name: value[which.to(value.device)] for name, value in cond.items()}
        found.append(estimate.at(few, t, own).value().cpu())
    return torch.cat(found).reshape(points.shape)


def _count(conditions: Mapping[str, torch.Tensor]) -> int:
    return len(next(iter(conditions.values())))
