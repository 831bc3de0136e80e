"""`pullback edit` into a folder that has results: goes on, refuses, or overwrites."""

import pytest
import torch

import pullback
from pullback import editing
from tests.cli.calls import QUICK_EDIT, done, edits, refused, snapshot


def test_an_interrupted_run_goes_on_to_the_same_bytes(edit, tmp_path, monkeypatch):
    args = (*QUICK_EDIT, "--seeds", "0-2", "--memory", "256MiB")
    done(edit(*args, output=tmp_path / "whole"))
    sweep, asked = editing.sweep, []

    def interrupted(*given, **options):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return sweep(*given, **options)

    monkeypatch.setattr("pullback.editing.sweep", interrupted)
    result = edit(*args)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert set(snapshot(tmp_path / "out")) == {"edits-seed0.safetensors", "basis-seed0.safetensors"}
    before = (tmp_path / "out" / "edits-seed0.safetensors").stat().st_mtime_ns
    monkeypatch.setattr("pullback.editing.sweep", sweep)
    result = done(edit(*args))
    assert result.stdout.count("reused") == 2, "in the table and in the tree"
    assert (tmp_path / "out" / "edits-seed0.safetensors").stat().st_mtime_ns == before
    whole, resumed = (
        {name: found for name, found in snapshot(tmp_path / folder).items() if "basis" not in name}
        for folder in ("whole", "out")
    )
    assert resumed == whole
    for seed in range(3):  # whose headers safetensors writes in any order
        one, other = (
            pullback.LocalBasis.load(tmp_path / folder / f"basis-seed{seed}.safetensors")
            for folder in ("whole", "out")
        )
        assert torch.equal(one.v, other.v)
        assert one.provenance == other.provenance


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (("--strengths", "0,2"), "strengths"),
        (("--class-label", "3"), "class_label"),
        (("--steps", "25"), "steps"),
        (("--mask", "half.png"), "mask"),
        (("--dtype", "float64"), "dtype"),
        (("--guidance", "2"), "guidance"),
    ],
)
def test_files_of_other_settings_are_refused(
    edit, direction, half, tmp_path, monkeypatch, changed, name
):
    monkeypatch.chdir(tmp_path)
    args = ("--direction", direction, "--seeds", "0", "--steps", "50")
    done(edit(*args, "--quiet"))
    before, old = snapshot(tmp_path / "out"), edits(tmp_path / "out")[1]["settings"][name]
    words = ("other settings", f"{name} ", "--overwrite", "--output")
    refused(edit(*args, *changed), 1, *words)
    assert snapshot(tmp_path / "out") == before
    done(edit(*args, *changed, "--overwrite"))
    assert edits(tmp_path / "out")[1]["settings"][name] != old


def test_a_plan_that_leaves_out_a_sample_is_refused(edit, direction, tmp_path):
    done(edit("--direction", direction, "--seeds", "0,1", "--quiet"))
    result = edit("--direction", direction, "--seeds", "0,2")
    refused(result, 1, "edits of seed1 too", "choose another --output")
    done(edit("--direction", direction, "--seeds", "0-2", "--quiet"))


def test_a_folder_of_bases_is_not_one_of_edits(basis, edit, direction, tmp_path):
    done(basis("-t", "900"))
    before = snapshot(tmp_path / "out")
    for more in ((), ("--overwrite",)):
        result = edit("--direction", direction, *more)
        refused(result, 1, "of another command", "Choose another --output")
    assert snapshot(tmp_path / "out") == before
    done(edit("--direction", direction, "--seeds", "0", "--quiet", output=tmp_path / "edits"))
    result = basis("-t", "900", output=tmp_path / "edits")
    refused(result, 1, "of another command", "Choose another --output")


@pytest.mark.parametrize("spoil", ["cut", "no JSON", "other names"])
def test_a_damaged_file_is_named_and_can_be_overwritten(edit, direction, tmp_path, spoil):
    args = ("--direction", direction, "--seeds", "0", "--quiet")
    done(edit(*args))
    path = tmp_path / "out" / "edits-seed0.safetensors"
    whole = path.read_bytes()
    changes = {
        "cut": whole[:-9],
        "no JSON": whole.replace(rb"[\"sheer\"]", rb"[\"sheer\" "),
        "other names": whole.replace(rb"[\"sheer\"]", rb"[\"a\",\"b\"]"),
    }
    assert changes[spoil] != whole
    path.write_bytes(changes[spoil])
    refused(edit(*args), 1, "edits-seed0.safetensors is damaged", "--overwrite")
    done(edit(*args, "--overwrite"))
    assert path.read_bytes() == whole


def test_overwriting_leaves_no_figure_of_old_edits(edit, direction, tmp_path):
    args = ("--direction", direction, "--seeds", "0", "--quiet")
    done(edit(*args))
    old = [tmp_path / "out" / name for name in ("edits.gif", "edits_direction07.png")]
    for path in old:
        path.write_bytes(b"of edits that are no more")
    done(edit(*args, "--overwrite"))
    assert not any(path.exists() for path in old)
