"""What a command is asked for, parsed, before the model is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

#: Maps without features in between, by the names that --map takes.
MAPS_WITHOUT_TAP = ("noise", "denoised", "score")


@dataclass(frozen=True)
class Request:
    """What is to be computed.

    Attributes:
        timesteps: where, in the scheduler's training units.
        rank: directions per sample.
        seeds: one per sample, of the noise that it starts from.
        map: what is differentiated.
        tap: where h is read; None for the model's own choice.
        class_labels: of all samples, or one for each; empty for none.
        prompts: of all samples, or one for each; empty for none.
        quality: "draft", "standard" or "tight".
        tol: the bound on the sine itself, instead of a quality.
        seed: of the solver's random start.

    Raises:
        typer.BadParameter: two of them exclude each other.
    """

    timesteps: tuple[int, ...]
    rank: int
    seeds: tuple[int, ...]
    map: str = "encoder"
    tap: str | None = None
    class_labels: tuple[int, ...] = ()
    prompts: tuple[str, ...] = ()
    quality: str = "standard"
    tol: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prompts and self.class_labels:
            raise typer.BadParameter(
                "give --prompt or --class-label, not both", param_hint="--prompt"
            )
        if self.tap is not None and self.map in MAPS_WITHOUT_TAP:
            raise typer.BadParameter(f"the map {self.map} has no tap", param_hint="--tap")


@dataclass(frozen=True)
class Delivery:
    """Where the results go, and what is drawn and printed of them.

    Attributes:
        folder: for the results.
        memory: budget of a pass, in bytes; None for a share of what is free.
        overwrite: compute again what the folder already holds.
        figures: draw figures beside the results.
        film: make a film of edits.
        edits: draw a few edits beside bases.
        quiet: print errors only.
        as_json: print the summary as one JSON object.
    """

    folder: Path
    memory: int | None = None
    overwrite: bool = False
    figures: bool = True
    film: bool = False
    edits: bool = False
    quiet: bool = False
    as_json: bool = False
