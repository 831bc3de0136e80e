"""Directions from attention's weights: planted eigenvectors of every variant, and real networks."""

import copy

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import Attention, AttnAddedKVProcessor2_0
from torch import nn

import pullback
from pullback import LatentModel
from pullback.directions import VARIANTS, attention, attention_layers
from pullback.directions.weights_of_attention import read
from tests.models import families

C, HEADS = 8, 2
DESCENDING = torch.linspace(3.0, 0.4, C, dtype=torch.float64)
#: Others in another order, so that no two projections share their leading direction.
SHUFFLED = DESCENDING[torch.tensor([3, 0, 5, 1, 7, 2, 6, 4])]
NAMED = {"layer": "attention", "tap": "attention"}


class Planted(nn.Module):
    """One layer of diffusers between two convolutions."""

    def __init__(self, layer):
        super().__init__()
        self.lift = nn.Conv2d(2, C, 1)
        self.attention = layer
        self.drop = nn.Conv2d(C, 2, 1)

    def forward(self, x, t):
        return self.drop(self.attention(self.lift(x)))


def model_of(weights=None, *, norm=None, **changes):
    """A model in float64 around a layer with given weights, by the names of its projections."""
    settings = {
        "query_dim": C,
        "heads": HEADS,
        "dim_head": C // HEADS,
        "norm_num_groups": None if norm is None else 2,
        "bias": True,
    }
    network = Planted(Attention(**(settings | changes))).double().eval()
    projections = {"out": network.attention.to_out[0]}
    projections |= {one: getattr(network.attention, f"to_{one}") for one in "qkv"}
    with torch.no_grad():
        for name, weight in (weights or {}).items():
            projections[name].weight.copy_(weight)
        if norm is not None:
            network.attention.group_norm.weight.copy_(norm)
    return LatentModel(network, DDPMScheduler(), name="planted", latent_shape=(2, 4, 4))


def orthogonal(rows=C, columns=C):
    """Random orthonormal columns `[rows, columns]`."""
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64)).Q


def spectral(u, s, v):
    return u @ torch.diag(s) @ v.mT


def check(found, columns, values):
    """Compare with eigenvectors as columns, in any order and with any signs."""
    order = values.abs().argsort(descending=True)[: len(found)]
    rows = columns.mT[order]
    rows = rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    torch.testing.assert_close(found.values, values[order], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.vectors, rows, rtol=0, atol=1e-8)


@pytest.mark.parametrize("matrix", ["v", "q", "k"])
def test_a_projection_has_the_singular_vectors_that_were_planted(matrix):
    weights, truth = {}, {}
    for one in "qkv":
        u, v = orthogonal(), orthogonal()
        weights[one], truth[one] = spectral(u, SHUFFLED, v), (u, v)
    model = model_of(weights)
    u, v = truth[matrix]
    found = attention(model, **NAMED, matrix=matrix, rank=5)
    check(found, v, SHUFFLED**2)
    check(attention(model, **NAMED, matrix=matrix, side="output", rank=5), u, SHUFFLED**2)
    assert found.layer.name == found.tap == "attention"


def test_the_stack_adds_the_three_up():
    """Each has another leading direction of the same set, and the stack one of its own."""
    v = orthogonal()
    spectra = {"q": SHUFFLED, "k": SHUFFLED.flip(0), "v": SHUFFLED.roll(3)}
    model = model_of({one: spectral(orthogonal(), s, v) for one, s in spectra.items()})
    found = attention(model, **NAMED, matrix="qkv", rank=C)
    check(found, v, sum(s**2 for s in spectra.values()))


def pair(matrix, left, right):
    """Weights whose product is `left @ right`: of queries and keys, or of out and values."""
    return {"q": left.mT, "k": right} if matrix == "bilinear" else {"out": left, "v": right}


@pytest.mark.parametrize("matrix", ["bilinear", "ov"])
def test_a_product_has_the_singular_vectors_that_were_planted(matrix):
    a, b, between = orthogonal(), orthogonal(), orthogonal()
    model = model_of(pair(matrix, spectral(a, SHUFFLED, between), spectral(between, SHUFFLED, b)))
    check(attention(model, **NAMED, matrix=matrix, rank=4), b, SHUFFLED**4)
    check(attention(model, **NAMED, matrix=matrix, side="output", rank=4), a, SHUFFLED**4)


@pytest.mark.parametrize("matrix", ["bilinear", "ov"])
def test_the_symmetric_part_of_a_product(matrix):
    """Eigenvalues of both signs, which come by magnitude; what is skew makes no difference."""
    a = orthogonal()
    values = SHUFFLED * torch.tensor([1.0, -1.0] * (C // 2))
    skew = torch.randn(C, C, dtype=torch.float64)
    product = spectral(a, values, a) + skew - skew.mT
    model = model_of(pair(matrix, torch.eye(C).double(), product))
    found = attention(model, **NAMED, matrix=matrix, symmetrise="symmetric", rank=C)
    check(found, a, values)
    assert found.values.min() < 0


@pytest.mark.parametrize("head", range(HEADS))
@pytest.mark.parametrize("matrix", ["v", "q", "k"])
def test_one_head_of_a_projection(matrix, head):
    width = C // HEADS
    blocks = [(orthogonal(width, width), orthogonal(C, width)) for _ in range(HEADS)]
    s = DESCENDING[:width]
    model = model_of({matrix: torch.cat([spectral(u, s, v) for u, v in blocks])})
    u, v = blocks[head]
    check(attention(model, **NAMED, matrix=matrix, head=head, rank=width), v, s**2)
    inside = torch.zeros(C, width, dtype=torch.float64)
    inside[head * width : (head + 1) * width] = u
    found = attention(model, **NAMED, matrix=matrix, head=head, side="output", rank=width)
    check(found, inside, s**2)
    with pytest.raises(ValueError, match=f"at most {width}, the rank of '{matrix}'.*head {head}"):
        attention(model, **NAMED, matrix=matrix, head=head, rank=width + 1)


@pytest.mark.parametrize("head", range(HEADS))
@pytest.mark.parametrize("matrix", ["bilinear", "ov"])
def test_one_head_of_a_product(matrix, head):
    width = C // HEADS
    s = DESCENDING[:width]
    ends = [(orthogonal(C, width), orthogonal(C, width)) for _ in range(HEADS)]
    between = [orthogonal(width, width) for _ in range(HEADS)]
    left = torch.cat([spectral(a, s, r) for (a, _), r in zip(ends, between, strict=True)], 1)
    right = torch.cat([spectral(r, s, b) for (_, b), r in zip(ends, between, strict=True)])
    model = model_of(pair(matrix, left, right))
    a, b = ends[head]
    check(attention(model, **NAMED, matrix=matrix, head=head, rank=width), b, s**4)
    found = attention(model, **NAMED, matrix=matrix, head=head, side="output", rank=width)
    check(found, a, s**4)


@pytest.mark.parametrize("matrix", ["v", "q", "k"])
def test_the_scale_of_the_norm_is_folded_in_where_it_is_asked_for(matrix):
    v, scale = orthogonal(), torch.linspace(0.2, 3.0, C, dtype=torch.float64)
    model = model_of({matrix: spectral(orthogonal(), SHUFFLED, v) / scale}, norm=scale)
    found = attention(model, **NAMED, matrix=matrix, fold_norm=True, rank=5)
    check(found, v, SHUFFLED**2)
    assert found.provenance["fold_norm"] is True
    plain = attention(model, **NAMED, matrix=matrix, rank=5)
    assert (plain.values[0] / SHUFFLED.max() ** 2 - 1).abs() > 0.05


def test_heads_that_share_keys_and_values():
    """Each head's queries meet the keys that it uses, two heads one set of them."""
    model = model_of(heads=4, kv_heads=2, dim_head=2)
    (layer,) = attention_layers(model)
    assert not layer.square
    weights = read(model, layer, fold_norm=False)
    q, k, v = (getattr(weights, one).unflatten(0, (-1, 2)) for one in "qkv")
    out = weights.out.unflatten(1, (4, 2)).transpose(0, 1)
    bilinear = [q[head].mT @ k[head // 2] for head in range(4)]
    ov = [out[head] @ v[head // 2] for head in range(4)]
    for head in range(4):
        torch.testing.assert_close(weights.matrix("bilinear", head), bilinear[head])
        torch.testing.assert_close(weights.matrix("ov", head), ov[head])
        keys = torch.zeros(4, C, dtype=torch.float64)
        keys[2 * (head // 2) :][:2] = k[head // 2]
        assert torch.equal(weights.matrix("k", head), keys)
    torch.testing.assert_close(weights.matrix("bilinear", None), sum(bilinear))
    torch.testing.assert_close(weights.matrix("ov", None), sum(ov))


def test_every_variant_of_a_trained_layer_is_another_set_of_orthonormal_directions(digits):
    leading = []
    for variant in VARIANTS:
        found = attention(digits, rank=6, **variant)
        gram = found.vectors @ found.vectors.mT
        torch.testing.assert_close(gram, torch.eye(6, dtype=gram.dtype), rtol=0, atol=1e-12)
        assert (found.values.abs().diff() <= 0).all()
        leading.append(found.vectors[0])
    assert len(VARIANTS) == 13
    cosines = torch.stack(leading) @ torch.stack(leading).mT
    assert cosines.fill_diagonal_(0).abs().max() < 0.999


def test_a_direction_says_where_it_is_added_and_how_it_was_found(digits):
    found = attention(digits, matrix="ov", side="output", head=1, rank=3)
    assert len(found) == 3
    one = found.direction(2)
    assert (one.space, one.tap, one.pool, one.unit) == ("h", "mid_block", "space", 1.0)
    assert one.t is None
    assert one.window is None
    torch.testing.assert_close(one.vector, found.vectors[2], rtol=0, atol=1e-14)
    expected = {
        "how": "attention", "layer": "mid_block.attentions.0", "matrix": "ov", "side": "output",
        "symmetrise": "svd", "head": 1, "fold_norm": False, "index": 2, "model": "digits",
        "fingerprint": digits.fingerprint, "eigenvalue": float(found.values[2]),
    }  # fmt: skip
    assert expected.items() <= one.provenance.items()
    assert one.name == "ov 2 of mid_block.attentions.0"
    assert "mid_block.attentions.0, head 1, output side" in repr(found)
    one.check_fits(digits)
    with pytest.raises(ValueError, match="index to be between 0 and 2, got 3"):
        found.direction(3)


def test_the_same_call_gives_the_same_bits(digits):
    first, second = (attention(digits, matrix="qkv") for _ in range(2))
    assert torch.equal(first.vectors, second.vectors)
    assert len(first) == 10


def test_layers_of_the_digit_model(digits):
    found = {layer.name: layer for layer in attention_layers(digits)}
    blocks = [layer.block for layer in found.values()]
    assert blocks == ["down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.0"]
    middle = found["mid_block.attentions.0"]
    assert (middle.channels, middle.inner, middle.heads, middle.width) == (96, 96, 3, 32)
    assert middle.square
    assert not middle.joint
    assert "96 channels, 3 heads of 32" in str(middle)


def test_cross_attention_is_left_out_of_a_u_net_with_text():
    model = families.model_of("UNet2DConditionModel")
    names = [layer.name for layer in attention_layers(model)]
    assert names == [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1",
        "mid_block.attentions.0.transformer_blocks.0.attn1",
        "up_blocks.1.attentions.0.transformer_blocks.0.attn1",
        "up_blocks.1.attentions.1.transformer_blocks.0.attn1",
    ]
    assert isinstance(model.network.get_submodule(names[1][:-1] + "2"), Attention)
    found = attention(model, rank=4)
    assert found.layer.name == names[1]
    assert found.tap == "mid_block"
    weight = model.network.get_submodule(names[1]).to_v.weight.detach().double()
    torch.testing.assert_close(found.values, torch.linalg.svdvals(weight)[:4].square())
    # The norm of a transformer's block stands beside its attention.
    norm = model.network.get_submodule(names[1].removesuffix("attn1") + "norm1")
    folded = attention(model, rank=4, fold_norm=True)
    expected = torch.linalg.svdvals(weight * norm.weight.detach().double())[:4].square()
    torch.testing.assert_close(folded.values, expected)


def test_the_last_layer_of_the_middle_block_is_the_default():
    model = families.model_of("UNet2DConditionModel, SDXL")
    assert attention(model, rank=2).layer.name.endswith("transformer_blocks.1.attn1")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SD3Transformer2DModel", [("transformer_blocks.1.attn", True)]),
        ("FluxTransformer2DModel", [("single_transformer_blocks.0.attn", False)]),
        ("DiTTransformer2DModel", [("transformer_blocks.1.attn1", False)]),
        ("PixArtTransformer2DModel", [("transformer_blocks.1.attn1", False)]),
    ],
)
def test_transformers_give_their_image_stream(name, expected):
    model = families.model_of(name)
    layers = attention_layers(model)
    assert len(layers) == 3
    assert [(one.name, one.joint) for one in layers if one.block == model.default_tap] == expected
    found = attention(model, matrix="k", side="output", rank=3)
    weight = model.network.get_submodule(expected[0][0]).to_k.weight
    u = torch.linalg.svd(weight.detach().double()).U[:, 0]
    assert (found.vectors[0] @ u).abs() > 1 - 1e-9
    found.direction(0).check_fits(model)


def test_attention_with_projections_of_the_text_counts_as_joint():
    """As DeepFloyd IF has it, which calls it cross-attention."""
    given = {"cross_attention_dim": C, "added_kv_proj_dim": 5, "norm": torch.ones(C)}
    (layer,) = attention_layers(model_of(**given, processor=AttnAddedKVProcessor2_0()))
    assert layer.joint
    assert attention_layers(model_of(cross_attention_dim=C)) == []


@pytest.mark.parametrize("site", ["mid_output", "block_output", "attention_output"])
@pytest.mark.parametrize("name", ["UNet2DModel", "SD3Transformer2DModel"])
def test_directions_can_be_edited_with_at_every_site(name, site):
    """A pooled direction moves data as the whole one does that has it at every place."""
    model = families.model_of(name)
    layer = attention_layers(model)[0]
    found = attention(model, layer, rank=3, site=site) if site != "mid_output" else attention(model)
    direction = found.direction(1)
    paths = {
        "mid_output": model.default_tap,
        "block_output": layer.block,
        "attention_output": f"{layer.name}:0" if layer.joint else layer.name,
    }
    assert direction.tap == paths[site]
    cond = families.TINY[name].draw(1)
    x = torch.randn(1, *model.latent_shape)
    moved, still = (
        pullback.edit(model, x, 500, direction, by, cond=cond, steps=4) for by in (20.0, 0.0)
    )
    assert torch.isfinite(moved).all()
    assert (moved - still).norm() > 1e-3 * still.norm()
    bound = pullback.maps.encoder(model, direction.tap).at(x, 500, cond)
    shape = bound.value().shape[1:]
    channels = direction.vector[:, None, None] if len(shape) == 3 else direction.vector
    places = shape.numel() // len(direction.vector)
    whole = pullback.Direction.of(channels.expand(shape), "h", tap=direction.tap)
    other = pullback.edit(model, x, 500, whole, 20.0 * places**0.5, cond=cond, steps=4)
    torch.testing.assert_close(moved, other, rtol=1e-4, atol=1e-5)


def plain():
    return LatentModel(lambda x, t: x, DDPMScheduler(), name="plain", latent_shape=(2, 4, 4))


def without():
    network = nn.Sequential(nn.Conv2d(2, 2, 1)).eval()
    return LatentModel(network, DDPMScheduler(), name="bare", latent_shape=(2, 4, 4))


@pytest.mark.parametrize("make", [plain, without])
def test_a_model_without_self_attention(make):
    assert attention_layers(make()) == []
    with pytest.raises(ValueError, match="a model without self-attention"):
        attention(make())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"layer": "mid_block.attention.0"}, r"Near it are mid_block\.attentions\.0,.*all 4"),
        ({"layer": ""}, "Expected a self-attention layer of digits, got ''"),
        ({"layer": 3}, "Expected a self-attention layer of digits, got 3"),
        ({"matrix": "o"}, "Expected matrix as one of v, q, k, qkv, bilinear, ov, got 'o'"),
        ({"side": "left"}, "Expected side as one of input, output, got 'left'"),
        ({"symmetrise": "both"}, "Expected symmetrise as one of svd, symmetric"),
        ({"site": "input"}, "Expected site as one of mid_output, block_output, attention_output"),
        ({"symmetrise": "symmetric"}, 'matrix="bilinear" or "ov".*got matrix="v"'),
        (
            {"matrix": "ov", "symmetrise": "symmetric", "side": "output"},
            'side="input", got matrix="ov" and side="output"',
        ),
        ({"matrix": "qkv", "side": "output"}, 'Expected side="input" for matrix="qkv"'),
        ({"site": "block_output", "tap": "mid_block"}, "either site or tap"),
        ({"head": 3}, "Expected head to be between 0 and 2, got 3"),
        ({"head": -1}, "Expected head to be between 0 and 2, got -1"),
        ({"head": 0.0}, "Expected head to be a whole number"),
        ({"rank": 97}, "Expected rank to be between 1 and 96, got 97"),
        ({"rank": 0}, "Expected rank to be between 1 and 96, got 0"),
        ({"tap": "down_blocks.0"}, r"Expected a tap of 96 channels.*got 32 at down_blocks\.0"),
        ({"tap": "down_blocks.0"}, r"Blocks that fit: down_blocks\.2, mid_block, up_blocks\.0\."),
        ({"tap": "middle"}, "digits has no module 'middle'"),
        (
            {"tap": "mid_block.attentions.0.group_norm"},
            r"features \[C, H, W\] or \[tokens, C\], got \[96, 16\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(digits, given, words):
    with pytest.raises(ValueError, match=words):
        attention(digits, **given)


def test_a_thing_that_is_no_model():
    with pytest.raises(TypeError, match="Expected a LatentModel, got Conv2d"):
        attention(nn.Conv2d(1, 1, 1))


def test_a_network_of_ones_own_has_no_middle():
    with pytest.raises(ValueError, match="stands in attention, and which block is the middle"):
        attention(model_of(), tap="attention")


def test_a_model_without_attention_in_the_middle(digits):
    network = copy.deepcopy(digits.network)
    network.mid_block.attentions[0] = None
    model = LatentModel(network, digits.schedule.scheduler, name="hollow")
    with pytest.raises(ValueError, match=r"down_blocks\.2\.attentions\.0, .*, not mid_block"):
        attention(model)


def test_projections_that_are_not_square():
    model = model_of(heads=2, dim_head=6)
    (layer,) = attention_layers(model)
    assert not layer.square
    assert (layer.channels, layer.inner, layer.width) == (8, 12, 6)
    words = "tap of 12 channels for the output side of 'v' in attention, got 8.*No block has so man"
    with pytest.raises(ValueError, match=words):
        attention(model, **NAMED, side="output")
    assert len(attention(model, **NAMED, side="input", rank=8)) == 8
    assert len(attention(model, **NAMED, matrix="ov", symmetrise="symmetric", rank=8)) == 8
    wide = model_of(out_dim=16)
    with pytest.raises(ValueError, match=r'Expected a square matrix.*got \[16, 8\] for "ov"'):
        attention(wide, **NAMED, matrix="ov", symmetrise="symmetric")


def test_a_layer_without_a_projection_back():
    model = families.model_of("FluxTransformer2DModel")
    with pytest.raises(ValueError, match=r'projection back \(to_out\) for matrix="ov"'):
        attention(model, matrix="ov")


@pytest.mark.parametrize("name", ["DiTTransformer2DModel", "SD3Transformer2DModel"])
def test_a_norm_without_a_scale_of_its_own(name):
    with pytest.raises(ValueError, match=r"norm with a scale γ before transformer_blocks\.1\.attn"):
        attention(families.model_of(name), fold_norm=True)


def test_directions_beyond_the_rank_of_the_weights():
    model = model_of({"v": spectral(orthogonal(C, 3), DESCENDING[:3], orthogonal(C, 3))})
    assert len(attention(model, **NAMED, rank=3)) == 3
    with pytest.raises(ValueError, match="Expected rank to be at most 3, the rank of 'v'"):
        attention(model, **NAMED, rank=4)
    zero = model_of({"v": torch.zeros(C, C)})
    with pytest.raises(ValueError, match="Expected rank to be at most 0"):
        attention(zero, **NAMED, rank=1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers(value):
    weight = torch.randn(C, C)
    weight[2, 3] = value
    with pytest.raises(ValueError, match=r"finite weights in attention\.to_k, got NaN or Inf"):
        attention(model_of({"k": weight}), **NAMED)
    scale = torch.ones(C)
    scale[1] = value
    with pytest.raises(ValueError, match="Expected a finite scale γ before attention"):
        attention(model_of(norm=scale), **NAMED, fold_norm=True)


def test_an_adapter_that_is_not_merged_is_named():
    class Adapted(nn.Module):
        """As peft wraps a projection: its weight is that of the layer below."""

        def __init__(self, base_layer):
            super().__init__()
            self.base_layer = base_layer
            self.merged = False

        @property
        def weight(self):
            return self.base_layer.weight

        def forward(self, x):
            return 2 * self.base_layer(x)

    model = model_of()
    layer = model.network.attention
    layer.to_v = Adapted(layer.to_v)
    with pytest.raises(ValueError, match=r"attention\.to_v, got a Adapted .*fuse_lora"):
        attention(model, **NAMED)
    layer.to_v.merged = True
    assert len(attention(model, **NAMED, rank=2)) == 2
