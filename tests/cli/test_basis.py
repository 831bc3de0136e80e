"""`pullback basis` and `pullback demo`: what they write and say."""

import json

import pytest
import torch
from safetensors import safe_open

import pullback
from tests.cli.calls import listed, of_run


def test_json_is_alone_on_stdout_and_is_the_summary(finished):
    folder, result = finished
    summary = json.loads(result.stdout)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["timesteps"] == [900, 200]
    assert summary["shapes"] == {"x": [1, 16, 16], "v": [1, 16, 16], "u": [96, 4, 4]}
    for row in summary["timesteps"]:
        assert row["samples"] == row["converged"] == 2
        assert row["angle_bound"]["max"] <= 5e-2
        assert row["s"]["median"] == sorted(row["s"]["median"], reverse=True)
        assert row["products"]["per_direction"] > 2
        assert not row["reused"]
    assert "products" in result.stderr
    assert "bound" in result.stderr


def test_all_files_are_there_and_whole(finished):
    folder, _ = finished
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *of_run(), "summary.json", "overview.png", "spectrum.png",
        "latents_t0900.safetensors", "latents_t0200.safetensors",
        "basis_t0900.safetensors", "basis_t0200.safetensors",
        "directions_t0900.png", "directions_t0200.png",
        "strips_sample00.png", "strips_sample01.png",
    }  # fmt: skip
    for name in names:
        if name.endswith(".png"):
            assert (folder / name).read_bytes().endswith(b"IEND\xaeB`\x82")


def test_the_saved_latents_and_basis_belong_together(finished, digits):
    folder, _ = finished
    with safe_open(folder / "latents_t0200.safetensors", framework="pt") as file:
        x = file.get_tensor("x")
    torch.testing.assert_close(x[1:], digits.sample_latents(1, 200, seed=1))
    saved = pullback.LocalBasis.load(folder / "basis_t0200.safetensors")
    # It started from the basis at the timestep before.
    init = pullback.LocalBasis.load(folder / "basis_t0900.safetensors").v
    again = pullback.local_basis(digits, x, 200, 3, quality="draft", init=init)
    torch.testing.assert_close(saved.s, again.s)
    torch.testing.assert_close(saved.v, again.v)


def test_results_are_told_as_a_tree_with_a_line_each(basis, tmp_path):
    result = basis("-t", "500")
    assert result.exit_code == 0
    names = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    for name in listed(path.relative_to(tmp_path / "out") for path in names):
        assert name in result.stdout
    assert "2/2" in result.stdout


def test_quiet_prints_nothing(basis):
    result = basis("-t", "500", "--quiet")
    assert result.exit_code == 0
    assert result.output == ""


def test_seeds_and_class_labels_choose_the_samples(basis, call, tmp_path, digits):
    folder = tmp_path / "labelled"
    result = call(
        "basis", "digits", "--seeds", "7,2-3", "--class-label", "4,5,6", "-t", "700", "-k", "2",
        "--quality", "draft", "--no-figures", "-o", folder, "--memory", "256MiB", "--json",
    )  # fmt: skip
    settings = json.loads(result.stdout)["settings"]
    assert settings["seeds"] == [7, 2, 3]
    assert settings["class_labels"] == [4, 5, 6]
    with safe_open(folder / "latents_t0700.safetensors", framework="pt") as file:
        x = file.get_tensor("x")
    five = {"class_labels": torch.tensor([5])}
    torch.testing.assert_close(x[1:2], digits.sample_latents(1, 700, seed=2, cond=five))


def test_another_tap_and_dtype(basis):
    result = basis("-t", "500", "--tap", "down_blocks.1", "--dtype", "float64", "--json")
    summary = json.loads(result.stdout)
    assert summary["shapes"]["u"] == [64, 4, 4]
    assert summary["settings"]["dtype"] == "float64"


@pytest.mark.slow
def test_demo_writes_what_it_lists(call, tmp_path):
    folder = tmp_path / "demo"
    result = call("demo", "-o", folder)
    assert result.exit_code == 0, result.output
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["timesteps"] == [900, 700, 500, 200]
    assert summary["settings"]["rank"] == 12
    assert all(row["converged"] == row["samples"] == 16 for row in summary["timesteps"])
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert len(names) == 2 + 2 * 4 + 2 + 4 + 4 + 1
    assert "edits.png" in names
    assert all(name in result.stdout for name in names)
