"""Rules of what moves entries and computes nothing: views, copies, joins and splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pullback.linearization.linear import IDENTITY, Both, Call, Linear, Tangent, rule, summed_to


def _behind(dim: int) -> int:
    """A dimension of a tensor as that of its tangents, which have the columns in front."""
    return dim if dim < 0 else dim + 1


def _columns(tangent: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return tangent.reshape(tangent.shape[0], *shape)


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "flatten")
def _reshaped(call: Call) -> Linear | None:
    if call.func._overloadname == "dtype":  # view as other numbers
        return None
    before, after = call.args[0].shape, call.result.shape
    if before == after:
        return IDENTITY
    return Both(lambda t: _columns(t, after), lambda u: _columns(u, before))


@rule("alias", "lift_fresh", "clone", "contiguous")
def _same(_call: Call) -> Linear:
    return IDENTITY


@rule("_to_copy", "to")
def _converted(call: Call) -> Linear | None:
    (before,), after = call.inputs(), call.result
    if before.is_complex() or after.is_complex():
        return None
    if (before.dtype, before.device) == (after.dtype, after.device):
        return IDENTITY
    return Both(
        lambda t: t.to(after.device, after.dtype), lambda u: u.to(before.device, before.dtype)
    )


@rule("transpose")
def _transposed(call: Call) -> Linear:
    first, second = map(_behind, call.args[1:3])
    return Both(lambda t: t.transpose(first, second), lambda u: u.transpose(first, second))


@rule("t")
def _matrix_transposed(call: Call) -> Linear:
    if call.args[0].dim() < 2:
        return IDENTITY
    return Both(lambda t: t.mT, lambda u: u.mT)


@rule("permute")
def _permuted(call: Call) -> Linear:
    order = [dim % call.result.dim() for dim in call.args[1]]
    ahead = [0, *(dim + 1 for dim in order)]
    back = [ahead.index(dim) for dim in range(len(ahead))]
    return Both(lambda t: t.permute(ahead), lambda u: u.permute(back))


@rule("expand")
def _expanded(call: Call) -> Linear:
    before, after = call.args[0].shape, call.result.shape
    if before == after:
        return IDENTITY
    missing = [1] * (len(after) - len(before))

    def push(tangent: torch.Tensor) -> torch.Tensor:
        return _columns(tangent, [*missing, *before]).expand(tangent.shape[0], *after)

    return Both(push, lambda u: summed_to(u, before))


@rule("slice")
def _sliced(call: Call) -> Linear:
    dim = call.argument(1, "dim", 0)
    start, end = call.argument(2, "start"), call.argument(3, "end")
    step, before = call.argument(4, "step", 1), call.args[0].shape
    start, end = 0 if start is None else start, before[dim] if end is None else end

    def pull(cotangent: torch.Tensor) -> torch.Tensor:
        shape = (cotangent.shape[0], *before)
        return torch.ops.aten.slice_backward(cotangent, shape, _behind(dim), start, end, step)

    return Both(lambda t: torch.ops.aten.slice.Tensor(t, _behind(dim), start, end, step), pull)


@rule("select")
def _selected(call: Call) -> Linear:
    dim, index, before = call.args[1], call.args[2], call.args[0].shape

    def pull(cotangent: torch.Tensor) -> torch.Tensor:
        shape = (cotangent.shape[0], *before)
        return torch.ops.aten.select_backward(cotangent, shape, _behind(dim), index)

    return Both(lambda t: t.select(_behind(dim), index), pull)


@rule("constant_pad_nd")
def _padded(call: Call) -> Linear:
    pad = list(call.args[1])
    back = [-size for size in pad]
    return Both(
        lambda t: torch.ops.aten.constant_pad_nd(t, pad, 0),
        lambda u: torch.ops.aten.constant_pad_nd(u, back, 0),
    )


class _Pieces(Linear):
    """A tensor cut into pieces along a dimension, or into its slices there.

    Args:
        dim: the dimension, of the tangents.
        sizes: of the pieces; None for the slices.
        shapes: of the results.
    """

    def __init__(self, dim: int, sizes: list[int] | None, shapes: Sequence[Sequence[int]]) -> None:
        self.dim, self.sizes, self.shapes = dim, sizes, shapes

    def push(self, tangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """The pieces of the tangent."""
        (tangent,) = tangents
        assert tangent is not None
        if self.sizes is None:
            return tangent.unbind(self.dim)
        return tangent.split(self.sizes, self.dim)

    def pull(self, cotangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """The cotangents side by side."""
        known = next(u for u in cotangents if u is not None)
        pieces = [
            known.new_zeros(known.shape[0], *shape) if u is None else u
            for u, shape in zip(cotangents, self.shapes, strict=True)
        ]
        join = torch.stack if self.sizes is None else torch.cat
        return (join(pieces, self.dim),)


@rule("split", "split_with_sizes", "unbind", "unsafe_split", "unsafe_split_with_sizes", "chunk")
def _split(call: Call) -> Linear:
    name = call.func._schema.name
    slices = name == "aten::unbind"
    dim = call.argument(1, "dim", 0) if slices else call.argument(2, "dim", 0)
    shapes = [tuple(piece.shape) for piece in call.result]
    return _Pieces(_behind(dim), None if slices else [shape[dim] for shape in shapes], shapes)


class _Joined(Linear):
    """Tensors side by side along a dimension, some of which depend on x.

    Args:
        dim: the dimension, of the tangents.
        shapes: of all tensors, as they stand in the result.
        places: which of them depend on x.
        new: whether the dimension is a new one, of which each takes one place.
    """

    def __init__(
        self, dim: int, shapes: Sequence[Sequence[int]], places: Sequence[int], new: bool
    ) -> None:
        self.dim, self.shapes, self.places, self.new = dim, shapes, places, new

    def push(self, tangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """The tangents side by side, zeros where there is none."""
        known = next(t for t in tangents if t is not None)
        given = dict(zip(self.places, tangents, strict=True))
        pieces = []
        for place, shape in enumerate(self.shapes):
            piece = given.get(place)
            missing = known.new_zeros(known.shape[0], *shape) if piece is None else piece
            pieces.append(missing)
        return ((torch.stack if self.new else torch.cat)(pieces, self.dim),)

    def pull(self, cotangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """The pieces of the cotangent that belong to them."""
        (cotangent,) = cotangents
        assert cotangent is not None
        if self.new:
            return [cotangent.select(self.dim, place) for place in self.places]
        pieces = cotangent.split([shape[self.dim - 1] for shape in self.shapes], self.dim)
        return [pieces[place] for place in self.places]


@rule("cat", "stack")
def _joined(call: Call) -> Linear | None:
    tensors, dim = call.args[0], call.argument(1, "dim", 0)
    whole = call.result.dim()
    shapes = [tuple(tensor.shape) for tensor in tensors]
    places = [place for _, place in call.places]
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1 or any(shape == (0,) for shape in shapes):
        return None  # converted on the way, or empty ones of any shape are left out
    new = call.func._schema.name == "aten::stack"
    return _Joined(dim % whole + 1, shapes, places, new)


class Write(Linear):
    """A tensor of which a part got another value.

    Args:
        base: the whole tensor, contiguous.
        part: the part, a view of it.
        depends: whether the tensor before and the value depend on x.
    """

    def __init__(self, base: torch.Tensor, part: torch.Tensor, depends: tuple[bool, ...]) -> None:
        self.shape, self.depends = tuple(base.shape), depends
        self.size, self.step = tuple(part.shape), part.stride()
        self.offset = part.storage_offset() - base.storage_offset()

    def _part(self, whole: torch.Tensor) -> torch.Tensor:
        """The part of contiguous tangents `[k, *shape]` of the whole tensor."""
        size, step = (len(whole), *self.size), (math.prod(self.shape), *self.step)
        return whole.as_strided(size, step, whole.storage_offset() + self.offset)

    def push(self, tangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """The tangent of the whole, with that of the value in its place."""
        given = iter(tangents)
        before, value = (next(given) if has else None for has in self.depends)
        known = next(t for t in tangents if t is not None)
        if before is None:
            whole = known.new_zeros(len(known), *self.shape)
        else:
            whole = before.clone(memory_format=torch.contiguous_format)
        if value is None:
            self._part(whole).zero_()
        else:
            self._part(whole).copy_(value)
        return (whole,)

    def pull(self, cotangents: Sequence[Tangent]) -> Sequence[Tangent]:
        """The cotangent of the whole without the part, and that of the part."""
        (cotangent,) = cotangents
        assert cotangent is not None
        whole = cotangent.clone(memory_format=torch.contiguous_format)
        value = self._part(whole).clone()
        self._part(whole).zero_()
        return [one for one, has in zip((whole, value), self.depends, strict=True) if has]


@rule("mean", "sum")
def _summed(call: Call) -> Linear | None:
    before, after = call.args[0], call.result
    if before.dtype != after.dtype or before.is_complex():
        return None
    dims = call.argument(1, "dim") if call.func._overloadname != "default" else None
    if isinstance(dims, int):
        dims = [dims]
    every = list(range(before.dim()))
    dims = sorted({dim % before.dim() for dim in dims}) if dims else every
    keep: Any = bool(call.argument(2, "keepdim", False)) and dims is not None
    count = math.prod(before.shape[dim] for dim in dims)
    scale = 1 / max(1, count) if call.func._schema.name == "aten::mean" else 1.0
    behind = [dim + 1 for dim in dims]
    wide = before.shape
    thin = [1 if dim in dims else size for dim, size in enumerate(wide)]

    def push(tangent: torch.Tensor) -> torch.Tensor:
        total = tangent.sum(behind, keepdim=keep) if behind else tangent
        return total * scale if scale != 1.0 else total

    def pull(cotangent: torch.Tensor) -> torch.Tensor:
        thinned = _columns(cotangent, thin)
        scaled = thinned * scale if scale != 1.0 else thinned
        return scaled.expand(cotangent.shape[0], *wide)

    return Both(push, pull)
