"""The k x k numerics that both backends share, compiled for the host and called one by one."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).parent / "numerics.cpp"
COMPILER = shutil.which("g++") or shutil.which("c++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module")
def numerics(repository, tmp_path_factory):
    target = tmp_path_factory.mktemp("numerics") / "numerics.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    flags += ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    include = f"-I{repository / 'csrc'}"
    subprocess.run([COMPILER, *flags, include, SOURCE, "-o", target], check=True)
    library = ctypes.CDLL(str(target))
    library.qr_pass.restype = ctypes.c_int
    return library


def pointer(array):
    return None if array is None else ctypes.c_void_p(array.ctypes.data)


def int64(value):
    return ctypes.c_int64(value)


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


# ------------------------------------------------------------------------------------- Cholesky QR


class CholeskyQr:
    """The state of one block; `one_pass` answers with the transform and whether it is the last."""

    def __init__(self, library, k, p, exponents=None, *, single=True):
        self.library, self.k, self.p, self.single = library, k, p, single
        self.scratch = np.full((5, k), np.nan)
        self.distance = np.full(k, np.nan)
        self.given_up, self.replaced = np.ones(k, bool), np.ones(k, bool)
        self.residual, self.projection = np.full((k, k), np.nan), np.full((p, k), np.nan)
        exponents = np.zeros(k, np.int32) if exponents is None else exponents
        library.qr_start(
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
        last = self.library.qr_pass(
            int(self.single), int64(k), int64(p), pointer(s), pointer(cross if p else None),
            pointer(self.scratch), *map(pointer, state), number, pointer(transform),
        )  # fmt: skip
        return transform.astype(np.float64), bool(last)


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.standard_normal((columns, rows)))[0].T


@pytest.mark.parametrize("k", [1, 2, 5, 16, 33])
@pytest.mark.parametrize("p", [0, 1, 7])
def test_a_pass_is_cholesky_qr_of_the_projected_block(numerics, k, p):
    rng = np.random.default_rng(k + p)
    others, block = orthonormal(rng, p, 300), rng.standard_normal((k, 300))
    state = CholeskyQr(numerics, k, p, single=False)
    transform, last = state.one_pass(block @ block.T, block @ others.T, 1)
    q = transform @ np.vstack([block, others])
    np.testing.assert_allclose(q @ q.T, np.eye(k), atol=1e-13)
    np.testing.assert_allclose(q @ others.T, 0, atol=1e-13)
    assert np.all(np.triu(transform[:, :k], 1) == 0)
    assert np.all(np.diag(transform[:, :k]) > 0)
    assert last == (p == 0)  # with others: twice, always
    assert not state.given_up.any()
    assert not state.replaced.any()
    back = state.residual @ q + state.projection.T @ others
    np.testing.assert_allclose(back, block, atol=1e-12)
    _, last = state.one_pass(q @ q.T, q @ others.T, 2)
    assert last


def test_weak_directions_are_amplified_and_not_replaced(numerics):
    rng = np.random.default_rng(0)
    rows = orthonormal(rng, 3, 200)
    block = np.stack([rows[0], rows[0] + 1e-5 * rows[1], rows[2] + rows[1]])
    state = CholeskyQr(numerics, 3, 0)
    transform, last = state.one_pass(block @ block.T, np.zeros((3, 0)), 1)
    assert not last
    assert not state.given_up.any()
    q = transform @ block
    assert abs(q[1] @ q[0]) < 1e-7 * abs(q[1] @ rows[1])  # what is left is the weak direction ...
    assert transform[2, 1] == 0  # ... of which no other row has been freed yet
    for number in range(2, 5):
        transform, last = state.one_pass(q @ q.T, np.zeros((3, 0)), number)
        q = transform @ q
        if last:
            break
    np.testing.assert_allclose(q @ q.T, np.eye(3), atol=3e-6)
    np.testing.assert_allclose(np.abs(q @ rows.T).round(4), np.eye(3))
    np.testing.assert_allclose(state.residual @ q, block, atol=1e-6)
    assert not state.replaced.any()


def test_zero_and_dependent_rows_are_given_up(numerics):
    rng = np.random.default_rng(1)
    block = rng.standard_normal((5, 100))
    block[1] = 0
    block[3] = 2 * block[0]
    exponents = np.array([0, 0, 3, -2, 0], np.int32)
    state = CholeskyQr(numerics, 5, 0, exponents)
    current, number, replaced = block, 1, np.zeros(5, bool)
    while True:
        transform, last = state.one_pass(current @ current.T, np.zeros((5, 0)), number)
        assert np.isfinite(transform).all()
        current = transform @ current
        current[state.given_up] = rng.standard_normal((state.given_up.sum(), 100)) / 10
        replaced |= state.given_up
        if last:
            break
        number += 1
    assert number < 8
    np.testing.assert_array_equal(state.replaced, [False, True, False, True, False])
    np.testing.assert_array_equal(state.replaced, replaced)
    np.testing.assert_allclose(current @ current.T, np.eye(5), atol=3e-6)
    scaled = block * 2.0 ** exponents[:, None]
    np.testing.assert_allclose(state.residual @ current, scaled, atol=2e-5)
    assert state.residual[1, 1] == state.residual[3, 3] == 0


def test_noise_does_not_grow(numerics):
    """Indefinite matrices, as rounding makes of rank-deficient Gram matrices."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        k = 40
        block = rng.standard_normal((k, 12)) @ rng.standard_normal((12, 300))
        gram = block @ block.T
        noise = rng.standard_normal((k, k)) * 3e-7 * np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
        state = CholeskyQr(numerics, k, 0)
        transform, last = state.one_pass(gram + noise + noise.T, np.zeros((k, 0)), 1)
        assert not last
        scaled = transform * np.sqrt(np.diag(gram))
        assert np.abs(scaled).max() < 1e6


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
