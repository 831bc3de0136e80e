"""Makes the functions inside any `nn.Module` differentiable in forward mode, without editing it.

Two of torch's own functions stand in the way of `vmap(jvp)` over a diffusion network: the fast
backends of `scaled_dot_product_attention` have no forward-mode rule (pytorch#98164), and the
rule of `group_norm` fails on a primal that is not contiguous ("view size is not compatible"),
which the attention blocks of diffusers make by themselves. Inside `forward_mode_ready` both work
for every layout, also where a module asks for one of the fast backends itself. Nothing of the model
is changed; the interception ends with the context.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


class _Intercepted(TorchFunctionMode):
    """Hands `group_norm` a contiguous input, and attention its mathematical form.

    The latter at the call itself: a module may stand in an `sdpa_kernel` of its own, which counts
    for more than one that was entered before.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is F.group_norm or func is torch.group_norm:
            if args:
                args = (args[0].contiguous(), *args[1:])
            else:
                kwargs = {**kwargs, "input": kwargs["input"].contiguous()}
        elif func is F.scaled_dot_product_attention:
            with sdpa_kernel(SDPBackend.MATH):
                return func(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Context in which float32 means float32: no autocast, no TF32 or bfloat16 underneath.

    TF32 rounds 8,000 times coarser than the error bounds of float32 results assume, and
    `torch.set_float32_matmul_precision` asks for it, or for less.
    """
    backends = [getattr(torch.backends.mkldnn, kind) for kind in ("conv", "matmul")]
    backends += [getattr(torch.backends.cudnn, "conv"), torch.backends.cuda.matmul]  # noqa: B009
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


#: Which backend attention uses, and in what precision, is a setting of the whole process.
_SETTINGS = threading.RLock()


@contextmanager
def forward_mode_ready() -> Iterator[None]:
    """Context in which attention and group normalisation can be differentiated in any mode.

    Enter it around the whole of `vmap(jvp(f))` or `vjp(f)`: inside a transform it would not see
    the calls. Attention takes its mathematical form, which stores the full score matrix, and
    arithmetic is plain. Threads take turns.
    """
    with _SETTINGS, plain_arithmetic(), sdpa_kernel(SDPBackend.MATH), _Intercepted():
        yield
