"""The figures of a folder of bases: runs the network for what they show, and writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pullback import figures
from pullback.models import LatentModel, ddim
from pullback.runs import Found, Plan

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


def draw(
    model: LatentModel,
    plan: Plan,
    found: Sequence[Found],
    folder: Path,
    step: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Write all figures of some bases; the spectrum alone where their directions are not latents.

    Args:
        model: the model of the bases.
        plan: the plan they were computed from.
        found: the bases, one entry per timestep.
        folder: where the figures go.
        step: called `steps(found)` times on the way.

    Returns:
        File names with a line on each, in the order in which they are best looked at.

    Cost: per timestep, 24 moved images for each of at most 4 samples and one image for each of at
    most 8, with at most 25 forward passes each.
    """
    spectrum = {"spectrum.png": "singular values: median and quartiles per t"}
    figures.save(
        figures.spectrum({item.t: item.basis.s for item in found}), folder / "spectrum.png"
    )
    step()
    if not _moves_latents(found):
        return spectrum
    walks: list[list[figures.Walk]] = []
    for sample in range(min(_STRIP_SAMPLES, len(found[0].basis))):
        walks.append([])
        for item in found:
            walks[sample].append(_walk(model, plan, item, sample))
            step()
    written = {"overview.png": "samples, directions and strips on one page"}
    chosen = _spread(len(found), _OVERVIEW_TIMESTEPS)
    page = [[walk[i] for i in chosen] for walk in walks[:_OVERVIEW_SAMPLES]]
    title = f"Local latent bases of {Path(model.name).name}"
    if plan.map != "encoder":
        title += f", for the map x → {plan.map}"
    figures.save(figures.overview(page, title), folder / "overview.png")
    written |= spectrum
    for item in found:
        name = f"directions_t{item.t:04d}.png"
        rows = min(_ROWS, len(item.basis))
        cond = plan.condition(model, slice(0, rows))
        x = item.x[:rows]
        images = ddim(model, _place(model, x), item.t, cond=cond, steps=_DENOISING_STEPS)
        sheet = figures.directions(item.t, x, images, item.basis.v, item.basis.s, samples=rows)
        figures.save(sheet, folder / name)
        written[name] = f"{rows} samples at t = {item.t} beside their directions"
        step()
    for sample, walk in enumerate(walks):
        name = f"strips_sample{sample:02d}.png"
        title = f"Sample {sample} (seed {plan.seeds[sample]}) along its leading directions"
        figures.save(figures.strips(walk, title), folder / name)
        written[name] = f"sample {sample} moved along its directions, denoised"
        step()
    return written


def clear(folder: Path) -> None:
    """Remove the figures of a folder, which show bases that have been replaced."""
    for pattern in ("overview.png", "spectrum.png", "directions_t*.png", "strips_sample*.png"):
        for path in folder.glob(pattern):
            path.unlink()


def steps(found: Sequence[Found]) -> int:
    """How many times `draw` calls its `step`."""
    if not _moves_latents(found):
        return 1
    strips = min(_STRIP_SAMPLES, len(found[0].basis))
    return (strips + 1) * (len(found) + 1)


def _moves_latents(found: Sequence[Found]) -> bool:
    """Whether the directions are of latents, and not of features, for example."""
    return found[0].basis.provenance["wrt"] == "x"


def _walk(model: LatentModel, plan: Plan, found: Found, sample: int) -> figures.Walk:
    """Move one sample along its directions, and denoise where it arrives."""
    x = found.x[sample]
    v = found.basis.v[sample, :_DIRECTIONS].to(x.dtype)
    s = found.basis.s[sample, :_DIRECTIONS]
    lengths = torch.tensor(LENGTHS, dtype=torch.float64)
    away = lengths[lengths != 0]
    offsets = (away * x.double().norm()).to(x.dtype)[None, :, None, None, None] * v[:, None]
    starts = torch.cat([x[None], (x + offsets).flatten(0, 1)])  # [1 + k (a - 1), C, H, W]
    cond = plan.condition(model, slice(sample, sample + 1))
    images = torch.cat(
        [
            ddim(model, _place(model, part), found.t, cond=cond, steps=_DENOISING_STEPS).cpu()
            for part in starts.split(_IMAGES_AT_ONCE)
        ]
    )
    image, moved = images[0], images[1:].unflatten(0, (len(v), len(away)))
    middle = LENGTHS.index(0.0)
    still = image.expand(len(v), 1, *image.shape)
    moved = torch.cat([moved[:, :middle], still, moved[:, middle:]], dim=1)
    return figures.Walk(found.t, x, image, v, s, lengths, moved)


def _place(model: LatentModel, x: torch.Tensor) -> torch.Tensor:
    return x.to(model.device, model.dtype)


def _spread(count: int, most: int) -> list[int]:
    """At most `most` indices below count, evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]
