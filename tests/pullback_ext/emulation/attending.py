"""Calls the launcher of attention (emulated.py) on NumPy arrays."""

import ctypes
from ctypes import Structure, c_bool, c_double, c_int, c_int64, c_void_p

import numpy as np

from tests.pullback_ext.emulation import emulated
from tests.pullback_ext.emulation.emulated import FLOAT64, ITEM, address

FORWARD, TANGENTS, OF_QUERIES, OF_KEYS = range(4)


class HeadRows(Structure):
    _fields_ = [("data", c_void_p), ("strides", c_int64 * 4)]


class AttentionParams(Structure):
    _fields_ = [
        ("kind", c_int),
        ("dtype", c_int),
        *((name, HeadRows) for name in ("q", "k", "v", "o", "dq", "dk", "dv", "g")),
        ("bias", c_void_p),
        ("bias_strides", c_int64 * 4),
        *((name, c_void_p) for name in ("lse", "sums", "peaks", "exact", "out", "out_k", "out_v")),
        *(
            (name, c_int64)
            for name in (
                "tangents", "batch", "heads", "key_heads", "queries", "keys", "depth", "width",
            )
        ),
        ("scale", c_double),
        ("causal", c_bool),
        ("device", c_int),
    ]  # fmt: skip


def head_rows(x):
    """Of [.., B, H, S, entries], whose entries lie side by side."""
    if x is None:
        return HeadRows()
    assert x.shape[-1] <= 1 or x.strides[-1] == x.itemsize
    strides = [
        0 if n == 1 else s // x.itemsize for s, n in zip(x.strides[:-1], x.shape[:-1], strict=True)
    ]
    return HeadRows(address(x), (c_int64 * 4)(*[0] * (4 - len(strides)), *strides))


def params_of(dtype, q, k, v, bias=None, scale=None, causal=False):
    """What all kinds are told."""
    params = AttentionParams(dtype=dtype, q=head_rows(q), k=head_rows(k), v=head_rows(v))
    params.tangents, params.causal = 1, causal
    params.batch, params.heads, params.queries, params.depth = q.shape
    params.key_heads, params.keys, params.width = k.shape[1], k.shape[2], v.shape[3]
    params.scale = (q.shape[3] or 1) ** -0.5 if scale is None else scale
    if bias is not None:
        params.bias = address(bias)
        params.bias_strides = (c_int64 * 4)(
            *(0 if n == 1 else s // x for s, n, x in zip(
                bias.strides, bias.shape, [bias.itemsize] * 4, strict=True))
        )  # fmt: skip
    return params


class Guarded:
    """Results that start as NaN and are followed by a guard zone."""

    def __init__(self):
        self.memory = []

    def __call__(self, item, *shape):
        size = int(np.prod(shape))
        memory = np.full((size + 64) * np.dtype(item).itemsize, 255, np.uint8).view(item)
        self.memory.append(memory[size:].view(np.uint8))
        return memory[:size].reshape(shape)

    def check(self):
        assert all((zone == 255).all() for zone in self.memory), "write behind a result"


def attend(dtype, q, k, v, bias=None, scale=None, causal=False, schedule=0, kernels=None):
    """o and lse. `kernels`: a library with the same interface, in place of the emulated one."""
    kernels = kernels or emulated.library()
    params, new = params_of(dtype, q, k, v, bias, scale, causal), Guarded()
    o = new(ITEM[dtype], *q.shape[:3], v.shape[3])
    lse = new(np.float64, *q.shape[:3])
    params.kind, params.out, params.lse = FORWARD, address(o), address(lse)
    emulated.launch(kernels.attention, ctypes.byref(params), schedule=schedule, kernels=kernels)
    new.check()
    return o, lse


def centers_of(new, dtype, params, lse):
    """Memory for the centers of rows, and the peaks that they are of."""
    real = np.float64 if dtype == FLOAT64 else np.float32
    return new(real, params.tangents, *lse.shape), new(np.int32, *lse.shape)


def tangents(
    dtype, q, k, v, o, lse, dq=None, dk=None, dv=None, bias=None, scale=None, causal=False,
    schedule=0, kernels=None,
):  # fmt: skip
    """[T, B, H, Sq, e]."""
    kernels = kernels or emulated.library()
    params, new = params_of(dtype, q, k, v, bias, scale, causal), Guarded()
    params.tangents = next(len(x) for x in (dq, dk, dv) if x is not None)
    out = new(ITEM[dtype], params.tangents, *o.shape)
    exact = new(np.float32, *o.shape)
    sums, peaks = centers_of(new, dtype, params, lse)
    params.kind, params.out, params.exact = TANGENTS, address(out), address(exact)
    params.sums, params.peaks = address(sums), address(peaks)
    params.o, params.lse = head_rows(o), address(lse)
    params.dq, params.dk, params.dv = head_rows(dq), head_rows(dk), head_rows(dv)
    emulated.launch(kernels.attention, ctypes.byref(params), schedule=schedule, kernels=kernels)
    new.check()
    return out


def cotangents(
    dtype, q, k, v, o, lse, g, bias=None, scale=None, causal=False, schedule=0, kernels=None
):
    """dq, dk, dv."""
    kernels = kernels or emulated.library()
    params, new = params_of(dtype, q, k, v, bias, scale, causal), Guarded()
    count = params.tangents = len(g)
    results = [new(ITEM[dtype], count, *x.shape) for x in (q, k, v)]
    exact = new(np.float32, *o.shape)
    sums, peaks = centers_of(new, dtype, params, lse)
    params.out, params.out_k, params.out_v = map(address, results)
    params.exact, params.sums, params.peaks = map(address, (exact, sums, peaks))
    params.o, params.lse, params.g = head_rows(o), address(lse), head_rows(g)
    for kind in (OF_QUERIES, OF_KEYS):
        params.kind = kind
        emulated.launch(kernels.attention, ctypes.byref(params), schedule=schedule, kernels=kernels)
    new.check()
    return tuple(results)
