"""What `pullback run` is asked for, before the model is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pullback.cli.loading import load
from pullback.cli.parsing import parse_call

if TYPE_CHECKING:
    from pullback.models import LatentModel


@dataclass(frozen=True)
class Source:
    """How a model is read, in this process or in that of a worker.

    Attributes:
        model: a name of the zoo, a folder or a hub id; None for that of the run.
        dtype: of the network; None for that of its files.
        call: pairs name=value of the pipeline's call.

    Raises:
        typer.BadParameter: one of them is no such pair.
    """

    model: str | None
    dtype: str | None = None
    call: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parse_call(self.call)

    @classmethod
    def of(cls, folder: Path, told: Mapping[str, Any], advice: str) -> Source:
        """How the model of a run is read, from what its plan says.

        Raises:
            ValueError: the run was created from Python, which did not say it; with the advice.
        """
        try:
            return cls(told["model"], told["dtype"], tuple(told["call"]))
        except (KeyError, TypeError):
            raise ValueError(
                f"The run in {folder} does not say how its model is read: it was created from "
                f"Python. {advice}"
            ) from None

    @property
    def told(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {**asdict(self), "call": list(self.call)}

    def __call__(self, device: str) -> LatentModel:
        """The model, on a device.

        Raises:
            typer.BadParameter: there is no name.
            ValueError: as `load`.
        """
        if self.model is None:
            raise typer.BadParameter("a new run needs a model", param_hint="--model")
        return load(self.model, device, self.dtype, parse_call(self.call))


@dataclass(frozen=True)
class Team:
    """Who computes.

    Attributes:
        device: where.
        workers: how many processes.
        share: (i, n): which units this call computes; None for all.
        ray: whether workers are actors of Ray.

    Raises:
        typer.BadParameter: two of them exclude each other.
    """

    device: str
    workers: int
    share: tuple[int, int] | None
    ray: bool

    def __post_init__(self) -> None:
        if self.share is not None and (self.workers > 1 or self.ray):
            raise typer.BadParameter("give --worker, or --workers and --ray", param_hint="--worker")
