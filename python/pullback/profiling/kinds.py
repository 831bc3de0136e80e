"""Kinds of work, and which operators are of which kind."""

from __future__ import annotations

import functools

import torch

from pullback._ranges import CHECKS, PRIMAL, SOLVER

CONVOLUTION, LINEAR, ATTENTION = "convolution", "linear layers", "attention"
NORMALIZATION, ELEMENTWISE, COPIES = "normalisation", "gates and entries", "copies"
ALGEBRA, POINT, CHECKING = "block algebra", "primal", "checks"
PYTHON, UNATTRIBUTED = "Python", "unattributed"

#: All kinds, in the order in which they are shown.
KINDS = (
    CONVOLUTION, LINEAR, ATTENTION, NORMALIZATION, ELEMENTWISE, COPIES, ALGEBRA, POINT, CHECKING,
    PYTHON, UNATTRIBUTED,
)  # fmt: skip

#: The stages whose operators are one kind of work together, whatever they are.
OF_STAGE = {CHECKS: CHECKING, PRIMAL: POINT, SOLVER: ALGEBRA}

#: Operators by kind, without the namespace "aten".
_OPERATORS = {
    CONVOLUTION: (
        "convolution", "_convolution", "convolution_overrideable", "convolution_backward",
        "convolution_backward_overrideable", "mkldnn_convolution", "cudnn_convolution",
        "cudnn_convolution_transpose", "_slow_conv2d_forward", "_slow_conv2d_backward",
        "slow_conv3d_forward", "_conv_depthwise2d", "conv1d", "conv2d", "conv3d",
    ),
    LINEAR: ("mm", "addmm", "linear", "mv", "addmv", "dot", "matmul"),
    # Products of a batch of matrices: of queries with keys, of probabilities with values.
    ATTENTION: (
        "bmm", "baddbmm", "_softmax", "_safe_softmax", "_softmax_backward_data",
        "scaled_dot_product_attention", "_scaled_dot_product_attention_math",
        "pullback::attention", "pullback::attention_tangents", "pullback::attention_cotangents",
    ),
    NORMALIZATION: (
        "native_group_norm", "native_group_norm_backward", "native_layer_norm",
        "native_layer_norm_backward", "native_batch_norm", "native_batch_norm_backward",
        "_native_batch_norm_legit", "cudnn_batch_norm", "_fused_rms_norm", "rms_norm",
        "pullback::normalize_tangents",
    ),
    # Those that torch calls pointwise are added by their tag.
    ELEMENTWISE: (
        "sum", "mean", "sum_to_size", "var", "var_mean", "amax", "amin", "cumsum", "norm",
        "linalg_vector_norm", "silu_backward", "gelu_backward", "sigmoid_backward",
        "tanh_backward", "threshold_backward", "upsample_nearest2d", "upsample_nearest2d_backward",
        "upsample_nearest1d", "upsample_nearest3d", "_upsample_nearest_exact2d",
        "upsample_bilinear2d", "upsample_bilinear2d_backward", "upsample_bicubic2d",
        "upsample_bicubic2d_backward", "avg_pool2d", "avg_pool2d_backward", "avg_pool1d",
        "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward",
        "reflection_pad2d", "replication_pad2d",
    ),
    COPIES: (
        "copy", "copy_", "clone", "contiguous", "cat", "stack", "_to_copy", "to", "reshape",
        "fill_", "zero_", "zeros", "zeros_like", "new_zeros", "constant_pad_nd", "index",
        "index_select", "gather", "index_put_", "_index_put_impl_", "slice_backward",
        "select_backward", "repeat", "flip", "roll", "tril", "_reshape_copy", "as_strided_",
    ),
}  # fmt: skip

_KIND = {
    name if "::" in name else f"aten::{name}": kind
    for kind, names in _OPERATORS.items()
    for name in names
}


@functools.cache
def of_operator(name: str) -> str | None:
    """The kind of an operator such as "aten::mul"; None where it has none of its own.

    Views, which move nothing, have that of what they are part of.
    """
    known = _KIND.get(name)
    if known is not None or not name.startswith("aten::"):
        return known
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
    overloads = [] if packet is None else [getattr(packet, one) for one in packet.overloads()]
    return ELEMENTWISE if any(torch.Tag.pointwise in one.tags for one in overloads) else None


def of_work(operator: str, step: str | None, around: str | None) -> str:
    """The kind of what an operator does in a product.

    Args:
        operator: its name.
        step: the operation whose recorded map it is part of; None outside of one.
        around: the kind of the operator that called it; None where none did.
    """
    own = of_operator(operator)
    if own == COPIES:  # within a convolution, too: they can be saved where it cannot
        return own
    of_step = None if step is None else of_operator(step)
    if step is not None and of_step is None and own is None:
        return around or COPIES  # of a view
    return of_step or around or own or UNATTRIBUTED
