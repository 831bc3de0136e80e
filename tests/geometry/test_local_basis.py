"""A LocalBasis: saved, loaded, indexed, moved, extended; and its metric."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pullback import LocalBasis, local_basis, maps
from pullback.testing import map_jacobian, sine


@pytest.fixture(scope="module")
def small(digits):
    """A cheap basis for what does not depend on its accuracy."""
    x = digits.sample_latents(3, 500, seed=2)
    return local_basis(digits, x, 500, 4, quality="draft")


def test_save_and_load_give_the_same_basis(small, tmp_path):
    path = tmp_path / "basis.safetensors"
    small.save(path)
    again = LocalBasis.load(path)
    for name in ("u", "s", "v", "residual", "angle_bound", "converged", "rank", "products"):
        assert torch.equal(getattr(again, name), getattr(small, name)), name
    assert again.stopped == small.stopped
    assert again.tol == small.tol
    assert again.provenance == small.provenance
    assert {"model", "fingerprint", "tap", "t", "seed", "torch", "diffusers"} <= set(
        again.provenance
    )
    assert (again.provenance["map"], again.provenance["wrt"]) == ("encoder mid_block", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["basis.safetensors"]


def test_a_failed_save_leaves_the_old_file(small, tmp_path, monkeypatch):
    path = tmp_path / "basis.safetensors"
    small.save(path)
    before = path.read_bytes()

    def fails(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        small.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["basis.safetensors"]


def test_missing_damaged_and_foreign_files_are_named(small, tmp_path):
    with pytest.raises(FileNotFoundError, match="No basis file"):
        LocalBasis.load(tmp_path / "none.safetensors")
    path = tmp_path / "basis.safetensors"
    small.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        LocalBasis.load(path)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="damaged"):
        LocalBasis.load(path)
    save_file({"u": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not a local basis"):
        LocalBasis.load(path)


def test_indexing_selects_samples(small):
    assert len(small) == 3
    last = torch.tensor([False, False, True])
    for index, rows in (
        (1, [1]),
        (-1, [2]),
        (torch.tensor(1), [1]),
        (last, [2]),
        (slice(0, 2), [0, 1]),
        ([2, 0], [2, 0]),
    ):
        part = small[index]
        assert torch.equal(part.v, small.v[rows])
        assert part.stopped == tuple(small.stopped[row] for row in rows)
        assert len(part.provenance["t"]) == len(rows)
    with pytest.raises(IndexError, match="below 3, got 3"):
        small[3]


def test_to_moves_and_converts(small):
    wide = small.to(torch.float64)
    assert {wide.u.dtype, wide.s.dtype, wide.v.dtype} == {torch.float64}
    assert wide.rank.dtype == torch.int64
    assert wide.converged.dtype == torch.bool
    assert torch.equal(wide.v.float(), small.v)


def test_metric_is_the_pullback_metric_within_the_span(small, digits64, digits):
    x = digits.sample_latents(3, 500, seed=2)
    jacobian = map_jacobian(maps.encoder(digits64), x, 500)
    first, second = small.v[:, 0], small.v[:, 0] + 2 * small.v[:, 3]
    images = [torch.einsum("bmn,bn->bm", jacobian, w.double().flatten(1)) for w in (first, second)]
    expected = (images[0] * images[1]).sum(1)
    value = small.metric(first, second)
    assert torch.allclose(value.double(), expected, rtol=1e-2)
    assert torch.allclose(value, small.s[:, 0] ** 2, rtol=1e-4)
    with pytest.raises(ValueError, match="Expected v of shape"):
        small.metric(first[:, 0], second)


def test_extend_after_loading_says_what_to_do(small, tmp_path):
    small.save(tmp_path / "b.safetensors")
    with pytest.raises(RuntimeError, match=r"init=basis\.v"):
        LocalBasis.load(tmp_path / "b.safetensors").extend(6)


def test_extend_of_selected_samples(small):
    larger = small[1].extend(6)
    assert larger.v.shape[:2] == (1, 6)
    assert sine(larger.v[:, :4], small[1].v).max() < 0.3


def test_provenance_is_plain_json(small):
    assert json.loads(json.dumps(small.provenance)) == small.provenance
