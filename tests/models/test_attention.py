"""Backends of attention that diffusers lets one choose: the same bases by all of them."""

import copy
import functools
import threading
import warnings

import pytest
import torch
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName as Backend

import pullback
from pullback import LatentModel, local_basis
from pullback.models.attention_backends import DIFFERENTIABLE, differentiable_attention
from pullback_ext.intercept import forward_mode_ready, recordable
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


@pytest.mark.parametrize("backend", sorted(DIFFERENTIABLE))
def test_the_fast_forms_of_torchs_own_attention_give_the_same_basis(backend):
    """Also where none of them can compute on this machine."""
    network = small()
    expected = basis_of(wrap(network))
    network.set_attention_backend(backend)
    found = basis_of(wrap(network))
    assert torch.equal(found.s, expected.s)
    assert torch.equal(found.v, expected.v)
    assert network.transformer_blocks[0].attn.processor._attention_backend == backend, "as it was"


@pytest.mark.parametrize("backend", sorted({one.value for one in Backend} - DIFFERENTIABLE))
def test_every_other_backend_is_replaced_in_products_and_that_is_said(installed, backend):
    network = small()
    network.set_attention_backend(backend)
    where = r"\(transformer_blocks\.0\.attn\)"
    with pytest.warns(UserWarning, match=f"mine .*backend '{backend}' {where}.*{ADVICE}"):
        wrap(network)
    with recordable(), differentiable_attention(network):
        assert {one.processor._attention_backend for one in attentions(network)} == {"native"}
    assert {one.processor._attention_backend for one in attentions(network)} == {backend}


def test_that_is_said_once(installed):
    network = small()
    network.set_attention_backend("sage")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        model = wrap(network)
        for _ in range(3):
            model.check_mode()
    assert len(said) == 1


def attentions(network):
    return [block.attn for block in network.transformer_blocks]


@pytest.fixture
def opaque(monkeypatch):
    """A backend as kernels are that know no tangents; it is asked where no derivative is taken."""
    calls = []

    def attend(query, key, value, **_):
        calls.append(torch.is_grad_enabled())
        return query + 0 * (key.detach() + value.detach())

    backends = attention_dispatch._AttentionBackendRegistry._backends
    monkeypatch.setitem(backends, Backend.SAGE, attend)
    return calls


@pytest.mark.filterwarnings("ignore:mine computes attention")
def test_a_backend_that_would_answer_with_zeros_is_asked_outside_of_products_alone(
    installed, opaque
):
    model = wrap(small())
    expected = basis_of(model)
    model.network.set_attention_backend("sage")
    assert torch.equal(basis_of(model).v, expected.v)
    assert not opaque
    x, cond = torch.randn(1, *model.latent_shape), families.TINY[FLUX].draw(1)
    with torch.no_grad():
        model.predict(x, 500, cond)
    assert opaque


@pytest.mark.filterwarnings("ignore:mine computes attention")
def test_a_backend_comes_back_after_an_exception_and_when_the_last_thread_leaves(installed):
    network = small()
    network.set_attention_backend("sage")
    processor = attentions(network)[0].processor

    def fail():
        with recordable(), differentiable_attention(network):
            assert processor._attention_backend == "native"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert processor._attention_backend == "sage"
    inside, leave = threading.Event(), threading.Event()

    def other():
        with forward_mode_ready(), differentiable_attention(network):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with recordable(), differentiable_attention(network):
        pass
    assert processor._attention_backend == "native"
    leave.set()
    thread.join()
    assert processor._attention_backend == "sage"
    with differentiable_attention(network):  # no derivative is taken
        assert processor._attention_backend == "sage"


def test_a_backend_that_is_set_for_all_networks_counts_too(installed):
    model = wrap(small())
    expected = basis_of(model)
    with (
        attention_dispatch.attention_backend("flex"),
        pytest.warns(UserWarning, match=rf"'flex'.*{ADVICE}"),
    ):
        assert torch.equal(basis_of(model).v, expected.v)
    with attention_dispatch.attention_backend("_native_flash"):
        assert torch.equal(basis_of(model).v, expected.v)
    assert torch.equal(basis_of(model).v, expected.v)
    assert attentions(model.network)[0].processor._attention_backend is None


def test_a_networks_own_backend_counts_for_more_than_that_of_all(installed):
    network = small()
    expected = basis_of(wrap(network))
    network.set_attention_backend("native")
    with attention_dispatch.attention_backend("sage"), warnings.catch_warnings():
        warnings.simplefilter("error")
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


def test_a_pipeline_may_have_such_a_backend(installed, tmp_path, monkeypatch):
    pipeline = hub_transformers.BUILDERS["Qwen-Image"](tmp_path)
    pipeline.transformer.set_attention_backend("sage")
    backends = attention_dispatch._AttentionBackendRegistry._backends
    monkeypatch.setitem(backends, Backend.SAGE, backends[Backend.NATIVE])
    with pytest.warns(UserWarning, match=f"'sage'.*{ADVICE}"):
        model = pullback.load(pipeline)
    assert model.network is pipeline.transformer
