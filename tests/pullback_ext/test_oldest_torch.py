"""The sources keep to what the oldest torch has, whatever torch they are built with here.

A newer torch's headers do not tell which of their names are new: `STABLE_TORCH_ERROR_CODE_CHECK`
is there for every target. The compiled symbols are looked at in test_binary.py.
"""

import re
from pathlib import Path

import pytest
import torch

from pullback_ext import _loader

# Found in the headers of torch 2.10.0. Before a name is added here, look it up in them.
HEADERS = {
    "torch/csrc/inductor/aoti_torch/c/shim.h",
    "torch/csrc/stable/accelerator.h",
    "torch/csrc/stable/library.h",
    "torch/csrc/stable/ops.h",
    "torch/csrc/stable/tensor.h",
    "torch/headeronly/core/ScalarType.h",
    "torch/headeronly/util/shim_utils.h",
    "torch/headeronly/version.h",
}
MACROS = {
    "AOTI_TORCH_SUCCESS",
    "STABLE_TORCH_LIBRARY",
    "STABLE_TORCH_LIBRARY_IMPL",
    "TORCH_ABI_VERSION",
    "TORCH_BOX",
    "TORCH_ERROR_CODE_CHECK",
    "TORCH_VERSION",
}
NAMES = {
    "headeronly::IntHeaderOnlyArrayRef",
    "headeronly::ScalarType",
    "headeronly::toString",
    "stable::Tensor",
    "stable::accelerator::DeviceGuard",
    "stable::contiguous",
    "stable::copy_",
    "stable::detail::from",
    "stable::detail::to",
    "stable::empty_like",
    "stable::get_num_threads",
    "stable::new_empty",
    "stable::new_zeros",
    "stable::parallel_for",
    "stable::to",
    "stable::transpose",
}
OURS = {"TORCH_TARGET_VERSION"}  # set by CMakeLists.txt, read by torch

CURE = "look it up in the headers of the oldest torch, and add it to this file or do without it"


@pytest.fixture(scope="module")
def source(repository):
    files = [path for path in (repository / "csrc").rglob("*") if path.suffix in (".h", ".cpp")]
    text = "\n".join(path.read_text() for path in sorted(files))
    return re.sub(r"//.*", "", text)


def test_no_header_is_newer_than_the_oldest_torch(source):
    included = set(re.findall(r"#include\s*[<\"]((?:torch|c10|ATen)/[^>\"]+)", source))
    assert included - HEADERS == set(), CURE


def test_no_macro_is_newer_than_the_oldest_torch(source):
    macros = set(re.findall(r"\b(?:\w+_)?TORCH_[A-Z0-9_]+\b", source))
    assert macros - MACROS - OURS == set(), CURE


def test_no_name_is_newer_than_the_oldest_torch(source):
    names = set(re.findall(r"\btorch::([\w:]*\w)", source))
    assert names - NAMES == set(), CURE


@pytest.mark.skipif(
    _loader.torch_release(torch.__version__) != _loader.OLDEST_TORCH,
    reason="the lists can be compared with the oldest torch only where it is installed",
)
def test_the_oldest_torch_has_every_name():
    include = Path(torch.__file__).parent / "include"
    assert [header for header in HEADERS if not (include / header).is_file()] == []
    parts = ("csrc/stable", "headeronly", "csrc/inductor/aoti_torch/c")
    text = "\n".join(
        path.read_text() for part in parts for path in (include / "torch" / part).rglob("*.h")
    )
    known = MACROS | {name.rpartition("::")[2] for name in NAMES}
    assert [name for name in known if not re.search(rf"\b{name}\b", text)] == []
