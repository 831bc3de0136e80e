"""Batched products with the Jacobian of a map, and with its transpose."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from pullback import _ranges
from pullback.operators.base import BlockOperator
from pullback.operators.checks import check_map
from pullback.operators.derivative import Way
from pullback.operators.inference import outside_inference_mode
from pullback.operators.inputs import (
    check_args,
    check_block,
    check_chunk,
    check_function,
    check_memory,
    check_point,
)
from pullback.operators.memory import empty_cache, is_out_of_memory, measure
from pullback.operators.passes import Chunk, ProductCount, plan, too_large
from pullback.operators.points import Points, copied
from pullback.operators.products import Products


class JacobianProducts(BlockOperator):
    """Products with the Jacobians at some points, by a plan of passes.

    Args:
        points: the map at the points.
        h_shape: shape of its output for one sample.
        chunk: how products are cut into passes; it shrinks when memory runs out.
        count: the products made are added here.
        way: how the map is differentiated.
    """

    def __init__(
        self,
        points: Points,
        h_shape: tuple[int, ...],
        chunk: Chunk,
        count: ProductCount,
        way: Way,
    ) -> None:
        x = points.x
        super().__init__(len(points), x.shape[1:], h_shape, x.dtype, x.device)
        self.points, self.chunk, self.count, self.way = points, chunk, count, way
        self._products = Products(points, chunk, self.h_shape, count, way)

    @property
    def plan(self) -> str:
        """How products are made: whether f is recorded, or why not, and how passes are cut."""
        return f"{self.way}; {self.chunk}"

    def select(self, index: torch.Tensor) -> JacobianProducts:
        """The operator of some of the samples; it adds to the same product count.

        Args:
            index: int64 `[B']` indices of samples.
        """
        part = JacobianProducts(
            self.points.select(index),
            self.h_shape,
            replace(self.chunk, samples=max(1, min(self.chunk.samples, len(index)))),
            self.count,
            self.way,
        )
        self._products.hand_down(part._products, index)
        return part

    @outside_inference_mode
    def nearby(self, draw: int) -> JacobianProducts:
        """The Jacobians where x and the floating arguments differ by a few roundings, at random.

        Args:
            draw: number of the random differences, 0 or larger; the same for every sample.

        Cost: a copy of x and of the arguments; nothing is kept between its products.
        """
        points = self.points.nearby(draw)
        return JacobianProducts(points, self.h_shape, replace(self.chunk), self.count, self.way)

    def _beside(self, others: Sequence[BlockOperator]) -> JacobianProducts | None:
        """The same map at the points of all: small batches cost less as one, if it is one pass."""
        known = [other for other in others if isinstance(other, JacobianProducts)]
        alike = all(self.points.joins(other.points) for other in known)
        batch = self.batch + sum(other.batch for other in known)
        if len(known) < len(others) or not (alike and self.chunk.room(batch)):
            return None
        points = self.points.beside([other.points for other in known])
        chunk = replace(self.chunk, samples=batch)
        return JacobianProducts(points, self.h_shape, chunk, self.count, self.way)

    @outside_inference_mode
    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """Products J v.

        Args:
            v: tangents `[B, k, *x_shape]`, any floating dtype; computed in the dtype of x.

        Returns:
            `[B, k, *h_shape]` in the dtype of f's output.

        Raises:
            ValueError: v has another shape.
            MemoryError: one tangent of one sample does not fit the device.

        Cost: B k products with J; one evaluation of f, unless what it gave was kept.
        """
        check_block(v, self.batch, self.x_shape, "v", "x_shape")
        return self._within_memory(self._products.push, v.to(self.dtype))

    @outside_inference_mode
    def rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        """Products with the transpose of J.

        Args:
            u: cotangents `[B, k, *h_shape]`, any floating dtype.

        Returns:
            `[B, k, *x_shape]` in the dtype of x.

        Raises:
            ValueError: u has another shape.
            MemoryError: one cotangent of one sample does not fit the device.

        Cost: B k products with the transpose; one evaluation of f, unless what it gave was kept.
        """
        check_block(u, self.batch, self.h_shape, "u", "h_shape")
        return self._within_memory(self._products.pull, u)

    def _release(self) -> None:
        """Free what is kept between products; they make what they need again."""
        self._products.forget()

    def _within_memory(
        self, product: Callable[[torch.Tensor], torch.Tensor], block: torch.Tensor
    ) -> torch.Tensor:
        """Run a product; after an out-of-memory error shrink the pass and start it again."""
        while True:
            before = replace(self.count)
            try:
                return product(block)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error)
            # Outside the except clause, so that the traceback no longer holds the tensors.
            self.count.jvp, self.count.vjp = before.jvp, before.vjp
            self._release()
            gc.collect()
            empty_cache(self.device)
            self.chunk.tangents = min(self.chunk.tangents, block.shape[1])
            if not self.chunk.halve():
                raise too_large(self.device, reason)


class JacobianOperator(JacobianProducts):
    """The Jacobians J = df/dx of a map at a batch of points, as linear operators.

    `f(x, *args)` maps `[B, *x_shape]` to `[B, *h_shape]` and treats every sample by itself; each
    tensor of `args` has the batch first and is indexed together with `x`. f is evaluated once for
    a point; the linear maps that its operations are there are recorded, and products of either
    kind run these alone (`pullback.linearization`), for all columns together. They are kept between
    calls where the memory budget allows it. Where f cannot be recorded, products go through
    `torch.func`; `plan` tells which it is, and why.

    Args:
        f: the map; a plain function or module, deterministic, differentiable in its first
            argument with forward and reverse mode.
        x: the points, `[B, *x_shape]`, floating point, finite. Products run in its dtype.
        *args: further arguments of `f`: tensors `[B, ...]`, of which copies are kept as of x, or
            anything that is not a tensor, which is used as it stands.
        chunk: tangents in one pass, or "auto" to plan them from the budget.
        memory: budget in bytes for one pass, a limit; by default half of the CPU's available
            memory, or 80 % of a GPU's free memory. On the CPU passes stay below 128 MiB alive at
            once, where larger ones are slower.
        check: make one product with J and one with its transpose, and compare: samples must not
            influence one another, nor depend on how many there are, `f` must be deterministic and
            the two must be adjoint. It does not depend on the unit of x or f.

    Raises:
        TypeError: f cannot be called, x is not a dense tensor of a floating dtype, or f returns
            something else.
        MemoryError: one sample does not fit the device.
        ValueError: x is empty or not finite, a tensor of args has another batch size or is changed
            by f, f's output is empty or does not start with the batch, chunk or memory is no such
            number, or one of the checks failed.

    Cost: the check takes one product of each kind with two samples by `torch.func`, and the same
    once more as they will be made; the plan one forward pass. Memory of the copies of x and args.
    """

    @outside_inference_mode
    def __init__(
        self,
        f: Callable[..., torch.Tensor],
        x: torch.Tensor,
        *args: object,
        chunk: int | str = "auto",
        memory: int | None = None,
        check: bool = True,
    ) -> None:
        check_function(f)
        check_point(x)
        check_args(args, len(x))
        check_chunk(chunk)
        memory = check_memory(memory)
        # Copies: products must not change when the caller goes on to edit what was given.
        kept = tuple(copied(arg) if isinstance(arg, torch.Tensor) else arg for arg in args)
        points = Points(f, x.detach().clone(), kept)
        count = ProductCount()
        try:
            with _ranges.stage(_ranges.CHECKS):
                value, usage = measure(points.select(slice(0, 1)).value)
                # Two samples show whether they are independent, whatever fits the memory.
                refused = _checked(points.select(slice(0, 2)), value, count) if check else None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise too_large(x.device, str(error)) from None
        passes = plan(len(points), chunk, memory, usage, x.device, recorded=refused is None)
        super().__init__(points, tuple(value.shape[1:]), passes, count, Way(refused))


def _checked(points: Points, alone: torch.Tensor, count: ProductCount) -> str | None:
    """Check a map by one product of each kind; why it is not to be recorded, if it is not."""
    refused = check_map(points, alone)
    count.jvp += len(points)
    count.vjp += len(points)
    return refused
