"""`pullback analyse`: what it writes and says, what it goes on from, and what it refuses."""

import copy
import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

import pullback
from pullback import analysis, cli, models
from pullback.analysis import bases
from pullback.runs import BatchPlan, BatchRun, analyse_bench, analyse_plan, batch_unit
from tests.cli.calls import done, refused, snapshot
from tests.models import pipelines

QUICK = ("--samples", "4", "-t", "960,940,920", "--rank", "2", "--quality", "draft")
PLAN = BatchPlan(
    timesteps=(960, 940, 920), rank=2, seeds=tuple(range(4)), tap="mid_block", tol=5e-2,
    class_labels=(0, 1, 7), keep_u=True, memory=2**28,
)  # fmt: skip


@pytest.fixture
def analyse(call, tmp_path):
    """Runs `pullback analyse digits` with few samples into a folder."""

    def run(*args, output=tmp_path / "out"):
        return call("analyse", "digits", *QUICK, "-o", output, *args)

    return run


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    """A folder that the command filled, and what it printed."""
    folder = tmp_path_factory.mktemp("analyses") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", lambda name, device, dtype, call: digits)
        names = ("--only", "samples", "--only", "spectra", "--only", "classes")
        args = ("analyse", "digits", *QUICK, *names, "--json", "-o", str(folder))
        return folder, done(CliRunner().invoke(cli.app, args))


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it, to go on from."""
    return shutil.copytree(made[0], tmp_path / "out")


@pytest.fixture(scope="module")
def stored(digits, tmp_path_factory):
    """The folder of a run of three classes."""
    folder = tmp_path_factory.mktemp("run")
    source = {"model": "digits", "dtype": None, "call": []}
    run = BatchRun.create(folder, digits, PLAN, source=source)
    run.work(digits)
    return folder


def no_more(*_args, **_options):
    """In the place of what must not be called again."""
    raise AssertionError("computed again")


def once(find):
    """Bases that are found once for as many samples: what they are, other tests look at."""
    known = {}

    def found(subject, x, t, rank, cond=None, **options):
        key = len(x), cond and sum(float(value.sum()) for value in cond.values())
        if key not in known:
            known[key] = find(subject, x, t, rank, cond=cond, **options)
        return known[key]

    return found


def test_the_folder_holds_numbers_sentences_and_figures(made, digits):
    folder, result = made
    summary = json.loads(result.stdout)
    assert summary == json.loads((folder / "analyses.json").read_text())
    assert {path.name for path in folder.iterdir()} - {"bases"} == set(summary["files"]) == {
        "analyses.json", "analyses.md", "analysis-spectra.png", "analysis-samples.png",
        "analysis-spectra.json", "analysis-samples.json",
    }  # fmt: skip
    assert summary["format"] == "pullback.analyses/1"
    assert summary["space"] == "h"
    assert summary["settings"]["fingerprint"] == digits.fingerprint
    assert summary["left_out"] == {"classes": "no classes or prompts to compare, 3 needed"}
    assert list(summary["analyses"]) == ["spectra", "samples"]
    text = (folder / "analyses.md").read_text("utf-8")
    for one in summary["analyses"].values():
        for finding in one["findings"]:
            assert finding["sentence"] in text
    assert "Left out: classes" in text
    assert "![samples](analysis-samples.png)" in text


def test_all_analyses_of_a_run_and_of_its_stored_bases(call, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(analyse_plan, "_LARGEST", 255)  # the Jacobians' ranks take long
    less = {"STEPS": (0.09,), "_DIRECTIONS": 1, "_PATHS": ("lerp", "slerp"), "SAMPLING_STEPS": 5}
    for name, value in less.items():
        monkeypatch.setattr(analyse_bench, name, value)
    monkeypatch.setattr(batch_unit, "basis", no_more)
    monkeypatch.setattr(bases, "local_basis", once(bases.local_basis))
    before = snapshot(stored)
    few = ("--all", "--segments", "1", "--pairs", "2", "--no-figures", "--quiet")
    done(call("analyse", stored, *few, "-o", tmp_path))
    assert snapshot(stored) == before
    summary = json.loads((tmp_path / "analyses.json").read_text())
    found = summary["analyses"]
    assert list(found) == [
        "spectra", "frequencies", "samples", "times", "conditions", "classes", "ablation",
        "curvature", "linearity", "radius",
    ]  # fmt: skip
    assert list(summary["left_out"]) == ["ranks"]
    assert summary["settings"]["compared"] == [0, 1, 7]
    assert found["classes"]["names"] == ["0", "1", "7"]
    # Four samples show nothing, and nothing claims so.
    for one in found.values():
        assert one["findings"]
        assert {finding["verdict"] for finding in one["findings"]} == {"not shown"}
    rows = {(one.condition, one.t): one for one in BatchRun(stored).bases()}
    s = torch.stack([rows[0, t].s for t in PLAN.timesteps], 1)
    assert found["spectra"] == json.loads(json.dumps(analysis.spectra(s, PLAN.timesteps).told()))
    spaces = torch.stack(
        [torch.stack([rows[label, t].u for t in PLAN.timesteps], 1) for label in (0, 1, 7)], 2
    )
    apart = analysis.across_samples(spaces[:, :, 2], PLAN.timesteps).told()["distance"]
    assert [row[2] for row in found["classes"]["distance"]] == apart


def test_what_an_interruption_left_is_gone_on_with(analyse, folder, monkeypatch):
    measures, before = analyse_bench.MEASURES, snapshot(folder)
    monkeypatch.setattr(batch_unit, "basis", no_more)
    for name in ("spectra", "samples"):
        monkeypatch.setitem(measures, name, no_more)

    def killed(_bench):
        raise KeyboardInterrupt

    find = measures["times"]
    monkeypatch.setitem(measures, "times", killed)
    assert analyse("--only", "frequencies", "--only", "times", "--no-figures").exit_code == 130
    after = snapshot(folder)
    assert set(after) - set(before) == {"analysis-frequencies.json"}
    assert {name: after[name] for name in before} == before
    monkeypatch.setitem(measures, "times", find)
    monkeypatch.setitem(measures, "frequencies", no_more)
    done(analyse("--only", "frequencies", "--only", "times", "--no-figures", "--quiet"))
    summary = json.loads((folder / "analyses.json").read_text())
    # Those of before count, too.
    assert list(summary["analyses"]) == ["spectra", "frequencies", "samples", "times"]
    kept = json.loads((folder / "analysis-frequencies.json").read_text())
    assert summary["analyses"]["frequencies"] == kept["found"]
    assert summary["seconds"]["frequencies"] == kept["seconds"]


def test_a_folder_of_other_settings_is_kept_and_results_are_told(analyse, folder):
    args = ("--only", "frequencies", "--no-figures")
    before = snapshot(folder)
    refused(analyse(*args, "--rank", "3"), 1, "other settings: rank 2 (now 3)", "--overwrite")
    refused(analyse(*args, "--segments", "9"), 1, "segments 15 (now 9)", "--overwrite")
    assert snapshot(folder) == before
    (folder / "bases" / "notes.txt").write_text("mine")
    told = " ".join(done(analyse(*args, "--rank", "3", "--overwrite")).stdout.split())
    for words in ("become finer", "not shown", "analyses.md"):
        assert words in told
    summary = json.loads((folder / "analyses.json").read_text())
    assert summary["settings"]["rank"] == 3
    assert list(summary["analyses"]) == ["frequencies"]
    assert (folder / "bases" / "notes.txt").read_text() == "mine"
    assert done(analyse(*args, "--rank", "3", "--quiet")).output == ""


def test_a_run_is_analysed_with_its_own_model_alone(call, digits, stored, tmp_path, monkeypatch):
    other = copy.deepcopy(digits)
    with torch.no_grad():
        other.network.conv_out.bias += 1
    monkeypatch.setattr(models, "load", lambda *_args, **_options: other)
    args = ("analyse", stored, "--no-figures", "-o", tmp_path, "--quiet")
    refused(call(*args, "--only", "radius"), 1, "other settings", "fingerprint")
    # What needs no model does not read it.
    monkeypatch.setattr(models, "load", no_more)
    done(call(*args, "--only", "frequencies"))


def test_a_run_that_lacks_something_is_refused(call, stored, tmp_path):
    folder = shutil.copytree(stored, tmp_path / "run")
    args = ("analyse", folder, "-o", tmp_path / "out")
    refused(call(*args, "--rank", "2", "-t", "900,800,700"), 2, "its own timesteps, rank")
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "source": {}}))
    refused(call(*args), 1, "from Python", "--only spectra --only frequencies")
    (folder / "units" / "unit-000001.safetensors").unlink()
    refused(call(*args), 1, "1 of the 3 units", f"pullback run start {folder}")


def test_prompts_by_their_similarity(call, tmp_path, monkeypatch):
    model = pullback.load(pipelines.stable_diffusion(tmp_path / "words"))
    monkeypatch.setattr(models, "load", lambda *_args, **_options: model)
    monkeypatch.setattr(bases, "local_basis", once(bases.local_basis))
    monkeypatch.setattr(batch_unit, "basis", once(batch_unit.basis))
    lines = tmp_path / "prompts.txt"
    lines.write_text("a cat\na dog\na cat and a dog\n")
    few = ("--samples", "4", "-t", "960,940,920", "--rank", "1", "--quality", "draft")
    names = ("--only", "conditions", "--only", "classes")
    args = ("analyse", "tiny", "--prompts", lines, *few, *names, "-o", tmp_path / "out", "-q")
    done(call(*args))
    found = json.loads((tmp_path / "out" / "analyses.json").read_text())["analyses"]
    assert found["classes"]["names"] == ["a cat", "a dog", "a cat and a dog"]
    rows = model.encode(prompt=["a cat", "a dog"])["encoder_hidden_states"].mean(1)
    expected = torch.nn.functional.cosine_similarity(*rows, dim=0)
    assert found["conditions"]["similarity"][0] == pytest.approx(float(expected), rel=1e-4)
    assert found["conditions"]["mean"][0]["mean"] > 0.1, "prompts tell the network something"
    for name in found:
        assert (tmp_path / "out" / f"analysis-{name}.png").stat().st_size > 1000


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


@pytest.mark.parametrize(
    "args",
    [("--prompt", "a cat", "--class-label", "1,2,3"), ("--all", "--only", "spectra")],
)
def test_options_that_exclude_each_other(analyse, args):
    refused(analyse(*args), 2, "not both")
