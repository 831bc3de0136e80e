"""Attention with rules for many tangents: one call for all, grad modes, threads, errors."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from pullback_ext import scaled_dot_product_attention
from tests.pullback_ext.derivatives import FIRST, HIGHER, pull, push, relative
from tests.pullback_ext.test_scaled_dot_product_attention import (
    MASKS,
    K,
    Q,
    V,
    case,
    drawn,
    mathematical,
    normal,
)

func = torch.func
pytestmark = pytest.mark.usefixtures("native")

# ------------------------------------------------------------------------ one call for all tangents


def test_a_tangent_does_not_depend_on_what_else_is_in_the_call():
    q, k, v = (x.float() for x in drawn(queries=77, keys=77, d=16, e=16))
    for f in (
        lambda x: scaled_dot_product_attention(x, x, x, is_causal=True),
        lambda x: scaled_dot_product_attention(x, k, v),
    ):
        for product in (push, pull):
            block = torch.randn(7, *q.shape)
            whole = product(f, q, block)
            for width in (1, 2, 4):
                parts = [product(f, q, part) for part in block.split(width)]
                assert torch.equal(torch.cat(parts), whole)
        one = torch.stack([func.jvp(f, (q,), (t,))[1] for t in block])
        assert torch.equal(one, push(f, q, block))


NODES = {push: "attention_tangents", pull: "attention_cotangents"}


@pytest.mark.parametrize("product", NODES)
@pytest.mark.parametrize("name", ["self", "cross", "grouped", "three", "blind"])
def test_one_node_for_all_tangents(name, product):
    ours, _, x, v, u = case(name)
    block = v if product is push else u
    graph = make_fx(lambda x, block: product(ours, x, block))(x, block)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count(f"pullback.{NODES[product]}.default") == 1
    assert targets.count("pullback.attention.default") == 1
    other, block = normal(*x.shape), torch.randn_like(block)
    assert relative(graph(other, block), product(ours, other, block)) < 1e-13


def test_text_has_no_tangents():
    """Of queries alone: nothing is computed for keys and values."""
    graph = make_fx(lambda v: push(lambda x: scaled_dot_product_attention(x, K, V), Q, v))(
        normal(2, *Q.shape)
    )
    [node] = [n for n in graph.graph.nodes if "attention_tangents" in str(n.target)]
    assert node.args[5] is not None
    assert node.args[6] is None
    assert node.args[7] is None
    u = normal(2, 2, 3, 5, 3)
    graph = make_fx(lambda u: pull(lambda x: scaled_dot_product_attention(x, K, V), Q, u))(u)
    [node] = [n for n in graph.graph.nodes if "attention_cotangents" in str(n.target)]
    assert node.args[-1] is False


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_derivatives_in_every_grad_mode(mode):
    ours, truth, x, v, u = case("self")
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    want = push(truth, x, v), pull(truth, x, u)
    with mode():
        if mode is torch.inference_mode and release < (2, 12):
            with pytest.raises(RuntimeError, match="silent zeros"):
                push(ours, x, v)
            return
        assert relative(push(ours, x, v), want[0]) < 1e-12
        assert relative(pull(ours, x, u), want[1]) < 1e-12


def test_training():
    """Gradients as an optimiser sees them, with a graph of gradients behind them."""
    found = []
    for f in (scaled_dot_product_attention, mathematical):
        inputs = [x.clone().requires_grad_() for x in (Q, K, V)]
        loss = f(*inputs).square().sum()
        grads = torch.autograd.grad(loss, inputs, create_graph=True)
        (loss + sum(grad.square().sum() for grad in grads)).backward()
        found.append([x.grad for x in inputs])
    for got, want in zip(*found, strict=True):
        assert relative(got, want) < 1e-12


def test_a_product_through_a_graph_asks_for_no_second_derivative(monkeypatch):
    """They would be computed, and thrown away, in every product."""
    from pullback_ext._dense_attention import DenseAttention

    x = Q.clone().requires_grad_()
    y = scaled_dot_product_attention(x.clone(), K, V)
    u = torch.zeros_like(y).requires_grad_()
    (g,) = torch.autograd.grad(y, x, u, create_graph=True)

    def cotangents(*args, **kwargs):
        raise AssertionError("a second derivative was asked for")

    monkeypatch.setattr(DenseAttention, "cotangents", cotangents)
    (got,) = torch.autograd.grad(g, u, x.detach(), retain_graph=True)
    assert got.abs().max() > 0
    with pytest.raises(AssertionError, match="second derivative"):
        torch.autograd.grad(g, x, torch.ones_like(g))


def test_autocast_decides_the_dtype_as_it_does_for_torch():
    q, k, v = (x.float() for x in drawn())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = scaled_dot_product_attention(q, k, v, torch.zeros(5, 7))
        assert got.dtype == F.scaled_dot_product_attention(q, k, v).dtype == torch.bfloat16
        tangents = push(
            lambda x: scaled_dot_product_attention(x, k, v), q, normal(2, *q.shape).float()
        )
    assert tangents.dtype == torch.bfloat16
    assert relative(got.double(), mathematical(q.double(), k.double(), v.double())) < 3e-2


def test_two_threads():
    """Reverse: levels of forward mode belong to the process."""
    at = [x.float() for x in drawn(queries=77, keys=77, d=16, e=16)]
    block, found = torch.randn(4, *at[0].shape), {}

    def pulled():
        return pull(lambda x: scaled_dot_product_attention(x, *at[1:]), at[0], block)

    def work(i):
        found[i] = [pulled() for _ in range(5)]

    want = pulled()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(torch.equal(one, want) for i in range(2) for one in found[i])


# ----------------------------------------------------------------------------------------- errors


LEARNT = torch.zeros(5, 7, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout_p": 0.1}, r"expected dropout_p of 0, got 0.1. Set it to 0"),
        ({"attn_mask": LEARNT}, "expected attn_mask without a derivative.*Detach it"),
        ({"attn_mask": MASKS["boolean"], "is_causal": True}, "got both. Put the causal mask into"),
        ({"attn_mask": torch.ones(5, 7, dtype=torch.int64)}, "dtype bool.*got torch.int64"),
        ({"attn_mask": torch.ones(7, 5).bool()}, r"broadcasts to the scores, \[2, 3, 5, 7\]"),
        ({"attn_mask": torch.ones(4, 2, 3, 5, 7).bool()}, "broadcasts to the scores"),
        ({"query": torch.ones(2, 3, 5, 4, dtype=torch.int64)}, "of dtype float64.*got int64"),
        ({"key": K[0, 0, 0]}, r"expected key \[..., S, d\]"),
        ({"value": V.to_sparse()}, "dense.*sparse"),
        ({"key": K.float()}, "expected key of the dtype.*got float32"),
        ({"key": K[..., :3]}, "queries and keys of one width"),
        ({"value": V[..., :6, :]}, "Are keys and values of the same tokens"),
        ({"key": K[:, :2], "value": V[:, :2]}, "set enable_gqa=True"),
        ({"key": K[:, :2], "value": V[:, :2], "enable_gqa": True}, "Hk that divides H"),
        ({"key": K[0, 0], "enable_gqa": True}, "Hk that divides H"),
    ],
)  # fmt: skip
def test_what_is_refused_is_said(change, message):
    with pytest.raises(RuntimeError, match=f"scaled_dot_product_attention: .*{message}"):
        scaled_dot_product_attention(**{"query": Q, "key": K, "value": V, **change})


@pytest.mark.parametrize("way", [w for w in (*FIRST, *HIGHER) if w != "graph"])
def test_a_mask_is_never_a_silent_zero(way):
    """At any level of the nested transforms."""
    mask, v, u = normal(5, 7), normal(3, 5, 7), normal(3, 2, 3, 5, 3)

    def f(mask):
        return scaled_dot_product_attention(Q, K, V, mask)

    if way == "value":
        assert f(mask).abs().max() > 0
        return
    with pytest.raises(RuntimeError, match="expected attn_mask without a derivative"):
        {**FIRST, **HIGHER}[way](f, mask, v, u)
