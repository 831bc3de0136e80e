"""Draws docs/images/way.png: the way from a latent to its local basis, on the digit model.

    python docs/images/way.py

Every picture and curve in it is computed here, for one latent: the block Krylov iteration in its
simplest form (no restart, one sample), on the operators of `pullback_ext`, and next to it the truth
from a dense Jacobian in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import pullback
import pullback_ext
from pullback import maps

TIMESTEP, SEED, RANK, BLOCK, STEPS, TOL = 500, 3, 10, 5, 12, 2e-3

INK, FAINT, PALE = "#1c2530", "#6f7a86", "#dfe4ea"
BLUE, ORANGE = "#2b5f94", "#c8581c"
SIGNED = "RdBu_r"
matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 8,
        "mathtext.fontset": "dejavusans",
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.7,
        "text.color": INK,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
    }
)


@dataclass
class Iteration:
    """What the steps of the iteration gave, and the truth."""

    blocks: list[torch.Tensor]  # each [b, n]
    images: list[torch.Tensor]  # J of the first block [b, m], and JᵀJ of it [b, n]
    projection: torch.Tensor  # [d, d]
    values: list[torch.Tensor]  # Ritz values as singular values, per step, [<= k]
    bounds: list[float]
    sines: list[float]
    true: torch.Tensor  # [k]
    v: torch.Tensor  # [k, n]
    u: torch.Tensor  # [k, m]


def iterate(operator: pullback.JacobianOperator, dense: torch.Tensor) -> Iteration:
    """Block Krylov on JᵀJ of the operator's one sample; `dense` is J, [m, n], float64."""
    n = dense.shape[1]
    true_s, true_v = torch.linalg.svd(dense, full_matrices=False)[1:]
    generator = torch.Generator().manual_seed(SEED)
    pending = pullback_ext.orthonormalize(torch.randn(1, BLOCK, n, generator=generator)).q
    basis, projection = pending[:, :0], torch.zeros(0, 0, dtype=torch.float64)
    out = Iteration([], [], projection, [], [], [], true_s[:RANK], basis, basis)
    for step in range(STEPS):
        image = operator.matmat(pending.unflatten(2, operator.x_shape))
        w = operator.rmatmat(image).flatten(2)
        if step == 0:
            out.images = [image[0].flatten(1), w[0]]
        out.blocks.append(pending[0])
        found = pullback_ext.block_step(w, pending, basis)
        columns = found.projection[0]
        old = len(projection)
        projection = torch.cat(
            [
                torch.cat([projection, columns[:old]], dim=1),
                torch.cat([columns[:old].mT, columns[old:]], dim=1),
            ]
        )
        basis, pending = torch.cat([basis, pending], dim=1), found.q
        values, vectors = (part[0] for part in pullback_ext.ritz(projection[None]))
        left = vectors[:, -BLOCK:] @ found.residual[0]  # S y of every Ritz vector, in rows
        # Rounding is counted as the library does: 4 eps of the largest value in every residual.
        rounding = 4 * torch.finfo(torch.float32).eps * values[0]
        out.values.append(values[:RANK].clamp_min(0).sqrt())
        if len(values) > RANK:
            rest = (values[RANK:] + left[RANK:].norm(dim=1) + rounding).max()
            residual = torch.linalg.matrix_norm(left[:RANK], 2) + rounding
            bound = residual / (values[RANK - 1] - rest)
            out.bounds.append(float(bound) if bound > 0 else 1.0)
        else:
            out.bounds.append(1.0)
        out.v = vectors[:RANK].float() @ basis[0]
        q = torch.linalg.qr(out.v.double().mT).Q
        missed = true_v[:RANK].mT - q @ (q.mT @ true_v[:RANK].mT)
        complete = len(values) >= RANK
        out.sines.append(float(torch.linalg.matrix_norm(missed, 2)) if complete else 1.0)
    out.projection = projection
    out.u = torch.nn.functional.normalize(out.v.double() @ dense.mT, dim=1)
    return out


# ------------------------------------------------------------------------------------- the drawing


def picture(axes: Axes, image: torch.Tensor, cmap: str = SIGNED, frame: str = FAINT) -> None:
    """A square image, signed ones with white at zero."""
    top = float(image.abs().max())
    limits = (-1, 1) if cmap == "gray" else (-top, top)
    axes.imshow(image.float().numpy(), cmap=cmap, vmin=limits[0], vmax=limits[1])
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=0.7)


def mosaic(h: torch.Tensor, rows: int = 4, columns: int = 4) -> torch.Tensor:
    """The first channels of a feature [96, 4, 4] side by side, each scaled to its own size."""
    tiles = h.unflatten(0, (96, 4, 4))[: rows * columns]
    tiles = tiles / tiles.abs().amax().clamp_min(1e-12)
    tiles = tiles.sign() * tiles.abs().sqrt()  # a few channels dominate
    return tiles.unflatten(0, (rows, columns)).permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)


class Page:
    """A figure measured in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
        self.canvas = self.figure.add_axes((0, 0, 1, 1))
        self.canvas.set(xlim=(0, width), ylim=(height, 0))
        self.canvas.axis("off")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes with this upper left corner."""
        box = (x, self.height - y - height, width, height)
        unit = (self.width, self.height, self.width, self.height)
        return self.figure.add_axes([a / b for a, b in zip(box, unit, strict=True)])

    def text(self, x: float, y: float, text: str, **options: object) -> None:
        """Text at a point, by default its middle."""
        given: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, **options}
        self.canvas.text(x, y, text, **given)

    def arrow(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        color: str = INK,
        bend: float = 0,
    ) -> None:
        """An arrow between two points."""
        self.canvas.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=9, linewidth=1.1, color=color,
                connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0,
            )
        )  # fmt: skip

    def panel(self, x: float, y: float, width: float, number: int, title: str, below: str) -> None:
        """The heading of a part."""
        self.text(x, y, f"{number}", fontsize=11, color=BLUE, weight="bold", ha="left")
        self.text(x + 0.2, y, title, fontsize=10, weight="bold", ha="left")
        self.text(x, y + 0.2, below, fontsize=7.5, color=FAINT, ha="left", va="top")
        self.canvas.plot([x, x + width], [y - 0.17] * 2, color=PALE, linewidth=1)


def forward(page: Page, x0: float, y0: float, x: torch.Tensor, h: torch.Tensor) -> None:
    """Part 1: the latent, the network up to the tap, the feature."""
    page.panel(x0, y0, 4.1, 1, "A latent and its features",
               "h = f(x): the network up to the tap; what lies behind is not computed")  # fmt: skip
    middle = y0 + 1.45
    picture(page.axes(x0, middle - 0.42, 0.84, 0.84), x, "gray")
    page.text(x0 + 0.42, middle + 0.58, "$x_t$,  n = 256", fontsize=8)
    sizes = [1.05, 0.78, 0.52, 0.38, 0.52, 0.78, 1.05]
    left = x0 + 1.1
    for i, size in enumerate(sizes):
        reached, tap = i <= 3, i == 3
        page.canvas.add_patch(
            FancyBboxPatch(
                (left, middle - size / 2), 0.17, size, boxstyle="round,pad=0,rounding_size=0.04",
                facecolor=ORANGE if tap else "#b9cfe4" if reached else "white",
                edgecolor=ORANGE if tap else BLUE if reached else "#b8c0c9",
                linewidth=0.9, linestyle="-" if reached else (0, (2, 2)),
            )
        )  # fmt: skip
        left += 0.25
    tap = x0 + 1.1 + 3 * 0.25 + 0.085
    page.arrow((x0 + 0.88, middle), (x0 + 1.07, middle))
    page.canvas.plot([tap, tap], [middle + 0.19, middle + 0.73], color=ORANGE, linewidth=1.1)
    page.arrow((tap, middle + 0.73), (x0 + 3.1, middle + 0.73), ORANGE)
    page.text(tap, middle - 0.33, "tap", fontsize=8, color=ORANGE)
    page.text(x0 + 1.1 + 0.3, middle + 0.73, "down blocks", fontsize=7, color=BLUE)
    page.text(x0 + 2.45, middle - 0.72, "up blocks", fontsize=7, color=FAINT)
    picture(page.axes(x0 + 3.15, middle - 0.07, 0.84, 0.84), mosaic(h), "viridis")
    page.text(x0 + 3.57, middle - 0.2, "h,  m = 1536", fontsize=8)


def products(page: Page, x0: float, y0: float, run: Iteration) -> None:
    """Part 2: a block, its image, and what comes back."""
    page.panel(x0, y0, 3.85, 2, "Products",
               "a block goes forward and comes back; J is never written")  # fmt: skip
    size, gap, top = 0.4, 0.045, y0 + 0.68
    for row in range(4):
        y = top + row * (size + gap)
        picture(page.axes(x0, y, size, size), run.blocks[0][row].reshape(16, 16))
        picture(page.axes(x0 + 1.6, y, size, size), mosaic(run.images[0][row]))
        picture(page.axes(x0 + 3.2, y, size, size), run.images[1][row].reshape(16, 16))
    middle = top + 2 * (size + gap) - gap / 2
    for left, label in ((x0 + 0.55, "$J$"), (x0 + 2.15, r"$J^{\mathsf{T}}$")):
        page.arrow((left, middle), (left + 0.9, middle), BLUE)
        page.text(left + 0.45, middle - 0.16, label, fontsize=11, color=BLUE)
    bottom = top + 4 * (size + gap) + 0.1
    for left, label in ((x0, "$P$"), (x0 + 1.6, "$JP$"), (x0 + 3.15, r"$W=J^{\mathsf{T}}JP$")):
        page.text(left + size / 2, bottom, label, fontsize=8.5)


def krylov(page: Page, x0: float, y0: float, run: Iteration) -> None:
    """Part 3: the space that grows block by block, and the projection on it."""
    page.panel(x0, y0, 4.1, 3, "Block Krylov",
               "every block is made orthonormal to all before it, and kept")  # fmt: skip
    size, top = 0.27, y0 + 0.68
    for column in range(6):
        x = x0 + column * 0.35
        for row in range(BLOCK):
            image = run.blocks[column][row].reshape(16, 16)
            picture(page.axes(x, top + row * (size + 0.03), size, size), image)
    bottom = top + BLOCK * (size + 0.03) + 0.1
    page.arrow((x0, bottom), (x0 + 2.05, bottom), BLUE)
    page.text(x0 + 1.0, bottom + 0.17, r"$Q = [P_0, P_1, P_2, \ldots]$", fontsize=8.5)
    axes = page.axes(x0 + 2.5, top, 1.47, 1.47)
    shown = run.projection[:30, :30].abs()
    axes.imshow(
        (shown / shown.max()).clamp_min(1e-6).log10().numpy(), cmap="Blues", vmin=-4, vmax=0
    )
    axes.set_xticks([])
    axes.set_yticks([])
    page.text(x0 + 3.23, bottom + 0.17, r"$T = Q^{\mathsf{T}} J^{\mathsf{T}} J\, Q$", fontsize=8.5)


def plain(axes: Axes) -> None:
    """Two spines and small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2.5, width=0.6, labelsize=7, pad=2)


def ritz(page: Page, x0: float, y0: float, run: Iteration) -> None:
    """Part 4: Ritz values as they rise to the singular values."""
    page.panel(x0, y0, 3.85, 4, "Rayleigh–Ritz",
               "eigenvectors of T give the best answer in the space so far")  # fmt: skip
    axes = page.axes(x0 + 0.4, y0 + 0.62, 3.05, 1.75)
    taken = [2 * BLOCK * (step + 1) for step in range(STEPS)]
    for i in range(RANK):
        points = [(p, float(v[i])) for p, v in zip(taken, run.values, strict=True) if len(v) > i]
        axes.plot(*zip(*points, strict=True), color=BLUE, linewidth=1.1, marker=".", markersize=3.5)
        axes.plot(
            [taken[-1] + 2, taken[-1] + 7], [float(run.true[i])] * 2, color=ORANGE, linewidth=1.4
        )
    axes.set(ylim=(0, None), xlim=(0, taken[-1] + 8))
    axes.set_xlabel("products of the sample", fontsize=7.5, labelpad=2)
    axes.set_ylabel(r"Ritz values $\sqrt{\theta_i}$", fontsize=7.5, labelpad=2)
    page.text(x0 + 3.48, y0 + 1.5, "true\n$s_i$", fontsize=7.5, color=ORANGE, ha="left")
    plain(axes)


def stopping(page: Page, x0: float, y0: float, run: Iteration) -> None:
    """Part 5: the bound, the true sine, and the bound that was asked for."""
    page.panel(x0, y0, 4.1, 5, "The bound",
               "residual over gap: the circle is where the sample stops")  # fmt: skip
    axes = page.axes(x0 + 0.5, y0 + 0.62, 3.3, 1.75)
    taken = np.array([2 * BLOCK * (step + 1) for step in range(STEPS)])
    bounds, sines = np.array(run.bounds), np.array(run.sines)
    known = bounds < 1
    axes.semilogy(
        taken[sines < 1], sines[sines < 1], color=ORANGE, linewidth=1.2, marker=".", markersize=4
    )
    axes.semilogy(taken[known], bounds[known], color=BLUE, linewidth=1.2, marker=".", markersize=4)
    axes.axhline(TOL, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    stop = int(np.argmax(known & (bounds <= TOL)))
    axes.plot(
        taken[stop], bounds[stop], marker="o", markersize=7, color="none", markeredgecolor=BLUE
    )
    axes.set(xlim=(0, taken[-1] + 8), ylim=(min(1e-5, sines.min() / 2), 2))
    axes.text(2, TOL * 0.75, "asked for: 2e-3", fontsize=7, color=FAINT, va="top")
    axes.text(taken[stop] - 9, bounds[stop] * 40, "bound", fontsize=7.5, color=BLUE)
    axes.text(taken[stop] - 6, sines[stop], "true sine", fontsize=7.5, color=ORANGE, ha="right")
    axes.set_xlabel("products of the sample", fontsize=7.5, labelpad=2)
    axes.set_ylabel("sine of the largest angle", fontsize=7.5, labelpad=2)
    plain(axes)


def answer(page: Page, x0: float, y0: float, run: Iteration) -> None:
    """Part 6: the basis."""
    formula = r"$J \approx \sum_i s_i\, u_i v_i^{\mathsf{T}}$"
    page.panel(x0, y0, 3.85, 6, "The local basis", f"{formula}, with the bound on its error")
    size, gap, left, top = 0.52, 0.05, x0 + 0.3, y0 + 0.66
    shown = 6
    for i in range(shown):
        x = left + i * (size + gap)
        picture(page.axes(x, top, size, size), run.v[i].reshape(16, 16))
        height = 0.42 * float(run.true[i] / run.true[0])
        page.canvas.add_patch(
            Rectangle((x + 0.13, top + 1.08 - height), 0.26, height, facecolor=BLUE, linewidth=0)
        )
        page.text(x + 0.26, top + 1.17, f"{float(run.values[-1][i]):.1f}", fontsize=7)
        picture(page.axes(x, top + 1.32, size, size), mosaic(run.u[i]))
        page.text(x + 0.26, top + 1.32 + size + 0.1, f"{i + 1}", fontsize=7, color=FAINT)
    for y, label in ((top + 0.26, "$v_i$"), (top + 0.9, "$s_i$"), (top + 1.58, "$u_i$")):
        page.text(x0 + 0.12, y, label, fontsize=10)


def main() -> None:
    """Computes, draws and writes the figure."""
    model = pullback.load("digits")
    exact = pullback.load("digits", dtype=torch.float64)
    x = model.sample_latents(1, TIMESTEP, seed=SEED)
    bound = maps.encoder(model).at(x, TIMESTEP)
    every = torch.eye(256, dtype=torch.float64).reshape(1, 256, 1, 16, 16)
    columns = maps.encoder(exact).at(x.double(), TIMESTEP).operator().matmat(every)
    run = iterate(bound.operator(), columns[0].flatten(1).mT)
    page = Page(8.85, 9.15)
    forward(page, 0.25, 0.35, x[0, 0], bound.value().flatten())
    products(page, 4.75, 0.35, run)
    krylov(page, 0.25, 3.3, run)
    ritz(page, 4.75, 3.3, run)
    stopping(page, 0.25, 6.25, run)
    answer(page, 4.75, 6.25, run)
    page.figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
