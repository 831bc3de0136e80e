"""The Grassmann manifold's exponential map and its inverse, up to the cut locus."""

from __future__ import annotations

import torch

from pullback.geometry.grassmann.frames import check_pair, check_rows, frame

#: Cosines of principal angles below which the logarithm is not defined: what is left is rounding.
_ORTHOGONAL = 1e-9


def polar(m: torch.Tensor) -> torch.Tensor:
    """The orthogonal polar factor of matrices `[..., k, p]`, nearest to them, float64.

    Raises:
        ValueError: a matrix is rank-deficient, so that there is more than one.
    """
    u, s, vh = torch.linalg.svd(m.double(), full_matrices=False)
    if bool((s[..., -1] <= _ORTHOGONAL * s[..., 0].clamp_min(1e-300)).any()):
        raise ValueError(
            "Expected matrices of full rank, and one has a direction that the other space does "
            "not know, so that no nearest rotation is singled out."
        )
    return u @ vh


def log(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The tangent at A whose geodesic arrives at the span of B after unit time.

    B is first turned within its span towards A by the polar factor of BAᵀ; what then stands
    orthogonal to A has the sines of the principal angles for singular values. This is accurate up
    to π/2, where the textbook's form with an arctangent is not.

    Args:
        a: rows `[..., k, N]`.
        b: rows `[..., k, N]`; batches are broadcast.

    Returns:
        `[..., k, N]`, float64, orthogonal to the rows of `frame(a)`, to which it belongs; its
        singular values are the principal angles.

    Raises:
        TypeError, ValueError: as `principal_angles`; or a principal angle is π/2 to 1e-9, where
            more than one shortest geodesic leads to B and no tangent is singled out.
    """
    check_pair(a, b, same_rank=True)
    a, b = torch.broadcast_tensors(frame(a), frame(b))
    products = b @ a.mT
    left, cosines, right = torch.linalg.svd(products)
    if bool((cosines[..., -1] < _ORTHOGONAL).any()):
        raise ValueError(
            "A principal angle is π/2: a direction of one subspace is orthogonal to the whole "
            "other, and no single shortest geodesic joins them, so that the logarithm is not "
            "defined. Use distance(), which is, or subspaces of lower dimension."
        )
    turned = (left @ right).mT @ b
    outside = turned - (turned @ a.mT) @ a
    outside = outside - (outside @ a.mT) @ a
    w, sines, directions = torch.linalg.svd(outside, full_matrices=False)
    # Sines know the small angles, and cosines, in the opposite order, the large ones.
    angles = torch.where(
        sines.square() < 0.5,
        torch.asin(sines.clamp(max=1)),
        torch.acos(cosines.flip(-1).clamp(max=1)),
    )
    return (w * angles.unsqueeze(-2)) @ directions


def exp(a: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
    """The frame where the geodesic from A along a tangent is after unit time.

    Args:
        a: rows `[..., k, N]`.
        tangent: `[..., k, N]`, of `frame(a)`; what of it lies in the span of A is left out.

    Returns:
        `[..., k, N]`, float64, orthonormal rows.

    Raises:
        TypeError, ValueError: as `frame`; or the shapes differ.
    """
    check_rows("a", a)
    if not isinstance(tangent, torch.Tensor) or tangent.shape[-2:] != a.shape[-2:]:
        got = list(tangent.shape) if isinstance(tangent, torch.Tensor) else type(tangent).__name__
        raise ValueError(
            f"Expected a tangent of shape [..., {a.shape[-2]}, {a.shape[-1]}], got {got}."
        )
    check_rows("tangent", tangent)
    base, step = frame(a), tangent.double()
    step = step - (step @ base.mT) @ base
    w, angles, directions = torch.linalg.svd(step, full_matrices=False)
    along = (w * angles.cos().unsqueeze(-2)) @ (w.mT @ base)
    return frame(along + (w * angles.sin().unsqueeze(-2)) @ directions)
