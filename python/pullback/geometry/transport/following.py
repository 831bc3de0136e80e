"""Local bases along a way, each started from the one before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pullback import krylov
from pullback.geometry.bases import LocalBasis, local_basis
from pullback.geometry.options import StepOptions, check_options
from pullback.geometry.transport.checks import unconverged, warn_unconverged
from pullback.models import Condition, LatentModel, TapName, check_model


@dataclass(frozen=True)
class Following:
    """How the bases of B samples are found on their ways.

    Attributes:
        model: the model.
        t: timesteps `[B]`, in training units.
        rank: directions per sample.
        condition: of the batch, `[B, ...]` each.
        options: further ones of `local_basis`: tap, pool, quality and more.
        tol: bound on the sine that is asked of each basis.
        bounds: what the bases that did not converge leave open; it grows.
    """

    model: LatentModel
    t: torch.Tensor
    rank: int
    condition: Mapping[str, torch.Tensor]
    options: Mapping[str, Any]
    tol: float
    bounds: list[float]

    @classmethod
    def of(
        cls,
        name: str,
        model: LatentModel,
        x: torch.Tensor,
        t: int | torch.Tensor,
        *,
        rank: int,
        tap: TapName | None,
        cond: Condition | None,
        pool: str | None,
        quality: str,
        options: StepOptions,
    ) -> Following:
        """What the public function `name` was given, checked.

        Raises:
            TypeError: the model is none, or an option does not exist.
            ValueError: x, t or cond is not what the model takes.
        """
        check_options(name, options, StepOptions)
        check_model(model)
        model.check_latents(x)
        times = model.schedule.timesteps(t, len(x), model.device)
        condition = model.conditions.of(cond, len(x))
        asked = krylov.tolerance(quality, options.get("tol"))
        chosen = {"tap": tap, "pool": pool, "quality": quality, **options}
        return cls(model, times, rank, condition, chosen, asked, [])

    def at(self, x: torch.Tensor, rows: torch.Tensor, init: torch.Tensor | None) -> LocalBasis:
        """The bases of the samples at the int64 indices `[A]`, at latents `[A, *x_shape]`.

        Args:
            x: the latents.
            rows: the indices.
            init: `[A, k, *x_shape]` to start from; None at the beginning.

        Raises:
            As `local_basis`.
        """
        condition = {
            name: value[rows] if len(value) == len(self.t) else value
            for name, value in self.condition.items()
        }
        basis = local_basis(
            self.model, x, self.t[rows], self.rank, cond=condition or None, init=init,
            **self.options,
        )  # fmt: skip
        self.bounds.extend(unconverged(basis))
        return basis

    def warn(self) -> None:
        """Warn of bases that did not converge."""
        warn_unconverged("the way", self.bounds, self.tol)
