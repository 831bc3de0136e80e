"""The k x k numerics of csrc/numerics, compiled for the host (numerics.cpp)."""

import atexit
import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
COMPILER = shutil.which("g++") or shutil.which("c++")


@functools.cache
def library():
    """The functions of numerics.cpp; what is undefined behaviour ends the process."""
    folder = Path(tempfile.mkdtemp(prefix="pullback-numerics-"))
    atexit.register(shutil.rmtree, folder)
    target = folder / "numerics.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    flags += ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    include = f"-I{HERE.parents[1] / 'csrc'}"
    subprocess.run([COMPILER, *flags, include, HERE / "numerics.cpp", "-o", target], check=True)
    found = ctypes.CDLL(str(target))
    found.qr_pass.restype = ctypes.c_int
    return found


def pointer(array):
    return None if array is None else ctypes.c_void_p(array.ctypes.data)


def int64(value):
    return ctypes.c_int64(value)


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.standard_normal((columns, rows)))[0].T


class CholeskyQr:
    """The state of one block; `one_pass` answers with the transform and whether it is the last."""

    def __init__(self, k, p, exponents=None, *, single=True):
        self.k, self.p, self.single = k, p, single
        self.scratch = np.full((6, k), np.nan)
        self.distance = np.full(k, np.nan)
        self.given_up, self.replaced = np.ones(k, bool), np.ones(k, bool)
        self.residual, self.projection = np.full((k, k), np.nan), np.full((p, k), np.nan)
        exponents = np.zeros(k, np.int32) if exponents is None else exponents
        library().qr_start(
            int64(k), int64(p), *map(pointer, (self.distance, self.replaced, self.residual)),
            pointer(self.projection), pointer(exponents),
        )  # fmt: skip

    def one_pass(self, gram, cross, number):
        k, p = self.k, self.p
        s = np.full((k, k | 1), np.nan)
        lower = np.tril_indices(k)
        s[:, :k][lower] = gram[lower]  # the upper triangle is not read
        cross = np.ascontiguousarray(cross)
        transform = np.full((k, k + p), np.nan, np.float32 if self.single else np.float64)
        state = (self.distance, self.given_up, self.replaced, self.residual, self.projection)
        last = library().qr_pass(
            int(self.single), int64(k), int64(p), pointer(s), pointer(cross if p else None),
            pointer(self.scratch), *map(pointer, state), number, pointer(transform),
        )  # fmt: skip
        return transform.astype(np.float64), bool(last)
