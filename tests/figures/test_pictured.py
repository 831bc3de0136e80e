"""Clean latents as pictures: by the pipeline's own autoencoder, where there is one."""

import pytest
import torch
from PIL import Image

import pullback
from pullback import figures
from pullback.cli.pictures import data_of
from tests.models import hub, pipelines


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return pullback.load(pipelines.stable_diffusion(tmp_path_factory.mktemp("words")))


def test_latents_of_a_pipeline_are_shown_as_its_images(model):
    latents = torch.randn(2, 3, 5, *model.latent_shape)
    found = figures.pictured(model, latents)
    assert found.shape == (2, 3, 5, 3, 8, 8)
    expected = model.images_of(latents[1, 2])
    torch.testing.assert_close(found[1, 2], expected, rtol=1e-4, atol=1e-5)


def test_pixels_are_shown_as_they_are(digits):
    images = torch.rand(2, 1, 3, *digits.latent_shape)
    assert torch.equal(figures.pictured(digits, images), images)


def test_latents_whose_images_are_not_known_are_shown_themselves(tmp_path):
    """Stable Video Diffusion has frames before channels."""
    name = "Stable Video Diffusion"
    video = pullback.load(hub.BUILDERS[name](tmp_path), call=hub.call_of(name))
    latents = torch.randn(2, 1, 3, *video.latent_shape)
    assert torch.equal(figures.pictured(video, latents), latents.movedim(-3, -4))


def test_an_image_file_becomes_the_latents_of_the_autoencoder(model, tmp_path):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    image.save(tmp_path / "image.png")
    found = data_of(model, tmp_path / "image.png")
    assert torch.equal(found, model.latents_of([image])[0])
    image.convert("L").save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match=r"grey\.png: .*mode 'RGB', got 'L'"):
        data_of(model, tmp_path / "grey.png")
