"""Bases, taps and predictions of every family against dense Jacobians and networks run by hand."""

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)

from pullback import LatentModel, local_basis, maps
from tests.models import by_hand, families
from tests.models.by_hand import check, rank_of

FAMILIES = list(families.TINY)


def taps_of(name):
    tiny = families.TINY[name]
    return [(tiny.default, tiny.index), *tiny.taps]


def with_null(name, **options):
    """The tiny model of a family; where its class has no null condition, zeros stand for it."""
    model = families.model_of(name, **options)
    if model.family.null(model.network) is not None:
        return model
    return families.with_null(model, families.null_of(name, 1))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("null", [False, True], ids=["condition", "null"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_basis_is_that_of_the_dense_jacobian(name, null, channels_last):
    case = by_hand.case(name, null)
    jacobian = case.encoder(case.tiny.default, case.tiny.index)
    model, x = with_null(name, channels_last=channels_last), case.x
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
        assert not x.is_contiguous()
        # Flux has no convolutions; in the others they now have the other layout.
        assert name.startswith("Flux") or any(
            not p.is_contiguous() for p in model.network.parameters()
        )
    given = None if null else case.cond or None
    check(local_basis(model, x, case.t, rank_of(jacobian), cond=given), jacobian)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_basis_at_another_tap_is_that_of_the_dense_jacobian(name):
    case = by_hand.case(name)
    path, index = case.tiny.taps[0]
    jacobian = case.encoder(path, index)
    found = local_basis(
        families.model_of(name), case.x, case.t, rank_of(jacobian), path, case.cond or None
    )
    check(found, jacobian)
    assert found.provenance["tap"] == path


@pytest.mark.parametrize(
    ("name", "path", "index"), [(name, *tap) for name in FAMILIES for tap in taps_of(name)]
)
def test_a_tap_reads_what_a_hook_by_hand_reads(name, path, index):
    case, model = by_hand.case(name), families.model_of(name)
    with torch.no_grad():
        expected = by_hand.feature(model.network, path, index, case.t, case.cond)(case.x)
    value = maps.encoder(model, path).at(case.x, case.t, case.cond or None).value()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    if index is not None:  # saying which tensor it is changes nothing
        said = maps.encoder(model, (path, index)).at(case.x, case.t, case.cond or None).value()
        assert torch.equal(said, value)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_tap_is_the_one_of_the_table(name):
    assert families.model_of(name).default_tap == families.TINY[name].default


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prediction_is_that_of_a_call_by_hand(name):
    case, model = by_hand.case(name), families.model_of(name)
    with torch.no_grad():
        expected = by_hand.call(model.network, case.x, case.t, case.cond)
    cond = model.conditions.of(case.cond or None, len(case.x))
    with torch.no_grad():
        found = model.call(case.x, case.t, cond)
    assert found.shape == case.x.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "middle"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (28, 13)]
)
def test_the_middle_of_an_even_number_of_blocks_is_the_earlier_one(layers, middle):
    """The one after which half of the blocks have run, or half of them and one half more."""
    config = families.dit().config
    network = DiTTransformer2DModel.from_config({**config, "num_layers": layers}).eval()
    model = LatentModel(network, DDPMScheduler())
    assert model.default_tap == f"transformer_blocks.{middle}"
    run = model.blocks().index(model.default_tap) + 1
    assert run == (layers + 1) // 2
    assert maps.encoder(model).site == model.site(f"transformer_blocks.{middle}")


@pytest.mark.parametrize("shape", [(4, 8, 7), (4, 7, 8), (4, 7, 7), (3, 8, 8)])
def test_latents_that_cannot_be_packed_are_refused(shape):
    network = families.model_of("FluxTransformer2DModel").network
    with pytest.raises(ValueError, match=r"\(4, H, W\) with even H and W for a Flux"):
        LatentModel(network, FlowMatchEulerDiscreteScheduler(), latent_shape=shape)


@pytest.mark.parametrize("shape", [(4, 6, 10), (4, 10, 6)])
def test_latents_of_another_side_are_packed_as_the_pipeline_packs_them(shape):
    """Three patches by five: rows and columns of patches are odd, and not to be exchanged."""
    case = by_hand.case("FluxTransformer2DModel")
    network = families.model_of("FluxTransformer2DModel").network
    model = LatentModel(network, FlowMatchEulerDiscreteScheduler(), latent_shape=shape)
    x = torch.randn(len(case.x), *shape)
    cond = model.conditions.of(case.cond, len(x))
    with torch.no_grad():
        found = model.call(x, case.t, cond)
        expected = by_hand.call(network, x, case.t, case.cond)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [[0.0], [0.25], [7.0]])
def test_class_labels_that_are_not_from_a_table_are_not_counted(value):
    """Networks that embed a label as they embed a timestep take any number for it."""
    sides = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    plain = UNet2DModel(8, block_out_channels=(32,), class_embed_type="timestep", **sides)
    plain = LatentModel(plain.eval(), DDPMScheduler())
    worded = families.condition_unet(class_embed_type="timestep").eval()
    worded = LatentModel(worded, DDPMScheduler())
    for model, others in ((plain, {}), (worded, families.text(1))):
        assert model.conditions.arguments["class_labels"].classes == 0
        found = model.conditions.of({"class_labels": torch.tensor(value), **others}, 1)
        assert found["class_labels"].tolist() == value
        x = torch.zeros(1, *model.latent_shape)
        assert model.predict(x, 5, found).shape == x.shape
    free = LatentModel(lambda x, t, class_labels: x, DDPMScheduler(), latent_shape=(1, 2, 2))
    assert free.conditions.of({"class_labels": value}, 1)["class_labels"].tolist() == value
