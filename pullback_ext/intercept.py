"""Makes the functions inside any `nn.Module` differentiable in forward mode, without editing it.

Inside `forward_mode_ready` three things are replaced, where modules call them:

* `scaled_dot_product_attention` is that of `pullback_ext`, also where a module asks for a backend
  itself: torch's fast ones have no forward-mode rule (pytorch#98164). What ours does not take (a
  dropout, a derivative of the mask, a device without native kernels), and samples that are too
  small for it to pay, get torch's mathematical form, which holds the matrix of scores.
* `group_norm`, `layer_norm`, `rms_norm`, `silu` and `gelu` are those of `pullback_ext`, with one
  rule for all tangents at a point, where a sample is large enough for that to be faster. torch's
  rule of `group_norm` also fails on a primal that is not contiguous ("view size is not
  compatible"), which the attention blocks of diffusers make.
* Modules of the classes in `register` run a function in place of their forward.

Nothing of the model is changed; the interception ends with the context.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pullback_ext import gates, normalization
from pullback_ext._intercepted_attention import ATTENTIONS, mathematical, native, with_rules


def _group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,  # noqa: ARG001  (torch.group_norm's)
) -> torch.Tensor:
    return normalization.group_norm(input, num_groups, weight, bias, eps)


def _layer_norm(
    input: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,  # noqa: ARG001  (torch.layer_norm's)
) -> torch.Tensor:
    return normalization.layer_norm(input, normalized_shape, weight, bias, eps)


def _rms_norm(
    input: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    return normalization.rms_norm(input, normalized_shape, weight, eps)


def _silu(input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    return F.silu(input, inplace=True) if inplace else gates.silu(input)


def _gelu(input: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    return gates.gelu(input, approximate)


_REPLACED: dict[Callable[..., Any], Callable[..., torch.Tensor]] = {
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.silu: _silu,
    F.gelu: _gelu,
}
#: Entries of a sample from which our rules are faster than torch's. A function of one's own takes
#: half a millisecond of Python where it is differentiated, torch's many short kernels take less
#: where there is little to do. It is a matter of the sample alone, so that results are no matter
#: of how many there are.
_WORTHWHILE = {_group_norm: 1024, _layer_norm: 1024, _rms_norm: 1024, _silu: 16384, _gelu: 16384}


class _NativeAttention(TorchFunctionMode):
    """Attention as the native operator, below autograd: one node for a recording of operations."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return _with_its_attention(*args, **kwargs)
        if func not in ATTENTIONS:
            return func(*args, **kwargs)
        inside_transform = torch._C._functorch.peek_interpreter_stack() is not None
        if torch.is_grad_enabled() and not inside_transform:
            found = native(*args, **kwargs)
            if found is not None:
                return found
        return mathematical(*args, **kwargs)


def _with_its_attention(*args: Any, **kwargs: Any) -> Any:
    """`multi_head_attention_forward`, whose own call of attention no mode sees."""
    with _ATTENTION():
        return F.multi_head_attention_forward(*args, **kwargs)


class _Intercepted(TorchFunctionMode):
    """Calls what has a rule for many tangents in place of torch's functions.

    Attention is replaced at the call itself: a module may stand in an `sdpa_kernel` of its own,
    which counts for more than one that was entered before.

    SiLU of what group normalisation just returned is fused with it where `torch.func.vjp` records,
    for many cotangents. Where tangents are pushed there is nothing to gain: those of the
    normalisation have been computed when its SiLU is called. In a graph of autograd's own, which is
    used for one cotangent per primal, the primal's part would cost more than fusion saves.
    """

    def __init__(self) -> None:
        super().__init__()
        self._normalized: tuple[torch.Tensor, Callable[[], torch.Tensor]] | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        # Whatever else is called in between may change the tensor in place.
        before, self._normalized = self._normalized, None
        if func in ATTENTIONS:
            return with_rules(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return _with_its_attention(*args, **kwargs)
        replacement = _REPLACED.get(func)
        if replacement is None or not _has_rule(*args, **kwargs):
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        if replacement is _silu and before is not None:
            y, fused = before
            if x is y and not _in_place(*args, **kwargs):
                return fused()
        if x.numel() < _WORTHWHILE[replacement] * (x.shape[0] if x.dim() else 1):
            if replacement is _group_norm and args:
                args = (x.contiguous(), *args[1:])
            elif replacement is _group_norm:
                kwargs = {**kwargs, "input": x.contiguous()}
            return func(*args, **kwargs)
        result = replacement(*args, **kwargs)
        recorded = result.requires_grad and torch._C._functorch.peek_interpreter_stack() is not None
        if recorded and replacement is _group_norm:
            self._normalized = result, functools.partial(_group_norm_silu, *args, **kwargs)
        return result


def _group_norm_silu(
    input: torch.Tensor, num_groups: int, *args: Any, cudnn_enabled: bool = True, **kwargs: Any
) -> torch.Tensor:
    del cudnn_enabled
    return normalization.group_norm_silu(input, num_groups, *args[:3], **kwargs)


def _in_place(input: torch.Tensor, inplace: bool = False) -> bool:  # noqa: ARG001  (F.silu's)
    return inplace


def _has_rule(*args: Any, **kwargs: Any) -> bool:
    """Whether a call is for our functions: of dense floating tensors, of torch's own classes.

    Torch knows best how to refuse the rest.
    """
    tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
    return bool(tensors) and all(
        type(x) in (torch.Tensor, nn.Parameter, FakeTensor)
        and x.is_floating_point()
        and x.layout == torch.strided
        for x in tensors
    )


# --------------------------------------------------------------------------- modules of a class


_FUNCTIONS: dict[type[nn.Module], Callable[..., Any]] = {}


class _Thread(threading.local):
    """How many contexts this thread is inside of."""

    contexts = 0
    depth = 0  # the same, with those of `recordable`


_THREAD = _Thread()


def register(module_class: type[nn.Module], function: Callable[..., Any]) -> None:
    """Run a function in place of the forward of a class of modules, inside `forward_mode_ready`.

    For modules that compute by themselves what has a rule for many tangents. It holds for contexts
    that are entered from now on, in the thread that enters them, and for classes derived from this
    one unless they have a forward of their own.

    Args:
        module_class: the class.
        function: called as ``function(module, *args, **kwargs)``, with what forward is called with;
            computes the same.

    Raises:
        ValueError: the class has a function already, another one.
    """
    known = _FUNCTIONS.setdefault(module_class, function)
    if known is not function:
        raise ValueError(
            f"register: expected one function for {module_class.__name__}, got {function!r} where "
            f"there is {known!r}. Register a class derived from it."
        )


class _Patch:
    """The forward of a class while some thread is inside a context, counted.

    Args:
        module_class: the class.
        function: what threads that are inside run.
    """

    def __init__(self, module_class: type[nn.Module], function: Callable[..., Any]) -> None:
        self._class = module_class
        self._own = module_class.__dict__.get("forward")  # None where it is inherited
        original = module_class.forward

        @functools.wraps(original)
        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            chosen = function if _THREAD.contexts else original
            return chosen(module, *args, **kwargs)

        self.users = 0
        module_class.forward = forward  # type: ignore[method-assign]

    def undo(self) -> None:
        """Give the class back what it had."""
        if self._own is None:
            del self._class.forward
        else:
            self._class.forward = self._own  # type: ignore[method-assign]


_PATCHES: dict[type[nn.Module], _Patch] = {}
_PATCHING = threading.Lock()


@contextmanager
def _registered() -> Iterator[None]:
    """Context in which modules of registered classes run their functions in this thread."""
    with _PATCHING:
        patches = {c: _PATCHES.get(c) or _Patch(c, f) for c, f in _FUNCTIONS.items()}
        _PATCHES.update(patches)
        for patch in patches.values():
            patch.users += 1
    _THREAD.contexts += 1
    try:
        yield
    finally:
        _THREAD.contexts -= 1
        with _PATCHING:
            for module_class, patch in patches.items():
                patch.users -= 1
                if not patch.users:
                    _PATCHES.pop(module_class).undo()


# ------------------------------------------------------------------------------------- contexts


@contextmanager
def _counted() -> Iterator[None]:
    _THREAD.depth += 1
    try:
        yield
    finally:
        _THREAD.depth -= 1


def differentiating() -> bool:
    """Whether this thread is inside `recordable` or `forward_mode_ready`."""
    return _THREAD.depth > 0


class _Counted:
    """A setting of the whole process, made by the first thread that asks and undone by the last.

    So that threads that want the same need not take turns.

    Args:
        make: the context of the setting.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._users = 0
        self._made: AbstractContextManager[Any] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._made is None:
                self._made = self._make()
                self._made.__enter__()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    made, self._made = self._made, None
                    assert made is not None
                    made.__exit__(None, None, None)


@contextmanager
def _ieee() -> Iterator[None]:
    backends = [getattr(torch.backends.mkldnn, kind) for kind in ("conv", "matmul")]
    backends += [getattr(torch.backends.cudnn, "conv"), torch.backends.cuda.matmul]  # noqa: B009
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


_PRECISION = _Counted(_ieee)
_ATTENTION = _Counted(lambda: sdpa_kernel(SDPBackend.MATH))


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Context in which float32 means float32: no autocast, no TF32 or bfloat16 underneath.

    TF32 rounds 8,000 times coarser than the error bounds of float32 results assume, and
    `torch.set_float32_matmul_precision` asks for it, or for less. Precision is a setting of the
    whole process: it comes back when the last thread leaves its context.
    """
    with (
        _PRECISION(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


@contextmanager
def recordable() -> Iterator[None]:
    """Context in which a network shows the plain operations that it consists of.

    Attention is the native operator, also where a module asks for a backend, or its mathematical
    form where that does not serve (a dropout, a mask that depends on x, tensors that are not [B, H,
    S, d]); arithmetic is plain, and nothing else is replaced.
    """
    with plain_arithmetic(), _NativeAttention(), _counted():
        yield


@contextmanager
def forward_mode_ready() -> Iterator[None]:
    """Context in which the functions that networks are made of can be differentiated in any mode.

    Enter it around the whole of `vmap(jvp(f))` or `vjp(f)`: inside a transform it would not see
    the calls, and it does not see those of scripted modules. Attention is that of `pullback_ext`,
    which never holds the matrix of scores, and arithmetic is plain.
    """
    with ExitStack() as stack:
        stack.enter_context(plain_arithmetic())
        stack.enter_context(_counted())
        inside = _THREAD.contexts > 0
        stack.enter_context(_registered())
        if not inside:  # a mode sees calls once
            stack.enter_context(_Intercepted())
        yield
