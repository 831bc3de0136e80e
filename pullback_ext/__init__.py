"""Native operators of pullback: one documented function each.

The kernels live in one native library, loaded when this package is imported; importing does not
initialise CUDA. Where the library is missing, broken or without a kernel for a device, an operator
is computed by its plain-torch twin in :mod:`pullback_ext.reference`, after one warning that names
the cause and the command that cures it. ``python -m pullback_ext`` tells what is usable here and
checks every kernel.

Environment variables, read once:

* ``PULLBACK_EXT_DISABLE=1``: do not load the library. For a library that takes the process down
  when it is loaded, and to compare against the plain-torch twins.
* ``PULLBACK_ISA=avx2`` or ``avx512``: use this instruction set on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch

from pullback_ext import _loader, _ops

__all__ = ["available", "build_info", "gram", "why_unavailable"]

_gram = _ops.overload("gram")


def gram(a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    """Products of all pairs of rows, ``a b^T``, for a batch of blocks.

    Any strides will do, also zero (an expanded dimension), and no copy is made of the input. The
    result is float64 because what follows is k x k algebra in float64: float32 and 16-bit inputs
    are multiplied in float32, at most 256 products to an accumulator, and the accumulators are
    added in float64. That keeps the error below 1e-6 of the product of the two rows' norms, and
    mostly below 1e-7, however large N is; float64 inputs are float64 throughout. The order of
    summation depends on N, k and p alone: a result is the same, to the bit, in any batch, layout
    and number of threads (not on another device or instruction set). Without ``b`` it is exactly
    symmetric and costs half.

    It is a raw product: NaN and infinity come through, and float32 rows whose products leave the
    range of float32 (entries above about 1e19, or below 1e-19) overflow to infinity or vanish:
    scale them by a power of two first.

    There is no derivative: under ``torch.func.jvp``, ``torch.func.vjp`` or with an input that
    requires grad it raises, where an unguarded operator would return a silent zero. Under
    ``torch.func.vmap`` the mapped dimension is folded into the batch or the rows.

    Args:
        a: [B, k, N]; float32, float64, float16 or bfloat16; CPU or CUDA.
        b: [B, p, N], dtype and device of ``a``; ``a`` itself if None.

    Returns:
        [B, k, p], float64, contiguous; zeros when N is 0.

    Raises:
        RuntimeError: a shape, dtype or device other than the above, or an input that carries a
            derivative.

    Cost: B k p N multiply-adds, B k (k + 1) N / 2 without ``b``; one read of the input; a workspace
        of at most 16 (CPU) or 64 (CUDA) times the output.
    """
    return _gram(a, b)


def available() -> bool:
    """Whether the native library is loaded."""
    return _loader.native() is not None


def why_unavailable() -> str | None:
    """The cause and the cure when the native library is not loaded, else None."""
    failure = _loader.failure()
    return None if failure is None else str(failure)


def build_info() -> dict[str, Any]:
    """What the native library was built from and what it uses here.

    Returns:
        ``version`` (of pullback), ``torch_target`` (the oldest torch it runs with),
        ``torch_version`` (whose headers it was built with), ``cuda`` (version of the toolkit, None
        if built without), ``cuda_architectures`` (as CMake spells them), ``isa`` (CPU instruction
        sets compiled), ``isa_in_use`` (None if the processor has none of them), ``compiler``,
        ``openmp`` (whether the library brings its own OpenMP; its threads are torch's),
        ``build_type``, ``torch_has_cuda`` (whether torch's CUDA library is in this process).

    Raises:
        RuntimeError: the library is not loaded; or ``PULLBACK_ISA`` names an instruction set that
            this processor lacks.
    """
    native = _loader.native()
    if native is None:
        raise RuntimeError(f"build_info: {why_unavailable()}")
    return native.build_info()
