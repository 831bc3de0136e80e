"""Makes the functions inside any `nn.Module` differentiable in forward mode, without editing it.

Two of torch's own functions stand in the way of `vmap(jvp)` over a diffusion network: the fast
backends of `scaled_dot_product_attention` have no forward-mode rule (pytorch#98164), and the
rule of `group_norm` fails on a primal that is not contiguous ("view size is not compatible"),
which the attention blocks of diffusers make by themselves. Inside `forward_mode_ready` both work
for every layout. Nothing of the model is changed; the interception ends with the context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


class _ContiguousGroupNorm(TorchFunctionMode):
    """Hands `group_norm` a contiguous input."""

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
        return func(*args, **kwargs)


@contextmanager
def forward_mode_ready() -> Iterator[None]:
    """Context in which attention and group normalisation can be differentiated in any mode.

    Enter it around the whole of `vmap(jvp(f))` or `vjp(f)`: inside a transform it would not see
    the calls. Attention takes its mathematical form, which stores the full score matrix; float32
    convolutions on a GPU run in float32 and not in TF32, whose rounding is 8,000 times coarser
    than the error bounds of the results assume.
    """
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with sdpa_kernel(SDPBackend.MATH), _ContiguousGroupNorm():
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
