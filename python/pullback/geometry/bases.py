"""Local latent bases: the leading singular vectors of the Jacobian of a map at given latents."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Unpack

# Directions stand above this room: they are reached by the front door, when they are asked for.
import pullback
from pullback import _ranges, krylov, maps
from pullback._files import read_safetensors, write_safetensors
from pullback.geometry import provenance, stored
from pullback.geometry.options import OF_PRODUCTS, Options, check_options, with_options
from pullback.models import Condition, LatentModel, TapName

_FORMAT = "pullback.LocalBasis/1"


@dataclass(frozen=True, eq=False)
class LocalBasis(krylov.SVDResult):
    """Leading singular triplets of the Jacobians J = dh/dx at B latents: J ≈ Σ s_i u_i v_iᵀ.

    The rows v_i are the local latent basis, the u_i the local tangent basis of the feature space,
    and s_i² the eigenvalues of the pullback metric JᵀJ (Park et al. 2023, arXiv:2307.12868). u and
    v have the shapes of features and latents, `[B, k, *h_shape]` and `[B, k, *x_shape]` (for other
    maps than x → h those of the map's output and variable); the other fields are those of
    `krylov.SVDResult`, and `products` counts the checks too.

    Attributes:
        provenance: model, fingerprint, map, wrt, tap, t, seed and versions.
    """

    provenance: dict[str, Any]
    _source: _Source | None = field(default=None, repr=False, compare=False)

    def _select(self, rows: torch.Tensor) -> LocalBasis:
        timesteps = self.provenance["t"]
        provenance = {**self.provenance, "t": [timesteps[row] for row in rows.tolist()]}
        source = None if self._source is None else self._source.select(rows)
        return replace(super()._select(rows), provenance=provenance, _source=source)

    def metric(self, v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The pullback metric ⟨v, w⟩ = vᵀJᵀJw of two tangents, within the span of the basis.

        Args:
            v: tangents `[B, *x_shape]`.
            w: tangents `[B, *x_shape]`.

        Returns:
            `[B]`: Σ_i s_i² ⟨v, v_i⟩ ⟨w, v_i⟩. What lies outside the leading k directions is left
            out, so the value is exact for tangents inside their span only.
        """
        shape = (len(self), *self.v.shape[2:])
        for name, tangent in (("v", v), ("w", w)):
            if tuple(tangent.shape) != shape:
                raise ValueError(f"Expected {name} of shape {shape}, got {tuple(tangent.shape)}.")
        rows = self.v.flatten(2)
        left = torch.einsum("bkn,bn->bk", rows, v.to(rows).flatten(1))
        right = torch.einsum("bkn,bn->bk", rows, w.to(rows).flatten(1))
        return (self.s.square() * left * right).sum(1)

    def extend(
        self, rank: int, progress: Callable[[krylov.Progress], None] | None = None
    ) -> LocalBasis:
        """A basis of higher rank at the same latents, started from this one.

        Raises:
            ValueError: rank is not above the present one.
            RuntimeError: the basis was loaded from a file and no longer knows its model.

        Cost: at most the products of a new basis of that rank.
        """
        if self._source is None:
            raise RuntimeError(
                "This basis was read from a file, which holds no network. Compute the larger one "
                "with local_basis(model, x, t, rank, init=basis.v)."
            )
        if rank <= self.s.shape[1]:
            raise ValueError(f"Expected a rank above {self.s.shape[1]}, got {rank}.")
        options = {**self._source.solver, "max_products": None}
        return replace(self._source, solver=options).compute(rank, self.v, progress)

    def direction(
        self, index: int, sample: int = 0, space: str | None = None
    ) -> pullback.Direction:
        """One of the directions, to be applied, saved and shared: see `pullback.Direction`.

        Args:
            index: which direction, from 0, below the sample's numerical rank.
            sample: which sample, from 0.
            space: the space of the map's variable, such as "x", for v (the default), or "h" for u.

        Raises:
            ValueError: no such sample or index, or no vector in that space.
        """
        return pullback.Direction.of_basis(self, index, sample, space)

    def edit(self, strengths: Sequence[float], **options: Any) -> pullback.editing.Sweep:
        """The samples edited along their own directions: see `pullback.sweep`.

        Args:
            strengths: K strengths.
            **options: as for `pullback.sweep`; the condition is that of the basis by default.

        Returns:
            A sweep, with an edit for each direction of the basis, or of `indices`.

        Raises:
            RuntimeError: the basis was read from a file and no longer knows its samples.
            ValueError: its samples are at several timesteps, or as `pullback.sweep`.
        """
        return self._sweep(self, strengths, options)

    def _sweep(
        self, directions: Any, strengths: Sequence[float], options: dict[str, Any]
    ) -> pullback.editing.Sweep:
        """The samples edited along directions of their own: these, or what is carried to them."""
        if self._source is None:
            raise RuntimeError(
                "This basis was read from a file, which holds no network. Use "
                "pullback.sweep(model, x, t, basis, strengths), with what was carried to it in its "
                "place."
            )
        times = set(self.provenance["t"])
        if len(times) > 1:
            raise ValueError(
                f"Expected samples at one timestep, got {sorted(times)}. Edit them one by one: "
                "basis[i].edit(...)."
            )
        source = self._source
        return pullback.sweep(
            source.map.model, source.x, times.pop(), directions, strengths,
            **{"cond": source.cond or None, **options},
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the basis to a safetensors file, with its provenance in the header.

        The file appears complete or not at all. It may replace a regular file, and of a symbolic
        link the file that it leads to.

        Raises:
            OSError: the file cannot be written, or something else stands there, such as a device.
        """
        path = Path(path)
        metadata = {
            "format": _FORMAT,
            "stopped": json.dumps(self.stopped),
            "tol": repr(self.tol),
            "provenance": json.dumps(self.provenance),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, self.tensors(), metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LocalBasis:
        """Read a basis that `save` wrote, onto the CPU.

        Names, types, shapes and numbers are checked, of the tensors and of the header.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged or is not a basis; it says what is wrong.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"No basis file at {path}. Expected a .safetensors file that LocalBasis.save "
                "wrote; `pullback basis` writes them."
            )
        return cls(
            **read_safetensors(
                path, _FORMAT, stored.fields, otherwise="is not a local basis",
                again="compute the basis again",
            )
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Source:
    """What a basis was computed from, so that it can be extended."""

    map: maps.Map
    x: torch.Tensor
    t: torch.Tensor
    cond: dict[str, torch.Tensor]
    solver: dict[str, Any]
    products: dict[str, Any]

    def select(self, rows: torch.Tensor) -> _Source:
        """The same for some of the samples."""
        cond = {name: value[rows] for name, value in self.cond.items()}
        return replace(self, map=self.map.select(rows), x=self.x[rows], t=self.t[rows], cond=cond)

    def compute(
        self,
        rank: int,
        init: torch.Tensor | None,
        progress: Callable[[krylov.Progress], None] | None,
    ) -> LocalBasis:
        """Run the solver and dress its result as a basis."""
        model = self.map.model
        model.check_mode()
        with _ranges.stage(_ranges.PRIMAL):
            bound = self.map.bind(self.x, self.t, self.cond)
        operator = bound.operator(**self.products)
        checks = operator.count.total
        try:
            result = krylov.svd(operator, rank, init=init, progress=progress, **self.solver)
        finally:
            operator._release()
        parts = result.tensors()
        parts["u"] = result.u.unflatten(2, operator.h_shape)
        parts["v"] = result.v.unflatten(2, operator.x_shape)
        # The checks multiply the first sample or two, so the sum is what the operator counted.
        checked = min(len(self.x), 2)
        parts["products"] = result.products.clone()
        parts["products"][:checked] += checks // checked
        known = provenance.of_map(self.map, self.solver["seed"])
        return LocalBasis(
            **parts,
            stopped=result.stopped,
            tol=result.tol,
            provenance={**known, "t": self.t.tolist()},
            _source=self,
        )


@with_options
def local_basis(
    model: LatentModel,
    x: torch.Tensor,
    t: int | torch.Tensor,
    rank: int,
    tap: TapName | None = None,
    cond: Condition | None = None,
    *,
    pool: str | None = None,
    **options: Unpack[Options],
) -> LocalBasis:
    """The local latent bases at a batch of latents, found together.

    It is `basis` of the map x → h, `maps.encoder(model, tap, pool=pool)`.

    Args:
        model: the model whose features define the geometry.
        x: latents x_t, `[B, *x_shape]`, in the model's dtype and on its device.
        t: their timestep in training units: one for all, or int64 `[B]`.
        rank: directions per sample, at most min(n, m) of x and h.
        tap: where h is read (default: the middle block): a module path, or (path, index) where the
            module returns a tuple; see `LatentModel.taps`.
        cond: the network's further arguments, batch first, such as `model.encode` makes; None is
            the null condition.
        pool: "space" for the mean of h over space, where u would be large otherwise.
        **options: accuracy, start, progress and memory: see `pullback.geometry.Options`.

    Returns:
        A `LocalBasis`; a sample's basis does not depend on the others in its batch, up to
        rounding.

    Raises:
        TypeError: an option that does not exist.
        ValueError: x, t, rank, tap, cond or an option is not what the model takes, the network
            is in training mode, it is not deterministic, or its samples are not independent.
        MemoryError: one tangent of one sample does not fit the device.

    Cost: about 8 to 12 products per direction and sample at rank 10 and "standard", half with J
    (a backward pass up to the tap each where the memory allows to keep graphs, else 2 to 3 forward
    passes), half with its transpose (1 to 2).

    Source: Park et al. 2023, arXiv:2307.12868; the solver is `pullback.krylov.svd`.
    """
    check_options("local_basis", options)
    return basis(maps.encoder(model, tap, pool=pool), x, t, rank, cond, **options)


@with_options
def basis(
    map: maps.Map,
    x: torch.Tensor,
    t: int | torch.Tensor,
    rank: int,
    cond: Condition | None = None,
    **options: Unpack[Options],
) -> LocalBasis:
    """The leading singular triplets of the Jacobian of any map of `pullback.maps`.

    Args:
        map: what is differentiated, and with respect to what.
        x: latents x_t, `[B, *x_shape]`, in the model's dtype and on its device.
        t: their timestep in training units: one for all, or int64 `[B]`.
        rank: directions per sample, at most min(n, m) of the map's variable and output.
        cond: as for `local_basis`.
        **options: as for `local_basis`; `init` lies in the space of the map's variable.

    Returns:
        A `LocalBasis`: v in the space of the map's variable, u in that of its output.

    Raises:
        TypeError, ValueError, MemoryError: as for `local_basis`.

    Cost: as for `local_basis`, with the map's own forward pass; a decoder costs one more pass to
    the tap, once.
    """
    check_options("basis", options)
    if not isinstance(map, maps.Map):
        raise TypeError(
            f"Expected a map, got {type(map).__name__}. pullback.maps.encoder(model) makes one, as "
            "do the other functions of pullback.maps; local_basis takes a model."
        )
    given: dict[str, Any] = {**options}
    products = {name: given.pop(name) for name in OF_PRODUCTS if name in given}
    init, progress = given.pop("init", None), given.pop("progress", None)
    tol = krylov.tolerance(given.pop("quality", "standard"), given.pop("tol", None))
    solver = {"seed": 0, **given, "tol": tol}
    model = map.model
    model.check_latents(x)
    timesteps = model.schedule.timesteps(t, len(x), model.device)
    condition = model.conditions.of(cond, len(x))
    source = _Source(map, x.detach().clone(), timesteps, condition, solver, products)
    return source.compute(rank, init, progress)
