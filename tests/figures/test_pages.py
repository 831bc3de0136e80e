"""Figures: they render for every kind of latent and at the edges, into valid files."""

import struct

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from pullback import figures


def latents(rng, *shape):
    return torch.randn(*shape, generator=rng)


def walk(rng, t=500, k=4, steps=7, shape=(1, 16, 16)):
    return figures.Walk(
        t=t,
        latent=latents(rng, *shape),
        image=latents(rng, *shape).tanh(),
        v=latents(rng, k, *shape),
        s=torch.linspace(9, 1, k),
        lengths=torch.linspace(-0.5, 0.5, steps),
        moved=latents(rng, k, steps, *shape).tanh(),
    )


def written(figure, path):
    """The pixels of a saved figure, after checks that every figure must pass."""
    assert isinstance(figure, Figure)
    figures.save(figure, path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert 400 <= width <= 4000
    assert 200 <= height <= 4000
    pixels = imread(path)[:, :, :3]
    assert pixels.std() > 0.02, "a blank sheet"
    edges = (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:])
    assert min(edge.min() for edge in edges) > 0.99, "something is cut off at the border"
    return pixels


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize(
    "shape",
    [(1, 16, 16), (3, 8, 8), (4, 8, 8), (1, 8, 16), (4, 5, 8, 8), (3, 2, 8, 4), (2, 24), (24,)],
)
def test_directions_show_every_kind_of_latent(rng, tmp_path, shape):
    figure = figures.directions(
        500,
        latents(rng, 3, *shape),
        latents(rng, 3, *shape).tanh(),
        latents(rng, 3, 5, *shape),
        torch.linspace(20, 2, 5).expand(3, 5),
    )
    written(figure, tmp_path / "figure.png")
    assert "$s$ = 20.0" in texts(figure)
    assert "$v_{5}$" in texts(figure)
    assert "$v_{6}$" not in texts(figure)


def test_the_frames_of_a_video_are_side_by_side_in_rows():
    """Three frames of 2 × 3 in two rows of two, of which the last is empty."""
    video = torch.arange(1.0, 4.0)[None, :, None, None].expand(1, 3, 2, 3)
    figure = figures.directions(500, video[None], video[None], video[None, None], torch.ones(1, 1))
    shown = figure.axes[0].images[-1].get_array()  # the direction
    expected = torch.tensor([[1.0, 2.0], [3.0, 0.0]]).kron(torch.ones(2, 3))
    assert torch.equal(torch.as_tensor(shown.data), expected)


def signals(figure):
    """The lines of a figure in the order they are drawn, without those at zero: x, and y upwards.

    y counts from the line at zero, and both are in inches.
    """
    lines = [line.get_xydata() for line in figure.axes[0].lines]
    assert all(np.ptp(zero[:, 1]) == 0 for zero in lines[::2])
    return [
        np.stack([drawn[:, 0], zero[0, 1] - drawn[:, 1]])
        for zero, drawn in zip(lines[::2], lines[1::2], strict=True)
    ]


def test_a_signal_is_a_line_for_each_channel(rng, tmp_path):
    """x_t and directions are on their own scale, what is denoised on one from -1 to 1."""
    x, v = latents(rng, 1, 2, 64), latents(rng, 1, 1, 2, 64) / 8
    image = latents(rng, 1, 2, 64).tanh() / 2
    figure = figures.directions(500, x, image, v, torch.ones(1, 1))
    written(figure, tmp_path / "figure.png")
    assert not figure.axes[0].images
    assert any("One line for each channel." in text for text in texts(figure))
    found = np.stack(signals(figure)).reshape(3, 2, 2, 64)  # tile, channel, x or y, position
    assert np.allclose(np.diff(found[:, :, 0]), np.diff(found[0, 0, 0])[0])
    for shown, tile, limit in zip((x[0], image[0], v[0, 0]), found, (None, 1.0, None), strict=True):
        limit = float(shown.abs().max()) if limit is None else limit
        height = np.abs(found[0, :, 1]).max()  # of what reaches the limit
        assert np.allclose(tile[:, 1], shown.numpy() / limit * height, atol=1e-6)
    zeros = sorted({line.get_ydata()[0] for line in figure.axes[0].lines[::2]})
    assert len(zeros) == 2, "the channels lie below each other, and at one height in all tiles"
    largest = np.abs(found[[0, 2], :, 1]).max()
    assert largest < (zeros[1] - zeros[0]) / 2, "no channel reaches into another"


def test_a_direction_of_a_signal_is_red_above_zero_and_blue_below():
    v = torch.tensor([[[[0.0, 1.0, 0.0, -0.5, 0.0]]]])
    figure = figures.directions(1, v[0], v[0], v, torch.ones(1, 1))
    above, below = figure.axes[0].collections
    zero = figure.axes[0].lines[-2].get_ydata()[0]
    for filled, low, high in ((above, -1.0, 0.0), (below, 0.0, 0.5)):  # y runs downwards
        y = np.concatenate([path.vertices[:, 1] for path in filled.get_paths()]) - zero
        scale = zero - above.get_paths()[0].vertices[:, 1].min()
        assert np.isclose(y.min(), low * scale)
        assert np.isclose(y.max(), high * scale)
    assert above.get_facecolor()[0][0] > 2 * above.get_facecolor()[0][2]
    assert below.get_facecolor()[0][2] > 2 * below.get_facecolor()[0][0]


def test_the_signals_of_a_row_have_one_scale(rng, tmp_path):
    shown = walk(rng, k=2, steps=3, shape=(1, 32))
    shown.moved[0, 2] *= 7
    figure = figures.strips([shown], "Sample 0")
    written(figure, tmp_path / "figure.png")
    for row, moved in zip(
        np.stack(signals(figure))[:, 1].reshape(2, 3, 32), shown.moved, strict=True
    ):
        moved = moved[:, 0].numpy()
        height = np.abs(row).max() / np.abs(moved).max()
        assert np.allclose(row, moved * height, atol=1e-6)
    assert len(figure.axes[0].patches) == 2 * 3 + 2, "a ground each, and a frame in the middle"


@pytest.mark.parametrize("shape", [(2, 64), (64,), (9, 300)])
def test_whole_pages_of_signals(rng, tmp_path, shape):
    pages = [[walk(rng, t, shape=shape) for t in (900, 500)] for _ in range(2)]
    written(figures.overview(pages, "Overview"), tmp_path / "overview.png")
    written(figures.strips(pages[0], "Sample 0"), tmp_path / "strips.png")


def test_many_channels_of_a_signal_are_the_rows_of_a_picture(rng):
    x = latents(rng, 1, 9, 24)
    figure = figures.directions(500, x, x, x[:, None], torch.ones(1, 1))
    assert not figure.axes[0].lines
    shown = figure.axes[0].images[-1]
    assert torch.equal(torch.as_tensor(shown.get_array().data), x[0])
    left, right, bottom, top = shown.get_extent()
    assert right - left > bottom - top, "it fills its tile, whatever its numbers"
    assert any("One row for each channel." in text for text in texts(figure))


def test_directions_of_one_sample_and_one_direction(rng, tmp_path):
    one = latents(rng, 1, 1, 16, 16)
    figure = figures.directions(0, one, one, one[:, None], torch.zeros(1, 1))
    written(figure, tmp_path / "figure.png")


def test_directions_show_no_more_rows_and_columns_than_asked(rng):
    x = latents(rng, 20, 1, 8, 8)
    figure = figures.directions(
        1, x, x, latents(rng, 20, 12, 1, 8, 8), torch.ones(20, 12), samples=3, count=2
    )
    assert len(figure.axes[0].images) == 3 * (2 + 2)


def test_a_direction_of_one_channel_is_white_at_zero_and_red_above(tmp_path):
    v = torch.zeros(1, 1, 1, 2, 2)
    v[..., 0, 0], v[..., 1, 1] = 1.0, -0.5
    figure = figures.directions(1, v[0], v[0], v, torch.ones(1, 1))
    shown = figure.axes[0].images[-1]
    red, _, blue = shown.cmap(shown.norm(shown.get_array()[0, 0]))[:3]
    assert red > 2 * blue
    zero = shown.cmap(shown.norm(shown.get_array()[0, 1]))[:3]
    assert min(zero) > 0.95


@pytest.mark.parametrize("timesteps", [(900,), (900, 500), (900, 700, 500, 200, 100)])
def test_spectrum_has_a_line_per_timestep(rng, tmp_path, timesteps):
    s = latents(rng, 6, 12).abs().sort(dim=1, descending=True).values
    figure = figures.spectrum({t: s * t for t in timesteps})
    written(figure, tmp_path / "figure.png")
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == [f"t = {t}" for t in timesteps]


def test_spectrum_leaves_out_zeros(tmp_path):
    s = torch.tensor([[4.0, 2.0, 0.0], [3.0, 1.0, 0.0]])
    figure = figures.spectrum({10: s})
    written(figure, tmp_path / "figure.png")
    median = figure.axes[0].lines[0].get_ydata()
    assert np.isfinite(median[:2]).all()
    assert np.isnan(median[2])


@pytest.mark.parametrize("s", [torch.ones(1, 1), torch.zeros(2, 3)])
def test_spectrum_of_next_to_nothing(tmp_path, s):
    figures.save(figures.spectrum({10: s}), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 8, 8)])
@pytest.mark.parametrize(
    ("timesteps", "k"), [((900, 700, 500, 200), 4), ((500,), 1), ((9, 5, 2), 3)]
)
def test_strips(rng, tmp_path, shape, timesteps, k):
    walks = [walk(rng, t, k, shape=shape) for t in timesteps]
    figure = figures.strips(walks, "Sample 0")
    written(figure, tmp_path / "figure.png")
    assert len(figure.axes[0].images) == len(timesteps) * k * 7
    found = texts(figure)
    assert [text for text in found if text.startswith("t = ")] == [f"t = {t}" for t in timesteps]
    assert found.count("0") == len(timesteps), "the middle column is labelled 0"
    assert "−0.50" in found
    assert "+0.50" in found


@pytest.mark.parametrize(("samples", "timesteps", "k"), [(2, (900, 500, 200), 4), (1, (500,), 1)])
def test_overview(rng, tmp_path, samples, timesteps, k):
    pages = [[walk(rng, t, k) for t in timesteps] for _ in range(samples)]
    figure = figures.overview(pages, "Overview")
    written(figure, tmp_path / "figure.png")


def test_a_failed_save_leaves_the_old_file_and_no_other(rng, tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure = figures.strips([walk(rng)], "Sample 0")

    def fail(name, **options):
        name.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(KeyboardInterrupt):
        figures.save(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
