"""`pullback basis` into a folder that has results: goes on, refuses, or overwrites."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pullback
import pullback_ext
from pullback import cli
from pullback.runs import BatchRun
from tests.cli.calls import QUICK, refused, snapshot


def test_the_same_command_reuses_what_is_there_and_says_so(basis, tmp_path):
    assert basis("-t", "900,500").exit_code == 0
    before = snapshot(tmp_path / "out")
    result = basis("-t", "500,900")
    assert result.exit_code == 0
    assert result.stdout.count("reused") == 2 + 4
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["timesteps"]
    assert [row["reused"] for row in rows] == [True, True]
    after = snapshot(tmp_path / "out")
    del before["summary.json"], after["summary.json"]
    assert before == after


def test_the_folder_is_that_of_a_run(basis, call, tmp_path):
    assert basis("-t", "900").exit_code == 0
    folder = tmp_path / "out"
    assert json.loads(call("run", "status", folder, "--json").stdout)["done"] == 1
    unit = folder / "units" / "unit-000000.safetensors"
    whole = unit.read_bytes()
    unit.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    refused(basis("-t", "900"), 1, "unit-000000.safetensors is damaged", "pullback run verify")
    assert call("run", "verify", folder).exit_code == 1
    assert call("run", "start", folder, "--quiet").exit_code == 0
    assert unit.read_bytes() == whole
    assert "reused" in basis("-t", "900").stdout


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (("--rank", "2"), "rank"),
        (("--seeds", "0,5"), "seeds"),
        (("-t", "900"), "timesteps"),
        (("--memory", "256MiB"), "memory"),
        (("--seed", "1"), "seed"),
        (("--tol", "0.01"), "tol"),
        (("--tap", "down_blocks.2"), "tap"),
        (("--class-label", "3"), "class_labels"),
        (("--dtype", "float64"), "dtype"),
    ],
)
def test_changed_settings_never_reuse(finished, call, changed, name):
    folder, _ = finished
    before = (folder / "basis_t0900.safetensors").read_bytes()
    quick = [] if changed[0] == "--seeds" else ["--samples", "2"]
    options = {"--rank": "3", "--quality": "draft", "-t": "900,200"}
    options |= {changed[0]: changed[1]}
    flat = [word for pair in options.items() for word in pair]
    result = call("basis", "digits", *quick, *flat, "-o", folder, "--no-figures")
    refused(result, 1, "other settings", name, "--overwrite", "--output")
    assert (folder / "basis_t0900.safetensors").read_bytes() == before


def test_overwrite_computes_again(basis, tmp_path):
    assert basis("-t", "900").exit_code == 0
    result = basis("-t", "900", "--seed", "1", "--overwrite", "--json")
    summary = json.loads(result.stdout)
    assert summary["settings"]["seed"] == 1
    assert not summary["timesteps"][0]["reused"]
    saved = pullback.LocalBasis.load(tmp_path / "out" / "basis_t0900.safetensors")
    assert saved.provenance["seed"] == 1


def test_overwriting_leaves_no_figure_of_the_old_bases(basis, tmp_path):
    assert basis("-t", "900").exit_code == 0
    old = tmp_path / "out" / "strips_sample03.png"
    old.write_bytes(b"of bases that are no more")
    assert basis("-t", "900", "--seed", "1", "--overwrite").exit_code == 0
    assert not old.exists()


def test_ctrl_c_leaves_whole_files_only_and_the_next_call_goes_on(tmp_path):
    folder = tmp_path / "out"
    # A shell that starts this in the background may have made it ignore SIGINT.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pullback.cli import main; sys.exit(main())"
    )
    # The budget has room for one sample, which is a unit then.
    args = ("basis", "digits", "--samples", "4", *QUICK[2:], "-t", "900", "-o", str(folder))
    args += ("--memory", "256KiB")
    process = subprocess.Popen(
        [sys.executable, "-c", program, *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (folder / "receipts" / "unit-000000.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "interrupted" in err
    before = snapshot(folder)
    assert not any("partial" in name for name in before)
    units = {name for name in before if name.startswith("units")}
    assert 0 < len(units) < 4
    assert {name for name in before if "/" not in name} == {"plan.json"}
    assert BatchRun(folder).verify() == {}
    result = CliRunner().invoke(cli.app, [*args, "--json", "--no-figures"])
    assert [row["samples"] for row in json.loads(result.stdout)["timesteps"]] == [4]
    after = snapshot(folder)
    assert {name: after[name] for name in before} == before
    assert len([name for name in after if name.startswith("units")]) == 4


def _environment():
    paths = [str(Path(module.__file__).parents[1]) for module in (pullback, pullback_ext)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
