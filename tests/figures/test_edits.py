"""Figures of edits: every kind of latent, labels, frames, and what does not fit."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from pullback import figures
from pullback.editing import Sweep
from tests.figures.test_pages import texts, written
from tests.models import hub

STRENGTHS = (-8.0, -0.5, 0.0, 8.0)


def sweep(rng, b=2, d=2, strengths=STRENGTHS, shape=(1, 16, 16), names=None, t=500, stop=-1):
    latents = torch.randn(b, d, len(strengths), *shape, generator=rng).tanh()
    names = tuple(f"v_{i + 1}" for i in range(d)) if names is None else names
    return Sweep(latents, strengths, names, t, stop, 1)


def framed(figure):
    """Left edges of the frames of a figure."""
    return [patch.get_x() for patch in figure.axes[0].patches if not patch.get_fill()]


@pytest.mark.parametrize(
    "shape",
    [(1, 16, 16), (3, 64, 64), (4, 8, 8), (1, 8, 16), (3, 5, 8, 8), (2, 64), (64,), (9, 300)],
)
def test_a_grid_shows_every_kind_of_latent(rng, tmp_path, shape):
    found = sweep(rng, shape=shape)
    figure = figures.edit_grid(found, samples=["seed 0", "a photograph"])
    written(figure, tmp_path / "grid.png")
    told = texts(figure)
    assert told[0] == "Edits at t = 500"
    assert [one for one in told if one in ("−8", "−0.5", "0", "+8")] == ["−8", "−0.5", "0", "+8"]
    assert told.count("$v_{1}$") == told.count("$v_{2}$") == 2
    assert told.count("seed 0") == told.count("a photograph") == 1
    assert len(framed(figure)) == 2 * 2
    assert len({round(left, 6) for left in framed(figure)}) == 1, "one column"


def test_each_image_is_in_its_place(rng):
    found = sweep(rng, shape=(1, 4, 4))
    drawn = figures.edit_grid(found).axes[0].images
    places = [one.get_extent() for one in drawn]
    rows = sorted({round(top, 6) for _, _, _, top in places})
    columns = sorted({round(left, 6) for left, _, _, _ in places})
    assert (len(rows), len(columns)) == (2 * 2, 4)
    for one, (left, _, _, top) in zip(drawn, places, strict=True):
        row, column = rows.index(round(top, 6)), columns.index(round(left, 6))
        expected = found.latents[row // 2, row % 2, column, 0] / 2 + 0.5
        assert np.allclose(one.get_array(), expected.numpy(), atol=1e-6)
        assert one.get_clim() == (0.0, 1.0), "one scale for all"


def test_without_the_strength_0_nothing_is_framed(rng, tmp_path):
    figure = figures.edit_grid(sweep(rng, strengths=(1.0, 2.0)))
    written(figure, tmp_path / "grid.png")
    assert not framed(figure)
    assert not any("framed" in one for one in texts(figure))


def test_images_are_shown_in_place_of_latents(rng):
    found = sweep(rng, b=1, d=1, shape=(4, 2, 2))
    images = torch.rand(1, 1, 4, 3, 16, 16, generator=rng) * 2 - 1
    drawn = figures.edit_grid(found, images).axes[0].images
    assert [one.get_array().shape for one in drawn] == [(16, 16, 3)] * 4
    with pytest.raises(ValueError, match=r"images \[B, D, K, ...\] of \[1, 1, 4\] edits"):
        figures.edit_grid(found, images[:, :, :2])


def test_long_names_are_cut_and_dollars_are_no_mathematics(rng, tmp_path):
    names = ("a$b$", "a direction with a name that is much too long for a page")
    figure = figures.edit_grid(sweep(rng, names=names), samples=["x_1", "s" * 80])
    written(figure, tmp_path / "grid.png")
    told = texts(figure)
    assert r"a\$b\$" in told
    assert "a direction with a na…" in told
    assert max(len(one) for one in told[3:]) <= 22
    with pytest.raises(ValueError, match="2 names of samples, got 1"):
        figures.edit_grid(sweep(rng), samples=["one"])


def test_rows_that_do_not_fit_are_left_out_and_it_says_so(rng, tmp_path):
    figure = figures.edit_grid(sweep(rng, b=40, d=3))
    written(figure, tmp_path / "grid.png")
    (rule,) = [one for one in texts(figure) if "rows" in one]
    count = len(figure.axes[0].images) // 4
    assert f"The first {count} of 120 rows." in rule
    assert count > 15


def test_a_strip_is_of_one_direction(rng, tmp_path):
    found = sweep(rng, b=3, d=2, shape=(1, 4, 4))
    figure = figures.edit_strip(found, 1, samples=["a", "b", "c"])
    written(figure, tmp_path / "strip.png")
    assert texts(figure)[0] == "Edits along $v_{2}$ at t = 500"
    expected = found.latents[:, 1, :, 0].flatten(0, 1) / 2 + 0.5
    for one, image in zip(figure.axes[0].images, expected, strict=True):
        assert np.allclose(one.get_array(), image.numpy(), atol=1e-6)


def test_one_direction_at_several_timesteps(rng, tmp_path):
    found = [sweep(rng, t=t) for t in (900, 500, 100)]
    figure = figures.edit_timesteps(found, sample=1, index=1)
    written(figure, tmp_path / "timesteps.png")
    told = texts(figure)
    assert [one for one in told if one.startswith("t = ")] == ["t = 900", "t = 500", "t = 100"]
    assert told[0] == "Edits along $v_{2}$ by timestep"
    first = figure.axes[0].images[0].get_array()
    assert np.allclose(first, found[0].latents[1, 1, 0, 0] / 2 + 0.5, atol=1e-6)
    with pytest.raises(ValueError, match="same strengths"):
        figures.edit_timesteps([found[0], sweep(rng, strengths=(1.0,))])


def test_latents_before_the_data_are_told_as_such(rng):
    assert any("Latents at t = 40." in one for one in texts(figures.edit_grid(sweep(rng, stop=40))))


def test_a_film_goes_there_and_back(rng, tmp_path):
    frames = figures.edit_frames(sweep(rng), samples=["seed 0", "seed 1"])
    assert len(frames) == len(STRENGTHS)
    for frame, strength in zip(frames, ("−8", "−0.5", "0", "+8"), strict=True):
        assert f"strength {strength}" in texts(frame)
        assert len(frame.axes[0].images) == 2 * 2
    assert len({tuple(frame.get_size_inches()) for frame in frames}) == 1
    path = tmp_path / "film.gif"
    figures.save_film(frames, path)
    with Image.open(path) as film:
        shown = [np.asarray(one.convert("RGB")).astype(int) for one in ImageSequence.Iterator(film)]
        assert film.info["loop"] == 0
    assert len(shown) == 2 * len(STRENGTHS) - 2
    for there, back in ((1, 5), (2, 4)):
        assert np.abs(shown[there] - shown[back]).mean() < 1
    with pytest.raises(ValueError, match="at least one figure"):
        figures.save_film([], path)


def test_a_film_of_one_strength_stands_still(rng, tmp_path):
    figures.save_film(figures.edit_frames(sweep(rng, strengths=(1.0,))), tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert getattr(film, "n_frames", 1) == 1


def test_an_album_writes_what_it_tells_in_as_many_steps_as_it_says(rng, digits, tmp_path):
    for film in (False, True):
        folder = tmp_path / str(film)
        folder.mkdir()
        album = figures.Album(digits, "Mine", sweep(rng), ["a", "b"], film)
        steps = []
        written = album.draw(folder, lambda steps=steps: steps.append(1))
        assert {path.name for path in folder.iterdir()} == set(written)
        assert ("edits.gif" in written) is film
        assert len(steps) == album.steps


@pytest.mark.parametrize(("name", "axis"), [("CogVideoX", 1), ("Wan", 0)])
def test_frames_of_a_video_come_behind_its_channels(tmp_path, name, axis):
    model = hub.Case(name, hub.BUILDERS[name](tmp_path)).model
    latents = torch.randn(2, 3, *model.latent_shape)
    shown = figures.shown(model, latents)
    assert torch.equal(shown, latents.transpose(2, 3) if axis else latents)
