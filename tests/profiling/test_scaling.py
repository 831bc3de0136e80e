"""Cost over samples and rank: what is measured, what is left out and why, files."""

import json

import pytest
import torch

from pullback import maps, profiling
from pullback.profiling import growth


@pytest.fixture(scope="module")
def scaled(digits):
    x = digits.sample_latents(2, 500, seed=3, steps=2)
    seen = []
    found = profiling.scaling(
        maps.encoder(digits), x, torch.tensor([500, 300]), 2, batches=(4, 1, 2), ranks=(3, 2, 300),
        quality="draft", max_products=20, watch=seen.append,
    )  # fmt: skip
    return found, seen


def test_points(scaled):
    found, seen = scaled
    assert [(one.samples, one.rank) for one in found.over_samples] == [(1, 2), (2, 2)]
    assert [(one.samples, one.rank) for one in found.over_rank] == [(2, 2), (2, 3)]
    assert seen == [*found.over_samples, *found.over_rank]
    assert found.left_out == (
        "4 samples, rank 2: only 2 samples were given",
        "2 samples, rank 300: the map has no more than 256 directions",
    )
    for one in seen:
        assert one.seconds > 0
        assert one.products >= 4 * one.samples
        assert one.per_sample == one.seconds / one.samples
        assert one.per_direction == one.per_sample / one.rank


def test_files(scaled, tmp_path):
    scaled[0].save(tmp_path)
    told = json.loads((tmp_path / "scaling.json").read_text())
    assert told == json.loads(json.dumps(scaled[0].as_json()))
    assert told["format"] == "pullback.scaling/1"
    assert told["over_rank"][0]["seconds_per_direction"] > 0
    assert (tmp_path / "scaling.png").stat().st_size > 5000


def test_what_would_take_too_long_or_too_much_is_left_out(digits, monkeypatch):
    x = digits.sample_latents(2, 500, seed=3, steps=2)
    options = {"quality": "draft", "max_products": 10}
    found = profiling.scaling(
        maps.encoder(digits), x, 500, 2, batches=(1, 2), ranks=(2, 3), limit=1e-9, **options
    )
    assert [one.samples for one in found.over_samples] == [1]
    assert len(found.left_out) == 2
    assert "it would take about" in found.left_out[0]
    monkeypatch.setattr(growth, "free_bytes", lambda _: 1000)
    none = profiling.scaling(maps.encoder(digits), x, 500, 2, batches=(1,), ranks=(2,), **options)
    assert none.over_samples == none.over_rank == ()
    assert "its vectors take" in none.left_out[0]
    with pytest.raises(ValueError, match="at least one batch and one rank"):
        none.figure()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batches": (0,)}, "Expected batches to be at least 1, got 0"),
        ({"ranks": (1.5,)}, "Expected ranks to be a whole number"),
        ({"limit": 0}, "Expected a limit above 0 seconds, got 0"),
    ],
)
def test_arguments_are_checked(digits, wrong, message):
    x = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match=message):
        profiling.scaling(maps.encoder(digits), x, 500, 2, **wrong)
