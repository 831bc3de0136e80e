"""Native operators of pullback, and what is made of them: one documented function each.

Operators are raw: they have no derivative, and say so. Attention,
normalisation layers and gates are differentiable in every mode, and made for many tangents at one
point.

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

from operator import index
from typing import Any, NamedTuple

import torch

from pullback_ext import _loader, _ops
from pullback_ext._attention import (
    Attended,
    AttentionCotangents,
    attention,
    attention_cotangents,
    attention_tangents,
)
from pullback_ext.attending import scaled_dot_product_attention
from pullback_ext.gates import geglu, gelu, silu
from pullback_ext.normalization import group_norm, group_norm_silu, layer_norm, rms_norm

__all__ = [
    "Attended",
    "AttentionCotangents",
    "BlockStep",
    "Orthonormalized",
    "attention",
    "attention_cotangents",
    "attention_tangents",
    "available",
    "block_step",
    "build_info",
    "geglu",
    "gelu",
    "gram",
    "group_norm",
    "group_norm_silu",
    "layer_norm",
    "normalize_tangents",
    "orthonormalize",
    "ritz",
    "rms_norm",
    "scaled_dot_product_attention",
    "silu",
    "squared_singular_values",
    "why_unavailable",
]

_gram = _ops.overload("gram")
_orthonormalize = _ops.overload("orthonormalize")
_block_step = _ops.overload("block_step")
_ritz = _ops.overload("ritz")
_squared_singular_values = _ops.overload("squared_singular_values")
_normalize_tangents = _ops.overload("normalize_tangents")


def gram(a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    """Products of all pairs of rows, ``a b^T``, for a batch of blocks.

    Any strides will do, also zero (an expanded dimension), and no copy is made of the input. The
    result is float64 because what follows is k x k algebra in float64: float32 and 16-bit inputs
    are multiplied in float32 and added in short runs, and these in float64, so that a product takes
    part in at most 15 roundings of float32. That keeps the error below 1e-6 of the product of the
    two rows' norms for any rows whatever, and mostly below 1e-7, however large N is; float64 inputs
    are float64 throughout. The order of summation depends on N, k and p alone: a result is the
    same, to the bit, in any batch, layout and number of threads (not on another device or
    instruction set). Without ``b`` it is exactly symmetric and costs half.

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


class Orthonormalized(NamedTuple):
    """What :func:`orthonormalize` returns; all tensors are on the block's device.

    Attributes:
        q: [B, k, N], orthonormal rows; float64 for a float64 block, else float32; contiguous.
        rank: [B], int64, rows that were not replaced.
        replaced: [B, k], bool, rows that depended on those before them and are random in ``q``.
        passes: [B], int32, times the block was gone over. On CUDA it is negative where the block
            contained NaN or infinity: those rows count as zero rows.
    """

    q: torch.Tensor
    rank: torch.Tensor
    replaced: torch.Tensor
    passes: torch.Tensor


class BlockStep(NamedTuple):
    """What :func:`block_step` returns; all tensors are on the device of ``w``.

    ``w = residual @ q + projection.mT @ [basis; v_old]``, to rounding for blocks of condition up to
    1e6. Beyond, what a replaced row had left is dropped, and hundreds of rows that depend smoothly
    on one another (powers, cosines) can lose more than that.

    Attributes:
        q: [B, k, N], the next orthonormal block; float64 for a float64 ``w``, else float32.
        projection: [B, d + p, k], float64, ``[basis; v_old] @ w.mT``: the new columns of the
            projected operator.
        residual: [B, k, k], float64, lower triangular: what of ``w`` is new, in coordinates of
            ``q``. The diagonal entry of a replaced row is zero.
        rank: [B], int64, rows of ``q`` that were not replaced.
        replaced: [B, k], bool, rows of ``w`` that brought nothing new and are random in ``q``.
        passes: [B], int32, as in :class:`Orthonormalized`.
    """

    q: torch.Tensor
    projection: torch.Tensor
    residual: torch.Tensor
    rank: torch.Tensor
    replaced: torch.Tensor
    passes: torch.Tensor


def _int64(seed: int) -> int:
    try:
        seed = index(seed)
    except TypeError:
        raise ValueError(f"Expected a seed as a whole number, got {seed!r}.") from None
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"Expected a seed of 64 bits, between -2**63 and 2**63 - 1, got {seed}.")
    return seed


def orthonormalize(
    block: torch.Tensor, against: torch.Tensor | None = None, seed: int = 0
) -> Orthonormalized:
    """Orthonormal rows with the span of a block's rows, for any block whatever.

    It is the Q of a QR factorisation without pivoting: row i of the result is row i of the block
    less its projection on the rows before it, with a positive factor. A row whose distance from the
    span of the rows before it (and of ``against``) is at most (8 + 2 sqrt(k)) u times its norm,
    with u = 2^-24, or 2^-53 in float64, depends on them; a random row, orthogonal to those before
    it, stands in its place. Condition numbers up to 1/u, zero rows, and rows of any size that their
    dtype holds are all welcome; the result is never NaN, orthonormal to 1e-5 (1e-12 in float64),
    and keeps the span to 1e-5 up to condition 1e6.

    Cholesky QR by Gram matrices of float64 products, repeated until no rounding of the last pass
    can have cost more than that, whichever way it went: once for a random block of 50 rows and
    16384 columns, 2 to 4 times up to condition 1e6, up to 7 times for rank-deficient ones, and up
    to 16 times for long smooth families. Weak directions are amplified from pass to pass, and only
    rows that prove to be rounding noise are replaced, or that are still not resolved after 12
    passes. With ``against`` the block is projected and made orthonormal at least twice. The number
    of passes is decided per sample on the device: on CUDA nothing waits, and the call can be
    captured in a CUDA graph. Results are the same, to the bit, in any batch, layout and number of
    threads (not on another device or instruction set).

    There is no derivative: under ``torch.func.jvp``, ``torch.func.vjp`` or with an input that
    requires grad it raises. ``torch.func.vmap`` folds the mapped dimension into the batch.

    Args:
        block: [B, k, N], k <= 256, any strides; float32, float64, float16 or bfloat16; CPU or CUDA.
        against: [B, p, N], k + p <= N, any strides; orthonormal rows that the result is made
            orthogonal to; float64 for a float64 block, else float32.
        seed: of the random rows. They depend on the seed and the row alone, not on the sample.

    Returns:
        q, rank, replaced, passes: see :class:`Orthonormalized`.

    Raises:
        RuntimeError: a shape, dtype, layout or device other than the above; an input that carries a
            derivative; on the CPU, NaN or infinity (on CUDA see ``passes``).
        ValueError: a seed that is no whole number of 64 bits.

    Cost: a pass takes B k (k + 1 + 2 p) N multiply-adds and reads block and ``against`` once or
        twice. Workspace: at most 16 (CPU) or 64 (CUDA) matrices [B, k, k + p] of float64.

    Sources: shifted Cholesky QR (Fukaya et al., arXiv:1809.11085); block Gram-Schmidt with the
    Pythagorean inner product (Carson et al., arXiv:2010.12058).
    """
    return Orthonormalized(*_orthonormalize(block, against, _int64(seed)))


def block_step(
    w: torch.Tensor, v_old: torch.Tensor, basis: torch.Tensor, seed: int = 0
) -> BlockStep:
    """One step of a block Krylov iteration: project, orthonormalise, and tell what the block was.

    With V = [basis; v_old] orthonormal and w = A v_old, the step gives the new columns of the
    projected operator V A V^T, the next block, orthonormal also to V, and the residual block that
    links them. It is :func:`orthonormalize` of ``w`` against V, with the same promises, and the
    factors of all its passes multiplied out: no product with ``w`` is computed twice. For a
    symmetric A the last p rows of the projection are symmetric.

    Args:
        w: [B, k, N], k <= 256, any strides; float32, float64, float16 or bfloat16; CPU or CUDA.
        v_old: [B, p, N], orthonormal rows; float64 for a float64 ``w``, else float32.
        basis: [B, d, N], orthonormal rows, orthogonal to those of ``v_old``; d may be 0, as p may.
        seed: of the random rows in place of dependent ones.

    Returns:
        q, projection, residual, rank, replaced, passes: see :class:`BlockStep`. With p = d = 0 it
        is the LQ factorisation of ``w``.

    Raises:
        RuntimeError: a shape, dtype, layout or device other than the above, k + p + d > N; an input
            that carries a derivative; on the CPU, NaN or infinity (on CUDA see ``passes``).
        ValueError: a seed that is no whole number of 64 bits.

    Cost: as :func:`orthonormalize` against d + p rows, and k^2 (k + d + p) operations a pass.
    """
    return BlockStep(*_block_step(w, v_old, basis, _int64(seed)))


def ritz(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues and eigenvectors of symmetric matrices, t = vectors.mT diag(values) vectors.

    On CUDA cyclic Jacobi rotations up to n = 96, one thread block a matrix; larger matrices and all
    matrices on the CPU go to ``torch.linalg.eigh``. On the CPU it is called for one matrix at a
    time, so that a result does not depend on its place in the batch. No derivative; ``vmap`` folds
    into the batch.

    Args:
        t: [B, n, n], any strides, of which the lower triangle is read; float64 or float32; CPU or
            CUDA.

    Returns:
        The values [B, n], float64, descending, and the vectors [B, n, n], float64, orthonormal
        rows: row i belongs to ``values[:, i]``, and its entry of largest magnitude is positive.

    Raises:
        RuntimeError: another shape or dtype; an input that carries a derivative; on the CPU, NaN
            or infinity.

    Cost: Jacobi rotations take about 12 n^3 multiply-adds a sweep, 6 to 9 sweeps.
    """
    return _ritz(t)


def squared_singular_values(c: torch.Tensor) -> torch.Tensor:
    """Squares of the singular values of many small matrices: the eigenvalues of ``c c^T``.

    Where the rows of two frames are orthonormal and c holds their products, these are the squared
    cosines of the principal angles between their spans, here for hundreds of thousands of pairs at
    once. Matrices are read through any strides, so that c may be pieces of one large product of all
    frames with all: no copy is made.

    The Gram matrix of the shorter side, in float64, of entries scaled by a power of two;
    Householder reflections to tridiagonal form; and the root-free QL iteration of Pal, Walker and
    Kahan. On the CPU a vector of doubles holds one matrix per lane, for a shorter side up to 128;
    on CUDA a warp has a matrix to itself up to 32, a thread block up to 64. Larger matrices go to
    ``torch.linalg.svdvals``, on the CPU one at a time. A matrix's values are the same, to the bit,
    in any batch, layout and number of threads (not on another device or instruction set, and on
    CUDA not above 64).

    The error of a value is a few tens of roundings of float64 times the largest value: of a
    singular value below about 1e-8 of the largest nothing is left. Squares that float64 does not
    hold become infinity, or zero.

    There is no derivative; ``torch.func.vmap`` folds the mapped dimension into the batch.

    Args:
        c: [P, k, p], k and p from 1 up, any strides; float64 or float32; CPU or CUDA.

    Returns:
        [P, min(k, p)], float64, descending, never negative. On CUDA, where nothing waits for the
        device, the values of a matrix that contains NaN or infinity are NaN.

    Raises:
        RuntimeError: another shape or dtype; an input that carries a derivative; on the CPU, NaN
            or infinity.

    Cost: m^2 n / 2 + 2/3 m^3 multiply-adds a matrix and about 2 m^2 short steps of the iteration,
        with m = min(k, p) and n = max(k, p).

    Source: Parlett 1998, The Symmetric Eigenvalue Problem, 8.15 (the iteration).
    """
    return _squared_singular_values(c)


def normalize_tangents(
    t: torch.Tensor,
    normalized: torch.Tensor,
    scale: torch.Tensor,
    gain: torch.Tensor | None = None,
    centered: bool = True,
    transposed: bool = False,
) -> torch.Tensor:
    """Tangents through a normalisation layer, linearised at one point, or through its transpose.

    Group, layer and RMS normalisation, and group normalisation followed by a gate, have one and the
    same derivative. With xh the normalised input, means over the last two dimensions and

        P(z) = z - mean(z) - xh mean(z xh)        without mean(z) where the layer is not centered

    a tangent becomes ``scale * gain * P(t)``, a cotangent ``scale * P(gain * t)``. scale is the
    reciprocal standard deviation; gain is the weight, times the slope of the gate if there is one.
    Of group normalisation G is groups, Cg channels of a group, P positions; layer and RMS
    normalisation are B rows with G = Cg = 1 and a gain [1, 1, 1, P].

    k tangents share what belongs to the primal. Two memory orders of ``t`` are read and written as
    they are: [Cg, P] contiguous in every group, and channels last, with the G Cg channels of a
    position side by side and at least 16 of them; of others a copy is made. ``t`` may be expanded,
    and its dimensions k, B and (in the first order) G may lie in any way.

    Sums are short runs of float32 that are added in float64, for float64 float64 throughout:
    float32 comes out within 2e-6 of the largest entry of ``scale * gain * t``, 16-bit types within
    that and their own rounding. Tangents of 1e30 are no larger than others. A constant tangent
    through a centered layer gives zero to rounding. NaN and infinity spread over their own
    (k, B, G) and no further, as they do in torch's layers. A tangent's result is the same, to the
    bit, for any k, B and number of threads (not on another device or instruction set, nor in the
    other memory order).

    There is no derivative; ``torch.func.vmap`` folds the mapped dimension into k where ``t`` alone
    is mapped, else into B.

    Args:
        t: [k, B, G, Cg, P], any strides; float32, float64, float16 or bfloat16; CPU or CUDA.
        normalized: [B, G, Cg, P], xh; float64 for a float64 ``t``, else float32.
        scale: [B, G], dtype of ``normalized``.
        gain: [B, G, Cg, P], or 1 for any of these sizes; dtype of ``normalized``; 1 if None.
        centered: whether the layer subtracts the mean; RMS normalisation does not.
        transposed: whether ``t`` are cotangents, to which the transpose is applied.

    Returns:
        [k, B, G, Cg, P], dtype of ``t``, with its strides where its entries lie dense, in any
        order, else contiguous.

    Raises:
        RuntimeError: a shape, dtype or device other than the above, or an input that carries a
            derivative.

    Cost: about 8 operations an entry. Tangents of a group (channels last, of a sample) that fits
        the cache are read from memory once, larger ones twice; normalized and gain at most as
        often.

    Source: Ioffe and Szegedy, arXiv:1502.03167 (the derivative); Wu and He, arXiv:1803.08494.
    """
    return _normalize_tangents(t, normalized, scale, gain, centered, transposed)


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
