"""Finding the latents, the time and the prediction in what a pipeline did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pullback.models.arguments import UNITS, Latents, Linked, Time, in_unit, leaves
from pullback.models.watching import Call, Run, Step


class UnreadableError(ValueError):
    """How a pipeline calls its network could not be found out."""


@dataclass(frozen=True)
class Output:
    """Where the prediction stands in what the network returns.

    Attributes:
        path: of the tensor, or of the list with one for each sample.
        listed: whether it is such a list.
        factor: what it is multiplied by to give what the scheduler is handed.
    """

    path: str
    listed: bool
    factor: float


def links(calls: list[Call]) -> list[dict[str, Linked]]:
    """Which tensors among the arguments of each pass are outputs of a pass before it."""
    made: dict[int, Linked] = {}
    found = []
    for place, call in enumerate(calls):
        found.append(
            {p: made[id(value)] for p, value in leaves(call.arguments) if id(value) in made}
        )
        if place < len(calls) - 1:
            made |= {id(value): Linked(place, path) for path, value in leaves(call.output)}
    return found


def roles(
    name: str, calls: list[Call], steps: list[Step], linked: dict[str, Linked], total: int
) -> dict[str, Any]:
    """Where latents, time and tensors of other passes stand in the arguments of a pass.

    Args:
        name: of the network.
        calls: its pass at each of the steps.
        steps: those steps.
        linked: the tensors of other passes, from `links`.
        total: training timesteps of the schedule.

    Raises:
        UnreadableError: an argument changes in a way that is not understood.
    """
    found: dict[str, Any] = dict(linked)
    places = {latents_in(call.arguments, step) for step, call in zip(steps, calls, strict=True)}
    if len(places) > 1:
        raise UnreadableError(f"the latents are not in one place among {name}'s arguments")
    found |= dict(place for place in places if place is not None)
    for path, latents in found.items():
        if isinstance(latents, Latents) and latents.region and not _constant_rest(calls, latents):
            raise UnreadableError(f"what {name}'s {path!r} holds beside the latents changes")
    times = [step.timestep for step in steps if step.timestep is not None]
    varying = [path for path, _ in _flat(calls[0].arguments) if path not in found]
    for path in varying:
        values = [dict(_flat(call.arguments)).get(path) for call in calls]
        if any(_inside(path, other) for other in found) or _all_same(values):
            continue
        time = _time(values, times, total)
        if time is None:
            raise UnreadableError(
                f"{name}'s argument {path!r} changes from step to step and is neither the latents "
                "nor a time"
            )
        found[path] = time
    if not any(isinstance(one, Time) for one in found.values()):
        raise UnreadableError(f"none of {name}'s arguments follows the scheduler's timesteps")
    return found


def _constant_rest(calls: list[Call], latents: Latents) -> bool:
    """Whether what stands beside the latents is the same at every step."""
    assert latents.region is not None
    dim, length = latents.region
    wholes = [dict(leaves(call.arguments))[latents.name] for call in calls]
    return _all_same([one.narrow(dim, length, one.shape[dim] - length) for one in wholes])


def _inside(path: str, other: str) -> bool:
    return path.startswith(f"{other}.")


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested lists, tuples and mappings, tensors and other values, by path."""
    if isinstance(value, (Mapping, list, tuple)):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in parts:
            yield from _flat(part, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _all_same(values: list[Any]) -> bool:
    first = values[0]
    if isinstance(first, torch.Tensor):
        return all(isinstance(one, torch.Tensor) and torch.equal(one, first) for one in values)
    return all(one is first or (not isinstance(one, torch.Tensor) and one == first)
               for one in values)  # fmt: skip


def latents_in(arguments: Mapping[str, Any], step: Step) -> tuple[str, Latents] | None:
    """Which argument holds the latents, as the scheduler has them or as it scaled them."""
    sample = step.sample
    assert sample is not None
    for source in (*step.inputs, sample):
        if source.shape != sample.shape:  # doubled, for guidance
            continue
        for path, value, listed in _arrays(arguments):
            if not value.is_floating_point():
                continue
            wanted = source.to(value.dtype)
            if value.numel() == wanted.numel() and len(value) == len(wanted):
                if torch.equal(value.reshape(wanted.shape), wanted):
                    return path, Latents(tuple(value.shape[1:]), listed=listed)
            elif value.dim() == wanted.dim() and not listed:
                other = [d for d in range(value.dim()) if value.shape[d] != wanted.shape[d]]
                if len(other) == 1 and value.shape[other[0]] > wanted.shape[other[0]]:
                    dim, length = other[0], wanted.shape[other[0]]
                    if dim > 0 and torch.equal(value.narrow(dim, 0, length), wanted):
                        return path, Latents(tuple(value.shape[1:]), (dim, length), name=path)
    return None


def _arrays(arguments: Any) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """The tensors among the arguments, and the lists of one tensor for each sample, stacked."""
    for path, value in leaves(arguments):
        if value.dim():
            yield path, value, False
    for name, value in arguments.items():
        tensors = isinstance(value, list) and all(isinstance(one, torch.Tensor) for one in value)
        if tensors and len({tuple(one.shape) for one in value}) == 1:
            yield name, torch.stack(value), True


def _time(values: list[Any], times: list[float], total: int) -> Time | None:
    """The unit in which an argument counts time; None where it does not."""
    tensors = [v if isinstance(v, torch.Tensor) else torch.tensor(v) for v in values]
    firsts = [one.reshape(-1)[0] for one in tensors]
    if any(bool((one != first).any()) for one, first in zip(tensors, firsts, strict=True)):
        return None
    # Some pipelines have another dtype at their first step, where the latents are fresh noise.
    dtype = tensors[-1].dtype
    told = torch.stack([one.to(dtype) for one in firsts[: len(times)]]).cpu()
    exact = torch.tensor(times, dtype=torch.float64, device="cpu")
    shape = tuple(tensors[0].shape[1:]) if tensors[0].dim() else ()
    # The expression that gives the very bits first, and then what differs by rounding alone.
    for slack in (0.0, 4 * torch.finfo(dtype if dtype.is_floating_point else torch.float32).eps):
        for through in (dtype, torch.float32):
            for unit in UNITS:
                guess = in_unit(unit, exact.to(through), total).to(told.dtype)
                if bool(((guess - told).abs() <= slack * guess.abs().clamp_min(1)).all()):
                    return Time(unit, total, dtype, through, shape)
    return None


def packing(run: Run, sample: torch.Tensor) -> tuple[tuple[int, ...], torch.Tensor | None]:
    """The shape of one sample's latents before they were packed, and the order of their entries."""
    shape = tuple(sample.shape[1:])
    # Images that stand beside the latents are packed too.
    own = next((one for one in run.packed if _made(one.tokens, sample)), None)
    if own is None:
        return shape, None
    pack, before = own.again, own.shape
    count = sample[0].numel()
    numbers = torch.arange(count, dtype=torch.float64, device="cpu")
    if torch.Size(before[1:]).numel() != count or before[0] != 1:
        return shape, None
    order = pack(numbers.reshape(before)).reshape(-1).long()
    if not torch.equal(order.sort().values, torch.arange(count, device="cpu")):
        return shape, None
    inner = tuple(before[1:])
    if len(inner) == 4 and 1 in inner[:2]:  # one image, as a video of one frame
        at = inner.index(1)
        inner = inner[:at] + inner[at + 1 :]
    return inner, order.to(sample.device)


def _made(tokens: torch.Tensor, sample: torch.Tensor) -> bool:
    """Whether these tokens are the latents that the scheduler is given first, but for scale."""
    if tokens.shape != sample.shape:
        return False
    scale = sample.norm() / tokens.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return bool((scale * tokens.double() - sample.double()).norm() <= 1e-2 * sample.norm())


def output_of(calls: list[Call], steps: list[Step]) -> Output:
    """Where the prediction that the scheduler was handed stands in what the network returned."""
    sample = steps[0].sample
    assert sample is not None
    shape = tuple(sample.shape[1:])
    for path, listed in _candidates(calls[0].output):
        for factor in (1.0, -1.0):
            output = Output(path, listed, factor)
            if all(
                step.prediction is not None and _agrees(output, call.output, step.prediction, shape)
                for call, step in zip(calls, steps, strict=True)
            ):
                return output
    raise UnreadableError(
        "what its scheduler is handed is neither what its network returns nor its negative"
    )


def _candidates(output: Any) -> Iterator[tuple[str, bool]]:
    """Paths of what may be the prediction: tensors, and lists with a tensor for each sample."""
    for path, _ in leaves(output):
        yield path, False
    if isinstance(output, list):
        yield "", True
    elif isinstance(output, (Mapping, tuple)):
        parts = output.items() if isinstance(output, Mapping) else enumerate(output)
        for key, part in parts:
            if isinstance(part, list) and part:
                yield str(key), True


def _agrees(output: Output, returned: Any, handed: torch.Tensor, shape: tuple[int, ...]) -> bool:
    try:
        found = output.factor * picked(returned, output, shape)
    except (ValueError, RuntimeError, KeyError, IndexError):
        return False
    handed = handed[:, : shape[0]] if handed.shape[1:] != shape else handed
    found = found[:, : shape[0]] if found.shape[1:] != shape else found
    return found.shape == handed.shape and torch.equal(found.to(handed.dtype), handed)


def picked(returned: Any, output: Output, shape: tuple[int, ...]) -> torch.Tensor:
    """The prediction `[B, *shape]`, or with more channels, in what the network returned."""
    value = returned
    for key in filter(None, output.path.split(".")):
        value = value[key] if isinstance(value, Mapping) else value[int(key)]
    found: torch.Tensor = torch.stack(value) if output.listed else value
    size = torch.Size(shape).numel()
    if found[0].numel() == size:
        return found.reshape(len(found), *shape)
    if found.dim() == len(shape) + 1:
        # More channels, for the variance, are left to the caller; more tokens are of the condition.
        wider = [d for d in range(1, found.dim()) if found.shape[d] > shape[d - 1]]
        if wider == [1] and len(shape) > 2:
            return found
        for dim in wider:
            found = found.narrow(dim, 0, shape[dim - 1])
    return found
