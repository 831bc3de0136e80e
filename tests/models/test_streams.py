"""Blocks with a text and an image stream, and blocks that no table knows."""

import copy

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from pullback import LatentModel, local_basis, maps
from pullback.testing import dense_jacobian, sine
from tests.models import by_hand, families
from tests.models.by_hand import check

TRANSFORMERS = ["SD3Transformer2DModel", "FluxTransformer2DModel"]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_block_of_two_streams_is_read_as_the_image(name):
    case, model = by_hand.case(name), families.model_of(name)
    tokens = 4 * 4  # of patches of 2 x 2; the prompt has another number
    assert tokens != families.WORDS
    # Listing the taps runs the network with the null condition.
    taps = families.with_null(model, case.cond).taps()
    assert {tap.path: tap.shape[0] for tap in taps} == dict.fromkeys(model.blocks(), tokens)
    for path in [None, *model.blocks()]:
        value = maps.encoder(model, path).at(case.x, case.t, case.cond).value()
        moved = maps.encoder(model, path).at(case.x + 0.1, case.t, case.cond).value()
        assert value.shape[1] == tokens, path
        # Image tokens start from x: each of them moves.
        assert ((moved - value).abs().amax(2) > 0).all(), path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("SD3Transformer2DModel", "transformer_blocks.1"),
        ("FluxTransformer2DModel", "transformer_blocks.0"),
        ("FluxTransformer2DModel", "single_transformer_blocks.0"),
    ],
)
def test_the_text_stream_would_give_another_basis(name, path):
    """It moves with x as well, so no check of the products could tell."""
    case, model = by_hand.case(name), families.model_of(name)
    image = local_basis(model, case.x, case.t, 3, path, case.cond, quality="draft")
    same = local_basis(model, case.x, case.t, 3, (path, 1), case.cond, quality="draft")
    text = local_basis(model, case.x, case.t, 3, (path, 0), case.cond, quality="draft")
    assert torch.equal(same.v, image.v)
    assert text.u.shape[2] == families.WORDS
    assert text.u.shape != image.u.shape
    assert (text.s > 0).all()
    assert sine(text.v, torch.linalg.qr(image.v.double().flatten(2).mT).Q.mT).min() > 0.3


def test_the_last_block_of_sd3_has_no_text_stream_to_read():
    case = by_hand.case("SD3Transformer2DModel")
    model = families.model_of("SD3Transformer2DModel")
    bound = maps.encoder(model, ("transformer_blocks.2", 0)).at(case.x, case.t, case.cond)
    with pytest.raises(TypeError, match="NoneType at index 0, not a tensor"):
        bound.value()


class TwoStreams(nn.Module):
    """A block that is in no table: text first, then the image."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(12, 12)

    def forward(self, text, image):
        mixed = torch.tanh(self.mix(image))
        return text + mixed.mean(1, keepdim=True), image + mixed


class Unknown(nn.Module):
    """A network of a user's own with such a block."""

    def __init__(self):
        super().__init__()
        self.block = TwoStreams()

    def forward(self, x, t, words):
        image = x.flatten(2).mT * (1 + t.view(-1, 1, 1) / 1000)
        _, image = self.block(words, image)
        return image.mT.reshape(x.shape)


def test_an_unknown_block_with_several_outputs_asks_which():
    network = Unknown().eval()
    model = LatentModel(network, DDPMScheduler(), latent_shape=(12, 2, 2))
    x, cond = torch.randn(1, 12, 2, 2), {"words": torch.randn(1, 3, 12)}
    with pytest.raises(TypeError, match=r"TwoStreams.*tap=\('block', index\)"):
        local_basis(model, x, 500, 2, "block", cond)
    found = local_basis(model, x, 500, 2, ("block", 1), cond)
    double = copy.deepcopy(network).double()

    def f(x):
        image = x.flatten(2).mT * 1.5
        return image + torch.tanh(double.block.mix(image))

    check(found, dense_jacobian(f, x, mode="reverse"))
    assert found.provenance["tap"] == "block:1"


def test_a_block_of_a_users_own_in_a_known_network_asks_which():
    model = families.model_of("SD3Transformer2DModel")
    case = by_hand.case("SD3Transformer2DModel")
    block = model.network.transformer_blocks[1]
    block.__class__ = type("MyBlock", (type(block),), {})
    with pytest.raises(TypeError, match=r"MyBlock.*tap=\('transformer_blocks.1', index\)"):
        local_basis(model, case.x, case.t, 2, None, case.cond)
    found = local_basis(
        model, case.x, case.t, 2, ("transformer_blocks.1", 1), case.cond, quality="draft"
    )
    stock = families.model_of("SD3Transformer2DModel")
    expected = local_basis(stock, case.x, case.t, 2, None, case.cond, quality="draft")
    assert torch.equal(found.v, expected.v)
