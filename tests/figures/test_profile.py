"""Figures of profiles: what they show, and what they refuse."""

import pytest

from pullback import figures


def test_bars_are_the_shares():
    kinds = {"convolution": 0.5, "Python": 0.3, "unattributed": 0.2}
    stages = {"push": {"convolution": 0.5, "Python": 0.1}, "other": {"Python": 0.2}}
    page = figures.time_breakdown(
        kinds, stages, 2.0, notes={"convolution": "7 % of GEMM"}, rule="a rule", title="a title"
    )
    left, right = page.axes
    assert [bar.get_width() for bar in left.patches] == list(kinds.values())
    texts = [text.get_text() for text in left.texts]
    assert "50.0 %  1 s" in texts
    assert "7 % of GEMM" in texts
    assert page.get_suptitle() == "a title"
    assert page.get_supxlabel() == "a rule"
    ends = [bar.get_x() + bar.get_width() for bar in right.patches]
    assert max(ends) == pytest.approx(0.6)


def test_curves_are_the_cost():
    page = figures.cost_curves({1: 2.0, 4: 1.0}, {4: 0.5}, rank=10, samples=3)
    left, right = page.axes
    assert left.lines[0].get_xydata().tolist() == [[1, 2.0], [4, 1.0]]
    assert right.lines[0].get_xydata().tolist() == [[4, 500.0]]


def test_nothing_to_show_is_refused():
    with pytest.raises(ValueError, match="Expected shares of the wall time"):
        figures.time_breakdown({}, {}, 1.0)
    with pytest.raises(ValueError, match="Expected shares of the wall time"):
        figures.time_breakdown({"Python": -0.1}, {}, 1.0)
    with pytest.raises(ValueError, match="at least one batch and one rank"):
        figures.cost_curves({}, {4: 1.0}, rank=10, samples=3)
