"""How the attention operators are called: under vmap, and with what they do not take."""

import re
from pathlib import Path

import pytest
import torch

from pullback_ext import (
    _ops,
    attention,
    attention_cotangents,
    attention_tangents,
    reference,
)
from tests.pullback_ext.test_attention import draw, normal

pytestmark = pytest.mark.usefixtures("native")

# ------------------------------------------------------------------------------------------- vmap

NAMES = ("q", "k", "v", "o", "lse", "dq", "dk", "dv", "g", "bias")
MAPPED = [
    "dq dk dv g",
    "dq g",
    "dv g",
    "q",
    "k v",
    "bias",
    "q k v o lse dq dk dv g bias",
    "dk bias",
]


@pytest.mark.parametrize("mapped", MAPPED)
@pytest.mark.parametrize("dim", [0, 2, -1])
def test_vmap_gives_the_bits_of_a_loop(rng, mapped, dim):
    count = 3
    primal, tangents, g = draw(rng, torch.float32, (20, 21, 8, 8), count=2)
    o, lse = attention(*primal)
    bias = normal(rng, torch.float32, 1, 1, 20, 21)
    tensors = dict(zip(NAMES, (*primal, o, lse, *tangents, g, bias), strict=True))
    dims = {}
    for name in mapped.split():
        noise = normal(rng, torch.float32, count, *tensors[name].shape)
        tensors[name] = (tensors[name] + 0.1 * noise).movedim(0, dim)
        dims[name] = dim

    def f(q, k, v, o, lse, dq, dk, dv, g, bias):
        return (
            *attention(q, k, v, bias),
            attention_tangents(q, k, v, o, lse, dq, dk, dv, bias),
            attention_tangents(q, k, v, o, lse, dq, None, None, bias),
            *attention_cotangents(q, k, v, o, lse, g, bias),
            attention_cotangents(q, k, v, o, lse, g, bias, with_kv=False).dq,
        )

    got = torch.func.vmap(f, in_dims=tuple(dims.get(name) for name in NAMES))(*tensors.values())
    for i in range(count):
        one = [x.select(dim, i) if name in dims else x for name, x in tensors.items()]
        for x, y in zip(got, f(*one), strict=True):
            assert torch.equal(x[i], y)


def test_tangents_alone_are_folded_into_tangents(rng, monkeypatch):
    from torch.fx.experimental.proxy_tensor import make_fx

    primal, tangents, _ = draw(rng, torch.float32, (20, 21, 8, 8), count=1)
    o, lse = attention(*primal)
    f = torch.func.vmap(lambda dq: attention_tangents(*primal, o, lse, dq))
    graph = make_fx(f)(tangents[0].expand(5, -1, -1, -1, -1, -1))
    (node,) = (n for n in graph.graph.nodes if n.target is _ops.overload("attention_tangents"))
    assert node.args[5].meta["tensor_meta"].shape == (5, 2, 2, 20, 8)


# ----------------------------------------------------------------------------------------- errors

BAD = [
    ({"q": (2, 20, 8)}, r"expected q of shape \[B, H, Sq, d\], got \[2, 20, 8\]"),
    ({"k": (2, 2, 21, 9)}, r"expected k of shape \[B, Hk, Sk, d\] beside q of shape"),
    ({"k": (2, 3, 21, 8)}, "expected a number of heads of k that divides that of q, 2, got 3"),
    ({"v": (2, 2, 22, 8)}, r"expected v of shape \[B, Hk, Sk, e\] beside k"),
    ({"bias": (2, 2, 21, 21)}, "expected bias of four sizes, each 1 or that of"),
    ({"bias": (20, 21)}, "expected bias of four sizes"),
    ({"o": (2, 2, 20, 9)}, r"expected o of shape \[B, H, Sq, e\], here \[2, 2, 20, 8\]"),
    ({"lse": (2, 2, 21)}, r"expected lse of shape \[B, H, Sq\], here \[2, 2, 20\]"),
    ({"dq": (2, 2, 20, 8)}, r"expected dq of shape \[T, B, H, Sq, d\]"),
    ({"dk": (4, 2, 2, 21, 8)}, r"expected dk of shape \[T, B, Hk, Sk, d\], here \[3, 2, 2, 21, 8"),
    ({"dv": (3, 2, 2, 21, 9)}, r"expected dv of shape \[T, B, Hk, Sk, e\]"),
    ({"g": (3, 2, 2, 21, 8)}, r"expected g of shape \[T, B, H, Sq, e\]"),
    ({"k": torch.float64}, "expected k of dtype float32 beside q of dtype float32, got float64"),
    ({"lse": torch.float32}, "expected lse of dtype float64 beside q"),
    ({"bias": torch.bool}, "expected bias of dtype float32 beside q of dtype float32, got bool"),
    ({"dv": torch.float16}, "expected dv of dtype float32 beside q"),
    ({"q": torch.int64}, "expected q of dtype float32, float64, float16 or bfloat16, got int64"),
]


@pytest.mark.parametrize(("change", "text"), BAD, ids=[text[9:40] for _, text in BAD])
def test_what_is_wrong_is_told_alike_by_all(rng, change, text):
    primal, tangents, g = draw(rng, torch.float32, (20, 21, 8, 8))
    o, lse = attention(*primal)
    bias = torch.zeros(1, 1, 1, 21)
    tensors = dict(zip(NAMES, (*primal, o, lse, *tangents, g, bias), strict=True))
    ((name, how),) = change.items()
    if isinstance(how, tuple):
        tensors[name] = torch.zeros(how)
    else:
        tensors[name] = tensors[name].to(how)
    x = tensors
    front = [x[n] for n in NAMES[:5]]
    calls = {
        "attention": [*front[:3], x["bias"], 1.0, False],
        "attention_tangents": [*front, x["dq"], x["dk"], x["dv"], x["bias"], 1.0, False],
        "attention_cotangents": [*front, x["g"], x["bias"], 1.0, False, True],
    }
    used = {
        "attention": {"q", "k", "v", "bias"},
        "attention_tangents": set(NAMES) - {"g"},
        "attention_cotangents": set(NAMES) - {"dq", "dk", "dv"},
    }
    for op, args in calls.items():
        if name not in used[op]:
            continue
        for call in (_ops.overload(op), getattr(reference, op)):
            with pytest.raises(RuntimeError, match=f"{op}: {text}"):
                call(*args)
        meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in args]
        with pytest.raises(RuntimeError, match=f"{op}: {text}"):
            _ops.overload(op)(*meta)


def test_some_tangent_is_needed(rng):
    primal, _, _ = draw(rng, torch.float32, (20, 21, 8, 8))
    with pytest.raises(RuntimeError, match="expected dq, dk or dv, got none of them"):
        attention_tangents(*primal, *attention(*primal))


# ------------------------------------------------------------------------------------- huge pages


def flags_of(tensor):
    """What Linux notes of the mapping that the middle of a tensor lies in."""
    at = tensor.data_ptr() + tensor.nbytes // 2
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", first):
            begin, end = (int(one, 16) for one in first.split("-"))
            inside = begin <= at < end
        elif inside and first == "VmFlags:":
            return rest.split()
    return []


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir(),
    reason="this system has no huge pages for the asking",
)
def test_large_results_are_in_huge_pages(rng):
    primal, (dq, _, _), g = draw(
        rng, torch.float32, (4096, 2, 40, 40), batch=1, heads=8, key_heads=8, count=8
    )
    o, lse = attention(*primal)
    tangents = attention_tangents(*primal, o, lse, dq, None, None)
    cotangents, _, _ = attention_cotangents(*primal, o, lse, g, with_kv=False)
    for found in (tangents, cotangents):
        assert "hg" in flags_of(found)
    # Memory of this size is never that of an earlier tensor.
    assert "hg" not in flags_of(torch.zeros_like(tangents) + 1)
