"""ritz on CUDA, run thread by thread, and small matrices by teams of all sizes."""

import ctypes
from ctypes import Structure, c_int64, c_void_p

import numpy as np
import pytest

from tests.pullback_ext.emulation import emulated
from tests.pullback_ext.emulation.emulated import SCHEDULES, address, ritz

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler")


def symmetric(rng, batch, n):
    t = rng.standard_normal((batch, n, n))
    return t + t.transpose(0, 2, 1)


@pytest.mark.parametrize(("batch", "n"), [(2, 1), (4, 2), (1, 3), (7, 16), (4, 33), (1, 96)])
def test_eigenpairs_under_every_schedule(batch, n):
    rng = np.random.default_rng(n)
    t = symmetric(rng, batch, n)
    lower = np.tril(t) + np.triu(np.full((n, n), np.nan), 1)
    results = [ritz(lower, schedule=s) for s in SCHEDULES]
    for other in results[1:]:
        np.testing.assert_array_equal(other[0], results[0][0])
        np.testing.assert_array_equal(other[1], results[0][1])
    values, vectors = results[0]
    size = np.linalg.norm(t, 2, (1, 2)).max()
    np.testing.assert_allclose(values, np.linalg.eigvalsh(t)[:, ::-1], atol=1e-13 * size)
    np.testing.assert_allclose(
        vectors @ vectors.transpose(0, 2, 1), np.broadcast_to(np.eye(n), t.shape), atol=1e-13
    )
    np.testing.assert_allclose(vectors @ t, values[:, :, None] * vectors, atol=1e-13 * size)
    assert (np.take_along_axis(vectors, np.abs(vectors).argmax(2)[:, :, None], 2) > 0).all()
    alone = ritz(lower[-1:])
    np.testing.assert_array_equal(alone[1], vectors[-1:])


def test_special_matrices():
    t = np.stack([np.zeros((5, 5)), np.eye(5) * 1e-300, np.full((5, 5), 1e300), np.diag(range(5))])
    values, vectors = ritz(t)
    np.testing.assert_allclose(values[0], 0)
    np.testing.assert_array_equal(values[1], np.full(5, 1e-300))
    np.testing.assert_allclose(values[2], [5e300, 0, 0, 0, 0], atol=1e285)
    np.testing.assert_array_equal(values[3], [4, 3, 2, 1, 0])
    np.testing.assert_array_equal(vectors[3], np.eye(5)[::-1])


# ------------------------------------------------------------------------------------------- teams


class CholeskyQr(Structure):
    _fields_ = [
        ("k", c_int64),
        ("p", c_int64),
        ("s", c_void_p),
        ("pitch", c_int64),
        ("h", c_void_p),
        ("h_pitch", c_int64),
        *((name, c_void_p) for name in ("scratch", "distance", "given_up", "replaced")),
        ("residual", c_void_p),
        ("projection", c_void_p),
    ]


class Jacobi(Structure):
    _fields_ = [
        ("n", c_int64),
        ("a", c_void_p),
        ("pitch", c_int64),
        ("v", c_void_p),
        ("v_pitch", c_int64),
        *((name, c_void_p) for name in ("rotations", "pairs", "values", "vectors")),
    ]


TEAMS = (0, 1, 8, 32, 256)  # 0: one thread of the host


def passes(threads, a, p, count=3):
    """A few passes of float64 rows without rounding of theirs; every array of the last one."""
    k, n_p = len(a), len(p)
    pitch = k | 1
    arrays = {
        "s": np.full((k, pitch), np.nan),
        "h": np.full((k, n_p), np.nan),
        "scratch": np.full((6, k), np.nan),
        "distance": np.full(k, np.nan),
        "given_up": np.zeros(k, bool),
        "replaced": np.zeros(k, bool),
        "residual": np.full((k, k), np.nan),
        "projection": np.full((n_p, k), np.nan),
    }
    x = CholeskyQr(
        k=k, p=n_p, pitch=pitch, h_pitch=n_p, **{name: address(v) for name, v in arrays.items()}
    )
    exponent = np.zeros(k, np.int32)
    transform = np.full((k, k + n_p), np.nan, np.float32)
    last = np.zeros(1, bool)
    for number in range(1, count + 1):
        arrays["s"][:, :k] = np.tril(a @ a.T)
        arrays["h"][:] = a @ p.T
        emulated.launch(
            emulated.library().cholesky_qr_by_team,
            threads,
            ctypes.byref(x),
            c_void_p(address(exponent)),
            number,
            c_void_p(address(transform)),
            c_void_p(address(last)),
        )
        a = transform.astype(np.float64) @ np.concatenate([a, p])
    return {**arrays, "transform": transform, "last": last}


@pytest.mark.parametrize(("k", "p"), [(1, 0), (7, 3), (40, 9)])
def test_a_pass_is_the_same_for_every_team(k, p):
    rng = np.random.default_rng(k)
    rows = np.linalg.qr(rng.standard_normal((80, p)))[0].T
    a = rng.standard_normal((k, 80))
    a[k // 2 :] += 1e4 * a[0]
    want = passes(0, a, rows)
    for threads in TEAMS[1:]:
        got = passes(threads, a, rows)
        for name, array in want.items():
            np.testing.assert_array_equal(got[name], array, err_msg=f"{threads} threads: {name}")


@pytest.mark.parametrize("n", [1, 6, 21])
def test_an_eigen_decomposition_is_the_same_for_every_team(n):
    t = symmetric(np.random.default_rng(n), 1, n)[0]
    results = []
    for threads in TEAMS:
        a = np.full((n, n | 1), np.nan)
        a[:, :n] = t
        v, rotations = np.full((n, n), np.nan), np.full((n + 1, 2), np.nan)
        pairs = np.zeros((n + 1, 2), np.int32)
        values, vectors = np.full(n, np.nan), np.full((n, n), np.nan)
        x = Jacobi(
            n, address(a), n | 1, address(v), n,
            *map(address, (rotations, pairs, values, vectors)),
        )  # fmt: skip
        emulated.launch(emulated.library().jacobi_by_team, threads, ctypes.byref(x))
        results.append((values, vectors))
    for values, vectors in results[1:]:
        np.testing.assert_array_equal(values, results[0][0])
        np.testing.assert_array_equal(vectors, results[0][1])
