"""`pullback path`: what it writes and says, every option, and what it refuses."""

import json
import re

import pytest
import torch
from safetensors import safe_open

import pullback
from tests.cli.calls import QUICK_PATH, done, refused, snapshot


def joined(folder, kind):
    """The tensors and the header of the file of a kind."""
    with safe_open(folder / f"path-{kind}.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["result"])
        return {one: file.get_tensor(one) for one in file.keys()}, header  # noqa: SIM118


def test_the_folder_holds_what_is_listed_and_the_summary_is_printed(call, tmp_path, digits):
    folder = tmp_path / "out"
    result = done(call("path", "digits", *QUICK_PATH, "-o", folder, "--json"))
    summary = json.loads(result.stdout)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert {path.name for path in folder.iterdir()} == set(summary["files"]) == {
        "summary.json", "path.png", "images.png", "path-lerp.safetensors",
        "path-slerp.safetensors", "path-shooting.safetensors",
    }  # fmt: skip
    assert summary["format"] == "pullback.path/1"
    assert summary["pairs"] == [[0, 1]]
    assert summary["settings"]["fingerprint"] == digits.fingerprint
    assert (summary["settings"]["t"], summary["settings"]["segments"]) == (900, 2)
    for row, kind in zip(summary["paths"], ("lerp", "slerp", "shooting"), strict=True):
        found = joined(folder, kind)[0]
        assert row["kind"] == kind
        assert row["length"] == found["distance"].sum(0).tolist()
        assert (row["gap"] == [0.0]) is (kind != "shooting")
    assert "points" in result.stderr


@pytest.mark.parametrize("kind", ["lerp", "slerp", "shooting"])
def test_what_is_written_is_what_latent_path_gives(path, tmp_path, digits, kind):
    done(path("--kinds", kind, "--seeds", "0,1,6,4", "--class-label", "2,7", "--quiet"))
    found, header = joined(tmp_path / "out", kind)
    cond = digits.encode(class_label=[2, 2, 7, 7])
    x = digits.sample_latents(4, 900, seed=[0, 1, 6, 4], cond=cond)
    expected = pullback.latent_path(
        digits, x[::2], x[1::2], 900, kind=kind, segments=2, rank=3, quality="draft",
        cond=digits.encode(class_label=[2, 7]),
    )  # fmt: skip
    assert torch.equal(found["points"][0], x[::2])
    torch.testing.assert_close(found["points"], expected.points, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found["distance"], expected.distance, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(found["gap"], expected.gap, atol=1e-3, rtol=1e-3)
    length = found["points"].double().diff(dim=0).flatten(2).norm(dim=2).sum(0)
    torch.testing.assert_close(found["latent_length"], length)
    assert header["settings"]["kind"] == kind


def test_results_are_told_as_a_table_and_a_tree(path, tmp_path):
    result = done(path("--seeds", "0,1,2,3", "--kinds", "slerp, lerp"))
    for place, seeds in enumerate(("0, 1", "2, 3")):
        length = float(joined(tmp_path / "out", "lerp")[0]["distance"].sum(0)[place])
        assert re.search(rf"{seeds} +lerp +{length:.2f} ", result.stdout)
    assert all(one.name in result.stdout for one in (tmp_path / "out").iterdir())


def test_quiet_prints_nothing(path):
    assert done(path("--quiet", "--kinds", "lerp")).output == ""


def test_an_interrupted_run_goes_on_to_the_same_numbers(path, tmp_path, monkeypatch):
    from pullback.runs import path_run

    args = ("--memory", "256MiB")
    done(path(*args, "--quiet", output=tmp_path / "whole"))
    find, asked = path_run.latent_path, []

    def interrupted(*given, **options):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return find(*given, **options)

    monkeypatch.setattr(path_run, "latent_path", interrupted)
    assert path(*args).exit_code == 130
    assert set(snapshot(tmp_path / "out")) == {"path-lerp.safetensors"}
    before = (tmp_path / "out" / "path-lerp.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(path_run, "latent_path", find)
    result = done(path(*args))
    assert result.stdout.count("reused") == 2, "in the table and in the tree"
    assert (tmp_path / "out" / "path-lerp.safetensors").stat().st_mtime_ns == before
    for kind in ("lerp", "slerp", "shooting"):
        whole, resumed = (joined(tmp_path / folder, kind) for folder in ("whole", "out"))
        assert whole[1] == resumed[1]
        assert all(torch.equal(one, resumed[0][name]) for name, one in whole[0].items())


@pytest.mark.parametrize(
    ("changed", "name"),
    [(("--segments", "3"), "segments"), (("--rank", "2"), "rank"), (("-t", "500"), "t")],
)
def test_files_of_other_settings_are_refused(path, tmp_path, changed, name):
    done(path("--kinds", "lerp", "--quiet"))
    before, old = snapshot(tmp_path / "out"), joined(tmp_path / "out", "lerp")[1]["settings"][name]
    words = ("other settings", f"{name} ", "--overwrite", "--output")
    refused(path("--kinds", "lerp", *changed), 1, *words)
    assert snapshot(tmp_path / "out") == before
    done(path("--kinds", "lerp", *changed, "--overwrite", "--quiet"))
    assert joined(tmp_path / "out", "lerp")[1]["settings"][name] != old


def test_kinds_may_be_added_and_not_left_out(path, tmp_path):
    done(path("--kinds", "lerp", "--quiet"))
    refused(path("--kinds", "slerp"), 1, "paths of the kinds lerp too", "another --output")
    done(path("--kinds", "lerp,slerp", "--quiet"))
    file = tmp_path / "out" / "path-lerp.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    refused(path("--kinds", "lerp,slerp"), 1, "path-lerp.safetensors is damaged", "--overwrite")


BAD = [
    (["--seeds", "0"], 1, ["an even number of seeds", "[0]"]),
    (["--seeds", "0,1,2"], 1, ["an even number of seeds"]),
    (["--seeds", "0,0"], 1, ["different seeds"]),
    (["--seeds", "0-"], 2, ["--seeds"]),
    (["--kinds", "line"], 1, ["lerp, slerp, shooting", "line"]),
    (["--kinds", "lerp,lerp"], 1, ["each once", "lerp, lerp"]),
    (["--kinds", ""], 1, ["lerp, slerp, shooting"]),
    (["--segments", "0"], 2, ["--segments"]),
    (["--rank", "0"], 1, ["got 0"]),
    (["-t", "1000"], 1, ["between 0 and 999", "1000"]),
    (["-t", "900,500"], 2, ["--timestep"]),
    (["--tap", "middle"], 1, ["'middle'", "mid_block"]),
    (["--class-label", "11"], 1, ["between 0 and 10"]),
    (["--class-label", "1", "--prompt", "a"], 2, ["--prompt or --class-label"]),
    (["--class-label", "1,2"], 1, ["one for each of the 1 pairs", "got 2"]),
    (["--memory", "lots"], 2, ["--memory"]),
]


@pytest.mark.parametrize(("args", "code", "words"), BAD, ids=[" ".join(one[0]) for one in BAD])
def test_bad_input_is_told_and_leaves_nothing(path, tmp_path, args, code, words):
    refused(path(*args), code, *words)
    out = tmp_path / "out"
    assert not (list(out.iterdir()) if out.exists() else None)
