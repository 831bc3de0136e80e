"""squared_singular_values on CUDA, run thread by thread, and its portable version for the CPU."""

import numpy as np
import pytest

from tests.pullback_ext.emulation import emulated
from tests.pullback_ext.emulation.emulated import SCHEDULES, squared_singular_values
from tests.pullback_ext.portable import portable

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler")

SHAPES = [(30, 1, 1), (3, 2, 5), (1, 3, 3), (60, 7, 11), (26, 16, 16), (9, 32, 33), (4, 33, 70)]


def close(got, c, roundings=40):
    want = np.linalg.svd(c.astype(np.float64), compute_uv=False) ** 2
    scale = np.where(want[:, :1] == 0, 1, want[:, :1])
    assert (got >= 0).all()
    assert (np.diff(got) <= 0).all()
    assert (np.abs(got - want) / scale).max() < roundings * 2.0**-52


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("count", "m", "n"), [*SHAPES, (2, 64, 64)])
def test_values_under_every_schedule(dtype, count, m, n):
    rng = np.random.default_rng(m)
    c = rng.standard_normal((n, count, m)).astype(dtype).transpose(1, 2, 0)
    results = [squared_singular_values(c, schedule=s) for s in SCHEDULES]
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    close(results[0], c)
    np.testing.assert_array_equal(squared_singular_values(c[-1:]), results[0][-1:])


def special():
    k = 5
    return np.stack(
        [
            np.zeros((k, k)),
            np.eye(k) * 1e-150,
            np.full((k, k), 1e150),
            np.diag(np.arange(k)),
            np.tri(k),
            np.eye(k, k=1),
        ]
    )


@pytest.mark.parametrize("kernels", ["cuda", "portable"])
def test_special_matrices(kernels):
    c = special()
    got = squared_singular_values(c, kernels=None if kernels == "cuda" else portable.library())
    close(got, c)
    np.testing.assert_array_equal(got[0], 0)
    np.testing.assert_array_equal(got[3], [16, 9, 4, 1, 0])


def test_what_is_not_finite_is_nan():
    c = np.random.default_rng(0).standard_normal((40, 6, 9))
    c[11, 5, 8], c[12, 0, 0], c[39, 3, 3] = np.nan, np.inf, -np.inf
    got = squared_singular_values(c)
    bad = np.isin(np.arange(40), (11, 12, 39))
    assert np.isnan(got[bad]).all()
    close(got[~bad], c[~bad])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("count", "m", "n"), [*SHAPES, (3, 100, 130)])
def test_the_portable_version(dtype, count, m, n):
    c = np.random.default_rng(m).standard_normal((n, count, m)).astype(dtype).transpose(1, 2, 0)
    got = squared_singular_values(c, kernels=portable.library())
    close(got, c)
    alone = squared_singular_values(c[-1:], kernels=portable.library())
    np.testing.assert_array_equal(alone, got[-1:])
