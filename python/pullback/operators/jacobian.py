"""Batched products with the Jacobian of a map, and with its transpose."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator

from pullback.operators import Algebra
from pullback.operators import memory as _memory
from pullback.operators.checks import check_map, check_point, check_tensor
from pullback.operators.passes import Chunk, ProductCount, plan, too_large
from pullback.operators.tangent_graph import TangentGraph
from pullback_ext.intercept import forward_mode_ready


@dataclass
class _Closure:
    """The vjp closure of some samples, kept between products."""

    samples: slice
    pull: Callable[[torch.Tensor], tuple[torch.Tensor]] = field(repr=False)


class JacobianOperator(Algebra):
    """The Jacobians J = df/dx of a map at a batch of points, as linear operators.

    `f(x, *args)` maps `[B, *x_shape]` to `[B, *h_shape]` and treats every sample by itself; each
    tensor of `args` has the batch first and is indexed together with `x`. Products share one
    primal evaluation between all tangents (`vmap` over `jvp`), and the activations that the
    transpose needs are kept between calls where the memory budget allows it. `prepare` makes
    many products of one width cheaper still, at the price of memory.

    Args:
        f: the map; a plain function or module, deterministic, differentiable in its first
            argument with forward and reverse mode.
        x: the points, `[B, *x_shape]`, floating point, finite. Products run in its dtype.
        *args: further arguments of `f`: tensors `[B, ...]` or anything that is not a tensor.
        chunk: tangents in one pass, or "auto" to plan them from the budget.
        memory: budget in bytes for one pass; by default half of the CPU's available memory, or
            80 % of a GPU's free memory.
        check: make one product with J and one with its transpose, and compare: samples must not
            influence one another, `f` must be deterministic and the two must be adjoint.

    Raises:
        TypeError: x is not a floating point tensor, or f returns something else.
        MemoryError: one sample does not fit the device.
        ValueError: x is empty or not finite, a tensor of args has another batch size, f's output
            does not start with the batch, or one of the checks failed.

    Cost: the check takes one product of each kind with two samples, and the same once more
    through graphs; the plan one forward pass.
    """

    def __init__(
        self,
        f: Callable[..., torch.Tensor],
        x: torch.Tensor,
        *args: object,
        chunk: int | str = "auto",
        memory: int | None = None,
        check: bool = True,
    ) -> None:
        check_point(x)
        for position, value in enumerate(args):
            if isinstance(value, torch.Tensor) and (
                value.dim() == 0 or value.shape[0] != x.shape[0]
            ):
                raise ValueError(
                    f"Expected every tensor of args to have the batch of x, {x.shape[0]}, as its "
                    f"first size; argument {position} has shape {tuple(value.shape)}. Expand it "
                    "to one row per sample."
                )
        if chunk != "auto" and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
            raise ValueError(f'Expected chunk to be "auto" or a positive integer, got {chunk!r}.')
        self.f = f
        # A copy: products must not change when the caller goes on to edit the latents in place.
        self.x = x.detach().clone()
        self.args = args
        self.count = ProductCount()
        self._closure: _Closure | None = None
        self._graph: TangentGraph | None = None
        # Which of the graph's samples are ours.
        self._rows = torch.arange(self.batch, device="cpu")
        self._twice = False  # whether two reverse passes are known to give J
        try:
            value, usage = _memory.measure(lambda: self._evaluate(slice(0, 1)))
            self.h_shape = tuple(value.shape[1:])
            if check:
                # Two samples show whether they are independent, whatever fits the memory.
                self._check(slice(0, min(self.batch, 2)))
        except (RuntimeError, MemoryError) as error:
            if not _memory.is_out_of_memory(error):
                raise
            raise too_large(self.device, str(error)) from None
        self.chunk = plan(self.batch, chunk, memory, usage, self.device)

    @property
    def batch(self) -> int:
        """Number of samples B."""
        return self.x.shape[0]

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return tuple(self.x.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which the products run."""
        return self.x.dtype

    @property
    def device(self) -> torch.device:
        """Device on which the products run."""
        return self.x.device

    def select(self, index: torch.Tensor) -> JacobianOperator:
        """The operator of some of the samples; it adds to the same product count.

        Args:
            index: int64 `[B']` indices of samples.
        """
        chosen = object.__new__(JacobianOperator)
        chosen.f, chosen.count, chosen.h_shape = self.f, self.count, self.h_shape
        chosen.x = self.x[index.to(self.device)]
        chosen.args = tuple(
            a[index.to(a.device)] if isinstance(a, torch.Tensor) else a for a in self.args
        )
        chosen.chunk = Chunk(**vars(self.chunk))
        chosen.chunk.samples = max(1, min(self.chunk.samples, len(index)))
        chosen._closure, chosen._graph = None, self._graph
        chosen._rows = self._rows[index.cpu()]
        chosen._twice = self._twice
        return chosen

    def matmat(self, v: torch.Tensor) -> torch.Tensor:
        """Products J v.

        Args:
            v: tangents `[B, k, *x_shape]`, any floating dtype; computed in the dtype of x.

        Returns:
            `[B, k, *h_shape]` in the dtype of f's output.

        Raises:
            ValueError: v has another shape.
            MemoryError: one tangent of one sample does not fit the device.

        Cost: B k products with J; one primal evaluation per pass.
        """
        self._check_block(v, self.x_shape, "v", "x_shape")
        return self._retry(self._matmat, v.to(self.dtype))

    def rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        """Products with the transpose of J.

        Args:
            u: cotangents `[B, k, *h_shape]`, any floating dtype.

        Returns:
            `[B, k, *x_shape]` in the dtype of x.

        Raises:
            ValueError: u has another shape.
            MemoryError: one cotangent of one sample does not fit the device.

        Cost: B k products with the transpose; one primal evaluation, unless it was kept.
        """
        self._check_block(u, self.h_shape, "u", "h_shape")
        return self._retry(self._rmatmat, u)

    def release(self) -> None:
        """Free what is kept between products; they make what they need again."""
        self._closure = self._graph = None

    def prepare(self, columns: int) -> None:
        """Make many products with blocks of some width cheaper, where the memory budget allows it.

        Records the graphs of a `TangentGraph`, which takes about as long as two products and
        makes a product with J cost a backward pass: a quarter to six tenths of its price
        otherwise, measured on the digit model on a CPU.
        """
        graph = self._graph
        if graph is not None and graph.columns == columns and 2 * self.batch >= graph.batch:
            return  # the graphs of the operator that this one was selected from still serve
        self.release()
        if not (self._twice and self.chunk.keep_graph(self.batch, columns)):
            return
        try:
            self._graph = TangentGraph(self.f, self.x, self.args, columns)
            self._rows = torch.arange(self.batch, device="cpu")
        except (RuntimeError, MemoryError) as error:
            if not _memory.is_out_of_memory(error):
                raise
            self._twice = False
            _memory.release(self.device)

    def to_scipy(self, sample: int) -> LinearOperator:
        """The Jacobian of one sample as a `scipy.sparse.linalg.LinearOperator` (m, n).

        Vectors are flattened points and features in float64 or float32 numpy arrays; products
        run on this operator's device and in its dtype.
        """
        if not -self.batch <= sample < self.batch:
            raise IndexError(
                f"Expected a sample between 0 and {self.batch - 1}, got {sample}: the operator "
                f"holds {self.batch} samples."
            )
        single = self.select(torch.tensor([sample % self.batch], device=self.device))

        def product(
            columns: np.ndarray,
            shape: tuple[int, ...],
            multiply: Callable[[torch.Tensor], torch.Tensor],
        ) -> np.ndarray:
            block = torch.as_tensor(
                np.ascontiguousarray(columns.T, dtype=np.float64), device=self.device
            )
            result = multiply(block.reshape(1, -1, *shape))
            return result[0].flatten(1).T.double().cpu().numpy()

        def forward(columns: np.ndarray) -> np.ndarray:
            return product(columns, self.x_shape, single.matmat)

        def transposed(columns: np.ndarray) -> np.ndarray:
            return product(columns, self.h_shape, single.rmatmat)

        return LinearOperator(
            shape=(math.prod(self.h_shape), math.prod(self.x_shape)),
            matvec=lambda v: forward(v.reshape(-1, 1)).ravel(),
            rmatvec=lambda u: transposed(u.reshape(-1, 1)).ravel(),
            matmat=forward,
            rmatmat=transposed,
            dtype=np.float64,
        )

    # ---------------------------------------------------------------- products, pass by pass

    def _evaluate(self, samples: slice) -> torch.Tensor:
        """The value of f at some of the samples, with its shape checked."""
        x, f = self._of(samples)
        with torch.no_grad(), forward_mode_ready():
            value = f(x)
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"Expected f to return a tensor [B, *h_shape], got {type(value).__name__}. Wrap "
                "it in a function that picks the tensor you want to study."
            )
        if not value.is_floating_point():
            raise TypeError(
                f"Expected f to return a floating dtype, got {value.dtype}: whole numbers have no "
                "derivative."
            )
        if value.dim() < 2 or value.shape[0] != x.shape[0]:
            raise ValueError(
                f"Expected f to map {tuple(x.shape)} to [{x.shape[0]}, *h_shape], got "
                f"{tuple(value.shape)}. Keep the batch as the first size, and flatten nothing "
                "across samples."
            )
        return value

    def _passes(self, columns: int) -> Iterator[tuple[slice, slice]]:
        for first in range(0, self.batch, self.chunk.samples):
            samples = slice(first, min(first + self.chunk.samples, self.batch))
            for column in range(0, columns, self.chunk.tangents):
                yield samples, slice(column, min(column + self.chunk.tangents, columns))

    def _of(self, samples: slice) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """The points of some samples, and f with their arguments bound."""
        args = tuple(a[samples] if isinstance(a, torch.Tensor) else a for a in self.args)
        return self.x[samples], lambda x: self.f(x, *args)

    def _by_graph(
        self,
        multiply: Callable[[torch.Tensor], torch.Tensor],
        graph: TangentGraph,
        block: torch.Tensor,
    ) -> torch.Tensor:
        """A product through the graphs, as many columns at a time as they have."""
        rows = self._rows.to(block.device)
        parts = []
        for part in block.split(graph.columns, dim=1):
            # Samples of the graphs that are not ours get zeros, and give zeros.
            whole = part.new_zeros(graph.batch, *part.shape[1:])
            whole[rows] = part
            parts.append(multiply(whole)[rows])
        return torch.cat(parts, dim=1)

    def _matmat(self, v: torch.Tensor) -> torch.Tensor:
        if self._graph is not None and v.shape[1]:
            product = self._by_graph(self._graph.push, self._graph, v)
            self.count.jvp += v.shape[0] * v.shape[1]
            return product
        pieces: dict[int, list[torch.Tensor]] = {}
        with torch.no_grad(), forward_mode_ready():
            for samples, columns in self._passes(v.shape[1]):
                x, f = self._of(samples)

                def push(
                    tangent: torch.Tensor, x: torch.Tensor = x, f: Callable = f
                ) -> torch.Tensor:
                    return torch.func.jvp(f, (x,), (tangent,))[1]

                tangents = v[samples, columns]
                product = torch.func.vmap(push, in_dims=1, out_dims=1)(tangents)
                pieces.setdefault(samples.start, []).append(product)
                self.count.jvp += tangents.shape[0] * tangents.shape[1]
        return _assemble(pieces, self.batch, v.shape[1], self.h_shape, v)

    def _rmatmat(self, u: torch.Tensor) -> torch.Tensor:
        if self._graph is not None and u.shape[1]:
            product = self._by_graph(self._graph.pull, self._graph, u)
            self.count.vjp += u.shape[0] * u.shape[1]
            return product
        pieces: dict[int, list[torch.Tensor]] = {}
        with torch.no_grad(), forward_mode_ready():
            for samples, columns in self._passes(u.shape[1]):
                pull = self._pull(samples)
                cotangents = u[samples, columns]
                product = torch.func.vmap(lambda w, pull=pull: pull(w)[0], in_dims=1, out_dims=1)(
                    cotangents
                )
                pieces.setdefault(samples.start, []).append(product)
                self.count.vjp += cotangents.shape[0] * cotangents.shape[1]
        if not self.chunk.keep_closure or self.chunk.samples < self.batch:
            self.release()
        return _assemble(pieces, self.batch, u.shape[1], self.x_shape, u)

    def _pull(self, samples: slice) -> Callable[[torch.Tensor], tuple[torch.Tensor]]:
        if self._closure is None or self._closure.samples != samples:
            self._closure = None  # free the old activations before the new ones are made
            x, f = self._of(samples)
            value, pull = torch.func.vjp(f, x)[:2]

            def cast_and_pull(w: torch.Tensor) -> tuple[torch.Tensor]:
                return pull(w.to(value.dtype))

            self._closure = _Closure(samples, cast_and_pull)
        return self._closure.pull

    def _retry(
        self, product: Callable[[torch.Tensor], torch.Tensor], block: torch.Tensor
    ) -> torch.Tensor:
        """Run a product; after an out-of-memory error shrink the pass and start it again."""
        while True:
            before = ProductCount(self.count.jvp, self.count.vjp)
            try:
                return product(block)
            except (RuntimeError, MemoryError) as error:
                if not _memory.is_out_of_memory(error):
                    raise
                reason = str(error)
            # Outside the except clause, so that the traceback no longer holds the tensors.
            self.count.jvp, self.count.vjp = before.jvp, before.vjp
            self.release()
            gc.collect()
            _memory.release(self.device)
            self.chunk.tangents = min(self.chunk.tangents, block.shape[1])
            if not self.chunk.halve():
                raise too_large(self.device, reason)

    # --------------------------------------------------------------------------------- checks

    def _check(self, samples: slice) -> None:
        value = self._evaluate(samples)
        args = tuple(a[samples] if isinstance(a, torch.Tensor) else a for a in self.args)
        self._twice = check_map(self.f, self.x[samples], args, value)
        self.count.jvp += len(value)
        self.count.vjp += len(value)

    def _check_block(
        self, block: torch.Tensor, shape: tuple[int, ...], name: str, shape_name: str
    ) -> None:
        check_tensor(name, block)
        if block.dim() != len(shape) + 2 or (block.shape[0], *block.shape[2:]) != (
            self.batch,
            *shape,
        ):
            expected = ", ".join(map(str, (self.batch, "k", *shape)))
            raise ValueError(
                f"Expected {name} of shape [B, k, *{shape_name}] = [{expected}], got "
                f"{list(block.shape)}."
            )
        if not block.is_floating_point():
            raise TypeError(
                f"Expected {name} in a floating dtype, got {block.dtype}. Convert it with "
                f"{name}.to(torch.float32)."
            )


def _assemble(
    pieces: dict[int, list[torch.Tensor]],
    batch: int,
    columns: int,
    shape: tuple[int, ...],
    like: torch.Tensor,
) -> torch.Tensor:
    if columns == 0:
        return like.new_zeros((batch, 0, *shape))
    rows = [torch.cat(row, dim=1) if len(row) > 1 else row[0] for row in pieces.values()]
    return torch.cat(rows) if len(rows) > 1 else rows[0]
