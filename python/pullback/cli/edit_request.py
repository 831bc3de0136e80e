"""What `pullback edit` is asked for, parsed, before the model is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer


@dataclass(frozen=True)
class EditRequest:
    """What is to be edited.

    Attributes:
        seeds: of samples of noise; empty for images.
        images: files of images to invert.
        basis: file of local bases, or None.
        directions: files, folders or hub ids of directions.
        indices: which directions of a basis; None for all.
        t: the timestep in training units; None where the basis or the directions say it.
        strengths: of every direction.
        rank: of bases that are computed.
        tap: where h is read for them; None for the model's own choice.
        way: its name, or None.
        scale: of the way "guidance".
        repeats: of the way "guidance".
        mask: file of an image.
        window: timesteps (from, to) in training units.
        boost: timestep in training units.
        class_labels: of all samples, or one for each; empty for none.
        prompts: of all samples, or one for each; empty for none.
        negative: prompt to guide away from.
        guidance: scale of classifier-free guidance.
        steps: over the whole schedule.
        eta: stochasticity of steps.
        inversion: "ddim" or "stochastic".
        corrections: of the inversion.

    Raises:
        typer.BadParameter: two of them exclude each other.
    """

    seeds: tuple[int, ...]
    images: tuple[Path, ...]
    basis: Path | None
    directions: tuple[str, ...]
    indices: tuple[int, ...] | None
    t: int | None
    strengths: tuple[float, ...]
    rank: int
    tap: str | None
    way: str | None
    scale: float
    repeats: int
    mask: Path | None
    window: tuple[int, int] | None
    boost: int | None
    class_labels: tuple[int, ...]
    prompts: tuple[str, ...]
    negative: str | None
    guidance: float
    steps: int
    eta: float
    inversion: str
    corrections: int

    def __post_init__(self) -> None:
        exclusive = (
            ("--image", self.images, "--seeds", self.seeds),
            ("--basis", self.basis, "--direction", self.directions),
            ("--index", self.indices, "--direction", self.directions),
            ("--prompt", self.prompts, "--class-label", self.class_labels),
        )
        for name, given, other, also in exclusive:
            if given and also:
                raise typer.BadParameter(f"give {name} or {other}, not both", param_hint=name)
