"""The program from its start to its exit code: signals, streams that cannot be written."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from tests.cli.calls import QUICK

ARGS = ("basis", "digits", *QUICK, "--samples", "1", "-t", "900", "--no-figures")
PROGRAM = f"""
import signal, sys
sys.path[:0] = {sys.path!r}
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
#: Sends a signal where an exception is dropped: in a destructor, while the program loads.
SWALLOWED = """
import os
class Callback:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        for _ in range(1000): pass
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            Callback()
sys.meta_path.insert(0, Finder())
"""
MAIN = "from pullback.cli import main\nmain()\n"


def run(program, *args, **options):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + program + MAIN, *map(str, args)],
        capture_output="stdout" not in options, text=True, timeout=300, **options,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("module", ["typer", "torch"])
def test_a_signal_in_a_callback_of_a_library_ends_the_program(tmp_path, name, code, module):
    """Raised there, KeyboardInterrupt is dropped and the run goes on."""
    program = SWALLOWED.format(name=name, module=module)
    found = run(program, *ARGS, "-o", tmp_path / "out")
    assert found.returncode == code, found.stderr
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    said = "interrupted." if name == "SIGINT" else f"ended by {name}."
    assert f"pullback: {said} Finished files are complete" in found.stderr
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    program = SWALLOWED.format(name="SIGHUP", module="typer")
    nohup = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    assert run(nohup + program, "--help").returncode == 0


@pytest.mark.parametrize("columns", ["1", "20"])
def test_output_that_cannot_be_encoded_does_not_cost_the_results(tmp_path, columns):
    folder = tmp_path / "Zahlen-数字-é"
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": columns}
    found = run("", *ARGS, "-o", folder, env=env)
    assert found.returncode == 0, found.stderr
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "basis_t0900.safetensors", "latents_t0900.safetensors", "plan.json", "summary.json",
    }  # fmt: skip


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_output_onto_a_full_disk_is_one_paragraph(tmp_path, form):
    with open("/dev/full", "w") as full:
        found = run("", "info", *form, stdout=full, stderr=subprocess.PIPE)
    assert found.returncode == 1
    assert found.stderr.count("pullback: ") == 1
    assert os.strerror(errno.ENOSPC) in found.stderr
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


def test_a_reader_that_leaves_is_no_error_to_tell():
    reader, writer = os.pipe()
    os.close(reader)
    found = run("", "info", "--json", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


def test_main_is_there_before_anything_that_takes_long():
    """So that a signal finds its handler."""
    program = (
        "import pullback.cli.entry\nassert not {'typer', 'rich', 'torch'} & set(sys.modules)\n"
    )
    assert run(program, "--help").returncode == 0


def test_the_command_can_be_used_in_another_program():
    """Importing it does not touch that program's signals."""
    before = signal.getsignal(signal.SIGTERM)
    from pullback.cli import app

    assert callable(app)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_runs_that_are_ended_at_random_moments_go_on():
    """A few of them; `python -m tests.cli.kills` runs as many as one likes."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.cli.kills", "--count", "6", "--cold", "3"],
        capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "6 trials, all went on" in found.stdout
