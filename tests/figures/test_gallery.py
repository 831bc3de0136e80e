"""The gallery: which files it writes, of what, and how it tells its progress."""

import pytest

from pullback import basis, figures, maps

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
