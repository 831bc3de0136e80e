"""Directions of a feature that change the predicted noise most, in a region or everywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from typing_extensions import Unpack

from pullback import maps
from pullback.directions.direction import Direction
from pullback.directions.regions import region_of
from pullback.geometry import LocalBasis, Options, basis
from pullback.models import Condition, LatentModel, TapName, check_model, told


@dataclass(frozen=True, eq=False)
class SpectralDirections:
    """Leading singular vectors of ∂ε/∂h at the latents of some samples: made by `spectral`.

    Attributes:
        basis: the triplets, with their bounds and products: v `[B, k, *h_shape]` lie in the
            feature h, u in the noise ε, `[B, k, *x_shape]` or, with a mask, `[B, k, entries]`.
        mask: where ε is looked at, bool `[H, W]` as it was given, on the CPU; None for all of it.
    """

    basis: LocalBasis
    mask: torch.Tensor | None

    def direction(
        self,
        index: int,
        sample: int = 0,
        *,
        scaled: bool = False,
        window: tuple[int, int] | None = None,
    ) -> Direction:
        """One of the directions, in the feature at the tap.

        Args:
            index: which direction, from 0, below the sample's numerical rank.
            sample: which sample, from 0.
            scaled: let strength 1 add the norm s, by which ε then changes by s² to first order,
                and not 1. Directions of several timesteps, each with a window of its one step
                and scaled, are what the paper applies.
            window: timesteps (from, to) in training units, (t, t) for the step at t alone; None is
                for every step of the edit.

        Returns:
            The direction, with `scaled`, the mask and all that is known of the basis in its
            provenance.

        Raises:
            ValueError: there is no such sample or index, or the window is none.
        """
        found = Direction.of_basis(self.basis, index, sample)
        known = {
            **found.provenance,
            "how": "spectral",
            "scaled": bool(scaled),
            "mask": told(self.mask),
        }
        return replace(
            found,
            unit=known["s"] if scaled else 1.0,
            window=window,
            name=f"spectral {index} of sample {sample}",
            provenance=known,
        )


def spectral(
    model: LatentModel,
    x: torch.Tensor,
    t: int | torch.Tensor,
    rank: int,
    *,
    tap: TapName | None = None,
    mask: torch.Tensor | None = None,
    cond: Condition | None = None,
    **options: Unpack[Options],
) -> SpectralDirections:
    """The directions of the feature h that change the predicted noise ε most: SVD of ∂ε/∂h.

    They are `basis` of the map h → ε, `maps.decoder(model, tap)`, restricted to a region. Blocks up
    to the tap are run once, when the map is bound, and are in no product.

    Args:
        model: the model.
        x: latents x_t, `[B, *x_shape]`, in the model's dtype and on its device.
        t: their timestep in training units: one for all, or int64 `[B]`.
        rank: directions per sample, at most as many as h has entries, and the region of ε.
        tap: where h is read (default: the middle block), as for `maps.decoder`.
        mask: where ε is looked at, bool `[H, W]` of every channel or of the latents' whole shape;
            None for all of it.
        cond: as for `local_basis`.
        **options: as for `local_basis`; `init` is `[B, p, *h_shape]`.

    Returns:
        A `SpectralDirections`.

    Raises:
        TypeError: the model or the mask is none, or an option does not exist.
        ValueError: the mask is not bool, has other sizes or selects nothing; there is no such tap;
            or as `local_basis`.
        MemoryError: one tangent of one sample does not fit the device.

    Cost: as `local_basis`, of the part of the network behind the tap; one pass to the tap, once.

    Source: Haas et al. 2023, arXiv:2303.11073. Their sequential power iteration with deflation is
    replaced by `pullback.krylov.svd`.
    """
    check_model(model)
    map = maps.decoder(model, tap)
    kept = None
    if mask is not None:
        region_of(mask, model.latent_shape)
        kept = mask.detach().cpu().clone()
        map = map.restrict(kept)
    return SpectralDirections(basis(map, x, t, rank, cond, **options), kept)
