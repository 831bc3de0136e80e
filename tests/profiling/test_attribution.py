"""From the events of traces whose truth is written by hand to what the time went into."""

import pytest

from pullback.profiling import kinds
from pullback.profiling.attribution import attribute


def event(name, start, duration, cat="cpu_op", tid=1, number=None):
    """An event from `start` on, in microseconds."""
    return {
        "ph": "X", "cat": cat, "name": name, "ts": start, "dur": duration, "tid": tid,
        "args": {} if number is None else {"External id": number},
    }  # fmt: skip


def note(name, start, duration):
    return event(name, start, duration, "user_annotation")


def test_time_on_the_cpu_is_that_of_the_innermost_event():
    events = [
        note("root", 0, 100),
        note("pullback.push", 10, 50),
        note("pullback.step aten::convolution", 15, 30),
        event("aten::convolution", 20, 20),
        event("aten::copy_", 25, 5),
        event("aten::mul", 50, 4),
        note("pullback.solver", 70, 20),
        event("aten::mul", 72, 10),
        event("aten::mul", 500, 10),  # after the end
        event("aten::mul", 20, 10, tid=2),  # of another thread, beside this one
        {"ph": "M", "name": "process_name"},
    ]
    found = attribute(events, "root")
    spent = {kind: round(1e6 * s, 6) for kind, s in found.kinds.items() if s}
    assert spent == {"convolution": 15, "copies": 5, "gates and entries": 4, "block algebra": 10,
                     "Python": 66}  # fmt: skip
    assert sum(found.kinds.values()) == pytest.approx(100e-6)
    assert found.seconds("push") == pytest.approx(50e-6)
    assert found.seconds("solver") == pytest.approx(20e-6)
    assert found.operators["aten::mul", "block algebra"] == (pytest.approx(10e-6), 1)


def test_what_the_checks_multiply_is_theirs():
    events = [
        note("root", 0, 100),
        note("pullback.checks", 0, 40),
        note("pullback.push", 5, 30),
        note("pullback.step aten::convolution", 6, 20),
        event("aten::convolution", 8, 10),
    ]
    found = attribute(events, "root")
    assert found.kinds["checks"] == pytest.approx(10e-6)
    assert found.seconds("checks") == pytest.approx(40e-6)
    assert found.seconds("push") == 0


def test_time_on_a_gpu_is_that_of_the_kernels_and_what_lies_between_is_pythons():
    events = [
        note("root", 0, 100),
        note("pullback.push", 0, 30),
        event("aten::convolution", 5, 10, number=1),
        event("aten::mul", 16, 5, number=2),
        event("winograd", 10, 40, "kernel", 7, 1),
        event("times", 50, 10, "kernel", 7, 2),
        event("beside", 52, 4, "kernel", 8, 2),
        event("Memcpy HtoD", 70, 5, "gpu_memcpy", 7, 2),
        event("nobody's", 80, 5, "kernel", 7, 99),
    ]
    found = attribute(events, "root")
    spent = {kind: round(1e6 * s, 6) for kind, s in found.kinds.items() if s}
    assert spent == {"convolution": 40, "gates and entries": 10, "copies": 5, "unattributed": 5,
                     "Python": 40}  # fmt: skip


def test_an_event_that_rounding_lets_end_late_costs_nobody_negative_time():
    events = [note("root", 0, 100), note("pullback.push", 10, 20),
              event("aten::mul", 25, 5.001), event("aten::mul", 30.0005, 1)]  # fmt: skip
    found = attribute(events, "root")
    assert min(found.kinds.values()) >= 0
    assert sum(found.kinds.values()) == pytest.approx(100e-6)


def test_a_trace_without_the_range_is_refused():
    with pytest.raises(ValueError, match="no range 'root'"):
        attribute([event("aten::mul", 0, 1)], "root")


@pytest.mark.parametrize(
    ("operator", "step", "around", "kind"),
    [
        ("aten::mm", "aten::convolution", None, kinds.CONVOLUTION),
        ("aten::mkldnn_convolution", None, None, kinds.CONVOLUTION),
        ("aten::addmm", None, None, kinds.LINEAR),
        ("aten::bmm", "aten::bmm", None, kinds.ATTENTION),
        ("aten::mul", "aten::_softmax", None, kinds.ATTENTION),
        ("aten::mul", None, kinds.NORMALIZATION, kinds.NORMALIZATION),
        ("aten::sigmoid", None, None, kinds.ELEMENTWISE),
        ("aten::copy_", "aten::convolution", None, kinds.COPIES),
        ("aten::transpose", "aten::view", None, kinds.COPIES),
        ("aten::transpose", "aten::mm", None, kinds.LINEAR),
        ("pullback::normalize_tangents", None, None, kinds.NORMALIZATION),
        ("somebody::unknown", None, None, kinds.UNATTRIBUTED),
    ],
)
def test_the_kind_of_an_operator(operator, step, around, kind):
    assert kinds.of_work(operator, step, around) == kind
