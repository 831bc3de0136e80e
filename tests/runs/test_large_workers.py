"""Large runs by several workers: processes, actors, and calls that know nothing of one another."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from pullback.runs import BatchRun, unit_path
from tests.runs.large import (
    PLAN,
    await_units,
    numbers,
    read_deadly,
    read_digits,
    read_fragile,
    read_other,
    stamps,
)

PROGRAM = """
import sys
from pullback.runs import BatchRun
from tests.runs.large import read_digits
if __name__ == "__main__":
    run, workers = BatchRun(sys.argv[1]), int(sys.argv[2])
    if workers > 1:
        run.start(read_digits, workers)
    else:
        run.work(read_digits("cpu"))
"""


@pytest.fixture(scope="module")
def truth(digits, tmp_path_factory):
    """The bytes of a run in one process that nobody disturbed."""
    run = BatchRun.create(tmp_path_factory.mktemp("truth"), digits, PLAN)
    run.work(digits)
    return numbers(run.folder)


@pytest.fixture
def run(digits, tmp_path):
    return BatchRun.create(tmp_path / "run", digits, PLAN)


def begin(run, workers):
    """The run in a process of its own, in a group of its own."""
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(run.folder), str(workers)],
        env=paths, start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_lost_process_is_replaced_and_its_unit_done_again(run, truth, tmp_path, monkeypatch):
    monkeypatch.setenv("PULLBACK_TEST_MARKER", str(tmp_path / "marker"))
    told = []
    run.start(read_fragile, 2, tell=told.append)
    assert numbers(run.folder) == truth
    assert sorted(note["unit"] for note in told) == list(range(4))
    # One of two died and was replaced.
    assert len({note["worker"]["process"] for note in told}) == 3


def test_a_unit_that_kills_its_workers_is_noted_as_one_that_fails(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("pullback.runs.batch_crew.ATTEMPTS", 2)  # or it takes long
    one = BatchRun.create(tmp_path, digits, replace(PLAN, seeds=(0,), class_labels=None))
    one.start(read_deadly, 1)
    [failure] = one.status()["failures"]
    assert failure["error"] == "worker lost"
    assert "by signal 9" in failure["message"]
    assert failure["tried"] == 2


def test_what_a_worker_cannot_go_on_from_is_raised_here(run):
    with pytest.raises(ValueError, match=r"other settings: fingerprint"):
        run.start(read_other, 2)
    assert run.status()["failed"] == 0


@pytest.mark.slow
def test_runs_that_are_killed_at_random_moments_go_on(run, digits, truth):
    """A few of them; `python -m benchmarks kills` ends a hundred."""
    chance = random.Random(os.urandom(8))
    kept = {}
    for workers in (1, 2):
        process = begin(run, workers)
        await_units(run.folder, min(1 + len(kept), 4), process)
        time.sleep(chance.uniform(0, 0.5))
        # Workers end with the process that hands out units, when it alone is killed.
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)  # nobody holds the pipe of its errors any more
        now = stamps(run.folder)
        assert {name: now[name] for name in kept} == kept
        assert run.verify() == {}
        kept = now
    run.work(digits)
    assert numbers(run.folder) == truth
    assert {name: stamps(run.folder)[name] for name in kept} == kept


@pytest.mark.slow
def test_two_that_know_nothing_of_one_another_work_in_one_folder(run, truth):
    both = [begin(run, 1), begin(run, 1)]
    for process in both:
        assert process.wait(timeout=120) == 0, process.stderr.read()
    assert numbers(run.folder) == truth


@pytest.mark.slow
def test_actors_of_ray_one_of_which_is_killed(run, truth, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the actors need `pip install 'pullback[ray]'`")
    monkeypatch.setenv("PULLBACK_TEST_MARKER", str(tmp_path / "marker"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    told = []
    run.start(read_fragile, 2, ray=True, tell=told.append)
    assert numbers(run.folder) == truth
    assert sorted(note["unit"] for note in told) == list(range(4))
    assert (tmp_path / "marker").exists()


def test_ray_that_is_not_installed_is_said(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"not installed: pip install 'pullback\[ray\]'"):
        run.start(read_digits, 2, ray=True)
    assert not unit_path(run.folder, 0).exists()
