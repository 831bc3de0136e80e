"""A function linearised at a point: one evaluation, whose linear maps are then run many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pullback import _ranges
from pullback.linearization.arithmetic import Scaled
from pullback.linearization.linear import Tangent, UnrecordableError
from pullback.linearization.normalization import Normalization
from pullback.linearization.recorder import Recorder, Step


class Tape:
    """The derivative of f at x as a sequence of linear maps, and its transpose.

    Made by one evaluation of f. What the maps need of the point is computed then and kept; a
    product runs them on plain tensors for a block of columns, of which all share it. Nothing is
    computed again, so that a product costs what the linear part of f costs.

    Args:
        f: the function, of x alone.
        x: the point, `[B, *x_shape]`.

    Raises:
        UnrecordableError: f does what a recording cannot follow, such as to hold a function with
            derivatives of its own (`torch.autograd.Function`).

    Cost: one evaluation of f, and about as much memory as its reverse mode keeps.
    """

    def __init__(self, f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
        recorder = Recorder()
        # Grad mode tells what f switches off; what autograd would save is not needed.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_nothing, _refused):
            point = x.detach().requires_grad_()
            with recorder:
                start = recorder.begin(point)
                value = f(point)
        if not isinstance(value, torch.Tensor):
            raise UnrecordableError("f returns something else than a tensor")
        recorder.check_own(value)
        end = recorder.variable(value)
        self.value = value.detach()
        self._start, self._end = start, end
        self._x_shape = tuple(x.shape)
        self._steps = _fused(_needed(recorder.steps, end), end)
        self._last_uses = _last_uses(self._steps)
        self.outside = tuple(recorder.outside.values())

    @property
    def kept_bytes(self) -> int:
        """Bytes of what is kept for products, without tensors that were there before."""
        outside = {tensor.untyped_storage()._cdata for tensor in self.outside}
        sizes = {}
        for step in self._steps:
            for tensor in step.linear.kept():
                storage = tensor.untyped_storage()
                if storage._cdata not in outside:
                    sizes[storage._cdata] = storage.nbytes()
        return sum(sizes.values())

    def __len__(self) -> int:
        """Number of linear maps."""
        return len(self._steps)

    @torch.no_grad()
    def push(self, tangents: torch.Tensor) -> torch.Tensor:
        """J v: `[k, B, *x_shape]` to `[k, *shape of the value]`."""
        run = _runner()
        known: dict[int, Tangent] = {self._start: tangents}
        for step, done in zip(self._steps, self._last_uses, strict=True):
            given = [known.get(number) for number in step.inputs]
            if any(tangent is not None for tangent in given):
                found = run(step, step.linear.push, given)
                for number, tangent in zip(step.outputs, found, strict=True):
                    if number is not None:
                        known[number] = tangent
            for number in done:
                known.pop(number, None)
        result = None if self._end is None else known.get(self._end)
        if result is None:
            return self.value.new_zeros(len(tangents), *self.value.shape)
        return result

    @torch.no_grad()
    def pull(self, cotangents: torch.Tensor) -> torch.Tensor:
        """Jᵀ u: `[k, *shape of the value]` to `[k, B, *x_shape]`."""
        run = _runner()
        known: dict[int, torch.Tensor] = {}
        if self._end is not None:
            known[self._end] = cotangents
        for step in reversed(self._steps):
            given = [None if n is None else known.pop(n, None) for n in step.outputs]
            if all(cotangent is None for cotangent in given):
                continue
            for number, found in zip(step.inputs, run(step, step.linear.pull, given), strict=True):
                if found is not None:
                    before = known.get(number)
                    known[number] = found if before is None else before + found
        result = known.get(self._start)
        if result is None:
            return cotangents.new_zeros(len(cotangents), *self._x_shape)
        return result


_Multiply = Callable[[Sequence[Tangent]], Sequence[Tangent]]


def _called(_: Step, multiply: _Multiply, given: Sequence[Tangent]) -> Sequence[Tangent]:
    return multiply(given)


def _in_a_range(step: Step, multiply: _Multiply, given: Sequence[Tangent]) -> Sequence[Tangent]:
    with _ranges.step(step.name):
        return multiply(given)


def _runner() -> Callable[[Step, _Multiply, Sequence[Tangent]], Sequence[Tangent]]:
    """How maps are run: each in a range of its own, where they are to have one."""
    return _in_a_range if _ranges.steps_named() else _called


def _nothing(_tensor: torch.Tensor) -> None:
    return None


def _refused(_nothing: None) -> torch.Tensor:
    raise UnrecordableError("f differentiates something itself")


def _needed(steps: Sequence[Step], end: int | None) -> list[Step]:
    """The steps that lead to the result."""
    needed, found = {end}, []
    for step in reversed(steps):
        if any(number in needed for number in step.outputs if number is not None):
            needed.update(step.inputs)
            found.append(step)
    return found[::-1]


def _last_uses(steps: Sequence[Step]) -> list[list[int]]:
    """For each step the variables that no later one takes."""
    seen: set[int] = set()
    found = []
    for step in reversed(steps):
        found.append([number for number in set(step.inputs) if number not in seen])
        seen.update(step.inputs)
    return found[::-1]


def _fused(steps: Sequence[Step], end: int | None) -> list[Step]:
    """The steps, with a function of entries that follows a normalisation as a part of it."""
    uses: dict[int, int] = {end: 1} if end is not None else {}
    for step in steps:
        for number in step.inputs:
            uses[number] = uses.get(number, 0) + 1
    makers = {step.outputs[0]: place for place, step in enumerate(steps)}
    found: list[Step | None] = list(steps)
    for place, step in enumerate(steps):
        if not (isinstance(step.linear, Scaled) and uses.get(step.inputs[0]) == 1):
            continue
        before = makers.get(step.inputs[0])
        maker = None if before is None else found[before]
        if before is None or maker is None or not isinstance(maker.linear, Normalization):
            continue
        factor = step.linear.factor
        if not isinstance(factor, torch.Tensor) or factor.shape != maker.linear.shape:
            continue
        found[before] = None
        linear = maker.linear.then_times(factor)
        found[place] = Step(linear, maker.inputs, step.outputs, maker.name)
        makers[step.outputs[0]] = place
    return [step for step in found if step is not None]
