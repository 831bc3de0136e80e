"""Principal components of trajectories against their dense covariance."""

import pytest
import torch
from safetensors.torch import load_file

import pullback
from benchmarks import pca
from benchmarks.pca_ways import dense, streamed
from pullback.testing import sine

GIVEN = {"count": 70, "steps": 2, "rank": 3, "batch": 32, "seed": 5}


@pytest.fixture(scope="module")
def model():
    return pullback.load("digits")


@pytest.fixture(scope="module")
def truth(model):
    return dense(model, **GIVEN)


def rows_of(model):
    """All trajectories, `[count, d]`, float64, from batches like those of `GIVEN`."""
    held = []
    for seeds in torch.arange(5, 75).split(32):
        x = model.sample_latents(len(seeds), 999, seeds.tolist(), steps=2)
        held.append(pullback.directions.trajectory(model, x, 999, steps=2).features.flatten(1))
    return torch.cat(held).double()


def test_the_oracle_is_the_svd_of_all_rows(model, truth):
    rows = rows_of(model)
    mean = rows.mean(0)
    _, s, v = torch.linalg.svd(rows - mean, full_matrices=False)
    torch.testing.assert_close(truth["variances"], s[:4].square() / 69, rtol=1e-10, atol=0)
    torch.testing.assert_close(truth["mean"], mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(truth["variance"], s.square().sum() / 69, rtol=1e-10, atol=0)
    assert float(sine(truth["axes"][None, :3], v[None, :3])) < 1e-9
    torch.testing.assert_close(
        truth["axes"] @ truth["axes"].T, torch.eye(4).double(), rtol=0, atol=1e-12
    )


def test_rows_in_blocks_of_any_size_have_the_same_covariance(model, truth, monkeypatch):
    monkeypatch.setattr("benchmarks.pca_ways._BLOCK", 1)
    again = dense(model, **GIVEN)
    torch.testing.assert_close(again["variances"], truth["variances"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("extra", [70, None])
def test_a_stream_is_as_close_as_it_says(truth, extra, tmp_path):
    file = tmp_path / "stream.safetensors"
    told = streamed(model="digits", device="cpu", extra=extra, file=str(file), **GIVEN)
    found = pca.compared(load_file(str(file)), truth, told["lost"])
    assert found["bound_holds"]
    assert found["mean"] < 1e-6
    assert found["variance"] < 1e-6
    if extra:  # all rows are kept
        assert told["lost"] < 1e-12
        assert max(found["deviations"]) < 1e-6
        assert max(found["sine_of_span"], *found["sines"]) < 1e-5
    else:
        assert told["lost"] > 1e-3
        assert max(found["deviations"]) <= found["missing"] / float(
            truth["variances"][2] / truth["variance"]
        )
    assert told["memory"]["growth"] >= 0


def test_a_stream_that_is_wrong_is_seen(truth):
    found = {
        "deviations": truth["variances"][:3].sqrt()
        * torch.tensor([1.0, 1.0, 1.1], dtype=torch.float64),
        "components": truth["axes"][[0, 1, 3]],
        "variance": truth["variance"] * 1.5,
        "mean": 2 * truth["mean"],
    }
    told = pca.compared(found, truth, 1e-3)
    assert not told["bound_holds"]  # it cannot vary by more than the truth
    assert told["deviations"] == pytest.approx([0, 0, 0.1], abs=1e-9)
    assert told["sines"] == pytest.approx([0, 0, 1], abs=1e-9)
    assert told["sine_of_span"] == pytest.approx(1)
    assert told["mean"] == pytest.approx(1)
    assert told["variance"] == pytest.approx(0.5)
