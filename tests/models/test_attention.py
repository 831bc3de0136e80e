"""Backends of attention that diffusers lets one choose: the same bases, or a refusal."""

import copy
import functools

import pytest
import torch
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName as Backend

import pullback
from pullback import LatentModel, local_basis
from pullback.models.suitability import _DIFFERENTIABLE
from tests.models import families, hub_transformers

FLUX, SD3 = "FluxTransformer2DModel", "SD3Transformer2DModel"
ADVICE = r'network\.set_attention_backend\("native"\)'


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What is set for all networks of the process is as before."""
    registry = attention_dispatch._AttentionBackendRegistry
    monkeypatch.setattr(registry, "_active_backend", Backend.NATIVE)


@pytest.fixture
def installed(monkeypatch):
    """Every backend passes for one whose package is there."""
    for check in ("_check_attention_backend_requirements", "_maybe_download_kernel_for_backend"):
        monkeypatch.setattr(attention_dispatch, check, lambda *_: None)


@functools.cache
def known_model(name):
    return families.model_of(name)


def small(name=FLUX):
    return copy.deepcopy(known_model(name).network)


def wrap(network, name=FLUX):
    known = known_model(name)
    return LatentModel(
        network, known.schedule.scheduler, latent_shape=known.latent_shape, name="mine"
    )


def basis_of(model, name=FLUX):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        x, cond = torch.randn(1, *model.latent_shape), families.TINY[name].draw(1)
    return local_basis(model, x, 500, 2, cond=cond, quality="draft")


@pytest.mark.parametrize("backend", sorted(_DIFFERENTIABLE))
def test_the_fast_forms_of_torchs_own_attention_give_the_same_basis(backend):
    """Also where none of them can compute on this machine."""
    network = small()
    expected = basis_of(wrap(network))
    network.set_attention_backend(backend)
    found = basis_of(wrap(network))
    assert torch.equal(found.s, expected.s)
    assert torch.equal(found.v, expected.v)
    assert network.transformer_blocks[0].attn.processor._attention_backend == backend, "as it was"


@pytest.mark.parametrize("backend", sorted({one.value for one in Backend} - _DIFFERENTIABLE))
def test_every_other_backend_is_refused_by_its_name(installed, backend):
    network = small()
    network.set_attention_backend(backend)
    where = r"\(transformer_blocks\.0\.attn\)"
    with pytest.raises(ValueError, match=f"mine .*backend '{backend}' {where}.*{ADVICE}"):
        wrap(network)
    network.set_attention_backend("native")
    assert len(basis_of(wrap(network))) == 1


def test_a_backend_that_would_answer_with_zeros_is_never_asked(installed, monkeypatch):
    """As kernels do that know no tangents: without the refusal its Jacobian is a wrong one."""

    def opaque(query, key, value):
        return query + 0 * (key.detach() + value.detach())

    backends = attention_dispatch._AttentionBackendRegistry._backends
    monkeypatch.setitem(backends, Backend.SAGE, opaque)
    model = wrap(small())
    model.network.set_attention_backend("sage")
    with pytest.raises(ValueError, match="'sage'"):
        basis_of(model)


def test_a_backend_that_is_set_for_all_networks_counts_too(installed):
    model = wrap(small())
    expected = basis_of(model)
    with attention_dispatch.attention_backend("flex"):
        with pytest.raises(ValueError, match=rf"'flex'.*DIFFUSERS_ATTN_BACKEND.*{ADVICE}"):
            basis_of(model)
        with pytest.raises(ValueError, match="'flex'"):
            wrap(small())
    with attention_dispatch.attention_backend("_native_flash"):
        assert torch.equal(basis_of(model).v, expected.v)
    assert torch.equal(basis_of(model).v, expected.v)


def test_a_networks_own_backend_counts_for_more_than_that_of_all(installed):
    network = small()
    expected = basis_of(wrap(network))
    network.set_attention_backend("native")
    with attention_dispatch.attention_backend("sage"):
        assert torch.equal(basis_of(wrap(network)).v, expected.v)
    network.reset_attention_backend()
    assert torch.equal(basis_of(wrap(network)).v, expected.v)


@pytest.mark.parametrize("name", [SD3, "UNet2DConditionModel"])
def test_networks_that_ask_for_no_backend_are_as_they_were(installed, name):
    """Their attention is torch's, whatever is set."""
    network = small(name)
    expected = basis_of(wrap(network, name), name)
    network.set_attention_backend("flex")
    assert torch.equal(basis_of(wrap(network, name), name).v, expected.v)


def test_a_pipeline_is_refused_before_it_is_run(installed, tmp_path, monkeypatch):
    pipeline = hub_transformers.BUILDERS["Qwen-Image"](tmp_path)
    pipeline.transformer.set_attention_backend("flash")
    monkeypatch.setattr(type(pipeline), "__call__", lambda *_a, **_k: pytest.fail("it was run"))
    with pytest.raises(ValueError, match=f"'flash'.*{ADVICE}"):
        pullback.load(pipeline)
