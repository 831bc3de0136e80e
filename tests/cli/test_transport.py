"""`pullback transport`: what it writes and says, every option, and what it refuses."""

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import pullback
from pullback import LocalBasis, figures
from pullback.geometry import grassmann
from tests.cli.calls import QUICK_TRANSPORT, done, listed, of_run, refused, snapshot


def carried(folder, t=900):
    """The tensors and the header of a timestep's file."""
    with safe_open(folder / f"transport-t{t:04d}.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["result"])
        return {one: file.get_tensor(one) for one in file.keys()}, header  # noqa: SIM118


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_what_is_listed_and_the_summary_is_printed(call, tmp_path, digits):
    folder = tmp_path / "out"
    args = ("transport", "digits", *QUICK_TRANSPORT, "-t", "900,200", "-o", folder)
    result = done(call(*args, "--json"))
    summary = json.loads(result.stdout)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert listed(files(folder)) == set(summary["files"])
    assert files(folder) == {
        "summary.json", "transport.png", "angles.png",
        "transport-t0900.safetensors", "transport-t0200.safetensors",
        "bases/latents_t0900.safetensors", "bases/basis_t0900.safetensors",
        "bases/latents_t0200.safetensors", "bases/basis_t0200.safetensors", *of_run("bases/"),
    }  # fmt: skip
    assert summary["format"] == "pullback.transport/1"
    assert (summary["source"], summary["targets"], summary["strength"]) == (0, [1, 2], 8.0)
    assert summary["settings"]["fingerprint"] == digits.fingerprint
    assert summary["settings"]["seeds"] == [0, 1, 2]
    m = torch.Size(summary["shapes"]["h"]).numel()
    assert summary["chance"]["retained"] == pytest.approx((3 / m) ** 0.5)
    assert summary["chance"]["distance"] == pytest.approx(grassmann.random_distance(3, m))
    for row, t in zip(summary["transports"], (900, 200), strict=True):
        assert (row["t"], row["samples"]) == (t, 3)
        found = carried(folder, t)[0]
        assert row["retained"] == found["retained"].tolist()
        basis = LocalBasis.load(folder / row["basis"])
        assert row["products"] == int(basis.products.sum()) > 0
        rows = basis.u.flatten(2)
        expected = grassmann.distance(rows[:, None], rows[None])
        found = torch.tensor(row["distances"], dtype=torch.float64)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert "samples" in result.stderr


@pytest.mark.parametrize("back", ["isometric", "pullback", "vjp"])
def test_what_is_written_is_what_transport_gives(transport, tmp_path, digits, back):
    done(transport("--back", back, "--index", "1", "--source", "5", "--quiet"))
    found, header = carried(tmp_path / "out")
    x = digits.sample_latents(3, 900, seed=[5, 1, 2])
    basis = pullback.local_basis(digits, x, 900, 3, quality="draft")
    expected = pullback.transport(1, basis[[0]], basis[1:], back=back)
    # The last bits depend on how products are batched.
    torch.testing.assert_close(found["retained"], expected.retained[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found["v"], expected.v[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(found["source_v"], basis.v[0, 1], atol=1e-3, rtol=0)
    torch.testing.assert_close(found["source_u"], basis.u[0, 1], atol=1e-3, rtol=0)
    saved = LocalBasis.load(tmp_path / "out" / "bases" / "basis_t0900.safetensors")
    sums = torch.einsum("bk,bk...->b...", found["coordinates"], saved.v[1:].double())
    torch.testing.assert_close(sums.float(), found["v"], atol=1e-5, rtol=0)
    assert header["format"] == "pullback.transport/1"
    assert (header["settings"]["back"], header["settings"]["index"]) == (back, 1)
    assert header["settings"]["t"] == 900
    assert header["provenance"]["tap"] == "mid_block"


def test_results_are_told_as_a_table_and_a_tree(transport, tmp_path):
    result = done(transport("-t", "900,200"))
    kept = carried(tmp_path / "out")[0]["retained"].tolist()
    assert re.search(rf"900 +{kept[0]:.2f} +{kept[1]:.2f} ", result.stdout)
    assert "chance" in result.stdout
    assert all(name in result.stdout for name in listed(files(tmp_path / "out")))


def test_quiet_prints_nothing(transport):
    assert done(transport("--quiet")).output == ""


def test_classes_are_of_the_source_and_the_targets(transport, tmp_path, digits):
    done(transport("--class-label", "3,4,5", "--tap", "down_blocks.2", "--quiet"))
    basis = LocalBasis.load(tmp_path / "out" / "bases" / "basis_t0900.safetensors")
    cond = digits.encode(class_label=[3, 4, 5])
    x = digits.sample_latents(3, 900, seed=[0, 1, 2], cond=cond)
    own = pullback.local_basis(digits, x, 900, 3, "down_blocks.2", cond, quality="draft")
    torch.testing.assert_close(basis.s, own.s, atol=0, rtol=1e-3)


def test_the_same_command_reuses_bases_and_other_timesteps_are_another_plan(transport, tmp_path):
    done(transport("-t", "900,200"))
    before, found = snapshot(tmp_path / "out"), carried(tmp_path / "out")
    result = done(transport("-t", "900,200"))
    assert result.stdout.count("reused") == 2 * 3, "in the table and twice in the tree"
    after, again = snapshot(tmp_path / "out"), carried(tmp_path / "out")
    changed = {name for name in before if before[name] != after[name]}
    assert not {name for name in changed if name.startswith("bases")}
    assert again[1] == found[1]
    assert all(torch.equal(again[0][name], one) for name, one in found[0].items())
    refused(transport(), 1, "timesteps [900, 200] (now [900])", "--overwrite")
    done(transport("--overwrite"))
    assert not list((tmp_path / "out").rglob("*t0200*")), "of the plan that was replaced"


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (("--index", "1"), "index"),
        (("--back", "vjp"), "back"),
        (("--rank", "4"), "rank"),
        (("--seeds", "1,3"), "seeds"),
        (("--class-label", "3"), "class_labels"),
    ],
)
def test_files_of_other_settings_are_refused(transport, tmp_path, changed, name):
    done(transport("--quiet"))
    before, old = snapshot(tmp_path / "out"), carried(tmp_path / "out")[1]["settings"][name]
    refused(transport(*changed), 1, "other settings", f"{name} ", "--overwrite", "--output")
    assert snapshot(tmp_path / "out") == before
    done(transport(*changed, "--overwrite", "--quiet"))
    assert carried(tmp_path / "out")[1]["settings"][name] != old


def test_another_strength_changes_the_figure_alone(call, tmp_path):
    folder = tmp_path / "out"
    args = ("transport", "digits", *QUICK_TRANSPORT, "-o", folder, "--quiet")
    done(call(*args))
    before = snapshot(folder)
    done(call(*args, "--strength", "4"))
    after = snapshot(folder)
    changed = {name for name in before if before[name] != after[name]}
    assert {"transport.png", "summary.json"} <= changed
    assert not {one for one in changed if "basis" in one}
    done(call(*args, "--no-figures", "--overwrite"))
    assert not list(folder.glob("*.png")), "figures of what was replaced"


def test_an_interrupted_run_leaves_whole_files_and_goes_on(transport, tmp_path, monkeypatch):
    from pullback.runs import transport_run

    args = ("-t", "900,200", "--quiet", "--memory", "256MiB")
    carry, asked = transport_run.transport, []

    def interrupted(*given, **options):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return carry(*given, **options)

    monkeypatch.setattr(transport_run, "transport", interrupted)
    assert transport(*args).exit_code == 130
    left = files(tmp_path / "out")
    assert left == {
        "transport-t0900.safetensors",
        *of_run("bases/"),
        *(f"bases/{what}_t0{t}00.safetensors" for what in ("basis", "latents") for t in (9, 2)),
    }
    monkeypatch.setattr(transport_run, "transport", carry)
    done(transport(*args))
    assert files(tmp_path / "out") == left | {"summary.json", "transport-t0200.safetensors"}


def test_a_damaged_file_and_the_folder_of_another_command(transport, edit, basis, tmp_path):
    done(transport("--quiet"))
    file = tmp_path / "out" / "transport-t0900.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    refused(transport(), 1, "transport-t0900.safetensors is damaged", "--overwrite")
    done(transport("--overwrite", "--quiet"))
    words = ("is of another command (pullback.transport/1)", "another --output")
    refused(basis("-t", "900"), 1, *words)
    done(basis("-t", "900", output=tmp_path / "bases"))
    words = ("is of another command (pullback.summary/1)", "another --output")
    refused(transport(output=tmp_path / "bases"), 1, *words)


BAD = [
    (["--source", "1"], 2, ["--seeds", "seed 1, is among the targets"]),
    (["--seeds", "a"], 2, ["--seeds", "whole numbers"]),
    (["--seeds", "1,1"], 1, ["different seeds"]),
    (["--source", "-1"], 1, ["seeds of 0 or more"]),
    (["--seeds", "4294967296"], 1, ["below 2^32"]),
    (["-t", "0.5"], 2, ["--timesteps"]),
    (["-t", "1000"], 1, ["between 0 and 999", "1000"]),
    (["-t", "900,900"], 1, ["different timesteps"]),
    (["--index", "3"], 1, ["index", "between 0 and 2, got 3"]),
    (["--index", "-1"], 1, ["index", "got -1"]),
    (["--rank", "0"], 1, ["got 0"]),
    (["--back", "forth"], 1, ["isometric, pullback, vjp", "'forth'"]),
    (["--strength", "0"], 2, ["--strength", "above 0"]),
    (["--strength", "nan"], 2, ["--strength", "finite"]),
    (["--tap", "middle"], 1, ["'middle'", "mid_block"]),
    (["--quality", "best"], 1, ["best"]),
    (["--class-label", "11"], 1, ["between 0 and 10"]),
    (["--class-label", "1,2"], 1, ["one for each of the 3", "got 2"]),
    (["--class-label", "1", "--prompt", "a"], 2, ["--prompt or --class-label"]),
    (["--prompt", "a"], 1, ["prompt"]),
    (["--dtype", "int8"], 1, ["--dtype", "int8"]),
    (["--device", "abacus"], 1, ["abacus"]),
    (["--memory", "lots"], 2, ["--memory"]),
    (["--call", "height"], 2, ["--call", "name=value"]),
]


@pytest.mark.parametrize(("args", "code", "words"), BAD, ids=[" ".join(one[0]) for one in BAD])
def test_bad_input_is_told_and_leaves_nothing(transport, tmp_path, args, code, words):
    refused(transport(*args), code, *words)
    out = tmp_path / "out"
    assert not (files(out) if out.exists() else None)


def test_a_direction_of_which_nothing_is_left_is_told(transport, tmp_path, monkeypatch):
    from pullback.runs import transport_run

    def nothing(*given, **options):
        raise ValueError("Nothing of direction 0 lies in the tangent space of sample 1.")

    monkeypatch.setattr(transport_run, "transport", nothing)
    refused(transport(), 1, "Nothing of direction 0")
    assert not (tmp_path / "out" / "summary.json").exists()


def test_the_grid_shows_the_carried_direction_both_ways_and_the_copy(
    call, tmp_path, digits, monkeypatch
):
    draw, seen = figures.transport_grid, []

    def watched(blocks, **options):
        seen.extend(blocks)
        return draw(blocks, **options)

    monkeypatch.setattr(figures, "transport_grid", watched)
    args = ("transport", "digits", *QUICK_TRANSPORT, "--strength", "6", "--index", "1", "--quiet")
    done(call(*args, "-o", tmp_path / "out"))
    (block,) = seen
    found = carried(tmp_path / "out")[0]
    x = load_file(tmp_path / "out" / "bases" / "latents_t0900.safetensors")["x"]
    own = torch.cat([found["source_v"][None], found["v"]])
    copied = found["source_v"].expand_as(own)
    for row, moved in enumerate((x, x + 6 * own, x - 6 * own, x + 6 * copied)):
        expected = pullback.denoise(digits, moved, 900, steps=25)
        torch.testing.assert_close(block.images[row], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(block.retained[1:], found["retained"])
    assert float(block.retained[0]) == pytest.approx(1, abs=1e-5)
