"""A result as a batch: some of its samples, and its vectors in another dtype."""

import pytest
import torch

from pullback.krylov import SVDResult

BATCH, RANK, M, N = 5, 3, 7, 6
VECTORS = ("u", "s", "v", "residual")


@pytest.fixture
def result(rng):
    """Five samples of which every number is another one."""
    sizes = {"u": (RANK, M), "s": (RANK,), "v": (RANK, N), "residual": (RANK,)}
    tensors = {
        name: torch.randn(BATCH, *size, generator=rng, dtype=torch.float64)
        for name, size in sizes.items()
    }
    return SVDResult(
        **tensors,
        angle_bound=torch.rand(BATCH, generator=rng, dtype=torch.float64),
        converged=torch.rand(BATCH, generator=rng) > 0.5,
        rank=torch.randint(RANK + 1, (BATCH,), generator=rng),
        products=torch.randperm(100, generator=rng)[:BATCH],
        stopped=tuple(f"reason {sample}" for sample in range(BATCH)),
        tol=1e-2,
    )


def assert_samples(found, result, rows):
    """`found` has the samples at `rows`, in that order, and the batch first."""
    assert type(found) is SVDResult
    assert len(found) == len(rows)
    for name in (*VECTORS, "angle_bound", "converged", "rank", "products"):
        expected = torch.stack([getattr(result, name)[row] for row in rows])
        assert torch.equal(getattr(found, name), expected)
        assert getattr(found, name).dtype == getattr(result, name).dtype
    assert found.stopped == tuple(result.stopped[row] for row in rows)
    assert found.tol == result.tol


@pytest.mark.parametrize("sample", range(-BATCH, BATCH))
def test_one_sample_is_a_batch_of_one(result, sample):
    assert_samples(result[sample], result, [sample])
    assert_samples(result[torch.tensor(sample)], result, [sample])


@pytest.mark.parametrize("sample", [-BATCH - 1, BATCH, BATCH + 1])
def test_a_sample_that_is_not_there_is_named(result, sample):
    with pytest.raises(IndexError, match=f"got {sample}"):
        result[sample]


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, 2), [0, 2, 4]),
        ([4, 0, 0, -2], [4, 0, 0, 3]),
        (torch.tensor([2, -1]), [2, 4]),
        (torch.tensor([True, False, False, True, False]), [0, 3]),
        ([False, True, True, False, False], [1, 2]),
    ],
)
def test_some_samples_are_chosen_as_those_of_a_tensor_are(result, index, rows):
    assert_samples(result[index], result, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_vectors_go_to_another_dtype_and_what_is_known_of_them_stays(result, dtype):
    for found in (result.to(dtype), result.to(dtype=dtype), result.to("cpu", dtype=dtype)):
        for name in VECTORS:
            torch.testing.assert_close(getattr(found, name), getattr(result, name).to(dtype))
        for name in ("angle_bound", "converged", "rank", "products"):
            assert getattr(found, name).dtype == getattr(result, name).dtype
        assert found.angle_bound.sub(result.angle_bound).abs().max() < 1e-3
        for name in ("converged", "rank", "products"):
            assert torch.equal(getattr(found, name), getattr(result, name))
        assert (found.stopped, found.tol) == (result.stopped, result.tol)


def test_every_tensor_is_there_by_its_name(result):
    tensors = result.tensors()
    assert set(tensors) == {*VECTORS, "angle_bound", "converged", "rank", "products"}
    assert all(value is getattr(result, name) for name, value in tensors.items())
