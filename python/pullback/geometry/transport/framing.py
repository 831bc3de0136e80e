"""Whole frames carried from sample to sample."""

from __future__ import annotations

import torch

from pullback.geometry.bases import LocalBasis
from pullback.geometry.grassmann import frame, polar, principal_angles
from pullback.geometry.transport.checks import check_alike, check_basis, warn_of_bases


def transport_frame(source: LocalBasis, target: LocalBasis) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole local basis of each source sample carried to each target sample, by a rotation.

    Where `transport` projects each direction alone, here the frames of the features are turned
    onto each other as a whole: R, the orthogonal polar factor of UU'ᵀ (rows are directions), is
    the rotation for which RU' is nearest to U (Procrustes), and the frame in the latents is RV'.
    Carried directions stay orthonormal.

    Args:
        source: local bases of D samples.
        target: local bases of B samples, of the same rank.

    Returns:
        frames `[D, B, k, *x_shape]`, orthonormal rows that stand for the rows v of the source, in
        the target's dtype; and the principal angles between the tangent spaces, `[D, B, k]` in
        radians, ascending, float64.

    Raises:
        TypeError: an argument of another type.
        ValueError: source and target differ in model, map, variable, tap, shape or rank; a
            numerical rank below it; NaN or Inf; or a principal angle is π/2, so that no rotation
            is singled out.

    Warns:
        UserWarning: a basis did not converge.

    Cost: no products of the network; D B decompositions of k rows.
    """
    for name, basis in (("source", source), ("target", target)):
        check_basis(name, basis)
        _check_full(name, basis)
    check_alike(source, target)
    k = source.s.shape[1]
    if target.s.shape[1] != k:
        raise ValueError(
            f"Expected source and target of one rank, got {k} and {target.s.shape[1]}. Compute "
            "them at the same rank; transport() carries single directions between any two."
        )
    warn_of_bases(source, target)
    device = target.u.device
    rows = frame(source.u.flatten(2).to(device))
    frames, angles = [], []
    for sample in range(len(target)):
        there = frame(target.u[sample].flatten(1))
        angles.append(principal_angles(rows, there))
        try:
            turned = polar(rows @ there.mT)
        except ValueError as error:
            raise ValueError(
                f"No frame can be carried to sample {sample} of the target: {error}"
            ) from None
        carried = turned @ target.v[sample].double().flatten(1)
        frames.append(carried.unflatten(2, target.v.shape[2:]).to(target.v.dtype))
    return torch.stack(frames, 1), torch.stack(angles, 1)


def _check_full(name: str, basis: LocalBasis) -> None:
    k = basis.s.shape[1]
    short = torch.nonzero(basis.rank < k).flatten().tolist()
    if short:
        rank = int(basis.rank[short[0]])
        raise ValueError(
            f"Expected whole frames, and sample {short[0]} of the {name} has numerical rank {rank} "
            f"of {k}. Compute both at rank {rank}."
        )
