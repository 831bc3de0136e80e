"""Installs pullback as a user does, with several Pythons and torches, and runs all tests on it.

For every combination, in a virtual environment of its own: ``pip install torch==...``, ``pip
install .[test]`` from an export of the last commit, ``python -m pullback_ext`` and the whole test
suite against what was installed. What came out is entered in docs/tested-versions.json, row by
row, and docs/tested-versions.md is written from that.

A row downloads several gigabytes, and needs about ten on the disk while it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import toolchain

NEWEST = "newest"
PYTHONS = ("3.10", "3.12", "3.13")
TORCHES = (".".join(map(str, (*toolchain.MIN_TORCH, 0))), NEWEST)

FOLDER = toolchain.ROOT / "build/compat"
TABLE = toolchain.ROOT / "docs/tested-versions.json"

COLUMNS = ("python", "torch", "diffusers", "transformers", "cuda", "platform", "tests")
COLUMNS += ("passed", "failed", "skipped", "outcome", "commit", "date")

# Variables that would steer the installation or an import inside a row.
_STEERING = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "PULLBACK_EXT_DISABLE")

_VERSIONS = """
import importlib.metadata, json, platform, pathlib, sysconfig
import pullback, pullback_ext, torch
installed = pathlib.Path(sysconfig.get_path("platlib")).resolve()
for package in (pullback, pullback_ext):
    file = pathlib.Path(package.__file__).resolve()
    assert file.is_relative_to(installed), f"{file} is not the installed package"
versions = {name: importlib.metadata.version(name) for name in ("diffusers", "transformers")}
versions |= {"python": platform.python_version(), "torch": torch.__version__}
print(json.dumps(versions | {"cuda": pullback_ext.build_info()["cuda"]}))  # of the kernels
"""

Row = dict[str, Any]


class StepError(Exception):
    """A step of a row ended badly; the text says which."""


# ------------------------------------------------------------------------------------ interpreters


def find_python(version: str) -> Path | None:
    """An interpreter of this version: on PATH, or among those of pyenv."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(name), *pyenv.glob(f"{version}*/bin/{name}")]
    # A shim of pyenv is on PATH also where its version is not switched on.
    code = "import sys, ensurepip; print('%d.%d' % sys.version_info[:2], sys.executable)"
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        found, _, path = done.stdout.strip().partition(" ")
        if done.returncode == 0 and found == version:
            return Path(path)
    return None


# ------------------------------------------------------------------------------------------- table


def read_rows(table: Path) -> list[Row]:
    """The rows of a table; none where it has not been written yet."""
    return json.loads(table.read_text(encoding="utf-8")) if table.is_file() else []


def merged(rows: Iterable[Row], row: Row) -> list[Row]:
    """``rows`` with ``row`` in the place of the one that was asked for in the same words."""

    def asked(row: Row) -> tuple[Any, ...]:
        python, torch = row["asked"]["python"], row["asked"]["torch"]
        return [int(part) for part in python.split(".")], torch == NEWEST, torch

    others = [other for other in rows if other["asked"] != row["asked"]]
    return sorted([*others, row], key=asked)


def outcome(row: Row) -> str:
    """One word for a row."""
    return "passed" if row["problem"] is None else "FAILED"


def markdown(rows: Iterable[Row]) -> str:
    """The table for people."""
    lines = [
        "# Tested versions",
        "",
        "Written by `make compat`, which installs pullback with `pip install .` into a fresh "
        "environment for each row and runs the tests there. Tests that need a GPU are skipped "
        "where there is none.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for row in rows:
        # A row that came to nothing still says what was asked for.
        shown = {"tests": "all"} | row["asked"] | row | {"outcome": outcome(row)}
        lines.append(
            "| "
            + " | ".join("-" if shown.get(name) is None else str(shown[name]) for name in COLUMNS)
            + " |"
        )
    problems = [
        f"- Python {row['asked']['python']} with torch {row['asked']['torch']}: {row['problem']}"
        for row in rows
        if row["problem"] is not None
    ]
    if problems:
        lines += ["", "What failed:", "", *problems]
    return "\n".join(lines) + "\n"


def write(file: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def enter(table: Path, row: Row) -> None:
    """Enters a row in the table, and writes the table for people beside it."""
    rows = merged(read_rows(table), row)
    write(table, json.dumps(rows, indent=2) + "\n")
    write(table.with_suffix(".md"), markdown(rows))


# --------------------------------------------------------------------------------------------- row


def run(
    command: Iterable[str | Path], log: TextIO, env: dict[str, str], cwd: Path, what: str
) -> str:
    """Runs a step with its output in the log; returns what it printed to its standard output.

    Raises:
        StepError: it ended with another status than 0.
    """
    words = [str(word) for word in command]
    log.write(f"+ {shlex.join(words)}\n")
    log.flush()
    done = subprocess.run(
        words,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        check=False,
    )
    log.write(done.stdout)
    log.flush()
    if done.returncode:
        raise StepError(f"{what} ended with status {done.returncode}")
    return done.stdout


def last_commit() -> str:
    """The commit that is exported, shortened."""
    command = ["git", "-C", str(toolchain.ROOT), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def export(commit: str, tree: Path) -> None:
    """Writes the files of a commit to ``tree``."""
    tree.mkdir(parents=True)
    archive = tree.with_suffix(".tar")
    command = ["git", "-C", str(toolchain.ROOT), "archive", "--output", str(archive), commit]
    subprocess.run(command, check=True)
    shutil.unpack_archive(archive, tree)
    archive.unlink()


def counts(report: Path) -> Row:
    """How many tests passed, failed and were skipped, and which failed, from pytest's report."""
    cases = list(xml.etree.ElementTree.parse(report).getroot().iter("testcase"))

    def having(*tags: str) -> list[str]:
        return [
            f"{case.get('classname')}::{case.get('name')}"
            for case in cases
            if any(case.find(tag) is not None for tag in tags)
        ]

    failed, skipped = having("failure", "error"), having("skipped")
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": len(failed),
        "skipped": len(skipped),
        "failures": failed,
    }


def steps(
    row: Row, interpreter: Path, folder: Path, log: TextIO, tests: list[str]
) -> Iterator[str]:
    """Does everything for one row and fills it in; names each step before it begins.

    Raises:
        StepError: a step ended badly; what was found before stands in the row.
    """
    env = {name: value for name, value in os.environ.items() if name not in _STEERING}
    home, tree = folder / "env", folder / "tree"
    python = home / "bin/python"
    env["PATH"] = os.pathsep.join([str(python.parent), env["PATH"]])

    def call(*command: str | Path, what: str, cwd: Path = folder) -> str:
        return run(command, log, env, cwd, what)

    yield "environment"
    export(row["commit"], tree)
    call(interpreter, "-m", "venv", home, what="python -m venv")
    torch = row["asked"]["torch"]
    torch = "torch" if torch == NEWEST else f"torch=={torch}"
    yield f"pip install {torch}"
    call(python, "-m", "pip", "install", torch, what=f"pip install {torch}")
    yield "pip install ."
    call(python, "-m", "pip", "install", f"{tree}[test]", torch, what="pip install .")
    # The tests put the tree on the path; what they import must be what was installed.
    installed = call(
        *(python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"), what="python"
    )
    shutil.rmtree(tree / "pullback_ext")
    (tree / "pullback_ext").symlink_to(Path(installed.strip()) / "pullback_ext")
    row |= json.loads(call(python, "-c", _VERSIONS, what="import pullback", cwd=tree))
    yield "python -m pullback_ext"
    call(python, "-m", "pullback_ext", what="python -m pullback_ext")
    yield "tests"
    report = folder / "report.xml"
    problem = None
    try:
        call(*(python, "-m", "pytest", f"--junitxml={report}", *tests), what="the tests", cwd=tree)
    except StepError as error:
        problem = error
    if report.is_file():
        row |= counts(report)
    if problem is not None:
        raise problem


def make_row(asked: Row, interpreter: Path, options: argparse.Namespace, commit: str) -> Row:
    """Makes one row; whatever goes wrong stands in it."""
    name = f"python{asked['python']}-torch{asked['torch']}"
    folder, log_file = options.folder / name, options.folder / f"{name}.log"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    row: Row = {
        "asked": asked,
        "platform": f"{platform.platform(terse=True)} {platform.machine()}",
        "commit": commit,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "problem": None,
    }
    print(f"{name}: the output of all steps goes to {log_file}", flush=True)
    try:
        with log_file.open("w", encoding="utf-8") as log:
            for step in steps(row, interpreter, folder, log, shlex.split(options.tests)):
                print(f"{name}: {step}", flush=True)
    except (StepError, OSError, subprocess.CalledProcessError) as error:
        row["problem"] = str(error)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    found = ", ".join(f"{row[key]} {key}" for key in ("passed", "failed", "skipped") if key in row)
    print(f"{name}: {outcome(row)}; {row['problem'] or found}", flush=True)
    return row


# ----------------------------------------------------------------------------------------- command


def version(text: str) -> str:
    """A Python version of two numbers."""
    if not re.fullmatch(r"\d+\.\d+", text):
        raise argparse.ArgumentTypeError(f"expected a version such as 3.12, got {text!r}")
    return text


def release(text: str) -> str:
    """A torch version, or the word for the newest."""
    if text != NEWEST and not re.fullmatch(r"\d+\.\d+\.\d+\S*", text):
        raise argparse.ArgumentTypeError(
            f"expected a version such as {TORCHES[0]}, or {NEWEST}, got {text!r}"
        )
    return text


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="make compat ARGS=...",
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--python", nargs="+", type=version, default=PYTHONS, help="which Pythons")
    parser.add_argument("--torch", nargs="+", type=release, default=TORCHES, help="which torches")
    parser.add_argument(
        "--tests",
        default="",
        help="arguments of pytest, for a part of the tests; the rows are then entered in FOLDER "
        "and not in docs/, where all stand for the whole suite",
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where environments and logs are put"
    )
    parser.add_argument("--keep", action="store_true", help="do not delete the environments")
    options = parser.parse_args(arguments)
    options.folder = options.folder.resolve()
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 if every combination passed."""
    options = parse(arguments)
    table = options.folder / TABLE.name if options.tests else TABLE
    commit = last_commit()
    print(f"pullback: testing the last commit, {commit}; rows are entered in {table}", flush=True)
    failed = []
    for python in options.python:
        interpreter = find_python(python)
        if interpreter is None:
            print(
                f"pullback: Python {python} was not found, neither python{python} on PATH nor with "
                f"pyenv: run `pyenv install {python}`, or name others with --python.",
                file=sys.stderr,
                flush=True,
            )
            failed.append(f"Python {python} (not found)")
            continue
        for torch in options.torch:
            asked = {"python": python, "torch": torch}
            if options.tests:
                asked["tests"] = options.tests
            row = make_row(asked, interpreter, options, commit)
            enter(table, row)
            if row["problem"] is not None:
                failed.append(f"Python {python} with torch {torch}")
    if failed:
        print(f"pullback: failed: {'; '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # environments are deleted then too
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit("pullback: interrupted; the rows that were finished are in the table.")
