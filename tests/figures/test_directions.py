"""Figures that compare directions: angles, gains over time, and strips of several ways."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from pullback import figures
from pullback.directions import Comparison, GainOverTime, attention, compare, pca
from pullback.editing import sweep
from pullback.figures import style
from tests.directions.made import drawn
from tests.figures.test_edits import framed
from tests.figures.test_pages import texts, written

TIMES = (900, 600, 300)

#: Machado et al. 2009, of linear RGB: no red cones, no green ones, no blue ones.
BLIND = [
    [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
]


def compared(rng, count, size=1536, names=None):
    rows = torch.randn(count, size, generator=rng, dtype=torch.float64)
    rows /= rows.norm(dim=1, keepdim=True)
    names = tuple(f"direction {d}" for d in range(count)) if names is None else names
    return Comparison(names, (rows @ rows.mT).clamp(-1, 1).fill_diagonal_(1), size)


def gains(rng, count, samples=4, times=TIMES, spread=1.0, names=None, **given):
    values = torch.rand(count, len(times), samples, generator=rng, dtype=torch.float64) * spread
    names = tuple(f"direction {d}" for d in range(count)) if names is None else names
    return GainOverTime(names, times, values.exp(), **{"space": "h", "kind": "noise", **given})


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def lab(colour, sees):
    """A colour as CIELAB, seen through a matrix of linear RGB."""
    rgb = np.asarray(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(sees) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.asarray(to_xyz) @ seen / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sees", [np.eye(3), *BLIND])
def test_lines_can_be_told_apart_with_any_colour_vision(sees):
    seen = [lab(colour, sees) for colour in style.COLOURS]
    apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(apart) > 12


def test_angles_are_those_of_the_vectors(rng, tmp_path):
    first, second = drawn(name="v_1"), drawn(name="frown")
    found = compare([first, -second, second])
    figure = figures.angle_matrix(found)
    written(figure, tmp_path / "angles.png")
    panel = figure.axes[0]
    cosine = float(first.vector.double().flatten() @ second.vector.double().flatten())
    angle = np.degrees(np.arccos(abs(cosine)))
    expected = [[0, angle, angle], [angle, 0, 0], [angle, 0, 0]]
    (image,) = panel.images
    assert np.allclose(image.get_array(), expected, atol=1e-4)
    assert image.get_clim() == (0.0, 90.0)
    assert texts(figure)[:3] == ["0", f"{angle:.0f}", f"{angle:.0f}"]
    assert ticks(panel.xaxis) == ticks(panel.yaxis) == ["$v_{1}$", "-frown", "frown"]
    assert figure.texts[0].get_text() == "Angles between directions"


@pytest.mark.parametrize("size", [2, 16, 1536])
def test_the_blue_line_is_at_the_angle_of_random_vectors(rng, size):
    figure = figures.angle_matrix(compared(rng, 3, size))
    rows = torch.randn(2, 20000, size, generator=rng)
    chance = torch.nn.functional.cosine_similarity(*rows, dim=1).abs().clamp(max=1)
    chance = chance.acos().rad2deg().mean()
    (line,) = [one for one in figure.axes[1].lines if to_hex(one.get_color()) == "#3d8fd1"]
    assert line.get_ydata()[0] == pytest.approx(float(chance), rel=0.06)
    assert f"blue line: {line.get_ydata()[0]:.0f}°" in figure.texts[1].get_text()


@pytest.mark.parametrize("count", [1, 3, 12, 13, 40])
def test_small_matrices_are_written_in(rng, tmp_path, count):
    names = tuple(f"{d}, a name that is much too long" for d in range(count))
    figure = figures.angle_matrix(compared(rng, count, names=names), title="Mine")
    panel = figure.axes[0]
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in panel.get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes)), "labels do not touch"
    written(figure, tmp_path / "angles.png")
    assert len(panel.texts) == (count**2 if count <= 12 else 0)
    assert ticks(panel.yaxis)[0] == "0, a name that is muc…"
    assert figure.texts[0].get_text() == "Mine"


def test_curves_are_medians_in_their_quartiles(rng, tmp_path):
    gain = gains(rng, 2, names=("pca 0", "v_2"))
    figure = figures.gain_curves(gain)
    written(figure, tmp_path / "gains.png")
    (axes,) = figure.axes
    bands = np.quantile(gain.gain.numpy(), [0.25, 0.5, 0.75], axis=2)
    for number, (line, band) in enumerate(zip(axes.lines, axes.collections, strict=True)):
        assert line.get_xdata().tolist() == list(TIMES)
        assert np.allclose(line.get_ydata(), bands[1, number])
        corners = band.get_paths()[0].vertices
        for place, t in enumerate(TIMES):
            heights = corners[corners[:, 0] == t, 1]
            assert heights.min() == pytest.approx(bands[0, number, place])
            assert heights.max() == pytest.approx(bands[2, number, place])
        assert to_hex(line.get_color()) == style.COLOURS[number]
    assert axes.xaxis_inverted(), "from noise to data"
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0
    assert legend(figure) == ["pca 0", "$v_{2}$"]
    assert texts(figure) == ["Median and quartiles of 4 samples"]
    assert axes.get_title(loc="left") == "Gains of directions over time"


@pytest.mark.parametrize(
    ("space", "kind", "label"),
    [
        ("h", "noise", r"\partial \varepsilon\,/\,\partial h\ v"),
        ("x", "denoised", r"\partial \hat{x}_0\,/\,\partial x_t\ v"),
        ("x", "score", r"\partial \nabla\log p\,/\,\partial x_t\ v"),
    ],
)
def test_the_axis_says_of_which_map_the_gains_are(rng, tmp_path, space, kind, label):
    figure = figures.gain_curves(gains(rng, 1, space=space, kind=kind), title="Mine")
    written(figure, tmp_path / "gains.png")
    assert label in figure.axes[0].get_ylabel()
    assert figure.axes[0].get_title(loc="left") == "Mine"


def test_one_sample_at_one_timestep_is_a_point(rng, tmp_path):
    figure = figures.gain_curves(gains(rng, 1, samples=1, times=(500,)))
    written(figure, tmp_path / "gains.png")
    (axes,) = figure.axes
    assert not axes.collections
    assert texts(figure) == ["One sample"]
    assert ticks(axes.xaxis) == ["500"]


def test_twenty_lines_are_all_different(rng, tmp_path):
    names = tuple(f"{d}, a name that is much too long $" for d in range(20))
    figure = figures.gain_curves(gains(rng, 20, names=names))
    (axes,) = figure.axes
    looks = {(line.get_color(), str(line._dash_pattern)) for line in axes.lines}
    assert len(looks) == 20
    assert legend(figure)[:2] == ["0, a name that is muc…", "1, a name that is muc…"]
    figure.draw_without_rendering()
    box = axes.get_legend().get_window_extent()
    assert box.x0 >= axes.get_window_extent().x1, "beside the curves"
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.y1
    assert box.x1 <= figure.bbox.x1
    written(figure, tmp_path / "gains.png")


@pytest.mark.parametrize("spread", [5.0, 9.0])
def test_gains_of_several_decades_have_a_logarithmic_scale(rng, tmp_path, spread):
    gain = gains(rng, 4, spread=spread)
    figure = figures.gain_curves(gain)
    written(figure, tmp_path / "gains.png")
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    bands = gain.quartiles()
    assert low < float(bands.min()) < float(bands.max()) < high
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3


def test_gains_of_zero_are_shown(rng, tmp_path):
    gain = gains(rng, 3, spread=4.0)
    gain.gain[1] = 0
    figure = figures.gain_curves(gain)
    written(figure, tmp_path / "gains.png")
    (axes,) = figure.axes
    assert axes.get_ylim()[0] == 0
    assert axes.get_yscale() == "symlog"
    assert axes.lines[1].get_ydata().tolist() == [0.0] * 3
    gain.gain[:] = 0
    figure = figures.gain_curves(gain)
    written(figure, tmp_path / "zero.png")
    assert figure.axes[0].get_ylim() == (0.0, 1.0)


def test_strips_of_several_ways_are_rows_of_an_edit_grid(digits, tmp_path):
    """Of each sample one for a pooled direction, an entry, and a direction of the latents."""
    x = digits.sample_latents(2, 999, seed=3)
    pooled = attention(digits, rank=1).direction(0).with_unit(20.0).renamed("attention")
    entry = pca(digits, 6, 1, steps=5).entry(0)
    latent = drawn(provenance={}, t=None, window=None, unit=4.0, name="local")
    strengths = [-2.0, -1.0, 0.0, 1.0, 2.0]
    swept = sweep(digits, x, 999, [pooled, entry, latent], strengths, steps=5)
    figure = figures.edit_grid(swept, samples=["a two", "a five"])
    written(figure, tmp_path / "strips.png")
    told = texts(figure)
    rows = ["attention", "pca 0", "local"]
    assert [one for one in told if one in (*rows, "a two", "a five")] == [
        "a two", *rows, "a five", *rows,
    ]  # fmt: skip
    assert len(framed(figure)) == 6
