"""`ritz` through the public function, on every device there is."""

import pytest
import torch

from pullback_ext import reference, ritz

pytestmark = pytest.mark.usefixtures("native")


def symmetric(rng, device, *shape, dtype=torch.float64):
    half = torch.randn(*shape, generator=rng, dtype=torch.float64)
    return (half + half.mT).to(device, dtype)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 20, 33, 96, 97, 150])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_eigenvalues_descend_and_rows_are_eigenvectors(rng, device, n, dtype):
    t = symmetric(rng, device, 3, n, n, dtype=dtype)
    values, vectors = ritz(t)
    assert values.dtype == vectors.dtype == torch.float64
    assert values.is_contiguous()
    assert vectors.is_contiguous()
    size = float(t.double().abs().max()) * n
    assert bool((values[:, 1:] <= values[:, :-1]).all())
    torch.testing.assert_close(
        vectors.mT @ (values.unsqueeze(2) * vectors), t.double(), rtol=0, atol=1e-13 * size
    )
    eye = torch.eye(n, dtype=torch.float64, device=device).expand(3, n, n)
    torch.testing.assert_close(vectors @ vectors.mT, eye, rtol=0, atol=1e-12)
    peak = vectors.gather(2, vectors.abs().argmax(2, keepdim=True))
    assert bool((peak > 0).all())
    want, _ = reference.ritz(t)
    torch.testing.assert_close(values, want, rtol=0, atol=1e-13 * size)


@pytest.mark.parametrize("n", [1, 3, 5, 40])
def test_the_lower_triangle_is_read_through_any_strides(rng, device, n):
    t = symmetric(rng, device, 2, n, n)
    want = ritz(t)
    poisoned = t.tril() + torch.full_like(t, 7.0).triu(1)
    for other in (poisoned, poisoned.mT.contiguous().mT):
        got = ritz(other)
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])
    alone = ritz(t[1:])
    assert torch.equal(alone[0], want[0][1:])
    assert torch.equal(alone[1], want[1][1:])


@pytest.mark.parametrize("n", [4, 30])
def test_multiple_eigenvalues_and_zero(rng, device, n):
    basis = torch.linalg.qr(torch.randn(n, n, generator=rng, dtype=torch.float64))[0].to(device)
    spectrum = torch.ones(n, dtype=torch.float64, device=device)
    spectrum[n // 2 :] = 0
    t = (basis * spectrum) @ basis.mT
    values, vectors = ritz(torch.stack([t, torch.zeros_like(t), torch.eye(n).to(t)]))
    torch.testing.assert_close(values[0], spectrum, rtol=0, atol=1e-14)
    assert not bool(values[1].any())
    assert bool((values[2] == 1).all())
    eye = torch.eye(n, dtype=torch.float64, device=device)
    torch.testing.assert_close(vectors @ vectors.mT, eye.expand(3, n, n), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [3, 30])
@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_entries_of_any_size(rng, device, n, size):
    t = symmetric(rng, device, 1, n, n)
    values, _ = ritz(t * size)
    torch.testing.assert_close(values / size, ritz(t)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 0, 0)])
def test_empty(device, shape):
    values, vectors = ritz(torch.zeros(shape, device=device))
    assert values.shape == shape[:2]
    assert vectors.shape == shape


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (torch.ones(3, 3), r"shape \[B, n, n\], got \[3, 3\]"),
        (torch.ones(1, 3, 4), r"shape \[B, n, n\], got \[1, 3, 4\]"),
        (torch.ones(1, 3, 3).half(), "float64 or float32, got float16"),
        (torch.full((2, 3, 3), float("nan")), "NaN or infinity in matrix 0 of t"),
    ],
)
def test_bad_arguments_are_named(t, message):
    for function in (ritz, reference.ritz):
        with pytest.raises(RuntimeError, match="ritz: expected .*" + message):
            function(t)
