"""The arguments of a network's forward pass: which of them are latents, time, or a condition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

#: What a tensor among the arguments is to a batch: one row for each sample; one entry of the second
#: dimension for each; a single number, which is handed over as one while it is the same for all;
#: the same for all; a list with one tensor, or one whole number, for each sample; or the same row
#: for all frames of a sample.
Kind = Literal["rows", "columns", "single", "shared", "tensors", "numbers", "frames"]


@dataclass(frozen=True)
class Latents:
    """Where the latents stand.

    Attributes:
        shape: the argument's, of one sample.
        region: which part of a larger tensor they are: dimension (with the batch) and length, from
            its beginning; None where they are all of it. The rest is in the condition.
        listed: whether it is a list with one tensor for each sample.
        name: of the entry of the condition that holds the rest.
    """

    shape: tuple[int, ...]
    region: tuple[int, int] | None = None
    listed: bool = False
    name: str = ""

    def fill(self, x: torch.Tensor, cond: Mapping[str, torch.Tensor]) -> Any:
        """The argument for latents `[B, ...]` in the scheduler's shape."""
        if self.region is not None:
            dim, length = self.region
            whole = cond[self.name]
            return torch.cat([x, whole.narrow(dim, length, whole.shape[dim] - length)], dim)
        x = x.reshape(len(x), *self.shape)
        return list(x.unbind()) if self.listed else x


@dataclass(frozen=True)
class Time:
    """Where the timestep stands.

    Attributes:
        unit: in which unit, one of `UNITS`.
        total: training timesteps of the schedule.
        dtype: of the argument.
        through: the dtype in which it is computed; that, or a wider one.
        shape: of the argument for one sample, () for one number each.
    """

    unit: str
    total: int
    dtype: torch.dtype
    through: torch.dtype
    shape: tuple[int, ...] = ()

    def fill(self, t: torch.Tensor) -> torch.Tensor:
        """The argument for training timesteps `[B]`."""
        told = in_unit(self.unit, t.to(self.through), self.total).to(self.dtype)
        return told.reshape(-1, *[1] * len(self.shape)).expand(len(t), *self.shape)


#: How a network counts time, from t in training timesteps of which the schedule has n.
UNITS = {
    "t": lambda t, n: t,  # noqa: ARG005
    "t / n": lambda t, n: t / n,
    "1 - t / n": lambda t, n: 1 - t / n,
    "(n - t) / n": lambda t, n: (n - t) / n,
}


def in_unit(unit: str, t: torch.Tensor, total: int) -> torch.Tensor:
    """Training timesteps in the unit of a network."""
    told: torch.Tensor = UNITS[unit](t, total)
    return told


@dataclass(frozen=True)
class Entry:
    """An entry of the condition.

    Attributes:
        name: the argument's.
        kind: what it is to the batch.
        optional: whether the pipeline gives None for it, too; a mask, say, where nothing is masked.
        frames: rows of a sample, of kind "frames".
    """

    name: str
    kind: Kind
    optional: bool = field(default=False, compare=False)
    frames: int = 1

    def fill(self, cond: Mapping[str, torch.Tensor]) -> Any:
        """The argument, from the condition `[B, ...]`."""
        value = cond.get(self.name) if self.optional else cond[self.name]
        if value is None:
            return None
        if self.kind == "shared":
            return value[0]
        if self.kind == "columns":
            return value.movedim(0, 1)
        if self.kind == "single" and torch.equal(value, value[:1].expand_as(value)):
            return value[:1]
        if self.kind == "tensors":
            return list(value.unbind())
        if self.kind == "frames":
            return value.repeat_interleave(self.frames, 0)
        return value.tolist() if self.kind == "numbers" else value

    def take(self, given: Any) -> torch.Tensor:
        """The entry `[B, ...]` (`[1, ...]` where it is shared), from the argument.

        Raises:
            ValueError: samples have tensors of different shape.
        """
        if self.kind == "shared":
            return given[None]  # type: ignore[no-any-return]
        if self.kind == "columns":
            return given.movedim(1, 0)  # type: ignore[no-any-return]
        if self.kind == "numbers":
            return torch.tensor(given, device="cpu")
        if self.kind == "frames":
            return given[:: self.frames]  # type: ignore[no-any-return]
        if self.kind == "tensors":
            if len({tuple(one.shape) for one in given}) > 1:
                raise ValueError(
                    f"The network takes {self.name!r} as a list with one tensor for each sample, "
                    f"and these are of shapes {[list(one.shape) for one in given]}. Expected the "
                    "same shape for all samples of a batch: give them prompts of one length, or "
                    "encode them one by one."
                )
            return torch.stack(list(given))
        return given  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Repeated:
    """A list with the same value for each sample."""

    value: Any


@dataclass(frozen=True)
class Linked:
    """A tensor that another network of the pipeline made: which pass, and which of its tensors."""

    call: int
    path: str


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in nested lists, tuples and mappings, with their paths: "a.b.0"."""
    if isinstance(value, torch.Tensor):
        yield path, value
    for key, part in _parts(value):
        yield from leaves(part, f"{path}.{key}" if path else str(key))


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)


def kinds_of(value: Any, alone: Any, samples: int, path: str = "") -> dict[str, Any]:
    """What arguments are to the batch, by path, from a pass with a number of samples.

    Each is a `Kind`, or "repeated" for a list with the same value for each sample, or a number of
    frames; what is not there has to be looked into, or is the same for all.

    Args:
        value: the arguments of that pass.
        alone: those of a pass with one sample; what has as many entries there too has them for
            another reason.
        samples: how many.
        path: of this argument.
    """
    alike = isinstance(alone, (torch.Tensor, list)) and _length(alone) == samples
    if isinstance(value, torch.Tensor):
        return {path: _kind_of(value, alone, samples)}
    if isinstance(value, list) and len(value) == samples and not alike:
        if all(isinstance(one, torch.Tensor) for one in value):
            if any(not one.dim() or len(one) != samples for one in value):
                return {path: "tensors"}
        elif all(isinstance(one, int) and not isinstance(one, bool) for one in value):
            return {path: "numbers"}
        elif not list(leaves(value)) and all(one == value[0] for one in value):
            return {path: "repeated"}
    found: dict[str, Any] = {}
    others = dict(_parts(alone))
    for key, part in _parts(value):
        inner = f"{path}.{key}" if path else str(key)
        found |= kinds_of(part, others.get(key), samples, inner)
    return found


def _kind_of(value: torch.Tensor, alone: Any, samples: int) -> Kind:
    """What a tensor is to the batch; `alone` is what stands there for one sample, if any does."""
    before = alone.shape if isinstance(alone, torch.Tensor) else None
    if value.dim() and len(value) == samples and not (before and before[0] == samples):
        return "rows"
    if value.dim() and len(value) == 1:
        # Of more dimensions it is a row, which the network broadcasts; of one, a list or a number.
        return "rows" if value.dim() > 1 else "single"
    if value.dim() > 1 and value.shape[1] == samples and before is not None and before[1] == 1:
        return "columns"
    return "shared"


def _length(value: torch.Tensor | list[Any]) -> int:
    return len(value) if isinstance(value, list) or value.dim() else 0


def described(
    value: Any, kinds: Mapping[str, Any], found: Mapping[str, Any], path: str = ""
) -> Any:
    """An argument with its tensors replaced by what they stand for.

    Args:
        value: the argument.
        kinds: what arguments are to the batch, by path.
        found: `Latents`, `Time` and `Linked` by path.
        path: of this one.
    """
    if path in found:
        return found[path]
    inside = any(other.startswith(f"{path}.") for other in found) and path
    kind = None if inside else kinds.get(path)
    if kind == "repeated":
        return Repeated(value[0])
    if isinstance(kind, int):
        return Entry(path, "frames", frames=kind)
    if kind is not None:
        return Entry(path, kind, optional=value is None)
    if isinstance(value, torch.Tensor):  # not there where kinds were looked at
        return Entry(path, "rows")
    if isinstance(value, Mapping):
        return {
            key: described(part, kinds, found, f"{path}.{key}" if path else str(key))
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        parts = [described(part, kinds, found, f"{path}.{i}") for i, part in enumerate(value)]
        return parts if isinstance(value, list) else tuple(parts)
    return value


def entries(
    template: Any, value: Any, found: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The condition in an argument that was described so: each `[B, ...]`, by its path."""
    found = {} if found is None else found
    if isinstance(template, Entry):
        if value is not None:
            found[template.name] = template.take(value)
    elif isinstance(template, Latents) and template.region is not None:
        dim, length = template.region
        whole = value.clone()
        whole.narrow(dim, 0, length).zero_()
        found[template.name] = whole
    else:
        inner = dict(_parts(value))
        for key, part in _parts(template):
            entries(part, inner[key], found)
    return found


def one_sample(template: Any, value: Any, sample: int) -> Any:
    """The part of an argument that is of one sample of several, as an argument of that alone."""
    if isinstance(template, Entry) and template.kind in ("tensors", "numbers", "frames"):
        return value[sample * template.frames : (sample + 1) * template.frames]
    if isinstance(template, Entry) and template.kind == "columns":
        return value[:, sample : sample + 1]
    if isinstance(value, torch.Tensor):
        shared = isinstance(template, Entry) and template.kind == "shared"
        alone = not value.dim() or len(value) == 1
        return value if shared or alone else value[sample : sample + 1]
    inner = dict(_parts(value))
    if isinstance(template, Mapping):
        return {key: one_sample(part, inner[key], sample) for key, part in template.items()}
    if isinstance(template, (list, tuple)):
        return [one_sample(part, inner[i], sample) for i, part in enumerate(template)]
    return value


def filled(
    template: Any,
    x: torch.Tensor,
    t: torch.Tensor,
    cond: Mapping[str, torch.Tensor],
    outputs: Sequence[Mapping[str, torch.Tensor]],
) -> Any:
    """The argument that a template stands for: the inverse of `described` and `entries`.

    Args:
        template: from `described`.
        x: latents `[B, ...]`, in the scheduler's shape.
        t: training timesteps `[B]`.
        cond: the condition, `[B, ...]` each.
        outputs: the tensors that the passes before this one returned, by path.
    """
    if isinstance(template, Latents):
        return template.fill(x, cond)
    if isinstance(template, Time):
        return template.fill(t)
    if isinstance(template, Entry):
        return template.fill(cond)
    if isinstance(template, Repeated):
        return [template.value] * len(x)
    if isinstance(template, Linked):
        return outputs[template.call][template.path]
    if isinstance(template, Mapping):
        return {key: filled(part, x, t, cond, outputs) for key, part in template.items()}
    if isinstance(template, (list, tuple)):
        parts = [filled(part, x, t, cond, outputs) for part in template]
        return parts if isinstance(template, list) else tuple(parts)
    return template


def difference(one: Any, other: Any, path: str = "") -> str | None:
    """Where two descriptions differ, as a path; None where they are the same."""
    if type(one) is not type(other):
        return path
    inner = dict(_parts(one))
    if not inner and not isinstance(one, (Mapping, list, tuple)):
        try:
            same = bool(one == other)
        except (RuntimeError, ValueError):  # what cannot be compared
            same = one is other
        return None if same else path
    others = dict(_parts(other))
    if inner.keys() != others.keys():
        return path
    for key, part in inner.items():
        found = difference(part, others[key], f"{path}.{key}" if path else str(key))
        if found is not None:
            return found
    return None
