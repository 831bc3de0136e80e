"""Twins of the operators on blocks of rows and on small matrices."""

from __future__ import annotations

import math

import torch

from pullback_ext.reference.checks import (
    FLOATS,
    dtype_text,
    fail,
    shape_text,
    working_dtype,
)


def check_gram(a: torch.Tensor, b: torch.Tensor | None = None) -> None:
    """Raises what the native ``gram`` raises on the same bad input.

    Args:
        a: expected [B, k, N], float32, float64, float16 or bfloat16.
        b: expected [B, p, N], dtype and device of ``a``; or None.

    Raises:
        RuntimeError: says what was expected and what came.
    """
    if a.dim() != 3:
        fail(f"gram: expected a of shape [B, k, N], got {shape_text(a)}")
    if a.dtype not in FLOATS:
        fail(
            f"gram: expected a of dtype float32, float64, float16 or bfloat16, got {dtype_text(a)}"
        )
    if b is None:
        return
    if b.dim() != 3 or b.shape[0] != a.shape[0] or b.shape[2] != a.shape[2]:
        fail(
            f"gram: expected b of shape [{a.shape[0]}, p, {a.shape[2]}] beside a of shape "
            f"{shape_text(a)}, got {shape_text(b)}"
        )
    if b.dtype != a.dtype:
        fail(f"gram: expected b of dtype {dtype_text(a)} like a, got {dtype_text(b)}")
    if b.device != a.device:
        fail(f"gram: expected b on {a.device} like a, got {b.device}")


def gram(a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    """Products of all pairs of rows, ``a b^T``, in float64.

    Args:
        a: [B, k, N]; float32, float64, float16 or bfloat16.
        b: [B, p, N], dtype and device of ``a``; ``a`` itself if None.

    Returns:
        [B, k, p], float64; exactly symmetric without ``b``.

    Raises:
        RuntimeError: a shape, dtype or device other than the above.
    """
    check_gram(a, b)
    wide = a.double()
    if b is not None:
        return torch.bmm(wide, b.double().mT)
    full = torch.bmm(wide, wide.mT)
    return full.triu() + full.triu(1).mT


#: The most rows of a block that is made orthonormal; the native operators have the same limit.
MOST_ROWS = 256


def dependent_below(rows: int, dtype: torch.dtype) -> float:
    """Distance from the rows before, over the row's norm, up to which a row counts as dependent.

    A few roundings of the working precision, more for more rows: (8 + 2 sqrt(k)) u.
    """
    unit = 2.0**-53 if dtype == torch.float64 else 2.0**-24
    return (8 + 2 * math.sqrt(rows)) * unit


def _check_rows(op: str, name: str, rows: torch.Tensor) -> None:
    if rows.dim() != 3:
        fail(f"{op}: expected {name} of shape [B, k, N], got {shape_text(rows)}")
    if rows.dtype not in FLOATS:
        fail(
            f"{op}: expected {name} of dtype float32, float64, float16 or bfloat16, got "
            f"{dtype_text(rows)}"
        )


def _check_against(
    op: str, name: str, block_name: str, block: torch.Tensor, against: torch.Tensor
) -> None:
    same = against.dim() == 3 and against.shape[::2] == block.shape[::2]
    if not same:
        fail(
            f"{op}: expected {name} of shape [{block.shape[0]}, p, {block.shape[2]}] beside "
            f"{block_name} of shape {shape_text(block)}, got {shape_text(against)}"
        )
    work = working_dtype(block.dtype)
    if against.dtype != work:
        fail(
            f"{op}: expected {name} of dtype {str(work).removeprefix('torch.')} beside "
            f"{block_name} of dtype {dtype_text(block)}, got {dtype_text(against)}"
        )
    if against.device != block.device:
        fail(f"{op}: expected {name} on {block.device} like {block_name}, got {against.device}")


def _check_row_counts(op: str, block_name: str, block: torch.Tensor, others: int) -> None:
    k, columns = block.shape[1:]
    if k > MOST_ROWS:
        fail(f"{op}: expected at most {MOST_ROWS} rows in {block_name}, got {k}")
    if k + others > columns:
        fail(
            f"{op}: expected at most N = {columns} rows in all, got {k} in {block_name} and "
            f"{others} to be orthogonal to"
        )


def check_orthonormalize(block: torch.Tensor, against: torch.Tensor | None = None) -> None:
    """Raises what the native ``orthonormalize`` raises on bad shapes, dtypes and devices.

    Args:
        block: expected [B, k, N], k <= 256, float32, float64, float16 or bfloat16.
        against: expected [B, p, N], k + p <= N, float64 for a float64 block, else float32; or None.

    Raises:
        RuntimeError: says what was expected and what came.
    """
    _check_rows("orthonormalize", "block", block)
    if against is not None:
        _check_against("orthonormalize", "against", "block", block, against)
    others = 0 if against is None else against.shape[1]
    _check_row_counts("orthonormalize", "block", block, others)


def check_block_step(w: torch.Tensor, v_old: torch.Tensor, basis: torch.Tensor) -> None:
    """Raises what the native ``block_step`` raises on bad shapes, dtypes and devices.

    Args:
        w: expected [B, k, N], k <= 256, float32, float64, float16 or bfloat16.
        v_old: expected [B, p, N], float64 for a float64 w, else float32.
        basis: expected [B, d, N], likewise; k + p + d <= N.

    Raises:
        RuntimeError: says what was expected and what came.
    """
    _check_rows("block_step", "w", w)
    _check_against("block_step", "v_old", "w", w, v_old)
    _check_against("block_step", "basis", "w", w, basis)
    _check_row_counts("block_step", "w", w, v_old.shape[1] + basis.shape[1])


def check_ritz(t: torch.Tensor) -> None:
    """Raises what the native ``ritz`` raises on a bad shape or dtype.

    Args:
        t: expected [B, n, n], float64 or float32.

    Raises:
        RuntimeError: says what was expected and what came.
    """
    if t.dim() != 3 or t.shape[1] != t.shape[2]:
        fail(f"ritz: expected t of shape [B, n, n], got {shape_text(t)}")
    if t.dtype not in (torch.float64, torch.float32):
        fail(f"ritz: expected t of dtype float64 or float32, got {dtype_text(t)}")


def check_squared_singular_values(c: torch.Tensor) -> None:
    """Raises what the native ``squared_singular_values`` raises on a bad shape or dtype.

    Args:
        c: expected [P, k, p], float64 or float32, with k and p from 1 up.

    Raises:
        RuntimeError: says what was expected and what came.
    """
    op = "squared_singular_values"
    if c.dim() != 3 or 0 in c.shape[1:]:
        fail(f"{op}: expected c of shape [P, k, p], k and p from 1 up, got {shape_text(c)}")
    if c.dtype not in (torch.float64, torch.float32):
        fail(f"{op}: expected c of dtype float64 or float32, got {dtype_text(c)}")


def _finite_rows(op: str, name: str, rows: torch.Tensor) -> torch.Tensor:
    """[B, k], whether a row is finite; on the CPU an error where one is not."""
    finite = rows.isfinite().all(2)
    if rows.device.type == "cpu" and not bool(finite.all()):
        sample, row = torch.nonzero(~finite)[0].tolist()
        fail(
            f"{op}: expected finite rows, got NaN or infinity in row {row} of sample {sample} of "
            f"{name}"
        )
    return finite


def _gram_schmidt(
    op: str, name: str, block: torch.Tensor, others: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row by row, each projected twice, in float64: q, replaced, finite and the scaled rows."""
    batch, k, columns = block.shape
    finite = _finite_rows(op, name, block)
    wide = torch.where(finite.unsqueeze(2), block, 0).double()
    # A power of two near the largest entry keeps squares in range, and is exact.
    peak = wide.abs().amax(2) if columns else wide.new_zeros(batch, k)
    rows = torch.ldexp(wide, -torch.frexp(peak).exponent.unsqueeze(2))
    generator = torch.Generator("cpu").manual_seed(seed % 2**63)
    q = others.double()
    replaced = []
    for i in range(k):
        row = rows[:, i]
        norm = torch.linalg.vector_norm(row, dim=1, keepdim=True)
        row = row / torch.where(norm > 0, norm, 1)
        for _ in range(2):
            row = row - _project(row, q)
        distance = torch.linalg.vector_norm(row, dim=1)
        give_up = ~(distance > dependent_below(k, block.dtype))
        replaced.append(give_up)
        # Drawn for every row, needed or not: what replaces a row must not depend on other samples.
        random = torch.randn(columns, generator=generator, dtype=torch.float64, device="cpu")
        random = random.to(row.device).expand(batch, columns) / max(columns, 1) ** 0.5
        for _ in range(3):
            random = random - _project(random, q)
            random = random / torch.linalg.vector_norm(random, dim=1, keepdim=True)
        row = torch.where(give_up.unsqueeze(1), random, row)
        row = row / torch.linalg.vector_norm(row, dim=1, keepdim=True)
        q = torch.cat([q, row.unsqueeze(1)], dim=1)
    flags = torch.stack(replaced, 1) if k else block.new_zeros((batch, 0), dtype=torch.bool)
    return q[:, others.shape[1] :].contiguous(), flags, finite, wide


def _project(row: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bpn,bp->bn", onto, torch.einsum("bpn,bn->bp", onto, row))


def _flags(
    replaced: torch.Tensor, finite: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """rank, replaced, passes: here every row is projected twice, whatever it is."""
    passes = torch.where(finite.all(1), 2, -2).to(torch.int32)
    return (~replaced).sum(1), replaced, passes if replaced.shape[1] else passes * 0


def orthonormalize(
    block: torch.Tensor, against: torch.Tensor | None = None, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Orthonormal rows q with the span of the block's rows: classical Gram-Schmidt, twice.

    Args:
        block: [B, k, N]; float32, float64, float16 or bfloat16.
        against: [B, p, N], orthonormal rows that q is made orthogonal to.
        seed: of the random rows that replace dependent ones (not the native ones, which come from
            another generator).

    Returns:
        q [B, k, N], rank [B], replaced [B, k], passes [B] (2: every row is projected twice), as
        :func:`pullback_ext.orthonormalize` describes them.

    Raises:
        RuntimeError: a shape, dtype or device other than the above; on the CPU, NaN or infinity.
    """
    check_orthonormalize(block, against)
    others = block[:, :0] if against is None else against
    q, replaced, finite, _ = _gram_schmidt("orthonormalize", "block", block, others, seed)
    return q.to(working_dtype(block.dtype)), *_flags(replaced, finite)


def block_step(
    w: torch.Tensor, v_old: torch.Tensor, basis: torch.Tensor, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One step of a block Krylov iteration, in float64.

    Args:
        w: [B, k, N], the operator's product with ``v_old``; any float dtype.
        v_old: [B, p, N] orthonormal rows.
        basis: [B, d, N] orthonormal rows, orthogonal to those of ``v_old``.
        seed: as for :func:`orthonormalize`.

    Returns:
        q [B, k, N], projection [B, d + p, k] and residual [B, k, k] (both float64), rank, replaced,
        passes, as :func:`pullback_ext.block_step` describes them.

    Raises:
        RuntimeError: a shape, dtype or device other than the above; on the CPU, NaN or infinity.
    """
    check_block_step(w, v_old, basis)
    others = torch.cat([basis, v_old], dim=1)
    q, replaced, finite, wide = _gram_schmidt("block_step", "w", w, others, seed)
    projection = others.double() @ wide.mT
    residual = (wide @ q.mT).tril()
    residual = residual.masked_fill(torch.diag_embed(replaced), 0.0)
    return q.to(working_dtype(w.dtype)), projection, residual, *_flags(replaced, finite)


def ritz(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues, descending, and eigenvectors (as rows) of symmetric matrices, in float64.

    Args:
        t: [B, n, n], of which the lower triangle is read; float64 or float32.

    Returns:
        values [B, n], vectors [B, n, n], as :func:`pullback_ext.ritz` describes them.

    Raises:
        RuntimeError: another shape or dtype; on the CPU, NaN or infinity.
    """
    check_ritz(t)
    if t.device.type == "cpu":
        finite = t.tril().isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            sample = int(torch.nonzero(~finite)[0])
            fail(f"ritz: expected finite entries, got NaN or infinity in matrix {sample} of t")
    values, columns = torch.linalg.eigh(t.double())
    vectors = columns.flip(2).mT.contiguous()
    if t.shape[1]:
        peak = vectors.abs().argmax(2, keepdim=True)
        vectors = torch.where(vectors.gather(2, peak) < 0, -vectors, vectors)
    return values.flip(1), vectors


def squared_singular_values(c: torch.Tensor) -> torch.Tensor:
    """Squares of the singular values of matrices, descending, in float64.

    Args:
        c: [P, k, p], k and p from 1 up; float64 or float32.

    Returns:
        [P, min(k, p)], as :func:`pullback_ext.squared_singular_values` describes them.

    Raises:
        RuntimeError: another shape or dtype; on the CPU, NaN or infinity.
    """
    check_squared_singular_values(c)
    finite = c.isfinite().flatten(1).all(1)
    if c.device.type == "cpu" and not bool(finite.all()):
        matrix = int(torch.nonzero(~finite)[0])
        fail(
            "squared_singular_values: expected finite entries, got NaN or infinity in matrix "
            f"{matrix} of c"
        )
    values = torch.linalg.svdvals(torch.where(finite[:, None, None], c, 0).double()).square()
    return torch.where(finite.unsqueeze(1), values, torch.nan)
