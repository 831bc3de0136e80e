"""`pullback analyse`: what it writes and says, and what it refuses."""

import json

import pytest

from pullback.analysis import bases
from pullback.runs import analyse_run
from tests.cli.calls import done, refused, snapshot

QUICK = ("--samples", "4", "-t", "900,500,100", "--rank", "2", "--quality", "draft")


@pytest.fixture
def analyse(call, tmp_path):
    """Runs `pullback analyse digits` with few samples into a folder."""

    def run(*args, output=tmp_path / "out"):
        return call("analyse", "digits", *QUICK, "-o", output, *args)

    return run


def test_the_folder_holds_numbers_sentences_and_figures(analyse, tmp_path, digits):
    result = done(analyse("--only", "spectra", "--only", "samples", "--only", "classes", "--json"))
    summary, folder = json.loads(result.stdout), tmp_path / "out"
    assert summary == json.loads((folder / "analyses.json").read_text())
    assert {path.name for path in folder.iterdir()} == set(summary["files"]) == {
        "analyses.json", "analyses.md", "analysis-spectra.png", "analysis-samples.png",
    }  # fmt: skip
    assert summary["format"] == "pullback.analyses/1"
    assert summary["space"] == "h"
    assert summary["settings"]["fingerprint"] == digits.fingerprint
    assert summary["left_out"] == {"classes": "no classes or prompts to compare were given"}
    assert list(summary["analyses"]) == ["spectra", "samples"]
    text = (folder / "analyses.md").read_text("utf-8")
    for one in summary["analyses"].values():
        for finding in one["findings"]:
            assert finding["sentence"] in text
    assert "Left out: classes" in text
    assert "![samples](analysis-samples.png)" in text


def test_all_analyses_in_one_call(analyse, tmp_path, monkeypatch):
    monkeypatch.setattr(analyse_run, "_SEGMENTS", 1)
    monkeypatch.setattr(analyse_run, "_LARGEST", 255)  # the Jacobians' ranks take long
    find, known = bases.local_basis, {}

    def once(model, x, *args, **options):
        """The bases of as many samples: what they are, other tests look at."""
        if len(x) not in known:
            known[len(x)] = find(model, x, *args, **options)
        return known[len(x)]

    monkeypatch.setattr(bases, "local_basis", once)
    done(analyse("--class-label", "0,1,7", "--no-figures", "--quiet"))
    summary = json.loads((tmp_path / "out" / "analyses.json").read_text())
    assert list(summary["analyses"]) == [
        "spectra", "frequencies", "samples", "times", "conditions", "classes", "ablation",
        "curvature", "linearity", "radius",
    ]  # fmt: skip
    assert list(summary["left_out"]) == ["ranks"]
    assert summary["settings"]["compared"] == [0, 1, 7]
    # Four samples show nothing, and nothing claims so.
    for one in summary["analyses"].values():
        assert one["findings"]
        assert {finding["verdict"] for finding in one["findings"]} == {"not shown"}


def test_a_folder_of_other_settings_is_kept_and_results_are_told(analyse, tmp_path):
    args = ("--only", "frequencies", "--no-figures")
    told = " ".join(done(analyse(*args)).stdout.split())
    for words in ("become finer", "not shown", "analyses.md"):
        assert words in told
    before = snapshot(tmp_path / "out")
    refused(analyse(*args, "--rank", "3"), 1, "other settings: rank 2 (now 3)", "--overwrite")
    assert snapshot(tmp_path / "out") == before
    assert done(analyse(*args, "--rank", "3", "--overwrite", "--quiet")).output == ""
    summary = json.loads((tmp_path / "out" / "analyses.json").read_text())
    assert summary["settings"]["rank"] == 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--only", "colours"), "among spectra"),
        (("-t", "100,500,900"), "descending"),
        (("-t", "900,100"), "3 timesteps"),
        (("--class-label", "1,2"), "3 different conditions"),
        (("--class-label", "1,2,2"), "3 different conditions"),
        (("--class-label", "1,2,40"), "class"),
        (("--rank", "9999"), "rank"),
    ],
)
def test_what_cannot_be_is_refused(analyse, args, words):
    refused(analyse(*args), 1, words)


def test_prompts_and_classes_exclude_each_other(analyse):
    refused(analyse("--prompt", "a cat", "--class-label", "1,2,3"), 2, "not both")
