"""Figures of analyses: from what is told of them, with their controls."""

import json

import pytest
import torch

from pullback import analysis, figures
from tests.analysis.planted import TIMES, turned
from tests.figures.test_pages import written


def analyses(rng):
    """One of each, of noise."""
    angles = torch.rand(6, 5, generator=rng)
    rows = turned(angles)
    of_classes = turned(torch.rand(6, 5, 4, generator=rng))
    x = torch.randn(6, 5, 1, 8, 8, generator=rng)
    levels = torch.rand(5, generator=rng), torch.rand(5, generator=rng)
    moves = analysis.Moves(torch.randn(6, 5, 2, 9, generator=rng),
                           torch.randn(6, 5, 2, 3, 9, generator=rng))  # fmt: skip
    paths = {kind: torch.rand(6, 2, 5, generator=rng) for kind in ("lerp", "slerp", "shooting")}
    s = torch.rand(6, 5, 8, generator=rng).add(0.1).sort(2, descending=True).values
    return {
        "spectra": analysis.spectra(s, TIMES),
        "frequencies": analysis.frequencies(torch.randn(6, 5, 2, 1, 8, 8, generator=rng), TIMES),
        "samples": analysis.across_samples(rows, TIMES),
        "times": analysis.across_times(rows, TIMES),
        "conditions": analysis.across_conditions(
            of_classes, torch.rand(4, 4, generator=rng), TIMES
        ),
        "classes": analysis.by_class(of_classes, [3.0, 1.0, 2.0, 5.0], TIMES),
        "ablation": analysis.ablation(
            *(turned(angles * torch.tensor([0.0, 1, 1, 1, 1])) for _ in range(3)), TIMES
        ),
        "curvature": analysis.curvature(paths, TIMES[:2], rank=3, size=60),
        "linearity": analysis.linearity(
            torch.randn(6, 5, 9, generator=rng), moves, moves, (0.1, 0.2, 0.4), TIMES, size=9,
            num_timesteps=1000,
        ),
        "ranks": analysis.rank_ratio(s, TIMES, size=8),
        "radius": analysis.radius(x, x, x[:, 0], *levels, TIMES),
    }  # fmt: skip


CONTROLS = {
    "spectra": "isotropic",
    "frequencies": "isotropic noise",
    "samples": "random subspaces",
    "times": "random subspaces",
    "conditions": "random subspaces",
    "classes": "random subspaces",
    "ablation": "random subspaces",
    "curvature": "Curvedness at t = 900; of random subspaces {:.2f}",
    "linearity": "0.99, as published",
    "ranks": "Gaussian matrix",
    "radius": "data and isotropic noise",
}


def test_every_analysis_has_a_figure_with_its_control(rng, tmp_path):
    found = analyses(rng)
    assert found.keys() == CONTROLS.keys()
    for name, one in found.items():
        told = json.loads(json.dumps(one.told()))
        figure = figures.draw_analysis(name, told)
        written(figure, tmp_path / f"{name}.png")
        legends = [
            text.get_text()
            for axes in figure.axes
            if axes.get_legend()
            for text in axes.get_legend().get_texts()
        ]
        heads = [axes.get_title(loc="left") for axes in figure.axes]
        control = CONTROLS[name].format(told.get("chance", 0) / 5)  # of five segments
        assert control in [*legends, *heads], name


def test_curves_are_the_means_that_were_told(rng):
    one = analyses(rng)["samples"]
    line = figures.draw_analysis("samples", one.told()).axes[0].lines[0]
    assert line.get_xdata().tolist() == list(TIMES)
    assert line.get_ydata().tolist() == pytest.approx(one.distance.mean(0).tolist())


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="an analysis of spectra"):
        figures.draw_analysis("colours", {})
