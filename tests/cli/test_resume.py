"""`pullback basis` into a folder that has results: goes on, refuses, or overwrites."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

import pullback
import pullback_ext
from pullback import cli
from tests.cli.calls import QUICK, refused


def test_going_on_reuses_what_is_there_and_says_so(basis, tmp_path):
    assert basis("-t", "900").exit_code == 0
    path = tmp_path / "out" / "basis_t0900.safetensors"
    before = path.stat().st_mtime_ns
    result = basis("-t", "900,500")
    assert result.exit_code == 0
    assert "reused" in result.stdout
    assert path.stat().st_mtime_ns == before
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["timesteps"]
    assert [row["reused"] for row in rows] == [True, False]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (("--rank", "2"), "rank"),
        (("--seeds", "0,5"), "sample_seeds"),
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
    options = dict(zip(("--rank", "--quality"), ("3", "draft"), strict=True))
    options |= {changed[0]: changed[1]}
    flat = [word for pair in options.items() for word in pair]
    result = call("basis", "digits", *quick, *flat, "-t", "900", "-o", folder, "--no-figures")
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
    args = ("basis", "digits", *QUICK, "-t", "900,700,500,400,300,200", "-o", str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", program, *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (folder / "basis_t0900.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "interrupted" in err
    names = [path.name for path in folder.iterdir()]
    assert "summary.json" not in names
    assert not any("partial" in name for name in names)
    for name in names:
        with safe_open(folder / name, framework="pt") as file:
            assert file.keys()
    result = CliRunner().invoke(cli.app, [*args, "--json", "--no-figures"])
    rows = json.loads(result.stdout)["timesteps"]
    assert rows[0]["reused"]
    assert not rows[-1]["reused"]


def _environment():
    paths = [str(Path(module.__file__).parents[1]) for module in (pullback, pullback_ext)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
