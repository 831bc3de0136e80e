"""CMakeLists.txt: what it asks for, and what it says when that is missing."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def tool(name):
    """An executable of this environment or of the system."""
    return shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)


pytestmark = pytest.mark.skipif(
    not (tool("cmake") and tool("ninja") and tool("c++")),
    reason="configuring needs cmake, ninja and a C++ compiler",
)


@pytest.fixture
def configure(repository, tmp_path):
    """Runs the configuration step with changed options."""
    pybind11 = pytest.importorskip("pybind11", reason="the module is built with pybind11")

    def run(environment=None, **options):
        defaults = {
            "PULLBACK_CUDA": "OFF",
            "PULLBACK_TORCH_DIR": Path(torch.__file__).parent,
            "PULLBACK_PYTHON_INCLUDE": sysconfig.get_paths()["include"],
            "PULLBACK_PYBIND11_INCLUDE": pybind11.get_include(),
            "PULLBACK_EXT_SUFFIX": SUFFIX,
            "PULLBACK_OUTPUT_DIR": tmp_path / "out",
            "PULLBACK_VERSION": "1.2.3",
            "CMAKE_MAKE_PROGRAM": tool("ninja"),
        }
        command = [tool("cmake"), "-G", "Ninja", "-S", repository, "-B", tmp_path / "build"]
        command += [f"-D{key}={value}" for key, value in {**defaults, **options}.items()]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("CUDA")}
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**kept, **(environment or {})},
        )
        return result.returncode, " ".join((result.stdout + result.stderr).split())

    return run


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("PULLBACK_TORCH_DIR", "/nowhere", "torch >= 2.10 (its headers) was expected at"),
        ("PULLBACK_PYTHON_INCLUDE", "/nowhere", "apt-get install python3-dev"),
        ("PULLBACK_PYBIND11_INCLUDE", "/nowhere", "pip install pybind11"),
        ("PULLBACK_CUDA", "MAYBE", "expected to be AUTO, ON or OFF, got 'MAYBE'"),
    ],
)
def test_what_is_missing_is_named_with_its_cure(configure, option, value, said):
    code, out = configure(**{option: value})
    assert code != 0
    assert "pullback: " in out
    assert said in out


def test_on_without_a_toolkit_fails_in_one_sentence(configure):
    code, out = configure(PULLBACK_CUDA="ON", CMAKE_CUDA_COMPILER="/nowhere/nvcc")
    assert code != 0
    assert "PULLBACK_CUDA=ON needs a CUDA toolkit (nvcc) and there is no /nowhere/nvcc" in out
    assert "or build with PULLBACK_CUDA=OFF" in out


def test_auto_without_a_toolkit_leaves_the_kernels_out(configure):
    code, out = configure(PULLBACK_CUDA="AUTO", CMAKE_CUDA_COMPILER="/nowhere/nvcc")
    assert code == 0, out
    assert "the CUDA kernels are left out" in out
    assert "there is no /nowhere/nvcc" in out
    assert "pullback: CUDA kernels OFF" in out


@pytest.mark.parametrize("mode", ["AUTO", "ON"])
def test_a_toolkit_is_taken_only_by_name(configure, tmp_path, mode):
    """The search is that of build_tools; a second one could come to another answer."""
    toolkit = tmp_path / "toolkit/bin"
    toolkit.mkdir(parents=True)
    nvcc = toolkit / "nvcc"
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    nvcc.chmod(0o755)
    code, out = configure(
        PULLBACK_CUDA=mode,
        environment={
            "CUDACXX": str(nvcc),
            "CUDA_HOME": str(toolkit.parent),
            "PATH": f"{toolkit}{os.pathsep}{os.environ['PATH']}",
        },
    )
    assert (code == 0) == (mode == "AUTO"), out
    assert "a CUDA toolkit (nvcc) and none is named" in out
    assert "pass -DCMAKE_CUDA_COMPILER=<toolkit>/bin/nvcc" in out
    assert str(nvcc) not in out


def test_auto_with_a_broken_toolkit_leaves_the_kernels_out(configure, tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    nvcc.chmod(0o755)
    code, out = configure(PULLBACK_CUDA="AUTO", CMAKE_CUDA_COMPILER=nvcc)
    assert code == 0, out
    assert f"{nvcc} compiles nothing" in out
    assert "pullback: CUDA kernels OFF" in out


def test_pybind11_is_not_the_copy_that_torch_brings(configure, tmp_path):
    """That of torch 2.10 refuses to be included where only the stable ABI is used."""
    import pybind11

    code, out = configure(CMAKE_EXPORT_COMPILE_COMMANDS="ON")
    assert code == 0, out
    steps = json.loads((tmp_path / "build/compile_commands.json").read_text())
    (step,) = (step for step in steps if step["file"].endswith("csrc/module.cpp"))
    flags = [word for word in shlex.split(step["command"]) if not word.endswith(".o")]
    flags = [word for word in flags if word not in ("-c", "-o")]
    rule = subprocess.run(
        [*flags, "-M"], cwd=step["directory"], capture_output=True, text=True, check=True
    ).stdout
    used = {Path(word) for word in rule.split() if word.endswith("pybind11/pybind11.h")}
    assert used == {Path(pybind11.get_include()) / "pybind11/pybind11.h"}
