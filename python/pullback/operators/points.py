"""A map at a batch of points: what a Jacobian is the Jacobian of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pullback_ext.intercept import forward_mode_ready

#: By how many roundings nearby points differ. The Jacobians there differ by about what rounding in
#: all layers does to one of them: measured on seven families of networks, weights times 1, 3 and 5.
_ROUNDINGS = 4


@dataclass(frozen=True, eq=False)
class Points:
    """f, the points x at which it is differentiated, and its further arguments there.

    Attributes:
        f: maps `[B, *x_shape]` and the arguments to `[B, *h_shape]`, sample by sample.
        x: the points, `[B, *x_shape]`.
        args: tensors `[B, ...]`, and anything that is not a tensor.
    """

    f: Callable[..., torch.Tensor]
    x: torch.Tensor
    args: tuple[object, ...]

    def __len__(self) -> int:
        """Number of samples B."""
        return len(self.x)

    def select(self, rows: slice | torch.Tensor) -> Points:
        """The map at some of the points."""

        def of(value: torch.Tensor) -> torch.Tensor:
            return value[rows.to(value.device) if isinstance(rows, torch.Tensor) else rows]

        args = (of(a) if isinstance(a, torch.Tensor) else a for a in self.args)
        return Points(self.f, of(self.x), tuple(args))

    def nearby(self, draw: int) -> Points:
        """The same where x and the arguments differ by a few roundings, at random.

        Whole numbers among the arguments stay as they are: they are timesteps, classes and masks.

        Args:
            draw: number of the random differences; the same for every sample.
        """
        generator = torch.Generator("cpu").manual_seed(draw)
        eps = _ROUNDINGS * torch.finfo(self.x.dtype).eps

        def moved(value: torch.Tensor) -> torch.Tensor:
            core = _core(value)
            size = torch.randn(core.shape[1:], generator=generator, device="cpu")
            return core * (1 + eps * size.to(core.device, core.dtype))

        def argument(value: object) -> object:
            if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
                return value
            if value.layout != torch.strided:
                return value
            core, other = _core(value), moved(value)
            return torch.where(core == core.round(), core, other).expand(value.shape)

        return Points(self.f, moved(self.x), tuple(argument(value) for value in self.args))

    def joins(self, other: Points) -> bool:
        """Whether these and the other points are of one map, with dense tensors of one kind."""

        def fits(mine: object, its: object) -> bool:
            if not (isinstance(mine, torch.Tensor) and isinstance(its, torch.Tensor)):
                return mine is its
            return mine.layout == its.layout == torch.strided and mine.shape[1:] == its.shape[1:]

        alike = len(self.args) == len(other.args) and self.f is other.f
        return alike and all(map(fits, (self.x, *self.args), (other.x, *other.args)))

    def beside(self, others: Sequence[Points]) -> Points:
        """The map at these points, then at the others, which differ in nothing but numbers."""

        def joined(values: tuple[object, ...]) -> object:
            tensors = [value for value in values if isinstance(value, torch.Tensor)]
            return torch.cat(tensors) if tensors else values[0]

        every = (self, *others)
        args = zip(*(points.args for points in every), strict=True)
        return Points(self.f, torch.cat([points.x for points in every]), tuple(map(joined, args)))

    def at(self, x: torch.Tensor) -> torch.Tensor:
        """The map at other points x of the same samples, `[B, *x_shape]`.

        f gets a copy, which it may change in place, as an in-place ReLU at its beginning does.
        """
        return self.f(x.clone(), *self.args)

    def value(self) -> torch.Tensor:
        """The map at the points, `[B, *h_shape]`, without a graph.

        Raises:
            TypeError: f returns something else than a tensor of a floating dtype.
            ValueError: its output does not start with the batch or has no entries, or f changes
                one of its further arguments.
        """
        before = self._versions()
        with torch.no_grad(), forward_mode_ready():
            value = self.at(self.x)
        for position, (old, new) in enumerate(zip(before, self._versions(), strict=True)):
            if old != new:
                raise ValueError(
                    f"f changes argument {position} of args in place, so that every call of it "
                    "would find another value. Expected arguments that stay as they are: let f "
                    "work on a copy (argument.clone())."
                )
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
        if value.dim() < 2 or len(value) != len(self):
            raise ValueError(
                f"Expected f to map {tuple(self.x.shape)} to [{len(self)}, *h_shape], got "
                f"{tuple(value.shape)}. Keep the batch as the first size, and flatten nothing "
                "across samples."
            )
        if value.numel() == 0:
            raise ValueError(
                f"Expected f to return one entry or more per sample, got shape "
                f"{tuple(value.shape)}, which has none. Look for an index or a mask that selects "
                "nothing."
            )
        return value

    def _versions(self) -> list[int]:
        """How often each argument has been changed in place; 0 for what is no tensor."""
        return [arg._version if isinstance(arg, torch.Tensor) else 0 for arg in self.args]


def copied(value: torch.Tensor) -> torch.Tensor:
    """A copy, without derivatives, that takes no more memory than the tensor.

    One that repeats itself along a size (expanded, as a condition of all samples is) still does.
    """
    if value.layout != torch.strided:
        return value.detach().clone()
    return _core(value).clone().expand(value.shape)


def _core(value: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that does not repeat itself, with 1 for the sizes that do."""
    core = value.detach()
    for dim, step in enumerate(value.stride()):
        if step == 0 and value.shape[dim] > 1:
            core = core.narrow(dim, 0, 1)
    return core
