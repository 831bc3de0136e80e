"""The derivative of a map at some of its points, by the cheapest way that gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

from pullback.linearization import Tape, UnrecordableError, jvp
from pullback.operators.memory import is_out_of_memory
from pullback.operators.points import Points
from pullback.operators.surroundings import Surroundings
from pullback_ext.intercept import forward_mode_ready, plain_arithmetic, recordable


class Derivative(ABC):
    """J and its transpose at some points, for blocks of any number of columns.

    Attributes:
        batch: number of samples.
    """

    batch: int

    @abstractmethod
    def push(self, v: torch.Tensor) -> torch.Tensor:
        """J v: `[B, k, *x_shape]` to `[B, k, *h_shape]`."""

    @abstractmethod
    def pull(self, u: torch.Tensor) -> torch.Tensor:
        """Jᵀ u: `[B, k, *h_shape]` to `[B, k, *x_shape]`."""

    @abstractmethod
    def holds(self) -> bool:
        """Whether it is still that of the map: no parameter, hook or mode has changed since."""

    def select(self, rows: torch.Tensor) -> Derivative | None:
        """The same for some of the samples, at int64 indices; None where most would be idle."""
        return Part(self, rows) if 2 * len(rows) >= self.batch else None


class Recorded(Derivative):
    """By a `Tape`: the map is evaluated once, and products run its linear maps alone.

    Args:
        points: the map at the points.

    Raises:
        UnrecordableError: see `Tape`.
    """

    def __init__(self, points: Points) -> None:
        self.batch = len(points)
        with recordable():
            self.tape = Tape(points.at, points.x)
        self._surroundings = Surroundings(points.f, self.tape.outside)

    def push(self, v: torch.Tensor) -> torch.Tensor:
        """J v: `[B, k, *x_shape]` to `[B, k, *h_shape]`."""
        with plain_arithmetic():
            return self.tape.push(v.transpose(0, 1)).transpose(0, 1)

    def pull(self, u: torch.Tensor) -> torch.Tensor:
        """Jᵀ u: `[B, k, *h_shape]` to `[B, k, *x_shape]`."""
        with plain_arithmetic():
            return self.tape.pull(u.to(self.tape.value.dtype).transpose(0, 1)).transpose(0, 1)

    def holds(self) -> bool:
        """Whether everything that was met is as it was."""
        return self._surroundings.unchanged()


class Transformed(Derivative):
    """By torch's transforms: `vmap` over `jvp`, and `vmap` over `vjp`, whose closure is kept.

    Args:
        points: the map at the points.
    """

    def __init__(self, points: Points) -> None:
        self.batch, self._points = len(points), points
        self._surroundings = Surroundings(points.f)
        self._pull: Callable[[torch.Tensor], torch.Tensor] | None = None

    def push(self, v: torch.Tensor) -> torch.Tensor:
        """J v: `[B, k, *x_shape]` to `[B, k, *h_shape]`; evaluates the map once more."""
        points = self._points

        def push(tangent: torch.Tensor) -> torch.Tensor:
            return jvp(points.at, (points.x,), (tangent,))[1]

        with torch.no_grad(), forward_mode_ready():
            return torch.func.vmap(push, in_dims=1, out_dims=1)(v)

    def pull(self, u: torch.Tensor) -> torch.Tensor:
        """Jᵀ u: `[B, k, *h_shape]` to `[B, k, *x_shape]`."""
        with torch.no_grad(), forward_mode_ready():
            if self._pull is None:
                value, closure = torch.func.vjp(self._points.at, self._points.x)[:2]
                self._pull = lambda w: closure(w.to(value.dtype))[0]
            return torch.func.vmap(self._pull, in_dims=1, out_dims=1)(u)

    def holds(self) -> bool:
        """Whether the modules are as they were."""
        return self._surroundings.unchanged()


class Part(Derivative):
    """The derivative at some of the samples of another, whose others get zeros.

    Args:
        whole: that of all samples.
        rows: which of them are ours, int64.
    """

    def __init__(self, whole: Derivative, rows: torch.Tensor) -> None:
        self.batch, self._whole, self._rows = len(rows), whole, rows.cpu()

    def push(self, v: torch.Tensor) -> torch.Tensor:
        """J v: `[B, k, *x_shape]` to `[B, k, *h_shape]`."""
        return self._among(v, self._whole.push)

    def pull(self, u: torch.Tensor) -> torch.Tensor:
        """Jᵀ u: `[B, k, *h_shape]` to `[B, k, *x_shape]`."""
        return self._among(u, self._whole.pull)

    def holds(self) -> bool:
        """Whether that of all samples holds."""
        return self._whole.holds()

    def select(self, rows: torch.Tensor) -> Derivative | None:
        """The same for some of these samples, at int64 indices; None where most would be idle."""
        return self._whole.select(self._rows[rows.cpu()])

    def _among(
        self, block: torch.Tensor, multiply: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        rows = self._rows.to(block.device)
        whole = block.new_zeros(self._whole.batch, *block.shape[1:])
        whole[rows] = block
        return multiply(whole)[rows]


class Way:
    """How a map is differentiated: recorded, until that turns out not to work.

    Attributes:
        refused: why torch's transforms are taken in its place; None where it is recorded.
    """

    def __init__(self, refused: str | None = None) -> None:
        self.refused = refused

    def derivative(self, points: Points) -> Derivative:
        """The derivative at some points."""
        if self.refused is None:
            try:
                return Recorded(points)
            except (RuntimeError, TypeError, NotImplementedError) as error:
                if is_out_of_memory(error):
                    raise
                self.refused = _reason(error)
        return Transformed(points)

    def __str__(self) -> str:
        if self.refused is None:
            return "recorded once for a point"
        return f"by torch.func, since {self.refused}"


def first_line(error: Exception) -> str:
    """What an error says, without what it says after that."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _reason(error: Exception) -> str:
    first = first_line(error)
    return first if isinstance(error, UnrecordableError) else f"recording f failed: {first}"
