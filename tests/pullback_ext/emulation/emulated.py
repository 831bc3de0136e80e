"""Builds the CUDA kernels for the host (emulation.h) and calls their launchers on NumPy arrays."""

import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from ctypes import Structure, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "csrc"
COMPILER = shutil.which("g++") or shutil.which("c++")

FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = range(4)
ITEM = {FLOAT32: np.float32, FLOAT64: np.float64, FLOAT16: np.float16, BFLOAT16: np.uint16}
SCHEDULES = {"ascending": 0, "descending": 1, "warp-skewed": 2}


class Rows(Structure):
    _fields_ = [("data", c_void_p), ("rows", c_int64), ("strides", c_int64 * 3)]


class Splits(Structure):
    _fields_ = [("count", c_int64), ("columns", c_int64)]


class GramParams(Structure):
    _fields_ = [
        ("a", Rows),
        ("b", Rows),
        ("symmetric", c_bool),
        ("dtype", c_int),
        ("batch", c_int64),
        ("columns", c_int64),
        ("splits", Splits),
        ("partial", c_void_p),
        ("out", c_void_p),
        ("device", c_int),
    ]


class OrthonormalizeParams(Structure):
    _fields_ = [
        ("block", Rows),
        ("against", Rows * 2),
        ("dtype", c_int),
        ("working_dtype", c_int),
        ("batch", c_int64),
        ("columns", c_int64),
        ("seed", c_uint64),
        ("splits", Splits),
        ("q", c_void_p),
        ("rank", c_void_p),
        ("replaced", c_void_p),
        ("passes", c_void_p),
        ("residual", c_void_p),
        ("projection", c_void_p),
        ("workspace", c_void_p),
        ("device", c_int),
    ]


class RitzParams(Structure):
    _fields_ = [
        ("t", c_void_p),
        ("batch", c_int64),
        ("n", c_int64),
        ("values", c_void_p),
        ("vectors", c_void_p),
        ("workspace", c_void_p),
        ("device", c_int),
    ]


class SquaredSingularValuesParams(Structure):
    _fields_ = [
        ("c", Rows),
        ("dtype", c_int),
        ("matrices", c_int64),
        ("columns", c_int64),
        ("out", c_void_p),
        ("device", c_int),
    ]


class NormalizeTangentsParams(Structure):
    _fields_ = [
        ("t", c_void_p),
        ("normalized", c_void_p),
        ("scale", c_void_p),
        ("gain", c_void_p),
        ("out", c_void_p),
        ("dtype", c_int),
        ("tangents", c_int64),
        ("batch", c_int64),
        ("groups", c_int64),
        ("channels", c_int64),
        ("positions", c_int64),
        ("t_strides", c_int64 * 3),
        ("out_strides", c_int64 * 3),
        ("normalized_strides", c_int64 * 2),
        ("gain_strides", c_int64 * 4),
        ("channels_last", c_bool),
        ("centered", c_bool),
        ("transposed", c_bool),
        ("partial", c_void_p),
        ("aligned", c_bool),
        ("device", c_int),
    ]


class Site(NamedTuple):
    """A place where threads wait for each other."""

    number: int
    file: str
    function: str
    line: int


@functools.cache
def build():
    """Path of the kernels, compiled for the host as they are."""
    folder = Path(tempfile.mkdtemp(prefix="pullback-emulation-"))
    atexit.register(shutil.rmtree, folder)
    command = [COMPILER, "-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    command += ["-Wno-unknown-pragmas", "-DPULLBACK_EMULATION"]
    command += [f"-I{CSRC}", f"-I{HERE}", "-x", "c++", "-c"]

    def compiled(source):
        target = folder / f"{source.stem}-{source.suffix[1:]}.o"
        run = subprocess.run(
            [*command, source, "-o", target], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        return target

    with ThreadPoolExecutor(2) as pool:
        sources = sorted([*(CSRC / "cuda").glob("*.cu"), *HERE.glob("*.cpp")])
        objects = list(pool.map(compiled, sources))
    target = folder / "emulated.so"
    subprocess.run([COMPILER, "-shared", *objects, "-o", target], check=True)
    return target


@functools.cache
def library():
    """The emulated kernels; ``PULLBACK_EMULATION`` may name a library that is built already."""
    found = ctypes.CDLL(os.environ.get("PULLBACK_EMULATION") or str(build()))
    for name in (
        "attention",
        "gram",
        "normalize_tangents",
        "orthonormalize",
        "ritz",
        "squared_singular_values",
        "cholesky_qr_by_team",
        "jacobi_by_team",
        "misuse",
    ):
        getattr(found, name).restype = c_char_p
    for name in ("site_file", "site_function", "stop_recording"):
        getattr(found, name).restype = c_char_p
    found.gram_plan.restype = found.normalize_tangents_plan.restype = c_int64
    found.orthonormalize_plan.restype = c_size_t
    found.site_passed.restype = c_int64
    return found


class EmulationError(Exception):
    """What a launcher returned."""


def launch(function, *arguments, schedule=0, kernels=None):
    (kernels or library()).set_schedule(SCHEDULES.get(schedule, schedule))
    error = function(*arguments)
    if error is not None:
        raise EmulationError(error.decode())


def passed():
    """How often whole blocks or warps met at every site so far; none of those never reached."""
    lib = library()
    counts = {}
    for i in range(lib.sites()):
        site = Site(i, lib.site_file(i).decode(), lib.site_function(i).decode(), lib.site_line(i))
        counts[site] = lib.site_passed(i)
    return {site: count for site, count in counts.items() if count > 0}


class Launch(NamedTuple):
    """One kernel that a launcher enqueued."""

    kernel: str
    grid: int
    block: int
    shared: int


def recorded(function, params):
    """What a launcher enqueues for these parameters. Nothing runs: pointers may be null."""
    library().start_recording()
    try:
        launch(function, ctypes.byref(params))
    finally:
        lines = library().stop_recording().decode().splitlines()
    return [Launch(line.split()[0], *map(int, line.split()[1:])) for line in lines]


def address(array):
    return None if array is None else array.ctypes.data


def rows_of(x):
    strides = (c_int64 * 3)(*(s // x.itemsize for s in x.strides))
    return Rows(x.ctypes.data, x.shape[1], strides)


def gram(dtype, a, b=None, schedule=0, kernels=None):
    """Runs the launcher on arrays of any strides; results start as NaN.

    ``kernels``: a library with the same interface, in place of the emulated one.
    """
    kernels = kernels or library()
    params = GramParams(a=rows_of(a), b=rows_of(a if b is None else b))
    params.symmetric, params.dtype = b is None, dtype
    params.batch, params.columns = a.shape[0], a.shape[2]
    k, p = params.a.rows, params.b.rows
    splits = kernels.gram_plan(ctypes.byref(params))
    partial = np.full((a.shape[0], splits, k, p), np.nan)
    out = np.full((a.shape[0], k, p), np.nan)
    params.partial, params.out = address(partial), address(out)
    launch(kernels.gram, ctypes.byref(params), schedule=schedule, kernels=kernels)
    return out


class Orthonormal(NamedTuple):
    """What orthonormalize gives."""

    q: np.ndarray
    rank: np.ndarray
    replaced: np.ndarray
    passes: np.ndarray
    residual: np.ndarray
    projection: np.ndarray


def orthonormalize(dtype, block, *against, seed=0, schedule=0, factors=True, kernels=None):
    """Results and workspace start as NaN, and the workspace ends in a guard zone.

    ``factors``: whether residual and projection are asked for, as block_step does. ``kernels``: as
    for gram().
    """
    kernels = kernels or library()
    batch, k, columns = block.shape
    p = sum(x.shape[1] for x in against)
    work = np.float64 if dtype == FLOAT64 else np.float32
    out = Orthonormal(
        np.full((batch, k, columns), np.nan, work),
        np.full(batch, -9, np.int64),
        np.full((batch, k), 255, np.uint8).view(bool),
        np.full(batch, 99, np.int32),
        np.full((batch, k, k), np.nan),
        np.full((batch, p, k), np.nan),
    )
    params = OrthonormalizeParams(block=rows_of(block), dtype=dtype, seed=seed)
    for i, x in enumerate(against):
        assert x.dtype == work
        params.against[i] = rows_of(x)
    params.working_dtype = FLOAT64 if dtype == FLOAT64 else FLOAT32
    params.batch, params.columns = batch, columns
    for name, array in out._asdict().items():
        if factors or name not in ("residual", "projection"):
            setattr(params, name, address(array))
    size = kernels.orthonormalize_plan(ctypes.byref(params))
    memory = np.full(size + 256, 255, np.uint8)
    start = -memory.ctypes.data % 16
    params.workspace = memory.ctypes.data + start
    launch(kernels.orthonormalize, ctypes.byref(params), schedule=schedule, kernels=kernels)
    assert (memory[start + size :] == 255).all(), "write behind the workspace"
    return out


def ritz(t, schedule=0):
    """Values and vectors of a batch [B, n, n]."""
    batch, n, _ = t.shape
    values, vectors, work = (np.full(s, np.nan) for s in ((batch, n), t.shape, t.shape))
    params = RitzParams(address(t), batch, n, address(values), address(vectors), address(work))
    launch(library().ritz, ctypes.byref(params), schedule=schedule)
    return values, vectors


def squared_singular_values(c, schedule=0, kernels=None):
    """Values of a batch [P, m, n], m <= n, of any strides; `kernels`: as for gram()."""
    kernels = kernels or library()
    out = np.full(c.shape[:2], np.nan)
    dtype = FLOAT64 if c.dtype == np.float64 else FLOAT32
    params = SquaredSingularValuesParams(rows_of(c), dtype, len(c), c.shape[2], address(out))
    launch(
        kernels.squared_singular_values, ctypes.byref(params), schedule=schedule, kernels=kernels
    )
    return out


def normalize_tangents(
    dtype, t, normalized, scale, gain=None, *flags, channels_last=False, schedule=0, kernels=None
):
    """Runs the launcher on t [k, B, G, Cg, P] in one of the two memory orders, any strides between.

    ``flags``: centered and transposed. ``kernels``: as for gram(). Results start as NaN and end in
    a guard zone, as the workspace does.
    """
    kernels = kernels or library()
    k, batch, groups, channels, positions = t.shape
    size = k * batch * groups * channels * positions
    memory = np.full(size + 64, 255, np.uint8).repeat(t.itemsize).view(t.dtype)
    out = memory[:size].reshape(t.shape)
    if channels_last:
        out = memory[:size].reshape(k, batch, positions, groups, channels).transpose(0, 1, 3, 4, 2)

    def strides(x, count):
        return (c_int64 * count)(
            *(0 if n == 1 else s // x.itemsize for s, n in zip(x.strides, x.shape, strict=True))
        )

    params = NormalizeTangentsParams(
        address(t), address(normalized), address(scale), address(gain), address(out), dtype,
        *t.shape, strides(t[..., 0, 0], 3), strides(out[..., 0, 0], 3),
        strides(normalized[..., 0, 0], 2),
    )  # fmt: skip
    if gain is not None:
        params.gain_strides = strides(gain, 4)
    params.channels_last = channels_last
    params.centered, params.transposed = flags or (True, False)
    partial = np.full(kernels.normalize_tangents_plan(ctypes.byref(params)) + 32, np.nan)
    params.partial = address(partial)
    launch(kernels.normalize_tangents, ctypes.byref(params), schedule=schedule, kernels=kernels)
    assert (memory[size:].view(np.uint8) == 255).all(), "write behind the result"
    assert np.isnan(partial[-32:]).all(), "write behind the workspace"
    return out


def wide(dtype, x):
    """In float64."""
    if dtype == BFLOAT16:
        with np.errstate(invalid="ignore"):  # signalling NaN
            return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


def narrow(dtype, x):
    """To the entries of `dtype`; bfloat16 by cutting digits off."""
    if dtype == BFLOAT16:
        return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(ITEM[dtype])


def orthonormal_rows(rng, batch, p, columns, item=np.float32):
    q = np.linalg.qr(rng.standard_normal((batch, columns, p)))[0]
    return np.ascontiguousarray(q.transpose(0, 2, 1)).astype(item)
