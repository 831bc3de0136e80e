"""Verdicts follow the intervals, and controls have no trend."""

import json

import pytest
import torch

from pullback.analysis import Analysis, rank_correlation, summaries, summary
from pullback.analysis.findings import compare, within
from pullback.analysis.trends import over_time
from tests.analysis.planted import TIMES, trend


def finding(values, controls, **options):
    return compare("it grows", "nobody", "Size", values, "control", controls, **options)


def test_verdicts_are_those_of_the_difference(rng):
    low, high = (place + 0.1 * torch.randn(12, generator=rng) for place in (0.0, 1.0))
    assert finding(high, low).verdict == "seen"
    assert finding(low, high).verdict == "opposite"
    assert finding(low, high, less=True).verdict == "seen"
    assert finding(low, low).verdict == "not shown"
    noise = torch.randn(12, generator=rng)
    assert finding(noise - noise.mean(), torch.zeros(12)).verdict == "not shown"


def test_differences_are_paired(rng):
    base = 100 * torch.randn(20, generator=rng)
    found = finding(base + 1, base)
    assert found.verdict == "seen"
    assert found.difference["low"] == pytest.approx(1.0, abs=1e-4)


def test_few_samples_show_nothing_and_it_says_so():
    found = finding(torch.ones(5), torch.zeros(5))
    assert found.verdict == "not shown"
    assert "5 samples are too few" in str(found)
    assert finding(torch.ones(6), torch.zeros(6)).verdict == "seen"


@pytest.mark.parametrize(
    ("mean", "verdict"), [(1.0, "seen"), (1.02, "not shown"), (1.2, "opposite"), (0.8, "opposite")]
)
def test_what_lies_within_a_margin(rng, mean, verdict):
    noise = 0.01 * torch.randn(40, generator=rng)
    values = mean + noise - noise.mean()
    assert within("it is one", "nobody", "Size", values, 1.0, 0.02).verdict == verdict


@pytest.mark.parametrize(("slope", "verdict"), [(3, "seen"), (-3, "opposite"), (0, "not shown")])
def test_trends_over_time(rng, slope, verdict):
    # Without a slope every second sample rises as much as its neighbour falls.
    values = trend(rng, 16, slope or 3, 0.3)
    if not slope:
        values[::2] *= -1
    assert over_time("it grows", "nobody", "Size", values, TIMES).verdict == verdict
    fell = over_time("it falls", "nobody", "Size", -values, TIMES, falls=True)
    assert fell.verdict == verdict
    assert abs(fell.control["mean"]) < 0.1


def test_rank_correlations_are_those_of_scipy(rng):
    stats = pytest.importorskip("scipy.stats")
    a = torch.randint(5, (4, 12), generator=rng)
    b = torch.randn(4, 12, generator=rng)
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(rank_correlation(a, b), torch.tensor(expected, dtype=torch.float64))
    assert rank_correlation(torch.ones(3), b[0, :3]) == 0
    with pytest.raises(ValueError, match="as many on both sides"):
        rank_correlation(a, b[:, :3])


def test_numbers_are_told_as_json(rng):
    values = torch.randn(7, 2, 3, generator=rng)
    one = Analysis(times=(3, 1), findings=(finding(values[:, 0, 0], values[:, 0, 1]),))
    told = json.loads(json.dumps(one.told()))
    assert told["times"] == [3, 1]
    assert told["findings"][0]["sentence"] == one.finding == str(one.findings[0])
    assert summaries(values)[1][2] == pytest.approx(summary(values[:, 1, 2].double()))
    with pytest.raises(ValueError, match="of samples"):
        summaries(torch.tensor(1.0))
