"""Unmodified modules whose attention is ours inside `forward_mode_ready`, or torch's formulas."""

import threading

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pullback_ext import _intercepted_attention, _ops
from pullback_ext.intercept import forward_mode_ready, recordable
from tests.pullback_ext.derivatives import pull, push, relative
from tests.pullback_ext.test_intercept import Calls

sdpa = F.scaled_dot_product_attention


@pytest.fixture
def of_any_size(monkeypatch):
    """Our attention for small samples too."""
    monkeypatch.setattr(_intercepted_attention, "_WORTHWHILE", 0)


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def fast(x):
    """A module that asks for a backend without a forward mode."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return sdpa(x, x.sin(), x.cos())


KEYS, VALUES = normal(2, 3, 7, 4), normal(2, 3, 7, 5)
TAKEN = {
    "self": lambda x: sdpa(x, x.sin(), x.cos()),
    "by keyword": lambda x: sdpa(value=VALUES, query=x, key=KEYS, scale=0.3),
    "flash": fast,
    "mask": lambda x: sdpa(x, KEYS, VALUES, torch.arange(7) != 2),
    "exported": lambda x: torch.ops.aten.scaled_dot_product_attention(x, KEYS, VALUES),
    "overload": lambda x: torch.ops.aten.scaled_dot_product_attention.default(x, x, x),
    "grouped": lambda x: sdpa(x, x[:, :1], x[:, :1], enable_gqa=True),
}
LEARNT = normal(5, 7)


@pytest.mark.parametrize("name", TAKEN)
def test_calls_of_torchs_attention_are_ours(name, of_any_size):
    f = TAKEN[name]
    x = normal(2, 3, 5, 4)
    plain = TAKEN["self"] if f is fast else f
    with forward_mode_ready(), Calls() as calls:
        v, u = normal(3, *x.shape), normal(3, *plain(x).shape)
        got = [f(x), push(f, x, v), pull(f, x, u)]
    assert calls.names.count("attention_tangents") == 1  # for all tangents
    assert calls.names.count("attention_cotangents") == 1
    with sdpa_kernel(SDPBackend.MATH):
        want = [plain(x), push(plain, x, v), pull(plain, x, u)]
    for one, other in zip(got, want, strict=True):
        assert relative(one, other) < 1e-12


def multi_head():
    module = nn.MultiheadAttention(4, 2, batch_first=True).double().eval()
    return lambda x: module(x[:, 0], x[:, 1], x[:, 2], need_weights=False)[0]


#: Attention of its own, which no mode sees, and masks with derivatives.
LEFT = {
    "a mask of x": lambda x: sdpa(x, KEYS, VALUES, (LEARNT * x.sum()).sin()),
    "a parameter as mask": lambda x: sdpa(x, KEYS, VALUES, nn.Parameter(LEARNT)),
    "multi-head attention": multi_head(),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_ours_does_not_take_is_mathematical(name, of_any_size):
    f = LEFT[name]
    x = normal(2, 3, 5, 4)
    v = normal(3, *x.shape)
    with forward_mode_ready(), Calls() as calls:
        u = normal(3, *f(x).shape)
        got = [f(x), push(f, x, v), pull(f, x, u)]
    assert not {"attention_tangents", "attention_cotangents"} & set(calls.names)
    with sdpa_kernel(SDPBackend.MATH):
        want = [f(x), push(f, x, v), pull(f, x, u)]
    for one, other in zip(got, want, strict=True):
        assert relative(one.detach(), other.detach()) < 1e-12


def test_a_dropout_is_mathematical(of_any_size):
    x, tangent = normal(2, 3, 5, 4), normal(2, 3, 5, 4)

    def pushed():
        torch.manual_seed(0)
        return torch.func.jvp(lambda x: sdpa(x, x, x, dropout_p=0.5), (x,), (tangent,))[1]

    with forward_mode_ready():
        got = pushed()
    with sdpa_kernel(SDPBackend.MATH):
        assert relative(got, pushed()) < 1e-12


def test_devices_without_a_kernel_get_the_mathematical_form(monkeypatch, of_any_size):
    monkeypatch.setattr(_ops, "has_kernel", lambda *_: False)
    x = normal(2, 3, 5, 4)
    with forward_mode_ready(), Calls() as calls:
        push(TAKEN["self"], x, normal(3, *x.shape))
    assert not any("attention" in name for name in calls.names)


@pytest.mark.parametrize("samples", [1, 40])
def test_small_samples_are_left_to_torch(samples):
    for tokens, ours in ((64, False), (128, True)):
        x = torch.randn(samples, 2, tokens, 4)
        with forward_mode_ready(), Calls() as calls:
            torch.func.jvp(lambda x: sdpa(x, x, x), (x,), (x,))
            if samples == 1:
                torch.func.jvp(lambda x: sdpa(x[0], x[0], x[0]), (x,), (x,))  # samples of one head
        assert ("attention_tangents" in calls.names) == ours


def test_the_network_next_door_keeps_its_backend():
    """No setting of the process is changed: other threads are as fast as ever."""
    names, inside, leave = {}, threading.Event(), threading.Event()

    def enter():
        with forward_mode_ready(), recordable():
            inside.set()
            assert leave.wait(10)

    thread = threading.Thread(target=enter)
    thread.start()
    assert inside.wait(10)
    with Calls() as calls:
        sdpa(x := torch.randn(1, 2, 9, 8), x, x)
    names = calls.names
    leave.set()
    thread.join(10)
    assert any("flash" in name for name in names), names


def test_two_threads(of_any_size):
    """Reverse: levels of forward mode belong to the process."""
    x, u = normal(2, 3, 9, 4), normal(2, 2, 3, 9, 4)
    found, start = {}, threading.Barrier(2)

    def f(x):
        with sdpa_kernel(SDPBackend.MATH):  # its own flags may meet the other's
            return sdpa(x, x, x)

    def work(i):
        start.wait(10)
        with forward_mode_ready(), Calls() as calls:
            found[i] = [pull(f, x, u) for _ in range(10)], calls.names

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    usual = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    # At its end all is put back, whatever the two leave of one another.
    with sdpa_kernel([*usual, SDPBackend.CUDNN_ATTENTION]):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    with sdpa_kernel(SDPBackend.MATH):
        want = pull(lambda x: sdpa(x, x, x), x, u)
    for got, names in found.values():
        assert names.count("attention_cotangents") == 10
        assert all(relative(one, want) < 1e-12 for one in got)


def test_an_unmodified_network_with_text(of_any_size):
    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    network.eval().requires_grad_(False)
    x, text = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 12)
    v = torch.randn(3, *x.shape)

    def f(x):
        return network(x, 300, text).sample

    with forward_mode_ready(), Calls() as calls:
        got = [f(x), push(f, x, v), pull(f, x, v)]
    assert calls.names.count("attention_tangents") == calls.names.count("attention_cotangents") > 3
    with sdpa_kernel(SDPBackend.MATH):
        want = [f(x), push(f, x, v), pull(f, x, v)]
    for one, other in zip(got, want, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-5
