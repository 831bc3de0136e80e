"""What the evidence of directions is made with, and its page.

The quick run of all of it is tested with those of the benchmarks.
"""

import json
from dataclasses import asdict

import pytest
import torch

pytest.importorskip("sklearn", reason="the judge learns the digits of scikit-learn")

from pullback.zoo.digits import directions, directions_report, finding, tables
from pullback.zoo.digits.attributes import NAMES, Attributes, writing
from tests.docs.documents import ROOT

PAGE = ROOT / "docs/directions-evidence.md"
KEPT = ROOT / "python/pullback/zoo/digits/directions.json"


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


def test_controls_are_of_the_same_norm_and_of_each_sample(digits):
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


def test_the_page_shows_the_results_that_are_kept():
    kept = json.loads(KEPT.read_text("utf-8"))
    text = PAGE.read_text("utf-8")
    report = directions_report.REPORT
    assert tables.replaced(text, report.command, report.tables, kept) == text
    settings = json.loads(json.dumps(asdict(directions.Settings())))
    assert kept["settings"] == settings
