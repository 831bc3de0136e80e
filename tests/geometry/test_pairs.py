"""All pairs against one by one, whatever the blocks."""

import math

import pytest
import torch

from pullback.geometry import grassmann
from pullback.geometry.grassmann import pairs
from tests.geometry.test_grassmann import at_angles, orthonormal


def some(rng, count, k, n, dtype):
    return torch.randn(count, k, n, generator=rng, dtype=torch.float64).to(dtype)


#: How far angles may be from those of `principal_angles`, as the docstring promises.
WITHIN = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 1e-5}


@pytest.mark.parametrize("dtype", WITHIN)
@pytest.mark.parametrize(("count", "k", "n"), [(1, 2, 5), (2, 1, 1), (7, 3, 20), (12, 5, 31)])
def test_every_pair_is_what_it_is_alone(rng, count, k, n, dtype):
    frames = some(rng, count, k, n, dtype)
    expected = grassmann.principal_angles(frames[:, None], frames[None])
    for memory in (None, 8 * (2 * k) ** 2, 8 * (5 * k) ** 2):
        found = grassmann.all_pairs(frames, angles=True, memory=memory)
        within = WITHIN[dtype]
        torch.testing.assert_close(found.angles, expected, rtol=0, atol=within)
        torch.testing.assert_close(
            found.distance, expected.norm(dim=-1), rtol=0, atol=within * math.sqrt(k)
        )
        assert torch.equal(found.distance, found.distance.mT)
        assert not bool(found.distance.diagonal().any())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_spaces_that_nearly_agree_are_told_apart(rng, dtype):
    """Angles far below what a cosine in that dtype can tell."""
    angles = [1e-6, 1e-3, 0.3] if dtype == torch.float32 else [1e-8, 1e-6, 0.3]
    a, b = at_angles(rng, angles)
    third = orthonormal(rng, 3, 40)
    frames = torch.stack([a, b, third]).to(dtype)
    found = grassmann.all_pairs(frames, angles=True)
    assert found.exact >= 1
    expected = grassmann.principal_angles(frames[0], frames[1])
    assert torch.equal(found.angles[0, 1], expected)
    smallest = float(expected[0])
    assert smallest == pytest.approx(angles[0], rel=1e-6 if dtype == torch.float64 else 0.5)


def test_spaces_that_are_nearly_orthogonal_are_told_apart(rng):
    angles = [0.5, math.pi / 2 - 1e-8]
    frames = torch.stack(at_angles(rng, angles))
    found = grassmann.all_pairs(frames, angles=True)
    expected = torch.tensor(angles, dtype=torch.float64)
    torch.testing.assert_close(found.angles[0, 1], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["chordal", "max", "fubini-study"])
def test_other_distances_and_rows_of_any_length(rng, kind):
    frames = some(rng, 5, 3, 17, torch.float64) * 1e3
    found = grassmann.all_pairs(frames, kind)
    assert (found.kind, found.angles) == (kind, None)
    expected = grassmann.distance(frames[:, None], frames[None], kind)
    torch.testing.assert_close(found.distance, expected, rtol=0, atol=1e-9)
    assert found.mean() == pytest.approx(float(expected.sum() / 20), rel=1e-9)


def test_progress_counts_pairs(rng):
    told = []
    frames = some(rng, 7, 2, 9, torch.float32)
    grassmann.all_pairs(frames, memory=8 * 6**2, progress=lambda *one: told.append(one))
    assert told[-1] == (21, 21)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) == 6  # blocks of three frames, on and above the diagonal


@pytest.mark.parametrize("device_memory", [None, 10])
def test_memory_is_asked_of_the_device(monkeypatch, rng, device_memory):
    monkeypatch.setattr(pairs, "free_bytes", lambda _: device_memory)
    frames = some(rng, 3, 2, 9, torch.float32)
    if device_memory == 10:
        with pytest.raises(MemoryError, match="two subspaces of 2 rows take 32 bytes, and 2 are"):
            grassmann.all_pairs(frames)
    else:
        assert grassmann.all_pairs(frames).distance.shape == (3, 3)


BAD = [
    (lambda x: grassmann.all_pairs(x[0]), ValueError, r"frames \[S, k, N\]"),
    (lambda x: grassmann.all_pairs(x[:0]), ValueError, "at least one"),
    (lambda x: grassmann.all_pairs(x * float("inf")), ValueError, "finite frames"),
    (lambda x: grassmann.all_pairs(x, "cosine"), ValueError, "got 'cosine'"),
    (lambda x: grassmann.all_pairs(x, memory=0), ValueError, "memory to be at least 1"),
    (lambda x: grassmann.all_pairs(x, memory=31), MemoryError, "Expected more memory="),
    (lambda x: grassmann.all_pairs(torch.ones_like(x)), ValueError, "lies in the span"),
    (lambda x: grassmann.all_pairs(x[:1]).mean(), ValueError, "two or more subspaces"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_what_does_not_fit_is_refused(rng, call, kind, message):
    frames = torch.randn(2, 2, 9, generator=rng)
    with pytest.raises(kind, match=message):
        call(frames)
