"""Figures of transport, global directions and paths: what stands where, and what does not fit."""

import numpy as np
import pytest
import torch

from pullback import figures
from tests.figures.test_pages import texts, written

SHAPES = [(1, 16, 16), (3, 64, 64), (4, 8, 8), (3, 5, 8, 8), (2, 64), (9, 300)]


def block(rng, t=500, samples=3, shape=(1, 4, 4)):
    images = torch.randn(4, samples, *shape, generator=rng).tanh()
    return figures.TransportBlock(t, images, torch.linspace(1, 0.25, samples))


def written_matrix(figure):
    """The texts in the cells of the first panel of a matrix."""
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_transport_grid_shows_every_kind_of_latent(rng, tmp_path, shape):
    blocks = [block(rng, t, shape=shape) for t in (900, 200)]
    figure = figures.transport_grid(
        blocks, samples=["seed 0", "seed 4", "seed 7"], strength=8.0, chance=0.04
    )
    written(figure, tmp_path / "transport.png")
    told = texts(figure)
    assert told[0] == "Parallel transport from seed 0"
    assert any("0.04 of a random one" in one for one in told)
    assert told.count("source") == 1
    assert told.count("target") == 2
    for label in ("without edit", "carried +8", "carried −8", "copied +8", "retained"):
        assert told.count(label) == 2, label
    assert [one for one in told if one.startswith("t = ")] == ["t = 900", "t = 200"]
    # What each target retains; of the source there is nothing to tell.
    assert [one for one in told if one in ("1.00", "0.62", "0.25")] == ["0.62", "0.25"] * 2


def test_each_image_of_a_transport_grid_is_in_its_place(rng):
    blocks = [block(rng, t) for t in (900, 200)]
    drawn = figures.transport_grid(blocks).axes[0].images
    rows = sorted({round(one.get_extent()[3], 6) for one in drawn})
    columns = sorted({round(one.get_extent()[0], 6) for one in drawn})
    assert (len(rows), len(columns)) == (2 * 4, 3)
    assert columns[1] - columns[0] > columns[2] - columns[1], "the source stands apart"
    for one in drawn:
        left, _, _, top = one.get_extent()
        row, column = rows.index(round(top, 6)), columns.index(round(left, 6))
        expected = blocks[row // 4].images[row % 4, column, 0] / 2 + 0.5
        assert np.allclose(one.get_array(), expected, atol=1e-6)


def test_blocks_that_do_not_fit_are_left_out_and_it_says_so(rng, tmp_path):
    figure = figures.transport_grid([block(rng, t) for t in range(900, 0, -50)])
    written(figure, tmp_path / "transport.png")
    told = texts(figure)
    shown = sum(one.startswith("t = ") for one in told)
    assert any(f"The first {shown} of 18 timesteps." in one for one in told)


def test_blocks_of_other_samples_are_refused(rng):
    with pytest.raises(ValueError, match="blocks of the same images"):
        figures.transport_grid([block(rng), block(rng, samples=2)])
    with pytest.raises(ValueError, match="blocks of the same images"):
        figures.transport_grid([])
    with pytest.raises(ValueError, match="3 names of samples, got 1"):
        figures.transport_grid([block(rng)], samples=["one"])
    found = block(rng)
    wrong = figures.TransportBlock(500, found.images[:3], found.retained)
    with pytest.raises(ValueError, match=r"images \[4, S, ...\]"):
        figures.transport_grid([wrong])


@pytest.mark.parametrize("count", [2, 6, 14])
def test_matrices_have_one_scale(rng, tmp_path, count):
    distances = {t: 3 * torch.rand(count, count, generator=rng) for t in (900, 500)}
    figure = figures.distance_matrix(distances, random=4.8, title="Spaces")
    written(figure, tmp_path / "angles.png")
    panels = [axes for axes in figure.axes if axes.images]
    assert [panel.get_title() for panel in panels] == ["t = 900", "t = 500"]
    for panel, matrix in zip(panels, distances.values(), strict=True):
        (image,) = panel.images
        assert np.allclose(image.get_array(), matrix)
        assert image.get_clim() == (0.0, pytest.approx(1.04 * 4.8))
    values = distances[900].flatten().tolist()
    assert written_matrix(figure) == ([f"{one:.1f}" for one in values] if count < 10 else [])
    assert any("4.80, that of random ones" in text.get_text() for text in figure.texts)


def test_matrices_that_are_none(rng):
    with pytest.raises(ValueError, match=r"\[S, S\] of one size"):
        figures.distance_matrix({900: torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=r"\[S, S\] of one size"):
        figures.distance_matrix({900: torch.zeros(2, 2), 500: torch.zeros(3, 3)})
    with pytest.raises(ValueError, match=r"\[S, S\] of one size"):
        figures.distance_matrix({})


@pytest.mark.parametrize("shape", SHAPES)
def test_a_grid_of_global_directions(rng, tmp_path, shape):
    images = torch.randn(2, 3, 3, *shape, generator=rng).tanh()
    retained = torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])
    figure = figures.global_grid(images, retained, samples=["a", "b", "c"], strength=4.0)
    written(figure, tmp_path / "global.png")
    told = texts(figure)
    assert any("Strengths −4, 0, +4" in one for one in told)
    # Sample by sample, from the first direction on.
    assert [one for one in told if one.startswith("0.")] == [
        f"{float(one):.2f}" for one in retained.T.flatten()
    ]
    frames = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    assert len(frames) == 2 * 3, "what is not edited"
    with pytest.raises(ValueError, match=r"images \[D, B, 3, ...\]"):
        figures.global_grid(images, retained.T)


def test_curves_are_means_in_their_bands(tmp_path):
    found = {
        "lerp": torch.tensor([[1.0, 3.0], [2.0, 2.0]]),
        "slerp": torch.tensor([[0.5, 0.5], [1.0, 2.0]]),
    }
    figure = figures.path_curves(found, t=500)
    written(figure, tmp_path / "path.png")
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert lines == {"lerp, length 4.00": [2.0, 2.0], "slerp, length 2.00": [0.5, 1.5]}
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1.0, 3.0)
    assert "Mean, least and largest of 2 pairs" in texts(figure)
    assert "t = 500" in axes.get_title(loc="left")


def test_curves_of_one_pair_have_no_band(tmp_path):
    figure = figures.path_curves({"lerp": torch.tensor([[1.0], [2.0], [0.0]])})
    written(figure, tmp_path / "path.png")
    assert not figure.axes[0].collections
    assert "One pair" in texts(figure)


@pytest.mark.parametrize(
    "found", [{}, {"lerp": torch.ones(3)}, {"a": torch.ones(3, 2), "b": torch.ones(3, 1)}]
)
def test_curves_that_are_none(found):
    with pytest.raises(ValueError, match=r"distances \[segments, B\]"):
        figures.path_curves(found)


@pytest.mark.parametrize("shape", SHAPES)
def test_images_along_paths(rng, tmp_path, shape):
    found = {kind: torch.randn(5, *shape, generator=rng).tanh() for kind in ("lerp", "shooting")}
    figure = figures.path_images(found, gaps={"lerp": 0.0, "shooting": 0.71})
    written(figure, tmp_path / "images.png")
    told = texts(figure)
    assert [one for one in told if one in found] == ["lerp", "shooting"]
    heads = ["0", "0.25", "0.5", "0.75", "1"]
    assert [one for one in told if one in heads] == heads
    (rule,) = [one for one in told if "leads to" in one]
    assert "shooting misses the end by 0.71" in rule
    assert "lerp" not in rule
    with pytest.raises(ValueError, match="same points of every kind"):
        figures.path_images({"lerp": found["lerp"], "slerp": found["lerp"][:3]})
