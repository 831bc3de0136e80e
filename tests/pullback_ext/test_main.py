"""python -m pullback_ext: report, JSON, exit codes, reasons."""

import json

import pytest
import torch

from pullback_ext import __main__ as command
from pullback_ext import _ops, build_info, reference


def test_reports_what_is_usable_and_ends_well(native, python):
    result = python("-m", "pullback_ext")
    out = result.stdout
    info = build_info()
    for text in (info["version"], info["compiler"], info["isa_in_use"], torch.__version__):
        assert text in out
    lines = [line for line in out.splitlines() if line.startswith("  gram ")]
    assert len(lines) % len(list(command.CASES["gram"](torch.device("cpu")))) == 0
    assert len(lines) > 0
    assert all(line.endswith("ok") for line in lines)


def test_json_holds_the_same(native, capsys):
    assert command.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["build"] == build_info()
    assert "cpu" in found["usable"]
    assert {row["op"] for row in found["kernels"]} == set(_ops.OPS)
    assert all(row["error"] <= row["bound"] for row in found["kernels"])
    if not torch.cuda.is_available():
        assert found["unusable"].keys() == {"cuda"}


def test_ends_with_1_when_nothing_is_usable(native, python):
    result = python("-m", "pullback_ext", check=False, PULLBACK_EXT_DISABLE="1")
    assert result.returncode == 1
    assert "PULLBACK_EXT_DISABLE=1 forbids it" in result.stdout
    assert "Traceback" not in result.stderr


def test_a_wrong_instruction_set_is_a_finding_and_no_traceback(native, python):
    result = python("-m", "pullback_ext", "--json", check=False, PULLBACK_ISA="mmx")
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert found["passed"] is False
    assert "got 'mmx'" in found["problem"]
    assert "got 'mmx'" in found["unusable"]["cpu"]
    assert found["kernels"] == []


def wrong(a, b=None):
    return reference.gram(a, b) * (1 + 1e-5)


def raising(a, b=None):
    raise ValueError("no such kernel image")


@pytest.mark.parametrize(
    ("twin", "problem"), [(wrong, "differs from the reference"), (raising, "no such kernel image")]
)
def test_a_kernel_that_disagrees_or_raises_fails_the_command(
    native, monkeypatch, capsys, twin, problem
):
    import dataclasses

    op = dataclasses.replace(_ops.OPS["gram"], reference=twin)
    monkeypatch.setitem(_ops.OPS, "gram", op)
    assert command.main([]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert problem in out


def test_a_kernel_that_is_not_repeatable_fails_the_command(native, monkeypatch):
    def noisy(a, b=None):
        return reference.gram(a, b) + 1e-9 * torch.rand(())

    monkeypatch.setattr(_ops, "overload", lambda name: noisy)
    case = next(command.CASES["gram"](torch.device("cpu")))
    row = command._run(_ops.OPS["gram"], case, torch.device("cpu"))
    assert not row.passed
    assert row.problem == "two runs differ"


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 0), ["80-real", "90-real", "90-virtual"], True),
        ((8, 6), ["80-real", "90-real", "90-virtual"], True),  # same major, newer minor
        ((9, 0), ["80-real", "90-real", "90-virtual"], True),
        ((10, 0), ["80-real", "90-real", "90-virtual"], True),  # through PTX
        ((12, 0), ["80-real", "90-real"], False),
        ((7, 5), ["80-real", "90-virtual"], False),
        ((8, 0), ["86-real"], False),
        ((8, 9), ["80"], True),
        ((12, 1), ["120-virtual"], True),
        ((9, 0), ["90a-real"], True),
        ((10, 0), ["90a"], False),  # a variant runs on its own kind only
        ((9, 0), [], False),
    ],
)
def test_which_gpu_runs_which_code(capability, architectures, runs):
    assert command.covers(capability, architectures) is runs


@pytest.mark.parametrize(
    ("built", "driver", "torch_cuda", "sees", "reason"),
    [
        (None, (13, 0), "13.0", True, "built without CUDA kernels"),
        ("13.0.88", None, "13.0", False, "no NVIDIA driver"),
        ("13.0.88", (12, 8), "12.8", True, "built with CUDA 13.0 and the driver supports 12.8"),
        ("13.0.88", (13, 0), None, False, "is built without CUDA: install one with it"),
        ("13.0.88", (13, 0), "13.0", False, "no usable GPU"),
        ("13.1.2", (13, 0), "13.0", True, None),  # minor versions are compatible
        ("12.8.1", (13, 0), "13.0", True, None),
    ],
)
def test_why_cuda_cannot_be_used(built, driver, torch_cuda, sees, reason):
    found = command.why_no_cuda(built, driver, torch_cuda, sees)
    if reason is None:
        assert found is None
    else:
        assert reason in found


def test_the_driver_version_is_read_without_a_gpu_too():
    version = command.driver_version()
    assert version is None or version >= (11, 0)
