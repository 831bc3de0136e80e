"""The gallery: which files it writes, of what, and how it tells its progress."""

import pytest
import torch
from matplotlib.figure import Figure

from pullback import basis, figures, maps
from pullback.figures.gallery import LENGTHS
from tests.models import hub

TIMESTEPS = (900, 200)


@pytest.fixture(scope="module")
def gallery(digits):
    """Makes a gallery of two samples of the digit model, of one of its maps."""

    def made(of=None):
        latents = {t: digits.sample_latents(2, t, seed=[4, 7]) for t in TIMESTEPS}
        of = maps.encoder(digits) if of is None else of
        bases = {t: basis(of, x, t, 2, quality="draft") for t, x in latents.items()}
        asked = []

        def condition(samples):
            asked.append(samples)
            return digits.encode(class_label=[3, 5][samples])

        found = figures.Gallery(digits, "Digits", latents, bases, (4, 7), condition)
        return found, asked

    return made


def test_it_writes_what_it_tells_in_as_many_steps_as_it_says(gallery, tmp_path):
    found, asked = gallery()
    steps = []
    written = found.draw(tmp_path, lambda: steps.append(1))
    assert list(written) == [
        "overview.png", "spectrum.png", "directions_t0900.png", "directions_t0200.png",
        "strips_sample00.png", "strips_sample01.png",
    ]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == set(written)
    assert len(steps) == found.steps
    assert slice(1, 2) in asked, "each sample is denoised under its own condition"
    assert slice(0, 2) in asked


def test_directions_of_features_are_not_drawn_as_latents(gallery, digits, tmp_path):
    found, asked = gallery(maps.decoder(digits))
    steps = []
    assert list(found.draw(tmp_path, lambda: steps.append(1))) == ["spectrum.png"]
    assert len(steps) == found.steps == 1
    assert asked == []


@pytest.mark.parametrize(
    ("name", "axis"), [("CogVideoX", 1), ("Stable Video Diffusion", 1), ("Wan", 0)]
)
def test_frames_of_a_video_are_frames_wherever_its_latents_have_them(
    tmp_path, monkeypatch, name, axis
):
    """Latents of CogVideoX are [F, C, H, W], those of Wan [C, F, H, W]: pages show the latter."""
    model = hub.Case(name, hub.BUILDERS[name](tmp_path)).model
    assert model.family.channel_axis == axis
    shape = model.latent_shape
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(3))
    found = basis(maps.output(model, "noise"), x, 80, 2, quality="draft", max_products=200)
    pages = {}

    def page(kind):
        def record(*args, **_options):
            pages.setdefault(kind, args)
            return Figure()

        return record

    for kind in ("directions", "strips", "overview"):
        monkeypatch.setattr(f"pullback.figures.gallery.{kind}", page(kind))
    gallery = figures.Gallery(model, "Video", {80: x}, {80: found}, (3,), lambda _: None)
    gallery.draw(tmp_path)

    (walk,) = pages["strips"][0]
    _, latents, images, v, _ = pages["directions"]
    for shown, own in ((walk.latent, x[0]), (latents, x), (walk.v, found.v[0]), (v, found.v)):
        assert torch.equal(shown, own.transpose(-4, -3) if axis else own)
    channels_first = (shape[axis], shape[1 - axis], *shape[2:])
    assert images.shape[1:] == walk.image.shape == channels_first
    assert walk.moved.shape == (2, len(LENGTHS), *channels_first)


def test_clearing_removes_figures_alone(tmp_path):
    for name in ("overview.png", "spectrum.png", "directions_t0005.png", "strips_sample12.png"):
        (tmp_path / name).write_bytes(b"old")
    for name in ("mine.png", "summary.json", "basis_t0005.safetensors"):
        (tmp_path / name).write_bytes(b"kept")
    figures.clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "mine.png",
        "summary.json",
        "basis_t0005.safetensors",
    }
