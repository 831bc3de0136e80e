"""The op table: what every operator answers besides its kernels.

The only file that touches ``torch.ops.pullback``. Importing it loads the native library and
registers each row's fake rule, vmap rule, guard and plain-torch fallback.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import forward_ad

from pullback_ext import _attention_rules, _loader, _tangent_rules, reference
from pullback_ext._derivatives import DERIVATIVES_IN_INFERENCE_MODE, loses_derivatives

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Op:
    """One operator.

    Attributes:
        name: its stem, the same in schema, host function, kernel, reference and test.
        schema: as registered by the native library.
        reference: the plain-torch twin, which also serves devices without a kernel.
        fake: shape, dtype and device of the result from those of the inputs; checks them as well.
        vmap: ``(info, in_dims, *args) -> (result, out_dim)``.
        no_derivative: what to do instead, told to those who differentiate; every operator in this
            table is raw, its Autograd key raises when an input carries a derivative.
    """

    name: str
    schema: str
    reference: Rule
    fake: Rule
    vmap: Rule
    no_derivative: str


# ------------------------------------------------------------------------------------------- gram


def _gram_fake(a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    reference.check_gram(a, b)
    rows = a if b is None else b
    return a.new_empty((a.shape[0], a.shape[1], rows.shape[1]), dtype=torch.float64)


def _gram_vmap(
    info: Any,  # noqa: ARG001  (torch's signature)
    in_dims: tuple[int | None, ...],
    a: torch.Tensor,
    b: torch.Tensor | None = None,
) -> tuple[torch.Tensor, int]:
    """Folds the mapped dimension, V long, into the batch or into the rows.

    A row's products do not depend on what else is in the call, so either gives the same bits. Rows
    of the operand that is not mapped are not repeated.
    """
    a_dim, b_dim = (*in_dims, None)[:2]
    op = overload("gram")
    if b is None:
        assert a_dim is not None
        folded, unfold = _fold_batch(a.movedim(a_dim, 0))
        return unfold(op(folded)), 0
    if a_dim is None:
        assert b_dim is not None
        rows = b.movedim(b_dim, 1)  # [B, V, p, N]
        return op(a, rows.flatten(1, 2)).unflatten(2, rows.shape[1:3]), 2
    if b_dim is None:
        rows = a.movedim(a_dim, 1)  # [B, V, k, N]
        return op(rows.flatten(1, 2), b).unflatten(1, rows.shape[1:3]), 1
    left, unfold = _fold_batch(a.movedim(a_dim, 0))
    right = b.movedim(b_dim, 0)
    return unfold(op(left, right.reshape(-1, *right.shape[2:]))), 0


def _fold_batch(x: torch.Tensor) -> tuple[torch.Tensor, Rule]:
    """[V, B, ...] as [V * B, ...], and the function that undoes it on a result."""
    shape = x.shape[:2]
    return x.reshape(shape[0] * shape[1], *x.shape[2:]), lambda y: y.unflatten(0, shape)


# ------------------------------------------- orthonormalize, block_step, ritz and singular values


def _flags_like(block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """rank, replaced, passes."""
    batch, k = block.shape[:2]
    return (
        block.new_empty((batch,), dtype=torch.int64),
        block.new_empty((batch, k), dtype=torch.bool),
        block.new_empty((batch,), dtype=torch.int32),
    )


def _orthonormalize_fake(
    block: torch.Tensor,
    against: torch.Tensor | None = None,
    seed: int = 0,  # noqa: ARG001  (the schema's)
) -> tuple[torch.Tensor, ...]:
    reference.check_orthonormalize(block, against)
    q = block.new_empty(block.shape, dtype=reference.working_dtype(block.dtype))
    return q, *_flags_like(block)


def _block_step_fake(
    w: torch.Tensor,
    v_old: torch.Tensor,
    basis: torch.Tensor,
    seed: int = 0,  # noqa: ARG001  (the schema's)
) -> tuple[torch.Tensor, ...]:
    reference.check_block_step(w, v_old, basis)
    batch, k = w.shape[:2]
    others = v_old.shape[1] + basis.shape[1]
    return (
        w.new_empty(w.shape, dtype=reference.working_dtype(w.dtype)),
        w.new_empty((batch, others, k), dtype=torch.float64),
        w.new_empty((batch, k, k), dtype=torch.float64),
        *_flags_like(w),
    )


def _ritz_fake(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    reference.check_ritz(t)
    return (
        t.new_empty(t.shape[:2], dtype=torch.float64),
        t.new_empty(t.shape, dtype=torch.float64),
    )


def _squared_singular_values_fake(c: torch.Tensor) -> torch.Tensor:
    reference.check_squared_singular_values(c)
    return c.new_empty((c.shape[0], min(c.shape[1:])), dtype=torch.float64)


def _fold_all(name: str) -> Rule:
    """A vmap rule that folds the mapped dimension into the batch of every tensor.

    A sample's result does not depend on its batch, so this gives the bits of a loop. Tensors that
    are not mapped are repeated, without a copy as far as strides allow.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        dims = (*in_dims, *[None] * len(args))[: len(args)]
        folded, shape = [], torch.Size((0, 0))
        for x, dim in zip(args, dims, strict=True):
            if isinstance(x, torch.Tensor):
                x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
                shape = x.shape[:2]
                x = x.reshape(shape[0] * shape[1], *x.shape[2:])
            folded.append(x)
        results = overload(name)(*folded)
        if isinstance(results, torch.Tensor):
            return results.unflatten(0, shape), 0
        return tuple(x.unflatten(0, shape) for x in results), tuple(0 for _ in results)

    return rule


# ------------------------------------------------------------------------------------------ table

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            name="gram",
            schema="gram(Tensor a, Tensor? b=None) -> Tensor",
            reference=reference.gram,
            fake=_gram_fake,
            vmap=_gram_vmap,
            no_derivative="pass detached tensors, or differentiate pullback_ext.reference.gram",
        ),
        Op(
            name="orthonormalize",
            schema="orthonormalize(Tensor block, Tensor? against=None, int seed=0) -> "
            "(Tensor, Tensor, Tensor, Tensor)",
            reference=reference.orthonormalize,
            fake=_orthonormalize_fake,
            vmap=_fold_all("orthonormalize"),
            no_derivative="pass detached tensors; to differentiate an orthonormal basis, use "
            "torch.linalg.qr",
        ),
        Op(
            name="block_step",
            schema="block_step(Tensor w, Tensor v_old, Tensor basis, int seed=0) -> "
            "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
            reference=reference.block_step,
            fake=_block_step_fake,
            vmap=_fold_all("block_step"),
            no_derivative="pass detached tensors, or run the iteration under torch.no_grad()",
        ),
        Op(
            name="ritz",
            schema="ritz(Tensor t) -> (Tensor, Tensor)",
            reference=reference.ritz,
            fake=_ritz_fake,
            vmap=_fold_all("ritz"),
            no_derivative="pass detached tensors; to differentiate eigenvalues, use "
            "torch.linalg.eigh",
        ),
        Op(
            name="squared_singular_values",
            schema="squared_singular_values(Tensor c) -> Tensor",
            reference=reference.squared_singular_values,
            fake=_squared_singular_values_fake,
            vmap=_fold_all("squared_singular_values"),
            no_derivative="pass detached tensors; to differentiate singular values, use "
            "torch.linalg.svdvals",
        ),
        Op(
            name="normalize_tangents",
            schema="normalize_tangents(Tensor t, Tensor normalized, Tensor scale, "
            "Tensor? gain=None, bool centered=True, bool transposed=False) -> Tensor",
            reference=reference.normalize_tangents,
            fake=_tangent_rules.fake,
            vmap=lambda *args: _tangent_rules.vmap(overload("normalize_tangents"), *args),
            no_derivative="differentiate the layer itself, by pullback_ext.group_norm, layer_norm "
            "or rms_norm",
        ),
        Op(
            name="attention",
            schema="attention(Tensor q, Tensor k, Tensor v, Tensor? bias, float scale, "
            "bool causal) -> (Tensor, Tensor)",
            reference=reference.attention,
            fake=_attention_rules.fake,
            vmap=lambda *args: _attention_rules.vmap(overload("attention"), *args),
            no_derivative="differentiate pullback_ext.scaled_dot_product_attention in its place",
        ),
        Op(
            name="attention_tangents",
            schema="attention_tangents(Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, "
            "Tensor? dq, Tensor? dk, Tensor? dv, Tensor? bias, float scale, bool causal) -> "
            "Tensor",
            reference=reference.attention_tangents,
            fake=_attention_rules.fake_tangents,
            vmap=lambda *args: _attention_rules.vmap_tangents(
                overload("attention_tangents"), *args
            ),
            no_derivative="pass detached tensors, or differentiate "
            "pullback_ext.reference.attention_tangents",
        ),
        Op(
            name="attention_cotangents",
            schema="attention_cotangents(Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, "
            "Tensor g, Tensor? bias, float scale, bool causal, bool with_kv) -> "
            "(Tensor, Tensor, Tensor)",
            reference=reference.attention_cotangents,
            fake=_attention_rules.fake_cotangents,
            vmap=lambda *args: _attention_rules.vmap_cotangents(
                overload("attention_cotangents"), *args
            ),
            no_derivative="pass detached tensors, or differentiate "
            "pullback_ext.reference.attention_cotangents",
        ),
    )
}


def overload(name: str) -> Any:
    """The dispatcher's entry of an operator, callable."""
    return getattr(torch.ops.pullback, name).default


def has_kernel(name: str, device_type: str) -> bool:
    """Whether a native kernel, not the plain-torch twin, serves a device type ("cpu", "cuda")."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(
        f"pullback::{name}", key
    )


def why_no_kernel(device_type: str) -> str:
    """Why the plain-torch twin serves a device type, and the command that cures it."""
    failure = _loader.failure()
    if failure is not None:
        return str(failure)
    if device_type == "cuda":
        return (
            "the native library of pullback was built without CUDA kernels. To cure it: set "
            "CUDA_HOME to a CUDA toolkit and run PULLBACK_CUDA=ON pip install --force-reinstall "
            "--no-deps --no-cache-dir pullback (in a checkout: PULLBACK_CUDA=ON pip install .)"
        )
    if device_type == "cpu":
        return "this processor has none of AVX2, FMA and F16C, which the native kernels need"
    return f"pullback has no native kernels for devices of type {device_type}"


# ---------------------------------------------------------------------------------- registration


def _guard(op: Op) -> Rule:
    """The Autograd-key kernel: raises where a derivative would be lost without a word."""
    entry = overload(op.name)
    names = [argument.name for argument in entry._schema.arguments]
    below = torch._C._after_autograd_keyset

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        grad = torch.is_grad_enabled()
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            if not isinstance(value, torch.Tensor):
                continue
            if forward_ad.unpack_dual(value).tangent is not None:
                carries = "carries a forward-mode tangent (torch.func.jvp or forward_ad)"
            elif grad and value.requires_grad:
                carries = "requires grad (directly, or under torch.func.vjp or grad)"
            else:
                continue
            raise RuntimeError(
                f"{op.name}: expected inputs without derivatives, got {name} that {carries}. It "
                f"has no derivative and would answer with a silent zero: {op.no_derivative}."
            )
        return entry.redispatch(keyset & below, *args, **kwargs)

    return kernel


def _inference_guard(op: Op) -> Rule:
    """The BackendSelect-key kernel for a torch that loses derivatives in inference mode.

    The tangents are gone when it runs, so it refuses every call inside `torch.func.jvp`.
    """
    entry = overload(op.name)
    below = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.BackendSelect)
    newer = ".".join(map(str, DERIVATIVES_IN_INFERENCE_MODE))

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        if loses_derivatives():
            raise RuntimeError(
                f"{op.name}: expected inputs without derivatives, got a call inside "
                f"torch.func.jvp in inference mode, where torch {torch.__version__} answers with "
                "silent zeros, whatever is differentiated: use torch.no_grad() in place of "
                f"torch.inference_mode(), or install torch {newer} or newer."
            )
        return entry.redispatch(keyset & below, *args, **kwargs)

    return kernel


def _fallback(op: Op) -> Rule:
    """The plain-torch twin, which says once per device type why it is needed."""
    warned: set[str] = set()

    def kernel(*args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if not tensors:
            raise RuntimeError(f"{op.name}: expected tensors, got none.")
        for value in tensors:
            if value.layout != torch.strided:  # no want of a processor: torch's own sums fail too
                raise RuntimeError(
                    f"{op.name}: expected dense tensors, got one of layout {value.layout}: convert "
                    "it with .to_dense()."
                )
        device_type = tensors[0].device.type
        if device_type not in warned:
            warned.add(device_type)
            warnings.warn(
                f"{op.name} runs on {device_type} in plain torch, slowly: "
                f"{why_no_kernel(device_type)}",
                RuntimeWarning,
                stacklevel=2,
            )
        return op.reference(*args, **kwargs)

    return kernel


def absent(names: Iterable[str]) -> list[str]:
    """Those operators that no library has defined."""
    return [name for name in names if not torch._C._dispatch_has_kernel(f"pullback::{name}")]


def _register() -> torch.library.Library:
    """Registers all rows; returns the registration, which lives as long as it is referenced."""
    loaded = _loader.native() is not None
    missing = absent(OPS) if loaded else []
    if missing:
        raise ImportError(
            f"The native library of pullback is older than its Python files: it lacks "
            f"{', '.join(missing)}. Build it again: pip install . (or, in a checkout that is "
            "installed with -e, pip install -e .)."
        )
    release = _loader.torch_release(torch.__version__)
    library = torch.library.Library("pullback", "FRAGMENT")
    for op in OPS.values():
        if not loaded:
            library.define(op.schema)
        torch.library.register_fake(f"pullback::{op.name}", op.fake, lib=library)
        torch.library.register_vmap(f"pullback::{op.name}", op.vmap, lib=library)
        library.impl(op.name, _fallback(op), "CompositeExplicitAutograd")
        library.impl(op.name, _guard(op), "Autograd", with_keyset=True)
        if release < DERIVATIVES_IN_INFERENCE_MODE:
            library.impl(op.name, _inference_guard(op), "BackendSelect", with_keyset=True)
    return library


_library = _register()
