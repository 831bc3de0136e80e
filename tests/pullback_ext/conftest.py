"""What the tests of the native library share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pullback_ext

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def native():
    """The native module; these tests fail, and do not skip, without it."""
    assert pullback_ext.available(), pullback_ext.why_unavailable()
    from pullback_ext import _native

    return _native


@pytest.fixture(scope="session")
def binary(native):
    """Path of the native library."""
    return Path(native.__file__)


@pytest.fixture(scope="session")
def repository():
    """The checkout, which holds the sources."""
    assert (ROOT / "CMakeLists.txt").is_file()
    return ROOT


@pytest.fixture(scope="session")
def python():
    """Runs Python code, or ``-m module``, in a fresh process that imports this ``pullback_ext``."""
    where = str(Path(pullback_ext.__file__).parents[1])

    def run(*code, check=True, path=where, timeout=120, **environment):
        arguments = code if code[0].startswith("-") else ("-c", code[0])
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PULLBACK_")}
        return subprocess.run(
            [sys.executable, *arguments],
            env={**kept, "PYTHONPATH": path, **environment},
            cwd="/",
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def gram_error():
    """Largest error of an entry of ``a b^T`` over the norms of its two rows, in long doubles."""

    def error(got, a, b=None):
        wide = np.longdouble
        left = a.cpu().double().numpy().astype(wide)
        right = left if b is None else b.cpu().double().numpy().astype(wide)
        want = np.einsum("bkn,bpn->bkp", left, right)
        norms = np.sqrt((left**2).sum(2))[:, :, None] * np.sqrt((right**2).sum(2))[:, None, :]
        got = got.cpu().numpy().astype(wide)
        assert got.shape == want.shape
        return float((np.abs(got - want) / np.where(norms == 0, 1, norms)).max(initial=0))

    return error
