"""Every way to find directions on the digit model before its judge: structure, by few samples."""

import json
from dataclasses import asdict

import pytest
import torch

pytest.importorskip("sklearn", reason="the judge learns the digits of scikit-learn")

from pullback.zoo.digits import directions, directions_report, finding, tables
from pullback.zoo.digits.attributes import NAMES, Attributes, writing
from tests.docs.documents import ROOT
from tests.zoo.results import intervals_of

PAGE = ROOT / "docs/directions-evidence.md"
KEPT = ROOT / "python/pullback/zoo/digits/directions.json"


@pytest.fixture(scope="module")
def found():
    return json.loads(json.dumps(directions.measure(directions.Settings.quick())))


def test_every_way_is_judged(found):
    ways = {row["way"]: row for row in found["ways"]}
    assert len(ways) == 16
    assert {row["space"] for row in ways.values()} == {"x", "h"}
    assert ways["attention, v"]["samples"] == 0
    assert ways["attention, v"]["products"] == 0
    assert ways["pullback, local"]["products"] > 10
    assert ways["toward a condition"]["products"] < 5
    # Labels that are shuffled cost what labels cost.
    assert ways["labels shuffled, mean"]["rows"] == ways["supervised, mean"]["rows"] > 24 * 3
    for row in ways.values():
        assert row["energy"]["mean"] > 0
        assert 0 < row["linearity"]["mean"] <= 1
        assert 0 <= row["inside"]["low"] <= row["inside"]["high"] <= 1
        assert -1 <= row["transfer"]["low"] <= row["transfer"]["high"] <= 1
        assert row["effect_less_noise"]["mean"] == pytest.approx(
            row["effect"]["mean"] - row["noise_effect"]["mean"]
        )


def test_masked_ways_change_their_region_more(found):
    """Half of the image is the region; to change the whole evenly is 0.5."""
    ways = {row["way"]: row["inside"]["mean"] for row in found["ways"]}
    assert ways["local, joint"] > ways["pullback, local"]


def test_all_variants_of_attention_are_there(found):
    from pullback.directions import VARIANTS

    assert len(found["variants"]) == len(VARIANTS)
    assert len(found["places"]) == 2 * (4 * 3 + 3)
    sites = {(row["layer"], row["site"]) for row in found["places"]}
    assert len(sites) == 12
    assert len({tuple(row["window"]) for row in found["places"]}) == 4


def test_intervals_contain_their_means(found):
    told = list(intervals_of(found))
    assert len(told) > 16 * 12
    assert all(one["low"] - 1e-9 <= one["mean"] <= one["high"] + 1e-9 for one in told)


def test_writing_is_measured_as_it_is_drawn():
    """Bars of ink whose slant, width and height are known."""
    down, across = torch.meshgrid(torch.arange(33), torch.arange(33), indexing="ij")
    up, right = 1 - down / 16, across / 16 - 1
    images = []
    for slant in (-0.5, 0.0, 0.4):
        bar = ((right - slant * up).abs() < 0.07) & (up.abs() < 0.6)
        images.append(bar.float() * 2 - 1)
    found = writing(torch.stack(images)[:, None])
    torch.testing.assert_close(
        found[:, 1], torch.tensor([-0.5, 0.0, 0.4], dtype=torch.float64), atol=0.02, rtol=0
    )
    # Of an even distribution over an interval the deviation is its length by the root of 12.
    torch.testing.assert_close(
        found[:, 3], torch.full((3,), 1.19 / 12**0.5, dtype=torch.float64), atol=0.01, rtol=0
    )
    wide = torch.full((1, 1, 33, 33), -1.0)
    wide[..., 16, 4:29] = 1.0
    ink, slant, width, height = writing(wide)[0]
    assert float(ink) == pytest.approx(25 / 33**2)
    assert (float(slant), float(height)) == pytest.approx((0, 0), abs=1e-6)
    assert float(width) == pytest.approx(25 / 16 / 12**0.5, rel=0.01)
    assert writing(torch.full((2, 1, 8, 8), -1.0)).isfinite().all()
    assert len(NAMES) == 14


def test_attributes_are_told_wherever_images_lie(device):
    judge = lambda images: torch.from_numpy(images.numpy()).flatten(1)[:, :10].double()  # noqa: E731
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    found = Attributes(judge)(images.to(device))
    assert found.device.type == "cpu"
    assert torch.equal(found, Attributes(judge)(images))


def test_controls_are_of_the_same_norm_and_of_each_sample(found, digits):
    from pullback.directions import Direction
    from pullback.editing import PerSample

    rows = [[Direction.of(torch.ones(1, 16, 16) * (1 + s), "x", unit=3.0)] for s in range(3)]
    way = finding.Way("a way", "x", PerSample(rows), None, 1, 0, 0, 0.0)
    noise = finding.controls(way, 0)
    vectors = [one.vector for row in noise.entries for one in row]
    assert len(vectors) == 9
    assert all(one.unit == 3.0 for row in noise.entries for one in row)
    cosines = torch.corrcoef(torch.stack([one.flatten() for one in vectors]))
    assert cosines.fill_diagonal_(0).abs().max() < 0.4


def test_tables_and_picture_are_made_of_results(found, tmp_path):
    kept = tmp_path / "found.json"
    kept.write_text(json.dumps(found))
    page = tmp_path / "page.md"
    command = directions_report.REPORT.command
    page.write_text(
        "".join(
            f"{tables.mark(command, name)}\n<!-- end of table -->\n"
            for name in directions_report.TABLES
        )
    )
    picture = tmp_path / "curves.png"
    directions_report.REPORT.write(kept, page, picture)
    text = page.read_text("utf-8")
    assert "| supervised, lda | feature | slant |" in text
    assert text.count("| way |") == 4
    assert picture.stat().st_size > 20_000


def test_the_page_shows_the_results_that_are_kept():
    kept = json.loads(KEPT.read_text("utf-8"))
    text = PAGE.read_text("utf-8")
    report = directions_report.REPORT
    assert tables.replaced(text, report.command, report.tables, kept) == text
    settings = json.loads(json.dumps(asdict(directions.Settings())))
    assert kept["settings"] == settings
