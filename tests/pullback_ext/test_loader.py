"""Loading: once, lean, and with a cause and a cure when it fails."""

import shutil
import subprocess
from pathlib import Path

import pytest

import pullback_ext
from pullback_ext import _loader

USE_TWICE = """
import sys, warnings, torch
# An editable install would find the library that the copy lacks.
sys.meta_path = [f for f in sys.meta_path if not getattr(f, "__name__", "").startswith("_Editable")]
{before}
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import pullback_ext
    a = torch.randn(2, 3, 40, requires_grad=True)
    with torch.no_grad():
        first, second = pullback_ext.gram(a), pullback_ext.gram(a, a)
        assert torch.equal(first, pullback_ext.reference.gram(a))
        torch.testing.assert_close(first, second)
    try:
        pullback_ext.gram(a)
        raise SystemExit("the guard is gone")
    except RuntimeError as error:
        assert "without derivatives" in str(error)
    assert torch.func.vmap(pullback_ext.gram)(torch.ones(5, 2, 3, 4)).shape == (5, 2, 3, 3)
assert not pullback_ext.available()
try:
    pullback_ext.build_info()
    raise SystemExit("build_info answered without a library")
except RuntimeError as error:
    print(error)
print(pullback_ext.why_unavailable())
texts = [str(w.message) for w in seen if w.category is RuntimeWarning]
assert len(texts) == 1, texts
print(texts[0])
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the Python part of the package, without the library; returns its parent."""
    source = Path(pullback_ext.__file__).parent
    shutil.copytree(
        source, tmp_path / "pullback_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    return tmp_path


def falls_back(result, *parts):
    """The reference served, and error, reason and the one warning all tell the cause and cure."""
    lines = result.stdout.strip().splitlines()
    assert len(lines) == 3
    for line in lines:
        for part in ("the native library of pullback is not loaded", *parts):
            assert part in line


def test_importing_does_not_initialise_cuda_or_start_threads(native, python):
    code = """
import os, sys, torch
mapped = lambda: "libcuda.so" in open("/proc/self/maps").read()
before, driver = len(os.listdir("/proc/self/task")), mapped()
import pullback_ext
assert pullback_ext.available() and pullback_ext.why_unavailable() is None
assert not torch.cuda.is_initialized()
assert len(os.listdir("/proc/self/task")) == before
assert mapped() == driver
heavy = {"diffusers", "numpy.testing", "scipy", "matplotlib", "pullback"} & set(sys.modules)
assert not heavy, heavy
print("lean")
"""
    assert python(code).stdout.strip() == "lean"


def test_the_library_is_opened_once(native):
    assert _loader.native() is native
    assert _loader.native() is _loader.native()
    assert _loader.failure() is None


def test_a_missing_library_is_replaced_by_the_reference(copy, python):
    result = python(USE_TWICE.format(before=""), path=str(copy))
    falls_back(result, "there is no _native module for this Python", "pip install")


def test_a_broken_library_is_replaced_by_the_reference(copy, binary, python):
    (copy / "pullback_ext" / binary.name).write_bytes(b"\x7fELF" + bytes(10_000))
    result = python(USE_TWICE.format(before=""), path=str(copy))
    falls_back(result, "it could not be opened (", binary.name, "pip install")


def test_loading_can_be_forbidden(native, python):
    result = python(USE_TWICE.format(before=""), PULLBACK_EXT_DISABLE="1")
    falls_back(result, "PULLBACK_EXT_DISABLE=1 forbids it", "unset PULLBACK_EXT_DISABLE")


def test_an_old_torch_is_named_before_the_library_is_opened(native, python):
    # A library opened all the same would leave its mark in the process.
    check = 'torch.__version__ = "2.9.1+cu126"'
    code = USE_TWICE.format(before=check)
    code += 'assert "pullback_ext/_native" not in open("/proc/self/maps").read()\n'
    result = python(code)
    falls_back(result, "needs torch 2.10 or newer and this is torch 2.9.1", '"torch>=2.10"')


@pytest.mark.parametrize(
    ("version", "release"),
    [("2.9.1", (2, 9)), ("2.10.0a0+git1", (2, 10)), ("2.13.0+cpu", (2, 13)), ("odd", (0, 0))],
)
def test_torch_versions_are_compared_as_numbers(version, release):
    assert _loader.torch_release(version) == release


def test_cuda_of_torch_is_found_although_python_hides_it(native, python, tmp_path):
    """libtorch_cuda.so is loaded with local scope, where a weak symbol does not see it."""
    source = tmp_path / "stub.c"
    source.write_text(
        "#include <stdint.h>\n"
        "int aoti_torch_get_current_cuda_stream(int32_t d, void** s) { *s = 0; return d; }\n"
    )
    stub = tmp_path / "libtorch_cuda.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to build a stand-in for libtorch_cuda.so")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", source, "-o", stub],
        check=True,
    )
    code = f"""
import ctypes, torch
if torch.version.cuda is None:
    ctypes.CDLL({str(stub)!r}, mode=ctypes.RTLD_LOCAL)
import pullback_ext
print(pullback_ext.build_info()["torch_has_cuda"])
"""
    assert python(code).stdout.strip() == "True"
