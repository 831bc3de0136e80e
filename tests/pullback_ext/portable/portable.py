"""Builds the portable CPU kernels, which no library for x86-64 holds, for the host.

Give :func:`library` as ``kernels`` to the functions of ``emulation/emulated.py``.
"""

import atexit
import ctypes
import functools
import shutil
import subprocess
import tempfile
from ctypes import c_char_p, c_int64, c_size_t
from pathlib import Path

from tests.pullback_ext.emulation.emulated import COMPILER, CSRC

HERE = Path(__file__).parent
KERNELS = ("attention", "gram", "normalize_tangents", "orthonormalize", "squared_singular_values")


@functools.cache
def library():
    """The portable kernels with the drivers of csrc/cpu, on one thread and without torch."""
    folder = Path(tempfile.mkdtemp(prefix="pullback-portable-"))
    atexit.register(shutil.rmtree, folder)
    command = [COMPILER, "-std=c++20", "-O2", "-fPIC", "-shared", f"-I{HERE}", f"-I{CSRC}"]
    # The drivers choose by instruction set, and on x86-64 have these names alone to choose from.
    command += [
        f"-D{op}_items_{isa}={op}_items_portable" for op in KERNELS for isa in ("avx2", "avx512")
    ]
    sources = [CSRC / "cpu" / f"{op}{part}.cpp" for op in KERNELS for part in ("", "_portable")]
    target = folder / "portable.so"
    run = subprocess.run(
        [*command, HERE / "portable.cpp", *sources, "-o", target],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = ctypes.CDLL(str(target))
    found.gram_plan.restype = found.normalize_tangents_plan.restype = c_int64
    found.orthonormalize_plan.restype = c_size_t
    for op in KERNELS:
        getattr(found, op).restype = c_char_p
    return found
