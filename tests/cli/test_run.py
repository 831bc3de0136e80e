"""`pullback run`: begins, goes on, tells, checks, cancels."""

import hashlib
import json

import pytest

from pullback.cli.parsing import parse_prompts
from pullback.cli.progress import Reporter
from pullback.cli.tables import span
from pullback.runs import batch_worker, unit_path
from tests.cli.calls import done, refused

NEW = (
    "--model digits --samples 3 --batch 2 --rank 2 --quality draft -t 900 --memory 256MiB "
    "--threads 1"
).split()


@pytest.fixture
def start(call, tmp_path):
    """Runs `pullback run start` in a folder."""
    return lambda *args: call("run", "start", tmp_path / "run", *args)


def test_a_run_begins_and_goes_on_with_its_folder_alone(start, call, tmp_path):
    state = json.loads(done(start(*NEW, "--worker", "1/2", "--json")).stdout)
    assert (state["units"], state["done"], state["left"]) == (2, 1, 1)
    assert not unit_path(tmp_path / "run", 0).exists()
    result = done(start())
    assert "2 done" in result.stdout
    assert "2/2 units" in result.stderr
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["settings"]["tap"] == "mid_block"
    assert plan["settings"]["tol"] == 5e-2
    assert plan["source"] == {"model": "digits", "dtype": None, "call": []}
    # What is said again as it was is no other plan.
    assert done(start(*NEW, "--quiet")).stdout == ""
    status = call("run", "status", tmp_path / "run")
    assert "3 of 3" in done(status).stdout


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (("--rank", "3"), ["rank 2 (now 3)"]),
        (("--samples", "4", "--tol", "0.01"), ["seeds", "tol 0.05 (now 0.01)"]),
        (("--model", "other"), ["model digits (now other)"]),
        (("--class-label", "3"), ["class_labels None (now (3,))"]),
    ],
)
def test_another_plan_is_refused_by_what_differs(start, changed, names):
    done(start(*NEW, "--worker", "1/2"))
    refused(start(*changed), 1, "plan.json has other settings", "Choose another folder", *names)


def test_units_that_fail_are_told_and_tried_again(start, call, tmp_path, monkeypatch):
    compute = batch_worker.compute

    def failing(model, plan, unit, rows, watch):
        if unit.number == 1:
            raise ValueError("no such thing")
        return compute(model, plan, unit, rows, watch)

    with monkeypatch.context() as patch:
        patch.setattr(batch_worker, "compute", failing)
        result = start(*NEW, "--json")
    assert result.exit_code == 1
    assert "1 of 2 units failed" in result.stderr
    [failure] = json.loads(result.stdout)["failures"]
    assert (failure["error"], failure["message"]) == ("ValueError", "no such thing")
    assert "ValueError: no such thing" in call("run", "status", tmp_path / "run").stdout
    assert json.loads(done(call("run", "retry", tmp_path / "run", "--json")).stdout)["done"] == 2


def test_a_damaged_file_is_found_and_done_again(start, call, tmp_path):
    done(start(*NEW))
    path = unit_path(tmp_path / "run", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    result = call("run", "verify", tmp_path / "run")
    refused(result, 1, "is damaged", "unit-000001.damaged")
    done(start())
    assert path.read_bytes() == whole
    checked = json.loads(done(call("run", "verify", tmp_path / "run", "--json")).stdout)
    assert (checked["checked"], checked["damaged"]) == (2, {})


def test_cancelling_and_going_on(start, call, tmp_path):
    done(start(*NEW, "--worker", "0/2"))
    assert "nobody begins" in done(call("run", "cancel", tmp_path / "run")).stdout
    assert "cancelled" in done(call("run", "status", tmp_path / "run")).stdout
    refused(start(), 1, "is cancelled", "pullback run retry")
    assert "2 done" in done(call("run", "retry", tmp_path / "run")).stdout


def test_prompts_are_read_from_a_file(start, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n  a dog \n")
    refused(start(*NEW, "--prompts", path), 1, "prompt")  # the digit model takes none
    path.write_text("\n")
    refused(start(*NEW, "--prompts", path), 2, "has no prompts")
    refused(start(*NEW, "--prompts", path, "--prompt", "a"), 2, "--prompt or --prompts")
    refused(start(*NEW, "--prompts", tmp_path / "none"), 2, "cannot be read")


def test_the_plan_tells_the_file_of_prompts_by_its_hash_alone(tmp_path):
    """Of whatever place it was read from."""
    (tmp_path / "other").mkdir()
    one, two = tmp_path / "prompts.txt", tmp_path / "other" / "words.txt"
    for path in (one, two):
        path.write_bytes(b"a cat\n\n  a dog \n")
    found = parse_prompts(None, one)
    assert found == parse_prompts(None, two)
    assert found["prompts"] == ("a cat", "a dog")
    assert found["prompts_hash"] == hashlib.sha256(one.read_bytes()).hexdigest()
    two.write_bytes(b"a cat\na dog")
    again = parse_prompts(None, two)
    assert again["prompts"] == found["prompts"]
    assert again["prompts_hash"] != found["prompts_hash"]
    assert parse_prompts(["a cat"], None) == {"prompts": ("a cat",), "prompts_hash": None}
    assert parse_prompts(None, None) == {}


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ((), 2, ["--model"]),
        ((*NEW, "--worker", "2/2"), 2, ["i from 0 to n - 1", "'2/2'"]),
        ((*NEW, "--worker", "0/2", "--workers", "2"), 2, ["--worker, or --workers"]),
        ((*NEW, "--seeds", "1"), 2, ["--samples or --seeds"]),
        ((*NEW, "-t", "200,900"), 1, ["from the largest to the smallest"]),
        ((*NEW, "--map", "noise", "--tap", "mid_block"), 2, ["no tap"]),
    ],
)
def test_wrong_usage(start, args, code, words):
    refused(start(*args), code, *words)


@pytest.mark.parametrize("command", ["status", "verify", "cancel", "retry"])
def test_a_folder_without_a_run(call, tmp_path, command):
    refused(call("run", command, tmp_path), 1, "no run in", "pullback run start")


def test_times_that_are_left():
    assert [span(s) for s in (3.4, 600, 7290)] == ["about 3 s", "about 10 min", "about 2 h 2 min"]


def test_the_time_left_follows_the_units(capsys, monkeypatch):
    clock = iter([0.0, 600.0, 1200.0])
    monkeypatch.setattr("pullback.cli.progress.time.monotonic", lambda: next(clock, 1200.0))
    with Reporter(quiet=False).units(12, 4) as told:
        told({"unit": 0, "seconds": 1.0})
        told({"unit": 1, "errors": []})
    shown = capsys.readouterr().err
    assert "6/12 units" in shown
    assert "about 60 min left" in shown
    assert "1 failed" in shown
