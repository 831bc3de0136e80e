"""Both products with a Jacobian as backward passes through graphs that are kept."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pullback_ext.intercept import forward_mode_ready


class TangentGraph:
    """Products with J and Jᵀ for blocks of a fixed number of columns, without the primal.

    The first graph is that of h = f(x), the second that of g(u) = Jᵀu, which is linear in u: its
    own transpose is J. Both are recorded once, on one copy of every sample per column, so that a
    product with J costs no forward pass and no forward-mode rule, and its price is that of a
    backward pass. The copies are what it costs in memory.

    Args:
        f: the map from points `[B, *x_shape]` and further arguments to features.
        x: the points.
        args: the further arguments; tensors have the batch first.
        columns: tangents per sample in one product.

    Raises:
        RuntimeError: f cannot be differentiated twice in reverse mode.
    """

    def __init__(
        self,
        f: Callable[..., torch.Tensor],
        x: torch.Tensor,
        args: tuple[object, ...],
        columns: int,
    ) -> None:
        self.columns, self.batch = columns, len(x)

        def copies(value: object) -> object:
            return value.repeat_interleave(columns, 0) if isinstance(value, torch.Tensor) else value

        with torch.inference_mode(False), torch.enable_grad(), forward_mode_ready():
            self._x = x.detach().repeat_interleave(columns, 0).requires_grad_()
            self._h = f(self._x, *(copies(value) for value in args))
            self._u = torch.zeros_like(self._h).requires_grad_()
            (self._g,) = torch.autograd.grad(self._h, self._x, self._u, create_graph=True)

    def push(self, v: torch.Tensor) -> torch.Tensor:
        """J v: `[B, k, *x_shape]` to `[B, k, *h_shape]` for k up to `columns`."""
        return self._pass(self._g, self._u, v)

    def pull(self, u: torch.Tensor) -> torch.Tensor:
        """Jᵀ u: `[B, k, *h_shape]` to `[B, k, *x_shape]` for k up to `columns`."""
        return self._pass(self._h, self._x, u)

    def _pass(
        self, output: torch.Tensor, source: torch.Tensor, block: torch.Tensor
    ) -> torch.Tensor:
        width = block.shape[1]
        if width < self.columns:
            missing = self.columns - width
            rest = block.new_zeros(self.batch, missing, *block.shape[2:])
            block = torch.cat([block, rest], dim=1)
        cotangent = block.to(output.dtype).reshape(output.shape)
        with forward_mode_ready():
            (result,) = torch.autograd.grad(output, source, cotangent, retain_graph=True)
        return result.reshape(self.batch, self.columns, *source.shape[1:])[:, :width]
