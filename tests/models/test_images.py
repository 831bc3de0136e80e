"""Latents and images: what stands between them, against the pipelines' own images."""

import inspect
import warnings

import diffusers
import numpy
import pytest
import torch
from PIL import Image

from pullback.models import images as images_module
from tests.models import hub
from tests.models.callables import model_of

#: Those whose latents are refused, with what the message names.
REFUSED = {
    "Kandinsky 5": "Kandinsky5T2IPipeline",
    "Stable Audio": "AutoencoderOobleck",
    "Stable Cascade, decoder": "PaellaVQModel",
    "Stable Cascade, prior": "no autoencoder",
    "Stable Video Diffusion": "AutoencoderKLTemporalDecoder",
}
#: Those that decode like another of them.
ALIKE = {
    "Flux dev", "SDXL, ControlNet", "Stable Diffusion 3 without T5", "Stable Diffusion, FreeU",
    "Stable Diffusion, IP-Adapter", "Stable Diffusion, fused projections",
}  # fmt: skip
#: Those whose calls take no latents to start from; these are pixels, which nothing decodes.
STARTLESS = {"DeepFloyd IF"}
NAMES = sorted(set(hub.BUILDERS) - set(hub.REFUSED) - set(REFUSED) - ALIKE - STARTLESS)


def built(name, folder):
    """A tiny pipeline, whose autoencoder has means and deviations where it may have some."""
    case = hub.Case(name, hub.BUILDERS[name](folder))
    vae = getattr(case.pipeline, "vae", None)
    mean, std = [0.1, -0.2, 0.3, 0.05], [1.5, 0.8, 1.2, 0.7]
    if name == "Playground 2.5" or getattr(getattr(vae, "config", {}), "latents_mean", None):
        vae.register_to_config(latents_mean=mean, latents_std=std)
    elif name == "LTX-Video":
        vae.latents_mean, vae.latents_std = torch.tensor(mean), torch.tensor(std)
    elif name == "Flux 2":
        vae.bn.running_mean.copy_(torch.linspace(-0.3, 0.3, 16))
        vae.bn.running_var.copy_(torch.linspace(0.5, 2, 16))
    return case


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    return built(request.param, tmp_path_factory.mktemp("images"))


def run(case, kind):
    """What the pipeline's own call returns from the same start: its latents or its images."""
    given = case.given(case.pipeline, case.latents(1))
    torch.manual_seed(3)
    return case.pipeline(**given | {"output_type": kind}, return_dict=False)[0]


def as_images(found):
    """A pipeline's images or videos as ours: channels first, from −1 to 1."""
    found = torch.as_tensor(numpy.asarray(found))
    order = (0, 4, 1, 2, 3) if found.dim() == 5 else (0, 3, 1, 2)
    return 2 * found.permute(order) - 1


def own_latents(case):
    """The latents that the pipeline decodes, in the model's shape."""
    found = run(case, "latent")
    tokens = case.packs is not None or case.name in hub.UNPACKED
    if not tokens:
        return found.reshape(1, *case.model.latent_shape)
    index = torch.arange(case.latents(1).numel(), dtype=torch.float32)
    order = case.tokens(index.view(1, *case.model.latent_shape), found).flatten().long()
    latents = torch.empty(index.numel())
    latents[order] = found.flatten()
    return latents.view(1, *case.model.latent_shape)


def test_images_are_the_pipelines_own(case):
    latents, expected = own_latents(case), as_images(run(case, "np"))
    found = case.model.images_of(latents)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert (found - expected.float()).abs().max() <= 2e-4
    assert found.std() > 1e-3


def test_latents_of_images_have_the_shape_of_the_models(case):
    """What is decoded and encoded again is scaled back: both ways are linear in the scaling."""
    images = case.model.images_of(case.latents(2))
    latents = case.model.latents_of(images)
    assert latents.shape == (2, *case.model.latent_shape)
    assert bool(latents.isfinite().all())
    alone = case.model.latents_of(images[1:])
    torch.testing.assert_close(latents[1:], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_nobody_has_stated_is_refused(name, tmp_path):
    case = hub.Case(name, hub.BUILDERS[name](tmp_path))
    with pytest.raises(ValueError, match=REFUSED[name]):
        case.model.images_of(case.latents(1))
    with pytest.raises(ValueError, match=REFUSED[name]):
        case.model.latents_of(torch.zeros(1, 3, 8, 8))


#: Pipelines of diffusers that start from images, with the same parts.
OTHERS = {
    "CosXL": "StableDiffusionXLImg2ImgPipeline",
    "Flux": "FluxImg2ImgPipeline",
    "Playground 2.5": "StableDiffusionXLImg2ImgPipeline",
    "Qwen-Image": "QwenImageImg2ImgPipeline",
    "Stable Diffusion": "StableDiffusionImg2ImgPipeline",
    "Stable Diffusion 3": "StableDiffusion3Img2ImgPipeline",
    "Stable Diffusion XL": "StableDiffusionXLImg2ImgPipeline",
}


class Silent:
    """A scheduler that adds no noise, and keeps what it should have been added to."""

    def __init__(self):
        self.seen = None

    def add_noise(self, latents, *_):
        self.seen = latents
        return latents

    scale_noise = add_noise


def from_images(case, images):
    """The latents that diffusers' own pipeline from images makes, before it adds noise."""
    kind = getattr(diffusers, OTHERS[case.name])
    taken = inspect.signature(kind.__init__).parameters
    other = kind(**{name: v for name, v in case.pipeline.components.items() if name in taken})
    generator = torch.Generator().manual_seed(0)
    if hasattr(other, "_encode_vae_image"):
        if case.name == "Qwen-Image":
            images = images.unsqueeze(2)
        found = other._encode_vae_image(image=images, generator=generator)
        return found[:, :, 0] if found.dim() == 5 else found
    other.scheduler = silent = Silent()
    given = {
        "image": images, "timestep": torch.tensor([500]), "batch_size": len(images),
        "num_images_per_prompt": 1, "dtype": torch.float32, "device": torch.device("cpu"),
        "generator": generator,
    }  # fmt: skip
    other.prepare_latents(**given)
    return silent.seen


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_latents_are_those_of_the_pipelines_that_start_from_images(name, tmp_path):
    """The tiny autoencoders draw nothing: their deviation is set to none."""
    case = built(name, tmp_path)
    generator = torch.Generator().manual_seed(1)
    shape = case.model.images_of(case.latents(1)).shape
    images = 2 * torch.rand(2, *shape[1:], generator=generator) - 1
    if name == "Qwen-Image":  # another kind of autoencoder, whose draws are not silenced
        mode = case.pipeline.vae.encode(images.unsqueeze(2)).latent_dist.mode()
        config = case.pipeline.vae.config
        mean, std = (
            torch.tensor(one).view(1, -1, 1, 1) for one in (config.latents_mean, config.latents_std)
        )
        expected = (mode[:, :, 0] - mean) / std
    else:
        expected = from_images(case, images)
    found = case.model.latents_of(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return built("Stable Diffusion", tmp_path_factory.mktemp("images")).model


def drawn(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_images_of_every_form_are_the_same(model):
    images = drawn(2, 3, 8, 8)
    array = images.permute(0, 2, 3, 1).numpy()
    expected = model.latents_of(images.double() / 127.5 - 1)
    pillow = [Image.fromarray(one) for one in array]
    for given in (images, array, pillow, tuple(pillow)):
        torch.testing.assert_close(model.latents_of(given), expected, rtol=1e-4, atol=1e-5)
    for one in (array[0], pillow[0]):
        torch.testing.assert_close(model.latents_of(one), expected[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 8, 9), r"\[B, 3, 8, 8\], got \[1, 3, 8, 9\]. Resize"),
        (torch.zeros(1, 1, 8, 8), r"\[B, 3, 8, 8\]"),
        (torch.zeros(3, 8, 8), r"\[B, 3, 8, 8\], got \[3, 8, 8\]"),
        (torch.zeros(0, 3, 8, 8), r"\[B, 3, 8, 8\], got \[0"),
        (torch.full((1, 3, 8, 8), 1.5), "from -1 to 1, got 1.5 to 1.5"),
        (torch.full((1, 3, 8, 8), torch.nan), "got nan"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "uint8 from 0 to 255 or float"),
        (numpy.zeros((1, 8, 8, 3)), "uint8 .* got float64"),
        (numpy.zeros((8, 8), numpy.uint8), r"got uint8 \[8, 8\]"),
        (numpy.zeros((3, 8, 8), numpy.uint8), r"\[B, 3, 8, 8\]"),
        ([], "at least one image"),
        (Image.new("RGBA", (8, 8)), r"'RGB', got 'RGBA'. Convert them with image.convert"),
        (Image.new("P", (8, 8)), "got 'P'"),
        (Image.new("L", (8, 8)), "got 'L'"),
        (Image.new("RGB", (8, 16)), r"8 x 8, got 8 x 16. Resize"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (16, 8))], "16 x 8"),
    ],
)
def test_images_of_another_kind_are_refused(model, images, message):
    with pytest.raises(ValueError, match=message):
        model.latents_of(images)


@pytest.mark.parametrize("images", ["cat.png", 3, None, [torch.zeros(3, 8, 8)], ["cat.png"]])
def test_what_is_no_image_is_refused(model, images):
    with pytest.raises(TypeError, match="Expected"):
        model.latents_of(images)


def test_a_scale_from_0_to_1_is_suspected(model):
    images = torch.rand(1, 3, 8, 8)
    with pytest.warns(UserWarning, match=r"scale from 0 to 1.*2 \* images - 1"):
        model.latents_of(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.latents_of(2 * images - 1)


def test_an_autoencoder_of_another_dtype(tmp_path):
    """Of float64 here; the latents are of the network's."""
    case = built("Stable Diffusion", tmp_path)
    x = case.latents(1)
    expected = case.model.images_of(x)
    case.pipeline.vae.double()
    found = case.model.images_of(x)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)
    assert case.model.latents_of(found).dtype == torch.float32
    case.pipeline.vae.half()
    case.pipeline.vae.register_to_config(force_upcast=True)
    found = case.model.images_of(x)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    assert case.pipeline.vae.dtype == torch.float16


def test_pixels_are_images_themselves(digits):
    x = 3 * torch.randn(2, 1, 16, 16)
    assert torch.equal(digits.images_of(x), x.clamp(-1, 1))
    images = drawn(2, 1, 16, 16)
    assert torch.equal(digits.latents_of(images), images / 127.5 - 1)
    pillow = [Image.fromarray(one[0].numpy()) for one in images]
    assert torch.equal(digits.latents_of(pillow), images / 127.5 - 1)
    with pytest.raises(ValueError, match="'L', got 'RGB'"):
        digits.latents_of(Image.new("RGB", (16, 16)))


def test_latents_of_a_network_alone_are_no_images():
    model = model_of(lambda x, t: x)
    with pytest.raises(ValueError, match=r"no autoencoder.*Load the whole pipeline"):
        model.images_of(torch.zeros(1, 2, 3, 2, dtype=torch.float64))


def test_bad_latents_have_no_images(model):
    with pytest.raises(ValueError, match="Expected latents of shape"):
        model.images_of(torch.zeros(1, 4, 8, 9))
    with pytest.raises(ValueError, match="NaN or Inf"):
        model.images_of(torch.full((1, 4, 8, 8), torch.nan))


def test_the_size_of_images_is_found_without_decoding_them_whole(tmp_path, monkeypatch):
    case = built("Sana", tmp_path)
    between = images_module.autoencoder_of(case.pipeline, (4, 32, 16), "it")
    factor = case.model.images_of(case.latents(1)).shape[-1] // case.model.latent_shape[-1]
    seen, own = [], case.pipeline.vae.decode
    monkeypatch.setattr(case.pipeline.vae, "decode", lambda z, **_: seen.append(z.shape) or own(z))
    assert between.image_shape == (3, 32 * factor, 16 * factor)
    assert [tuple(shape) for shape in seen] == [(1, 4, 8, 8)]
