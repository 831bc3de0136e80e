"""From the events of a trace to what the time went into.

The events are those of torch's profiler, as it writes them for chrome and Perfetto. On the CPU the
time of an operator is what it does not spend in others, and what lies in no operator is Python's.
On a GPU it is the time of the kernels that it started, and what lies between kernels is Python's,
since the device then waits for the host. Either way the parts add up to the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pullback import _ranges
from pullback.profiling import kinds

#: What a stage is called that has no range of its own.
OTHER = "other"

#: The stages, as they are shown.
STAGES = (_ranges.CHECKS, _ranges.PRIMAL, _ranges.PUSH, _ranges.PULL, _ranges.SOLVER, OTHER)

_OF_HOST = {"cpu_op", "user_annotation"}
_OF_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}


@dataclass(frozen=True)
class Place:
    """Where an event stands: in which stage, in the map of which operation, as which kind."""

    stage: str = OTHER
    step: str | None = None
    kind: str | None = None

    def within(self, name: str) -> Place:
        """The place of a range or an operator of this name that begins here."""
        if name.startswith(_ranges.STEP):
            return Place(self.stage, name.removeprefix(_ranges.STEP))
        if name.startswith(_ranges.PREFIX):
            # What the checks do is theirs, products included.
            checks = self.stage == _ranges.CHECKS
            return self if checks else Place(name.removeprefix(_ranges.PREFIX))
        if "::" not in name:  # a function of Python's, or a range of somebody else's
            return Place(self.stage, self.step)
        together = kinds.OF_STAGE.get(self.stage)
        kind = kinds.of_work(name, self.step, self.kind) if together is None else together
        return Place(self.stage, self.step, kind)


@dataclass
class Attribution:
    """Seconds by kind, by stage and by operator; those by kind and those by stage add up alike.

    Attributes:
        kinds: seconds by kind of work.
        stages: seconds by stage, and by kind within it.
        operators: seconds and calls by operator and kind.
    """

    kinds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(kinds.KINDS, 0.0))
    stages: dict[str, dict[str, float]] = field(default_factory=lambda: {s: {} for s in STAGES})
    operators: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def add(self, place: Place, name: str, seconds: float) -> None:
        """Add the time of an event; of a range, that in which no operator runs."""
        kind = place.kind or kinds.PYTHON
        self.kinds[kind] += seconds
        stage = self.stages.setdefault(place.stage, {})
        stage[kind] = stage.get(kind, 0.0) + seconds
        if place.kind is not None:
            before, calls = self.operators.get((name, kind), (0.0, 0))
            self.operators[name, kind] = (before + seconds, calls + 1)

    def seconds(self, stage: str) -> float:
        """Of a stage, without the stages inside it."""
        return sum(self.stages.get(stage, {}).values())


def attribute(events: Iterable[Mapping[str, Any]], root: str) -> Attribution:
    """What the time of a range went into.

    Args:
        events: `traceEvents` of a trace, in microseconds.
        root: the name of the range.

    Raises:
        ValueError: the trace has no such range.
    """
    spans = [event for event in events if event.get("ph") == "X"]
    whole = next((one for one in spans if one["name"] == root), None)
    if whole is None:
        raise ValueError(
            f"The trace has no range {root!r}, so that nothing tells what was to be profiled. "
            "Expected one profiled run: is another profiler active?"
        )
    start, end = whole["ts"], whole["ts"] + whole["dur"]
    inside = [one for one in spans if start <= one["ts"] and one["ts"] + one["dur"] <= end]
    host = [one for one in inside if one.get("cat") in _OF_HOST]
    device = [one for one in inside if one.get("cat") in _OF_DEVICE]
    found = Attribution()
    if device:
        _add_device(found, whole, device, _placed(host))
    else:
        for event, place, own in _nested([one for one in host if one["tid"] == whole["tid"]]):
            found.add(place, event["name"], own / 1e6)
    return found


def _nested(host: list[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Place, float]]:
    """The events of one thread with their place, and their time without what they contain."""
    found: list[tuple[Mapping[str, Any], Place, float]] = []
    open_: list[tuple[float, int]] = []  # ends, and positions in `found`
    for event in sorted(host, key=lambda one: (one["ts"], -one["dur"])):
        while open_ and open_[-1][0] <= event["ts"]:
            open_.pop()
        around = Place()
        duration = event["dur"]
        if open_:
            end, position = open_[-1]
            parent, around, own = found[position]
            # Rounding of the file may let an event end after the one that contains it.
            duration = min(duration, end - event["ts"])
            found[position] = (parent, around, own - duration)
        open_.append((event["ts"] + duration, len(found)))
        found.append((event, around.within(event["name"]), duration))
    return found


def _placed(host: list[Mapping[str, Any]]) -> dict[Any, tuple[str, Place]]:
    """Names and places of the operators of all threads, by the number that kernels refer to."""
    threads: dict[Any, list[Mapping[str, Any]]] = {}
    for event in host:
        threads.setdefault(event["tid"], []).append(event)
    return {
        event.get("args", {}).get("External id"): (event["name"], place)
        for thread in threads.values()
        for event, place, _ in _nested(thread)
    }


def _add_device(
    found: Attribution,
    whole: Mapping[str, Any],
    device: list[Mapping[str, Any]],
    placed: Mapping[Any, tuple[str, Place]],
) -> None:
    """Add kernels, and before each the time for which the device waited for it."""
    now = whole["ts"]
    for event in sorted(device, key=lambda one: one["ts"]):
        begin, end = max(event["ts"], now), event["ts"] + event["dur"]
        unknown = (event["name"], Place(kind=kinds.UNATTRIBUTED))
        name, place = placed.get(event.get("args", {}).get("External id"), unknown)
        if event["cat"] == "gpu_memcpy" and place.stage not in kinds.OF_STAGE:
            place = Place(place.stage, place.step, kinds.COPIES)
        elif place.kind is None:
            place = Place(place.stage, place.step, kinds.UNATTRIBUTED)
        if begin > now:
            found.add(Place(place.stage), name, (begin - now) / 1e6)
        if end > begin:  # what runs beside another kernel takes no time of its own
            found.add(place, name, (end - begin) / 1e6)
        now = max(now, end)
    found.add(Place(), "", (whole["ts"] + whole["dur"] - now) / 1e6)
