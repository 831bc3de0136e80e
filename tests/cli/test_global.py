"""`pullback global`: what it writes and says, every option, and what it refuses."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

import pullback
from pullback import Direction, GlobalDirections, LocalBasis, figures
from tests.cli.calls import QUICK_GLOBAL, done, listed, of_run, refused, snapshot


def saved(folder):
    return GlobalDirections.load(folder / "global.safetensors")


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_what_is_listed_and_the_summary_is_printed(call, tmp_path, digits):
    folder = tmp_path / "out"
    result = done(call("global", "digits", *QUICK_GLOBAL, "-o", folder, "--json"))
    summary = json.loads(result.stdout)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert listed(files(folder)) == set(summary["files"])
    assert files(folder) == {
        "summary.json", "global.png", "global.safetensors", "direction-1.safetensors",
        "direction-2.safetensors", "bases/latents_t0900.safetensors",
        "bases/basis_t0900.safetensors", *of_run("bases/"),
    }  # fmt: skip
    assert summary["format"] == "pullback.global/1"
    assert summary["settings"]["fingerprint"] == digits.fingerprint
    assert summary["settings"]["how"] == "frechet"
    assert (summary["space"], summary["samples"]) == ("h", [0, 1, 2])
    found = saved(folder)
    localised = found.localise(LocalBasis.load(folder / summary["basis"]))
    for index, row in enumerate(summary["directions"]):
        assert row["agreement"] == float(found.agreement[index])
        assert row["retained"] == localised.retained[index].tolist()
        assert row["s"] is None
        one = Direction.load(folder / row["direction"])
        torch.testing.assert_close(one.vector, found.vectors[index], atol=1e-6, rtol=0)
        assert (one.space, one.t) == ("h", 900)
    assert "samples" in result.stderr


@pytest.mark.parametrize("how", ["nearest", "hungarian", "frechet"])
def test_what_is_written_is_what_the_average_gives(shared, tmp_path, how):
    done(shared("--how", how, "--quiet"))
    basis = LocalBasis.load(tmp_path / "out" / "bases" / "basis_t0900.safetensors")
    expected = pullback.global_directions(basis, how)
    found = saved(tmp_path / "out")
    assert found.how == how
    assert torch.equal(found.vectors, expected.vectors)


def test_the_mean_metric_is_of_the_latents(shared, tmp_path, digits):
    result = done(shared("--how", "metric", "--class-label", "3", "--json"))
    summary = json.loads(result.stdout)
    found = saved(tmp_path / "out")
    assert (found.space, summary["space"]) == ("x", "x")
    cond = digits.encode(class_label=[3, 3, 3])
    x = digits.sample_latents(3, 900, seed=[0, 1, 2], cond=cond)
    expected = pullback.mean_metric(digits, x, 900, 2, cond, quality="draft")
    torch.testing.assert_close(found.s, expected.s, atol=0, rtol=1e-3)
    assert [row["s"] for row in summary["directions"]] == found.s.tolist()
    assert Direction.load(tmp_path / "out" / "direction-1.safetensors").space == "x"


def test_results_are_told_as_a_table_and_a_tree(shared, tmp_path):
    result = done(shared())
    agreement = float(saved(tmp_path / "out").agreement[1])
    assert re.search(rf" 2 +{agreement:.2f} ", result.stdout)
    assert all(name in result.stdout for name in listed(files(tmp_path / "out")))
    assert done(shared("--quiet")).output == ""


def test_the_same_command_reuses_everything(shared, tmp_path):
    done(shared("--how", "metric", "--quiet"))
    before = snapshot(tmp_path / "out")
    result = done(shared("--how", "metric"))
    assert result.stdout.count("reused") == 2 + 2, "in the table and in the tree"
    after = snapshot(tmp_path / "out")
    del before["summary.json"], after["summary.json"]
    assert before == after


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (("--how", "nearest"), "how"),
        (("--rank", "1"), "rank"),
        (("--seeds", "0,1"), "seeds"),
    ],
)
def test_files_of_other_settings_are_refused(shared, tmp_path, changed, name):
    done(shared("--quiet"))
    before = snapshot(tmp_path / "out")
    refused(shared(*changed), 1, "other settings", f"{name} ", "--overwrite", "--output")
    assert snapshot(tmp_path / "out") == before
    done(shared(*changed, "--overwrite", "--quiet"))
    rank = len(saved(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("direction-*"))) == rank, "none of what was before"


def test_an_interrupted_run_leaves_whole_files_and_goes_on(shared, tmp_path, monkeypatch):
    from pullback.runs import global_run

    average = global_run.global_directions

    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(global_run, "global_directions", interrupted)
    assert shared().exit_code == 130
    left = {"bases/latents_t0900.safetensors", "bases/basis_t0900.safetensors"}
    assert files(tmp_path / "out") == left | of_run("bases/")
    monkeypatch.setattr(global_run, "global_directions", average)
    assert "reused" in done(shared()).stdout
    file = tmp_path / "out" / "global.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    refused(shared(), 1, "global.safetensors is damaged", "--overwrite")


BAD = [
    (["--seeds", "0"], 1, ["two or more samples", "[0]"]),
    (["--seeds", "0,0"], 1, ["different seeds"]),
    (["--how", "mode"], 1, ["nearest, hungarian, frechet, metric", "'mode'"]),
    (["-t", "1000"], 1, ["between 0 and 999", "1000"]),
    (["-t", "900,500"], 2, ["--timestep"]),
    (["--rank", "0"], 1, ["got 0"]),
    (["--strength", "-1"], 2, ["--strength", "above 0"]),
    (["--tap", "middle"], 1, ["'middle'", "mid_block"]),
    (["--class-label", "1,2"], 1, ["one for each of the 3", "got 2"]),
    (["--class-label", "1", "--prompt", "a"], 2, ["--prompt or --class-label"]),
    (["--memory", "lots"], 2, ["--memory"]),
]


@pytest.mark.parametrize(("args", "code", "words"), BAD, ids=[" ".join(one[0]) for one in BAD])
def test_bad_input_is_told_and_leaves_nothing(shared, tmp_path, args, code, words):
    refused(shared(*args), code, *words)
    out = tmp_path / "out"
    assert not (files(out) if out.exists() else None)


def test_the_grid_shows_the_localised_directions_both_ways(call, tmp_path, digits, monkeypatch):
    draw, seen = figures.global_grid, []

    def watched(images, retained, **options):
        seen.append((images, retained))
        return draw(images, retained, **options)

    monkeypatch.setattr(figures, "global_grid", watched)
    folder = tmp_path / "out"
    done(call("global", "digits", *QUICK_GLOBAL, "--strength", "6", "-o", folder, "--quiet"))
    ((images, retained),) = seen
    localised = saved(folder).localise(LocalBasis.load(folder / "bases/basis_t0900.safetensors"))
    x = load_file(folder / "bases/latents_t0900.safetensors")["x"]
    assert torch.equal(retained, localised.retained)
    for index in range(2):
        for place, strength in enumerate((-6, 0, 6)):
            moved = x + strength * localised.v[index]
            expected = pullback.denoise(digits, moved, 900, steps=25)
            torch.testing.assert_close(images[index, :, place], expected, atol=1e-3, rtol=0)
