"""Networks in a state in which they are unwrapped, or refused."""

import copy

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

import pullback
from pullback import LatentModel, local_basis, maps
from tests.models import families


def small():
    return copy.deepcopy(families.model_of("UNet2DConditionModel").network)


def wrap(network):
    return LatentModel(network, DDPMScheduler(), name="mine")


def test_a_compiled_network_is_unwrapped():
    network = small()
    model = wrap(torch.compile(network))
    assert model.network is network
    plain = wrap(network)
    assert model.fingerprint == plain.fingerprint
    x, cond = torch.randn(1, 4, 8, 8), families.text(1)
    found, expected = (local_basis(m, x, 500, 2, cond=cond) for m in (model, plain))
    assert torch.equal(found.v, expected.v)


def test_a_pipeline_with_a_compiled_network_is_unwrapped(stock):
    pipeline = stock["stable_diffusion"]
    network, expected = pipeline.unet, pullback.load(pipeline).encode(prompt="a")
    pipeline.unet = compiled = torch.compile(network)
    try:
        model = pullback.load(pipeline)
        cond = model.encode(prompt="a")
        assert pipeline.unet is compiled
    finally:
        pipeline.unet = network
    assert model.network is network
    assert torch.equal(cond["encoder_hidden_states"], expected["encoder_hidden_states"])


def test_blocks_compiled_in_place_are_refused():
    """Their graphs would run inside: forward mode through them drops tangents."""
    network = small()
    network.mid_block.compile()
    with pytest.raises(ValueError, match=r"compiled \(mid_block\).*_compiled_call_impl"):
        wrap(network)
    network.mid_block._compiled_call_impl = None
    wrap(network)
    network.mid_block = torch.compile(network.mid_block)
    with pytest.raises(ValueError, match=r"compiled \(mid_block\)"):
        wrap(network)


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"training mode.*network\.eval\(\)"):
        wrap(small().train())
    network = small()
    network.mid_block.resnets[0].dropout.train()  # one module is enough
    with pytest.raises(ValueError, match=r"training mode \(mid_block\.resnets\.0\.dropout\)"):
        wrap(network)


def test_a_model_that_is_put_into_training_mode_later_is_refused():
    model = wrap(small())
    model.network.train()
    with pytest.raises(ValueError, match="training mode"):
        local_basis(model, torch.randn(1, 4, 8, 8), 500, 2, cond=families.text(1))


def test_gradient_checkpointing_is_refused():
    network = small()
    network.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match=r"disable_gradient_checkpointing\(\)"):
        wrap(network)
    network.disable_gradient_checkpointing()
    wrap(network)


class AlignDevicesHook:
    """Named as the hook that accelerate puts on offloaded modules."""


def test_offloading_is_refused():
    network = small()
    network.mid_block._hf_hook = AlignDevicesHook()
    with pytest.raises(ValueError, match=r"offloaded \(mid_block.*remove_all_hooks\(\)"):
        wrap(network)


def test_group_offloading_of_diffusers_is_refused():
    network = small()
    try:
        network.enable_group_offload(
            onload_device=torch.device("cpu"),
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
        )
    except (ImportError, ValueError, RuntimeError) as error:
        pytest.skip(f"this version of diffusers cannot do so without a GPU: {error}")
    with pytest.raises(ValueError, match="offloaded"):
        wrap(network)


def test_layerwise_casting_is_refused():
    network = small()
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    with pytest.raises(ValueError, match=r"offloaded|quantised"):
        wrap(network)


def test_quantised_weights_are_refused():
    network = small()
    network.mid_block.resnets[0].conv1.weight = nn.Parameter(
        torch.zeros(32, 32, 3, 3, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(
        ValueError, match=r"quantised \(mid_block\.resnets\.0\.conv1\.weight.*quantization_config"
    ):
        wrap(network)


def test_a_network_without_storage_is_refused():
    with pytest.raises(ValueError, match="several devices or on none"):
        wrap(small().to("meta"))


def test_parameters_stay_as_they_are():
    network = small()
    before = {name: (p.requires_grad, p.clone()) for name, p in network.named_parameters()}
    assert all(wants for wants, _ in before.values())
    model = wrap(network)
    found = local_basis(model, torch.randn(1, 4, 8, 8), 500, 2, cond=families.text(1))
    assert not found.v.requires_grad
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is None, name
        assert torch.equal(parameter, before[name][1]), name
    bound = maps.encoder(model).at(torch.randn(1, 4, 8, 8), 500, families.text(1))
    assert not bound.value().requires_grad
