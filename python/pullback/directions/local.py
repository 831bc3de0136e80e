"""Directions of the latents that change one region of the denoised estimate, and not the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from typing_extensions import Unpack

from pullback import krylov, maps
from pullback._numbers import whole
from pullback.directions.contrast import projected, signed, units, weighed
from pullback.directions.direction import Direction
from pullback.directions.regions import Rows, region_of
from pullback.geometry import StepOptions
from pullback.models import Condition, LatentModel, check_model, told
from pullback.operators import JacobianOperator


@dataclass(frozen=True, eq=False)
class LocalDirections:
    """Directions of latents that change a region Ω of x̂₀: made by `local` and `toward`.

    J_Ω and J_Ωc are the rows of ∂x̂₀/∂x inside and outside the region.

    Attributes:
        v: `[B, k, *x_shape]`, of norm 1, in float32 or float64; in each of `local` the entry of
            largest magnitude is positive. Zeros beyond the numerical rank of J_Ω, and where the
            projection left no more than `tol`, to which the bases are known.
        gain: `[B, k]`, float64, ‖J_Ω v‖: how much the region changes.
        leakage: `[B, k]`, float64, ‖J_Ωc v‖: how much the rest does.
        removed: `[B, k]`, float64, 0 to 1: norm of what the projection took from the unit vector
            that it was given. None where nothing is projected, with `joint`.
        inside: the leading triplets of J_Ω, v `[B, k, n]`; None for `toward`.
        outside: the leading triplets of J_Ωc, v `[B, null, n]`; None for `null` = 0.
        products: `[B]`, int64, products with the Jacobian and its transpose together, with those
            that checked it and measured gain and leakage.
        mask: Ω, bool `[*x_shape]`, on the CPU.
        provenance: model, fingerprint, t, how, mask and settings, as JSON holds them.
    """

    v: torch.Tensor
    gain: torch.Tensor
    leakage: torch.Tensor
    removed: torch.Tensor | None
    inside: krylov.SVDResult | None
    outside: krylov.SVDResult | None
    products: torch.Tensor
    mask: torch.Tensor
    provenance: dict[str, Any]
    _model: LatentModel = field(repr=False)

    @property
    def ratio(self) -> torch.Tensor:
        """Gain over leakage, `[B, k]` in float64: inf where nothing leaks, 0 without gain."""
        return torch.where(self.gain > 0, self.gain / self.leakage, 0.0)

    def direction(self, index: int, sample: int = 0) -> Direction:
        """One of the directions, in the latents, for its sample or, as it is, for any other.

        Args:
            index: which direction, from 0.
            sample: which sample, from 0.

        Returns:
            The direction at the sample's t, of unit 1; its provenance is that of the directions,
            with index, sample, gain, leakage, removed and the bound of the bases.

        Raises:
            ValueError: there is no such sample or index, or nothing is left of the direction.
        """
        sample = whole("sample", sample, 0, len(self.v) - 1)
        index = whole("index", index, 0, self.v.shape[1] - 1)
        vector = self.v[sample, index]
        if not bool(vector.any()):
            raise ValueError(
                f"Nothing is left of direction {index} of sample {sample}: it does not change the "
                "region, or lies in the span of what changes the rest most. Expected a smaller "
                "index, null or rank."
            )
        found = [one for one in (self.inside, self.outside) if one is not None]
        bound = max((float(one.angle_bound[sample]) for one in found), default=0.0)
        t = self.provenance["t"][sample]
        return Direction.of(
            vector,
            "x",
            t=t,
            name=f"local {index} of sample {sample}",
            model=self._model,
            provenance={
                **self.provenance,
                "t": t,
                "index": index,
                "sample": sample,
                "gain": float(self.gain[sample, index]),
                "leakage": float(self.leakage[sample, index]),
                "removed": None if self.removed is None else float(self.removed[sample, index]),
                "converged": all(bool(one.converged[sample]) for one in found),
                "angle_bound": bound if math.isfinite(bound) else None,
            },
        )


def local(
    model: LatentModel,
    x: torch.Tensor,
    t: int | torch.Tensor,
    mask: torch.Tensor,
    rank: int,
    *,
    null: int = 5,
    cond: Condition | None = None,
    joint: bool = False,
    mu: float = 1e-2,
    quality: str = "standard",
    **options: Unpack[StepOptions],
) -> LocalDirections:
    """The directions of the latents that change a region of the denoised estimate x̂₀ most.

    The leading right singular vectors of the region's rows J_Ω of ∂x̂₀/∂x, from which the span of
    the leading `null` of the other rows J_Ωc is projected off. Or, with `joint`, the directions in
    the span of both that maximise ‖J_Ω v‖² / (‖J_Ωc v‖² + μ). All products are with one Jacobian.

    Args:
        model: the model.
        x: latents x_t, `[B, *x_shape]`, in the model's dtype and on its device.
        t: their timestep in training units: one for all, or int64 `[B]`.
        mask: the region Ω, bool `[H, W]` of every channel or of the latents' whole shape.
        rank: directions per sample, at most as many as x has entries, and the region.
        null: directions of the rest that are projected off, or that `joint` works with; 0 for none.
        cond: as for `local_basis`.
        joint: weigh the two, in place of the projection.
        mu: μ of `joint`, as a share of s_1² of J_Ω: at 1e-2, the default, what leaks less than a
            tenth of the largest gain counts little.
        quality: of both bases: "draft", "standard" or "tight".
        **options: `tol`, `seed`, `max_products`, `chunk` and `memory`: see
            `pullback.geometry.StepOptions`.

    Returns:
        A `LocalDirections`. Those that were projected are of norm 1, and in general not
        orthogonal, as published.

    Raises:
        TypeError: the model or the mask is none, or an option does not exist.
        ValueError: the mask is not bool, has other sizes, or selects nothing or everything; rank,
            null or mu do not fit; a region does not change with x; or as `local_basis`.
        MemoryError: one tangent of one sample does not fit the device.

    Cost: the products of two bases as by `local_basis`, of ranks `rank` and `null`, of the whole
    network, and `rank` more for gain and leakage; with `joint` `rank` + `null` more.

    Source: Chen et al. 2024 (LOCO-Edit), arXiv:2409.02374; `joint` is not in the paper.
    """
    region = _Region.of("local", model, x, t, mask, null, cond, quality, options)
    rank = krylov.check_rank(rank, x[0].numel(), len(region.inside))
    mu = float(mu)
    if not 0 < mu < math.inf:
        raise ValueError(f"Expected mu as a finite number above 0, got {mu}.")
    operator = region.operator()
    try:
        inside = krylov.svd(Rows(operator, region.inside), rank, **region.solver)
        region.check_changes(inside.rank)
        outside = region.leading_outside(operator)
        removed: torch.Tensor | None = None
        if joint:
            sides = (region.inside, region.outside)
            vectors = weighed(operator, sides, inside, outside, mu)
        else:
            vectors, removed = projected(inside.v.double(), inside.rank.tolist(), outside)
        v = signed(units(vectors, inside.v.dtype, inside.tol))
        settings = {"rank": rank, **({"mu": mu} if joint else {})}
        how = "local, joint" if joint else "local, projected"
        return region.result(operator, v, removed, inside, outside, how, settings)
    finally:
        operator._release()


def toward(
    model: LatentModel,
    x: torch.Tensor,
    t: int | torch.Tensor,
    target_cond: Condition,
    mask: torch.Tensor,
    *,
    null: int = 5,
    cond: Condition | None = None,
    quality: str = "standard",
    **options: Unpack[StepOptions],
) -> LocalDirections:
    """The direction of the latents that moves a region of x̂₀ to what another condition wants.

    v = J_Ωᵀ (x̂₀(target) − x̂₀(cond))_Ω, from which the span of the leading `null` right singular
    vectors of J_Ωc is projected off, at norm 1; J is that of `cond`.

    Args:
        model: the model.
        x: latents x_t, `[B, *x_shape]`, in the model's dtype and on its device.
        t: their timestep in training units: one for all, or int64 `[B]`.
        target_cond: the condition to move to, such as `model.encode` makes of a prompt.
        mask: the region Ω, bool `[H, W]` of every channel or of the latents' whole shape.
        null: as for `local`.
        cond: the condition of the latents, as for `local_basis`.
        quality: of the basis of the rest: "draft", "standard" or "tight".
        **options: as for `local`.

    Returns:
        A `LocalDirections` of one direction per sample, which points to the target.

    Raises:
        TypeError: the model or the mask is none, or an option does not exist.
        ValueError: as `local`; or the target condition changes nothing in the region.
        MemoryError: one tangent of one sample does not fit the device.

    Cost: two forward passes, one product, those of a basis of rank `null`, and one more for gain
    and leakage.

    Source: Chen et al. 2024 (T-LOCO), arXiv:2409.02374.
    """
    region = _Region.of("toward", model, x, t, mask, null, cond, quality, options)
    target = region.map.at(x, t, target_cond)
    operator = region.operator()
    try:
        change = (target.value() - region.bound.value()).flatten(1).index_select(1, region.inside)
        if not bool(torch.isfinite(change).all()):
            raise ValueError(
                "Expected a finite x̂₀ under both conditions, got NaN or Inf. Check the target "
                f"condition, and whether {operator.dtype} is wide enough for this network."
            )
        pulled = Rows(operator, region.inside).rmatmat(change.unsqueeze(1)).flatten(2).double()
        # Divided by the largest first: squares may leave the range.
        largest = pulled.abs().amax(2, keepdim=True)
        region.check_changes(largest[:, 0, 0], "or the target condition changes nothing in it")
        pulled = pulled / largest
        rows = pulled / pulled.norm(dim=2, keepdim=True)
        outside = region.leading_outside(operator)
        vectors, removed = projected(rows, [1] * len(x), outside)
        dtype = torch.float64 if operator.dtype == torch.float64 else torch.float32
        v, how = units(vectors, dtype, region.solver["tol"]), "local, toward a condition"
        settings = {"target": told(dict(target_cond))}
        return region.result(operator, v, removed, None, outside, how, settings)
    finally:
        operator._release()


@dataclass(frozen=True, eq=False)
class _Region:
    """The denoised map at some latents, the entries on both sides of a mask, and how to solve.

    Attributes:
        map: x → x̂₀.
        bound: it at the latents.
        times: of the samples.
        mask: bool `[*x_shape]`.
        inside: int64 places of the region in the flat output.
        outside: those of the rest.
        null: directions of the rest.
        solver: options of `krylov.svd`.
        passes: options of `JacobianOperator`.
    """

    map: maps.Map
    bound: maps.Bound
    times: list[int]
    mask: torch.Tensor
    inside: torch.Tensor
    outside: torch.Tensor
    null: int
    solver: dict[str, Any]
    passes: dict[str, Any]

    @classmethod
    def of(
        cls,
        name: str,
        model: LatentModel,
        x: torch.Tensor,
        t: int | torch.Tensor,
        mask: torch.Tensor,
        null: int,
        cond: Condition | None,
        quality: str,
        options: StepOptions,
    ) -> _Region:
        """What a function `name` was given, all checked."""
        known = StepOptions.__annotations__
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise TypeError(
                f"{name}() got an unexpected keyword argument {unknown[0]!r}. Its options are: "
                f"{', '.join(known)}."
            )
        check_model(model)
        region = region_of(mask, model.latent_shape).clone()
        if bool(region.all()):
            raise ValueError(
                "Expected a mask that leaves something out, got one that selects everything: "
                "there is no rest to keep as it is. pullback.basis(maps.output(model, "
                '"denoised"), ...) has the directions of the whole.'
            )
        map = maps.output(model, "denoised")
        bound = map.at(x, t, cond)
        inside = torch.nonzero(region.flatten()).flatten().to(x.device)
        outside = torch.nonzero(~region.flatten()).flatten().to(x.device)
        null = whole("null", null, 0, len(outside))
        given: dict[str, Any] = {"seed": 0, **options}
        passes: dict[str, Any] = {
            key: given.pop(key) for key in ("chunk", "memory") if key in given
        }
        solver = {**given, "tol": krylov.tolerance(quality, given.get("tol"))}
        times = model.schedule.timesteps(t, len(x)).tolist()
        model.check_mode()
        return cls(map, bound, times, region, inside, outside, null, solver, passes)

    def operator(self) -> JacobianOperator:
        """Products with the whole Jacobian ∂x̂₀/∂x, of which both sides are rows."""
        return self.bound.operator(**self.passes)

    def leading_outside(self, operator: JacobianOperator) -> krylov.SVDResult | None:
        """The leading triplets of J_Ωc; None where none are asked for."""
        if not self.null:
            return None
        return krylov.svd(Rows(operator, self.outside), self.null, **self.solver)

    def check_changes(self, size: torch.Tensor, otherwise: str = "") -> None:
        """Raise ValueError where what the region changes by, `[B]`, is zero in a sample."""
        still = torch.nonzero(size == 0).flatten().tolist()
        if still:
            also = f", {otherwise}" if otherwise else ""
            raise ValueError(
                f"Expected a region of x̂₀ that changes with x, got one that does not in samples "
                f"{still}{also}. Take another region, condition or timestep."
            )

    def result(
        self,
        operator: JacobianOperator,
        v: torch.Tensor,
        removed: torch.Tensor | None,
        inside: krylov.SVDResult | None,
        outside: krylov.SVDResult | None,
        how: str,
        settings: dict[str, Any],
    ) -> LocalDirections:
        """The directions `[B, k, n]` with their gain and leakage, measured by one product each."""
        v = v.unflatten(2, operator.x_shape)
        image = operator.matmat(v).flatten(2).double()
        gain, leakage = (
            image.index_select(2, side).norm(dim=2) for side in (self.inside, self.outside)
        )
        model = self.map.model
        return LocalDirections(
            v=v,
            gain=gain,
            leakage=leakage,
            removed=removed,
            inside=inside,
            outside=outside,
            products=_shared_out(operator, [one for one in (inside, outside) if one is not None]),
            mask=self.mask,
            provenance={
                "fingerprint": model.seen_fingerprint,
                "map": self.map.name,
                "wrt": "x",
                "t": self.times,
                "how": how,
                "mask": told(self.mask),
                "entries": len(self.inside),
                "null": self.null,
                "seed": self.solver["seed"],
                "tol": self.solver["tol"],
                **settings,
            },
            _model=model,
        )


def _shared_out(operator: JacobianOperator, found: list[krylov.SVDResult]) -> torch.Tensor:
    """`[B]`, int64: all products that an operator has made, by sample."""
    products = torch.zeros(operator.batch, dtype=torch.int64, device="cpu")
    for one in found:
        products += one.products.cpu()
    # The checks took one product of each kind with the first sample or two.
    products[:2] += 2
    # All else was made with every sample alike.
    left = operator.count.total - int(products.sum())
    return (products + left // operator.batch).to(operator.device)
