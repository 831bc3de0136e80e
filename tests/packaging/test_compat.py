"""`make compat`: which rows are made, what is kept of them, and what is said when one fails."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import compat
import toolchain

THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
PARTS = """
import pytest
@pytest.mark.parametrize("i", range(5))
def test_fine(i): pass
def test_wrong(): assert False
@pytest.fixture
def broken(): raise ValueError
def test_broken(broken): pass
@pytest.mark.skip
def test_left_out(): pass
"""


@pytest.fixture
def steps(monkeypatch):
    """Takes the place of what a row does; a row fails where the given function says so."""

    def replace(fail=lambda asked: None):
        def steps(row, interpreter, folder, log, tests):
            yield "first"
            (folder / "env").mkdir()
            log.write("much output\n")
            row["torch"] = "2.10.0+cu128"
            if problem := fail(row["asked"]):
                raise problem
            row |= {"passed": 5, "failed": 0, "skipped": 1, "failures": []}

        monkeypatch.setattr(compat, "steps", steps)
        monkeypatch.setattr(compat, "last_commit", lambda: "0123456789")
        monkeypatch.setattr(compat, "find_python", lambda version: Path(sys.executable))

    return replace


@pytest.fixture
def table(monkeypatch, tmp_path):
    monkeypatch.setattr(compat, "TABLE", tmp_path / "docs/tested-versions.json")
    monkeypatch.setattr(compat, "FOLDER", tmp_path / "work")
    return compat.TABLE


def pairs(table):
    return [(row["asked"]["python"], row["asked"]["torch"]) for row in compat.read_rows(table)]


def test_the_whole_matrix_is_the_default(steps, table):
    steps()
    assert compat.main([]) == 0
    oldest = ".".join(map(str, toolchain.MIN_TORCH)) + ".0"
    assert pairs(table) == [
        (python, torch) for python in ("3.10", "3.12", "3.13") for torch in (oldest, "newest")
    ]
    first, *_ = compat.read_rows(table)
    assert (first["torch"], first["passed"], first["problem"]) == ("2.10.0+cu128", 5, None)


def test_chosen_rows_are_merged_into_the_table(steps, table, monkeypatch):
    steps()
    compat.main(["--python", "3.13", "3.10", "--torch", "newest"])
    monkeypatch.setattr(compat, "last_commit", lambda: "fedcba9876")
    compat.main(["--python", "3.10"])
    assert pairs(table) == [("3.10", "2.10.0"), ("3.10", "newest"), ("3.13", "newest")]
    assert [row["commit"][0] for row in compat.read_rows(table)] == ["f", "f", "0"]
    lines = table.with_suffix(".md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| 3.")]) == 3


def test_a_failing_row_is_entered_and_does_not_stop_the_rest(steps, table, capsys):
    steps(lambda asked: asked["torch"] == "2.10.0" and compat.StepError("pip ended with 1"))
    assert compat.main(["--python", "3.12"]) == 1
    wrong, right = compat.read_rows(table)
    assert (wrong["problem"], right["problem"]) == ("pip ended with 1", None)
    assert "failed: Python 3.12 with torch 2.10.0." in capsys.readouterr().err
    text = table.with_suffix(".md").read_text()
    assert "Python 3.12 with torch 2.10.0: pip ended with 1" in text


def test_finished_rows_outlive_an_interruption(steps, table):
    steps(lambda asked: asked["torch"] == "newest" and KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compat.main(["--python", "3.12"])
    assert pairs(table) == [("3.12", "2.10.0")]
    assert [path.name for path in table.parent.iterdir() if path.name.startswith(".")] == []
    assert {path.name for path in compat.FOLDER.iterdir() if path.is_dir()} == set()


@pytest.mark.parametrize("keep", [False, True])
def test_environments_are_deleted_and_logs_kept(steps, table, keep):
    steps()
    compat.main(["--python", "3.12", "--torch", "2.10.0", *(["--keep"] if keep else [])])
    name = "python3.12-torch2.10.0"
    assert (compat.FOLDER / name / "env").exists() is keep
    assert (compat.FOLDER / f"{name}.log").read_text() == "much output\n"


def test_a_part_of_the_tests_is_not_entered_among_the_whole_suites(steps, table):
    steps()
    compat.main(["--python", "3.12", "--torch", "newest", "--tests", "tests/krylov -k 'a b'"])
    assert not table.exists()
    (row,) = compat.read_rows(compat.FOLDER / table.name)
    assert row["asked"]["tests"] == "tests/krylov -k 'a b'"
    assert "| tests/krylov -k 'a b' |" in (compat.FOLDER / "tested-versions.md").read_text()


def test_a_missing_python_is_named(steps, table, monkeypatch, capsys):
    steps()
    monkeypatch.setattr(compat, "find_python", lambda version: None)
    assert compat.main(["--python", "3.13"]) == 1
    assert "Python 3.13 was not found" in (said := capsys.readouterr().err)
    assert "`pyenv install 3.13`" in said
    assert not table.exists()


def test_pythons_are_found_on_path_and_with_pyenv(monkeypatch, tmp_path):
    shim = tmp_path / "shims" / f"python{THIS}"
    real = tmp_path / f"pyenv/versions/{THIS}.9/bin/python{THIS}"
    for file, does in ((shim, "exit 127"), (real, f'exec "{sys.executable}" "$@"')):
        file.parent.mkdir(parents=True)
        file.write_text(f"#!/bin/sh\n{does}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(shim.parent))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    found = compat.find_python(THIS)
    assert found is not None
    assert found.samefile(sys.executable)
    assert compat.find_python("3.99") is None
    monkeypatch.setenv("PATH", str(real.parent))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert compat.find_python(THIS).samefile(sys.executable)


@pytest.mark.parametrize("wrong", [["--python", "3"], ["--torch", "latest"], ["--torch", "2.10"]])
def test_what_cannot_be_meant_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        compat.parse(wrong)
    assert "expected a version such as" in capsys.readouterr().err


def test_counts_are_those_of_pytest(tmp_path):
    (tmp_path / "test_parts.py").write_text(PARTS)
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "test_parts.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert compat.counts(report) == {
        "passed": 5,
        "failed": 2,
        "skipped": 1,
        "failures": ["test_parts::test_wrong", "test_parts::test_broken"],
    }


def test_the_last_commit_is_exported_and_nothing_else(monkeypatch, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    source = tmp_path / "source"
    source.mkdir()
    monkeypatch.setattr(toolchain, "ROOT", source)
    (source / "kept.txt").write_text("committed")
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "One"]):
        subprocess.run(["git", "-C", source, *command], check=True)
    (source / "kept.txt").write_text("changed")
    (source / "new.txt").touch()
    compat.export(compat.last_commit(), tmp_path / "row/tree")
    assert [path.name for path in (tmp_path / "row").rglob("*")] == ["tree", "kept.txt"]
    assert (tmp_path / "row/tree/kept.txt").read_text() == "committed"


def test_the_committed_table_is_what_the_command_writes():
    rows = compat.read_rows(compat.TABLE)
    if not rows:
        pytest.skip("no table has been committed: `make compat` writes it")
    assert compat.TABLE.read_text() == json.dumps(rows, indent=2) + "\n"
    assert compat.TABLE.with_suffix(".md").read_text() == compat.markdown(rows)
    assert [row for row in rows if "tests" in row["asked"]] == []
