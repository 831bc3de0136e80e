"""Local latent bases: the leading singular vectors of the Jacobian of a map at given latents."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pullback import krylov, maps
from pullback._files import replacing
from pullback._version import __version__
from pullback.maps import Map
from pullback.models.model import Condition, LatentModel
from pullback.models.taps import TapName

_FORMAT = "pullback.LocalBasis/1"
_TENSORS = ("u", "s", "v", "residual", "angle_bound", "converged", "rank", "products")


@dataclass(frozen=True, eq=False)
class LocalBasis:
    """Leading singular triplets of the Jacobians J = dh/dx at B latents: J ≈ Σ s_i u_i v_iᵀ.

    The rows v_i are the local latent basis, the u_i the local tangent basis of the feature space,
    and s_i² the eigenvalues of the pullback metric JᵀJ (Park et al. 2023, arXiv:2307.12868). For
    other maps than x → h, x_shape and h_shape below are those of the map's variable and output.

    Attributes:
        u: `[B, k, *h_shape]`, orthonormal per sample.
        s: `[B, k]`, descending; exact zeros beyond the numerical rank.
        v: `[B, k, *x_shape]`, orthonormal per sample; in each the entry of largest magnitude is
            positive.
        residual: `[B, k]`, ‖Jᵀu_i − s_i v_i‖ / s_1.
        angle_bound: `[B]`, bound on the sine of the largest principal angle between the span of
            the first `rank` rows of v and the true leading space.
        converged: `[B]`, bool, whether the bound is at most `tol`.
        rank: `[B]`, int64, number of singular values that are not zero.
        products: `[B]`, int64, products with J and Jᵀ that the sample took, checks included.
        stopped: per sample "converged", "floor" or "max_products".
        tol: the bound on the sine that was asked for.
        provenance: model, fingerprint, map, wrt, tap, t, seed and versions.
    """

    u: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor
    residual: torch.Tensor
    angle_bound: torch.Tensor
    converged: torch.Tensor
    rank: torch.Tensor
    products: torch.Tensor
    stopped: tuple[str, ...]
    tol: float
    provenance: dict[str, Any]
    _source: _Source | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.s)

    def __getitem__(self, index: int | slice | list[int] | torch.Tensor) -> LocalBasis:
        """The basis of some of the samples; an int keeps the batch dimension, with one sample."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"Expected a sample below {len(self)}, got {index}.")
            index = [index % len(self)]
        if isinstance(index, torch.Tensor):
            index = index.cpu()
        rows = torch.arange(len(self), device="cpu")[index].reshape(-1)
        chosen = {name: getattr(self, name)[rows.to(self.s.device)] for name in _TENSORS}
        stopped = tuple(self.stopped[row] for row in rows.tolist())
        timesteps = self.provenance["t"]
        provenance = {**self.provenance, "t": [timesteps[row] for row in rows.tolist()]}
        source = None if self._source is None else self._source.select(rows)
        return replace(self, **chosen, stopped=stopped, provenance=provenance, _source=source)

    def to(self, *args: Any, **kwargs: Any) -> LocalBasis:
        """The basis on another device or with u, s, v and residual in another floating dtype.

        Takes what `torch.Tensor.to` takes.
        """
        moved = {}
        for name in _TENSORS:
            tensor = getattr(self, name)
            moved[name] = tensor.to(*args, **kwargs)
            if name not in ("u", "s", "v", "residual"):
                moved[name] = moved[name].to(tensor.dtype)
        return replace(self, **moved)

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
        source = replace(self._source, options={**self._source.options, "max_products": None})
        return source.compute(rank, init=self.v, progress=progress)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the basis to a safetensors file, with its provenance in the header.

        The file appears complete or not at all.
        """
        path = Path(path)
        metadata = {
            "format": _FORMAT,
            "stopped": json.dumps(self.stopped),
            "tol": repr(self.tol),
            "provenance": json.dumps(self.provenance),
        }
        tensors = {name: getattr(self, name).contiguous().cpu() for name in _TENSORS}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LocalBasis:
        """Read a basis that `save` wrote, onto the CPU.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged or is not a basis.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"No basis file at {path}. Expected a .safetensors file that LocalBasis.save "
                "wrote; `pullback basis` writes them."
            )
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(
                        f"{path} is not a local basis: expected the format {_FORMAT!r} in its "
                        f"header, got {metadata.get('format')!r}. Was it written by a later "
                        "version, or by something else?"
                    )
                return cls(
                    **{name: file.get_tensor(name) for name in _TENSORS},
                    stopped=tuple(json.loads(metadata["stopped"])),
                    tol=float(metadata["tol"]),
                    provenance=json.loads(metadata["provenance"]),
                )
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} is damaged or is no safetensors file ({error}). Copy it again, or "
                "compute the basis again."
            ) from error


@dataclass(frozen=True, eq=False)
class _Source:
    """What a basis was computed from, so that it can be extended."""

    map: Map
    x: torch.Tensor
    t: torch.Tensor
    cond: dict[str, torch.Tensor]
    options: dict[str, Any]
    chunk: int | str
    memory: int | None

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
        bound = self.map.bind(self.x, self.t, self.cond)
        operator = bound.operator(chunk=self.chunk, memory=self.memory)
        checks = operator.count.total
        try:
            result = krylov.svd(operator, rank, init=init, progress=progress, **self.options)
        finally:
            operator.release()
        parts = {f.name: getattr(result, f.name) for f in fields(krylov.SVDResult)}
        parts["u"] = result.u.unflatten(2, operator.h_shape)
        parts["v"] = result.v.unflatten(2, operator.x_shape)
        # The checks multiply the first sample or two, so the sum is what the operator counted.
        checked = min(len(self.x), 2)
        parts["products"] = result.products.clone()
        parts["products"][:checked] += checks // checked
        provenance = {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "dtype": str(model.dtype).removeprefix("torch."),
            "map": self.map.name,
            "wrt": self.map.wrt,
            "tap": None if self.map.site is None else str(self.map.site),
            "t": self.t.tolist(),
            "seed": self.options["seed"],
            "pullback": __version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        }
        return LocalBasis(**parts, provenance=provenance, _source=self)


def local_basis(
    model: LatentModel,
    x: torch.Tensor,
    t: int | torch.Tensor,
    rank: int,
    tap: TapName | None = None,
    cond: Condition | None = None,
    *,
    pool: str | None = None,
    quality: str = "standard",
    tol: float | None = None,
    init: torch.Tensor | None = None,
    seed: int = 0,
    max_products: int | None = None,
    chunk: int | str = "auto",
    memory: int | None = None,
    progress: Callable[[krylov.Progress], None] | None = None,
) -> LocalBasis:
    """The local latent bases at a batch of latents, found together.

    It is `basis` of the map x → h, `maps.encoder(model, tap, pool=pool)`.

    Args:
        model: the model whose features define the geometry.
        x: latents x_t, `[B, C, H, W]`, in the model's dtype and on its device.
        t: their timestep in training units: one for all, or int64 `[B]`.
        rank: directions per sample, at most min(n, m) of x and h.
        tap: where h is read (default: the middle block): a module path, or (path, index) where the
            module returns a tuple; see `LatentModel.taps`.
        cond: the network's further arguments, batch first, such as `model.encode` makes; None is
            the null condition.
        pool: "space" for the mean of h over space, where u would be large otherwise.
        quality: "draft", "standard" or "tight": 5e-2, 2e-3 or 1e-4 as bound on the sine of the
            largest principal angle to the true space.
        tol: an explicit bound instead.
        init: vectors `[B, p, *x_shape]` to start from, such as the v of a neighbouring timestep.
        seed: seed of the random start; the same seed on the same device gives the same basis.
        max_products: products per sample after which to give up (default 100 times the rank).
        chunk: tangents in one pass, or "auto" to plan them from the memory budget.
        memory: memory budget of a pass, in bytes.
        progress: called after every step with a `krylov.Progress`.

    Returns:
        A `LocalBasis`; a sample's basis does not depend on the others in its batch, up to
        rounding.

    Raises:
        ValueError: x, t, rank, tap, cond or a setting is not what the model takes, the network
            is in training mode, it is not deterministic, or its samples are not independent.
        MemoryError: one tangent of one sample does not fit the device.

    Cost: about 8 to 12 products per direction and sample at rank 10 and "standard", half with J
    (a backward pass up to the tap each where the memory allows to keep graphs, else 2 to 3 forward
    passes), half with its transpose (1 to 2).

    Source: Park et al. 2023, arXiv:2307.12868; the solver is `pullback.krylov.svd`.
    """
    return basis(
        maps.encoder(model, tap, pool=pool), x, t, rank, cond,
        quality=quality, tol=tol, init=init, seed=seed, max_products=max_products,
        chunk=chunk, memory=memory, progress=progress,
    )  # fmt: skip


def basis(
    map: Map,
    x: torch.Tensor,
    t: int | torch.Tensor,
    rank: int,
    cond: Condition | None = None,
    *,
    quality: str = "standard",
    tol: float | None = None,
    init: torch.Tensor | None = None,
    seed: int = 0,
    max_products: int | None = None,
    chunk: int | str = "auto",
    memory: int | None = None,
    progress: Callable[[krylov.Progress], None] | None = None,
) -> LocalBasis:
    """The leading singular triplets of the Jacobian of any map of `pullback.maps`.

    Args:
        map: what is differentiated, and with respect to what.
        x: latents x_t, `[B, C, H, W]`, in the model's dtype and on its device.
        t: their timestep in training units: one for all, or int64 `[B]`.
        rank: directions per sample, at most min(n, m) of the map's variable and output.
        cond: as for `local_basis`.
        quality: as for `local_basis`, and so are the following.
        tol: an explicit bound on the sine instead.
        init: vectors to start from, `[B, p, ...]` in the space of the map's variable.
        seed: seed of the random start.
        max_products: products per sample after which to give up.
        chunk: tangents in one pass.
        memory: memory budget of a pass, in bytes.
        progress: called after every step.

    Returns:
        A `LocalBasis`: v in the space of the map's variable, u in that of its output.

    Raises:
        ValueError, MemoryError: as for `local_basis`.

    Cost: as for `local_basis`, with the map's own forward pass; a decoder costs one more pass to
    the tap, once.
    """
    model = map.model
    model.check_latents(x)
    timesteps = model.timesteps(t, len(x))
    options = {
        "quality": quality,
        "tol": krylov.tolerance(quality, tol),
        "seed": seed,
        "max_products": max_products,
    }
    source = _Source(
        map, x.detach().clone(), timesteps, model.condition(cond, len(x)), options, chunk, memory
    )
    return source.compute(rank, init, progress)
