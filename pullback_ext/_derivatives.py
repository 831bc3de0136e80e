"""What the differentiable functions share: where they refuse, and what a backward pass asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import forward_ad

from pullback_ext import _loader

#: The first release whose `torch.func` differentiates in inference mode. Earlier ones answer with
#: zeros there, for torch's own functions too, as the Autograd key is off (pytorch#177318).
DERIVATIVES_IN_INFERENCE_MODE = (2, 12)


def loses_derivatives() -> bool:
    """Whether this is inside `torch.func.jvp`, in inference mode of a torch that has no rule there.

    The other transforms (`grad`, `vjp`, `linearize`) leave no trace that could be seen from here.
    """
    if _loader.torch_release(torch.__version__) >= DERIVATIVES_IN_INFERENCE_MODE:
        return False
    from torch._functorch import eager_transforms  # private, and of frozen releases alone

    return bool(eager_transforms.JVP_NESTING) and torch.is_inference_mode_enabled()


def refuse_silent_zeros(name: str) -> None:
    """Raise where torch would lose the derivative of a function of our own without a word."""
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"{name}: expected a call outside of torch.compile, which drops forward derivatives "
            "of functions like this one, so that tangents would be silent zeros (pytorch#192985): "
            "call the uncompiled function, or trace it by make_fx."
        )
    if loses_derivatives():
        newer = ".".join(map(str, DERIVATIVES_IN_INFERENCE_MODE))
        raise RuntimeError(
            f"{name}: expected a call outside of torch.inference_mode(), where torch "
            f"{torch.__version__} answers torch.func.jvp with silent zeros: use torch.no_grad() "
            f"in its place, or install torch {newer} or newer."
        )


@contextmanager
def rule_of_tangents(ctx: Any) -> Iterator[list[Any]]:
    """Context of a `jvp` rule: its saved tensors, and derivatives of what is computed of them.

    torch runs the rules with forward mode switched off, and tensors that carry this level's own
    tangents. Of `jvp` inside of `jvp`, the outer derivative of the rule would be a silent zero.
    """
    levels = torch._C._functorch.get_interpreter_stack() or []
    forward = [level for level in levels if level.key() == torch._C._functorch.TransformType.Jvp]
    if len(forward) < 2:
        yield list(ctx.saved_tensors)
        return
    with forward_ad._set_fwd_grad_enabled(True):
        yield [x if x is None else forward_ad.unpack_dual(x).primal for x in ctx.saved_tensors]


def is_asked(ctx: Any, index: int, tensors: int) -> bool:
    """Whether a backward pass wants the gradient of an input.

    `needs_input_grad` tells what was recorded, for all passes alike. What this pass is for is known
    to the engine: a product with a recorded Jacobian needs no second derivatives.

    Args:
        ctx: context of the function.
        index: position among all inputs.
        tensors: position among those that are tensors.
    """
    if not ctx.needs_input_grad[index]:
        return False
    node = ctx.next_functions[tensors][0]
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # not told of leaves in torch.autograd.grad
        return True
