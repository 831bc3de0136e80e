"""The k x k numerics that both backends share, compiled for the host and called one by one."""

import ctypes

import numpy as np
import pytest

from tests.pullback_ext.numerics import COMPILER, int64, library, orthonormal, pointer

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module")
def numerics():
    return library()


# ------------------------------------------------------------------------------------------ random


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [  # the known answers of the authors' Random123 library
        ([0] * 4, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers(numerics, counter, key, want):
    words = np.array(counter, np.uint32)
    numerics.philox_words(ctypes.c_uint64(key), pointer(words))
    assert " ".join(f"{word:08x}" for word in words) == want


def gaussians(numerics, seed=0, row=0, columns=20001, draw=1):
    out = np.full(columns, np.nan, np.float32)
    numerics.gaussians(ctypes.c_uint64(seed), int64(row), int64(columns), draw, pointer(out))
    return out.astype(np.float64)


def test_gaussians_are_normal_and_independent(numerics):
    x = gaussians(numerics)
    assert np.isfinite(x).all()
    for power, want in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)]:
        error = (x**power).std() / len(x) ** 0.5
        assert abs((x**power).mean() - want) < 5 * error
    assert np.abs(x).max() > 3.5
    for other in (
        gaussians(numerics, seed=1),
        gaussians(numerics, seed=2**40),
        gaussians(numerics, row=1),
        gaussians(numerics, draw=2),
        np.roll(x, 1),
    ):
        assert abs((x * other).mean()) < 5 / len(x) ** 0.5
    np.testing.assert_array_equal(gaussians(numerics, columns=7), x[:7])


# ------------------------------------------------------------------------------------------ Jacobi


def eigen(numerics, matrix):
    n = len(matrix)
    a = np.full((n, n | 1), np.nan)
    lower = np.tril_indices(n)
    a[:, :n][lower] = matrix[lower]
    v, vectors = np.full((n, n), np.nan), np.full((n, n), np.nan)
    values, rotations = np.full(n, np.nan), np.full((n + 1, 2), np.nan)
    pairs = np.zeros((n + 1, 2), np.int32)
    numerics.eigen(int64(n), *map(pointer, (a, v, rotations, pairs, values, vectors)))
    return values, vectors


def matrices(n):
    rng = np.random.default_rng(n)
    random = rng.standard_normal((n, n))
    yield "symmetric", random + random.T
    yield "zero", np.zeros((n, n))
    yield "identity", np.eye(n)
    yield "diagonal", np.diag(rng.standard_normal(n))
    yield "all equal", np.ones((n, n))
    yield "negative", -random @ random.T
    graded = 10.0 ** -np.arange(n)
    yield "graded", graded[:, None] * (random @ random.T + n * np.eye(n)) * graded
    yield "huge", (random + random.T) * 1e300
    yield "tiny", (random + random.T) * 1e-300
    yield "arrow", np.eye(n) + np.eye(n)[0] + np.eye(n)[:, :1]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 16, 33, 96])
def test_jacobi_finds_eigenvalues_and_vectors(numerics, n):
    for name, matrix in matrices(n):
        matrix = (matrix + matrix.T) / 2
        values, vectors = eigen(numerics, matrix)
        size = max(np.abs(matrix).max() * n, 1e-320)
        want = np.linalg.eigvalsh(matrix / size)[::-1]
        np.testing.assert_allclose(values / size, want, atol=1e-13, err_msg=name)
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(n), atol=1e-12, err_msg=name)
        back = vectors.T @ (values[:, None] / size * vectors)
        np.testing.assert_allclose(back, matrix / size, atol=1e-13, err_msg=name)
        assert np.all(np.diff(values) <= 0), name
        peak = np.abs(vectors).argmax(1)
        assert np.all(vectors[np.arange(n), peak] > 0), name


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_jacobi_of_what_is_not_finite_is_nan(numerics, value):
    matrix = np.eye(5)
    matrix[3, 1] = matrix[1, 3] = value
    values, vectors = eigen(numerics, matrix)
    assert np.isnan(values).all()
    assert np.isnan(vectors).all()


def test_jacobi_keeps_small_eigenvalues_of_graded_matrices(numerics):
    """What LAPACK's tridiagonal methods lose: relative accuracy of the small eigenvalues."""
    n = 8
    graded = 10.0 ** -np.arange(0, 2 * n, 2)
    rng = np.random.default_rng(3)
    core = np.eye(n) + 0.1 * orthonormal(rng, n, n)
    core = core @ core.T
    values, _ = eigen(numerics, graded[:, None] * core * graded)
    half = np.linalg.cholesky(core).T * graded  # matrix = half^T half
    _, r = np.linalg.qr(half[:, ::-1])
    want = np.sort(np.linalg.svd(r, compute_uv=False) ** 2)[::-1]
    np.testing.assert_allclose(values[:4], want[:4], rtol=1e-8)
