"""The figures of a folder of bases: runs the network for what they show, and writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pullback.figures.pages import Walk, directions, overview, strips
from pullback.figures.shown import shown
from pullback.figures.spectra import spectrum
from pullback.figures.style import save
from pullback.geometry import LocalBasis
from pullback.models import Condition, LatentModel, denoise

#: Steps along a direction, in units of ‖x_t‖: the same at every timestep, so that what they do
#: can be compared. Half the norm is where a digit at t = 900 has become another one, and one at
#: t = 200 is still itself.
LENGTHS = (-1 / 2, -1 / 3, -1 / 6, 0.0, 1 / 6, 1 / 3, 1 / 2)

_DIRECTIONS = 4  # in a strip
_STRIP_SAMPLES = 4  # that get a strip figure
_ROWS = 8  # samples in a figure of directions
_OVERVIEW_SAMPLES, _OVERVIEW_TIMESTEPS = 2, 4
_DENOISING_STEPS = 25  # over the whole schedule
_IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class Gallery:
    """The bases of the same samples at some timesteps, to be drawn.

    Attributes:
        model: the model of the bases.
        title: of the overview.
        latents: x_t `[B, *x_shape]` by timestep, in the order in which they are shown.
        bases: their bases by timestep, in the same order.
        seeds: of each sample's noise, `B` in number.
        condition: the condition of some of the samples, as the model takes it.
    """

    model: LatentModel
    title: str
    latents: Mapping[int, torch.Tensor]
    bases: Mapping[int, LocalBasis]
    seeds: Sequence[int]
    condition: Callable[[slice], Condition | None]

    @property
    def steps(self) -> int:
        """How many times `draw` calls its `step`."""
        return (self._strips + 1) * (len(self.bases) + 1) if self._moves_latents else 1

    def draw(self, folder: Path, step: Callable[[], None] = lambda: None) -> dict[str, str]:
        """Write all figures; the spectrum alone where the directions are not latents.

        Args:
            folder: where the figures go; it exists.
            step: called `steps` times on the way.

        Returns:
            File names with a line on each, in the order in which they are best looked at.

        Cost: per timestep, 24 moved images for each of at most 4 samples and one image for each
        of at most 8, with at most 25 forward passes each.
        """
        spectrum_line = {"spectrum.png": "singular values: median and quartiles per t"}
        save(spectrum({t: basis.s for t, basis in self.bases.items()}), folder / "spectrum.png")
        step()
        if not self._moves_latents:
            return spectrum_line
        walks: list[list[Walk]] = []
        for sample in range(self._strips):
            walks.append([])
            for t in self.bases:
                walks[sample].append(self._walk(t, sample))
                step()
        written = {"overview.png": "samples, directions and strips on one page"}
        chosen = _spread(len(self.bases), _OVERVIEW_TIMESTEPS)
        page = [[walk[i] for i in chosen] for walk in walks[:_OVERVIEW_SAMPLES]]
        save(overview(page, self.title), folder / "overview.png")
        written |= spectrum_line
        for t, basis in self.bases.items():
            name = f"directions_t{t:04d}.png"
            x = self.latents[t][:_ROWS]
            images = self._denoised(x, t, slice(0, len(x)))
            x, images, v = (shown(self.model, one) for one in (x, images, basis.v))
            save(directions(t, x, images, v, basis.s, samples=len(x)), folder / name)
            written[name] = f"{len(x)} samples at t = {t} beside their directions"
            step()
        for sample, walk in enumerate(walks):
            name = f"strips_sample{sample:02d}.png"
            title = f"Sample {sample} (seed {self.seeds[sample]}) along its leading directions"
            save(strips(walk, title), folder / name)
            written[name] = f"sample {sample} moved along its directions, denoised"
            step()
        return written

    @property
    def _moves_latents(self) -> bool:
        """Whether the directions are of latents, and not of features, for example."""
        return all(basis.provenance["wrt"] == "x" for basis in self.bases.values())

    @property
    def _strips(self) -> int:
        """How many samples get a strip figure."""
        return min(_STRIP_SAMPLES, len(self.seeds))

    def _walk(self, t: int, sample: int) -> Walk:
        """Move one sample along its directions, and denoise where it arrives."""
        x = self.latents[t][sample]
        v = self.bases[t].v[sample, :_DIRECTIONS].to(x.dtype)
        s = self.bases[t].s[sample, :_DIRECTIONS]
        lengths = torch.tensor(LENGTHS, dtype=torch.float64, device="cpu")
        away = lengths[lengths != 0]
        offsets = torch.einsum("a,k...->ka...", (away * x.double().norm()).to(x.dtype), v)
        starts = torch.cat([x[None], (x + offsets).flatten(0, 1)])  # [1 + k (a - 1), C, H, W]
        images = self._denoised(starts, t, slice(sample, sample + 1))
        image, moved = images[0], images[1:].unflatten(0, (len(v), len(away)))
        middle = LENGTHS.index(0.0)
        still = image.expand(len(v), 1, *image.shape)
        moved = torch.cat([moved[:, :middle], still, moved[:, middle:]], dim=1)
        x, image, v, moved = (shown(self.model, one) for one in (x, image, v, moved))
        return Walk(t, x, image, v, s, lengths, moved)

    def _denoised(self, x: torch.Tensor, t: int, samples: slice) -> torch.Tensor:
        """Clean images `[b, C, H, W]` of latents at t, on the CPU.

        The condition is that of one sample for all, or of b samples, which then take one pass.
        """
        cond = self.condition(samples)
        parts = x.to(self.model.device, self.model.dtype).split(_IMAGES_AT_ONCE)
        return torch.cat(
            [
                denoise(self.model, part, t, cond=cond, steps=_DENOISING_STEPS).cpu()
                for part in parts
            ]
        )


def clear(folder: Path) -> None:
    """Remove the figures of a folder, which show results that have been replaced."""
    of_bases = ("overview.png", "spectrum.png", "directions_t*.png", "strips_sample*.png")
    of_edits = ("edits.png", "edits.gif", "edits_direction*.png")
    of_geometry = ("transport.png", "angles.png", "path.png", "images.png", "global.png")
    for pattern in (*of_bases, *of_edits, *of_geometry, "analysis-*.png"):
        for path in folder.glob(pattern):
            path.unlink()


def _spread(count: int, most: int) -> list[int]:
    """At most `most` indices below count, evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]
