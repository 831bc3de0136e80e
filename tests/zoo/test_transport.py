"""Transport on the digit model before its judge: structure and sanity, by few samples."""

import json
from dataclasses import asdict

import pytest
import torch

pytest.importorskip("sklearn", reason="the judge learns the digits of scikit-learn")

from pullback.zoo.digits import tables, transport, transport_report
from tests.docs.documents import ROOT
from tests.zoo.results import intervals_of

PAGE = ROOT / "docs/transport-evidence.md"
KEPT = ROOT / "python/pullback/zoo/digits/transport.json"

pytestmark = pytest.mark.filterwarnings("ignore:.*directions keep less than")


@pytest.fixture(scope="module")
def found():
    return json.loads(json.dumps(transport.measure(transport.Settings.quick())))


def test_all_is_measured(found):
    settings = transport.Settings.quick()
    times = len(settings.times)
    assert len(found["following"]) == times * len(transport.CARRIED)
    assert len(found["following_compared"]) == 5 * times
    assert len(found["averaged"]) == times * (len(transport.AVERAGED) + 2)
    assert len(found["paths"]) == len(settings.path_times) * len(transport.PATHS)
    assert all(len(row["segments"]) == settings.segments for row in found["paths"])


def test_intervals_contain_their_means(found):
    every = list(intervals_of(found))
    assert len(every) > 60
    assert all(one["low"] - 1e-9 <= one["mean"] <= one["high"] + 1e-9 for one in every)


def test_distances_are_zero_at_their_own_timestep_and_symmetric(found):
    matrix = found["distances"]["across_times"]
    assert [matrix[i][i]["mean"] for i in range(2)] == pytest.approx([0, 0], abs=1e-6)
    assert matrix[0][1]["mean"] == pytest.approx(matrix[1][0]["mean"])
    assert 0.1 < matrix[0][1]["mean"] < found["distances"]["chance"]


def test_straight_paths_and_those_on_the_sphere_arrive(found):
    gaps = {row["kind"]: row["gap"]["mean"] for row in found["paths"]}
    assert gaps["lerp"] == pytest.approx(0, abs=1e-6)
    assert gaps["slerp"] == pytest.approx(0, abs=1e-5)
    assert gaps["shooting"] > 0.1


def test_what_is_alike_follows_and_what_is_opposite_does_not():
    gain = torch.zeros(1, 1, 2, 10, dtype=torch.float64)
    gain[0, 0, 0, 3], gain[0, 0, 0, 5] = 0.5, -0.5
    pixels = torch.ones(1, 1, 2, 256, dtype=torch.float64)
    one = transport._Changes(gain, pixels)
    other = transport._Changes(gain.flip(-1), -pixels)
    for which, expected in ((one, {"gain": 1, "image": 1}), (other, {"gain": 0, "image": -1})):
        found = {name: float(value) for name, value in one.follow(which).items()}
        assert found == pytest.approx(expected)


def test_tables_and_picture_are_written(found, tmp_path):
    results, page, picture = (tmp_path / name for name in ("a.json", "a.md", "a.png"))
    results.write_text(json.dumps(found))
    page.write_text(PAGE.read_text("utf-8"))
    transport_report.REPORT.write(results, page, picture)
    assert "| 480 | raw copy |" in page.read_text("utf-8")
    assert picture.stat().st_size > 10_000


def test_the_page_shows_the_results_that_are_kept():
    kept = json.loads(KEPT.read_text("utf-8"))
    text = PAGE.read_text("utf-8")
    command, names = transport_report.REPORT.command, transport_report.REPORT.tables
    assert tables.replaced(text, command, names, kept) == text
    assert kept["settings"] == json.loads(json.dumps(asdict(transport.Settings())))
