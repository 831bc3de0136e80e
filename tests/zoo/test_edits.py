"""Edits of the digit model before its judge: structure and sanity, by few samples."""

import json
from dataclasses import asdict

import pytest
import torch

pytest.importorskip("sklearn", reason="the judge learns the digits of scikit-learn")

from pullback.analysis import at_equal_energy, summary
from pullback.zoo.digits import edits, edits_report, tables
from pullback.zoo.digits.judge import Judge
from tests.docs.documents import ROOT

PAGE = ROOT / "docs/editing-evidence.md"
KEPT = ROOT / "python/pullback/zoo/digits/edits.json"
MEASURES = {"energy", "variation", "loss", "sure"}


@pytest.fixture(scope="module")
def found():
    return json.loads(json.dumps(edits.measure(edits.Settings.quick())))


def rows_of(found):
    """Every row of results, without the keys that say of which edit it is."""
    for key in ("additions", "by_index", "equal_norm"):
        yield from found[key]
    for key in ("guidance", "injection"):
        yield from found[key]["ways"] + found[key]["differences"]


def test_all_is_measured(found):
    settings = edits.Settings.quick()
    kinds = 1 + len(edits.CONTROLS)
    assert len(found["additions"]) == kinds * len(settings.strengths)
    assert len(found["by_index"]) == settings.directions * len(settings.strengths)
    assert len(found["guidance"]["ways"]) == 3 * len(settings.pushes)
    assert len(found["injection"]["ways"]) == 4 * len(settings.injected)
    assert all(row.keys() >= MEASURES for row in rows_of(found))


def test_intervals_contain_their_means(found):
    for row in rows_of(found):
        for name in MEASURES:
            value = row[name]
            assert value["low"] - 1e-9 <= value["mean"] <= value["high"] + 1e-9


def test_no_strength_changes_nothing(found):
    still = [row for row in found["additions"] if row["strength"] == 0]
    still += [row for row in found["injection"]["ways"] if row["strength"] == 0]
    assert still
    for row in still:
        assert abs(row["energy"]["mean"]) < 1e-5
        assert abs(row["variation"]["mean"]) < 1e-3
        assert abs(row["loss"]["mean"]) < 1e-3


def test_energy_grows_with_strength(found):
    for kind in ("pullback", *edits.CONTROLS):
        rows = [row for row in found["additions"] if row["kind"] == kind]
        energies = [row["energy"]["mean"] for row in rows]
        assert energies == sorted(energies)
        assert energies[-1] > 0.1


def test_probabilities_change_by_shares(found):
    for row in found["additions"]:
        assert -1e-9 <= row["variation"]["low"] <= row["variation"]["high"] <= 1 + 1e-9
        assert abs(row["loss"]["mean"]) <= row["variation"]["mean"] + 1e-9


@pytest.mark.parametrize("kind", edits.CONTROLS)
def test_controls_have_norm_one_and_their_kind(kind):
    v = torch.nn.functional.normalize(torch.randn(3, 2, 256), dim=2).unflatten(2, (1, 16, 16))
    got = edits.instead(kind, v, seed=0)
    assert torch.allclose(got.flatten(2).norm(dim=2), torch.ones(3, 2), atol=1e-5)
    assert not torch.allclose(got, v, atol=0.1)
    powers = [torch.fft.fft2(one).abs() for one in (got, v)]
    assert torch.allclose(*powers, atol=1e-4) is (kind == "spectrum")
    if kind == "another":
        assert torch.equal(got[1], v[0])


def test_the_judge_knows_real_digits():
    judge = Judge(copies=0)
    assert judge.report["accuracy"] > 0.97
    assert judge.report["calibration_error"] < 0.1
    images = torch.zeros(2, 3, 1, 16, 16)
    assert judge(images).shape == (2, 3, 10)
    assert torch.allclose(judge(images).sum(-1), torch.ones(2, 3).double())


def test_an_interval_of_equal_values_is_a_point():
    assert summary(torch.full((5,), 0.25)) == {"mean": 0.25, "low": 0.25, "high": 0.25}


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(200, 64, generator=generator)
    covered = sum(one["low"] <= 0 <= one["high"] for one in map(summary, draws))
    assert 180 <= covered <= 198


def test_curves_are_compared_at_the_same_energy():
    energy = torch.tensor([[0.1, 0.2, 0.4]]).expand(8, 3)
    steep, flat = (energy, 2 * energy), (energy * 2, 2 * energy)
    value = at_equal_energy(steep, flat, 0.3)
    assert value["mean"] == pytest.approx(0.3, abs=1e-6)  # 2 * 0.3 - 0.3
    assert value["low"] == pytest.approx(value["high"], abs=1e-6)
    assert at_equal_energy(steep, flat, 0.5) is None


def test_tables_are_written_between_their_marks(found, tmp_path):
    results, page, picture = (tmp_path / name for name in ("a.json", "a.md", "a.png"))
    results.write_text(json.dumps(found))
    page.write_text(PAGE.read_text("utf-8"))
    edits_report.REPORT.write(results, page, picture)
    once = page.read_text("utf-8")
    assert "| 500 | 16 (" in once
    assert picture.stat().st_size > 10_000
    edits_report.REPORT.write(results, page, None)
    assert page.read_text("utf-8") == once
    with pytest.raises(ValueError, match="no table"):
        tables.replaced("nothing", edits_report.REPORT.command, edits_report.REPORT.tables, found)


def test_the_page_shows_the_results_that_are_kept():
    kept = json.loads(KEPT.read_text("utf-8"))
    text = PAGE.read_text("utf-8")
    assert (
        tables.replaced(text, edits_report.REPORT.command, edits_report.REPORT.tables, kept) == text
    )
    settings = json.loads(json.dumps(asdict(edits.Settings())))
    assert kept["settings"] == settings
