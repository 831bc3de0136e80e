"""The figures of a folder of edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pullback.editing import Sweep
from pullback.figures.edits import edit_frames, edit_grid, edit_strip
from pullback.figures.shown import pictured, shown
from pullback.figures.style import save, save_film
from pullback.models import LatentModel


@dataclass(frozen=True)
class Album:
    """A sweep, to be drawn.

    Attributes:
        model: the model of the sweep.
        title: of the pages.
        sweep: the edits.
        samples: what its samples are called.
        film: whether there is a film, too.
    """

    model: LatentModel
    title: str
    sweep: Sweep
    samples: Sequence[str]
    film: bool = False

    @property
    def steps(self) -> int:
        """How many times `draw` calls its `step`."""
        return 1 + len(self.sweep.names) + self.film

    def draw(self, folder: Path, step: Callable[[], None] = lambda: None) -> dict[str, str]:
        """Write all figures.

        Args:
            folder: where the figures go; it exists.
            step: called `steps` times on the way.

        Returns:
            File names with a line on each, in the order in which they are best looked at.
        """
        sweep, samples = self.sweep, self.samples
        show = pictured if sweep.stop == -1 else shown
        images = show(self.model, sweep.latents)
        save(edit_grid(sweep, images, samples=samples, title=self.title), folder / "edits.png")
        written = {"edits.png": "all samples and directions, by strength"}
        step()
        if self.film:
            frames = edit_frames(sweep, images, samples=samples, title=self.title)
            save_film(frames, folder / "edits.gif")
            written["edits.gif"] = "the same as a film over the strengths"
            step()
        for index, name in enumerate(sweep.names):
            file = f"edits_direction{index:02d}.png"
            save(edit_strip(sweep, index, images, samples=samples), folder / file)
            written[file] = f"all samples along {name}"
            step()
        return written
