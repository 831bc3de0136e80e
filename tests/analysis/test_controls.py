"""Controls: noise in the place of directions, labels that say nothing, and what a block costs."""

import pytest
import torch
from diffusers import DDIMScheduler

import pullback
from pullback import analysis
from pullback.directions import Direction


def test_noise_keeps_all_but_the_vector(rng):
    own = Direction.of(
        torch.randn(3, 5, 5, generator=rng), "h", tap="mid_block", t=300, window=(400, 200),
        unit=2.5, name="own", provenance={"how": "mine", "fingerprint": "f"},
    )  # fmt: skip
    noise = analysis.random_like(own, 3)
    for name in ("space", "tap", "pool", "t", "window", "unit"):
        assert getattr(noise, name) == getattr(own, name)
    assert noise.vector.shape == own.vector.shape
    assert noise.vector.dtype == own.vector.dtype
    assert abs(float(noise.vector.norm()) - 1) < 1e-6
    assert abs(float((noise.vector * own.vector).sum())) < 0.5
    assert noise.provenance == {"how": "random", "in_place_of": "own", "seed": 3}
    assert torch.equal(noise.vector, analysis.random_like(own, 3).vector)
    assert not torch.equal(noise.vector, analysis.random_like(own, 4).vector)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_noise_of_every_dtype_is_of_norm_one(dtype, rng):
    own = Direction.of(torch.randn(4, 6, 6, generator=rng).to(dtype), "x")
    noise = analysis.random_like(own, 0)
    assert noise.vector.dtype == dtype
    assert abs(float(noise.vector.double().norm()) - 1) < 8 * torch.finfo(dtype).eps


def test_noise_is_as_alike_over_time_as_the_directions(rng):
    base = torch.randn(40, generator=rng, dtype=torch.float64)
    drift = torch.randn(40, generator=rng, dtype=torch.float64)
    entry = [
        Direction.of(base + 0.2 * step * drift, "h", tap="mid_block", pool="space", t=t)
        for step, t in enumerate((900, 600, 300))
    ]
    entry.append(Direction.of(torch.ones(2, 2), "prompt"))
    noise = analysis.random_like(entry, 1)

    def gram(parts):
        rows = torch.stack([one.vector for one in parts[:3]])
        return rows @ rows.T

    torch.testing.assert_close(gram(noise), gram(entry))
    assert gram(entry)[0, 2] < 0.999  # they do change
    assert [one.t for one in noise] == [900, 600, 300, None]
    assert noise[3].vector.shape == (2, 2)


def test_noise_has_no_direction_of_its_own(rng):
    """Cosines with a fixed vector are those of directions drawn evenly from the sphere."""
    own = Direction.of(
        torch.randn(25, generator=rng, dtype=torch.float64), "h", tap="m", pool="space"
    )
    cosines = torch.stack(
        [(analysis.random_like(own, seed).vector * own.vector).sum() for seed in range(2000)]
    )
    assert abs(float(cosines.mean())) < 4 * 0.2 / 2000**0.5
    assert abs(float(cosines.square().mean()) * 25 - 1) < 0.15


def test_noise_leans_to_no_side_of_an_axis():
    axes = torch.eye(25, dtype=torch.float64)
    entry = [
        Direction.of(one, "h", tap="m", pool="space", t=t)
        for t, one in ((900, axes[0]), (600, axes[1]), (300, axes[0] + axes[24]))
    ]
    mean = torch.stack(
        [
            torch.stack([one.vector for one in analysis.random_like(entry, seed)])
            for seed in range(2000)
        ]
    ).mean(0)
    assert mean.abs().max() < 5 * 0.2 / 2000**0.5


def test_shuffled_labels_are_the_same_in_another_order():
    labels = torch.arange(200).float()
    found = analysis.shuffled(labels, 5)
    assert torch.equal(found.sort().values, labels)
    assert not torch.equal(found, labels)
    assert torch.equal(found, analysis.shuffled(labels, 5))
    rows = torch.stack([labels, -labels], 1)
    both = analysis.shuffled(rows, 5)
    assert torch.equal(both[:, 0], -both[:, 1])
    assert torch.equal(both[:, 0], found)
    with pytest.raises(ValueError, match="seed"):
        analysis.shuffled(labels, -1)


def test_what_is_no_direction_has_no_control():
    with pytest.raises(TypeError, match="Expected a direction"):
        analysis.random_like([torch.ones(3)], 0)


def test_rows_and_calls_of_the_network_are_counted(digits):
    x = digits.sample_latents(3, 500, 0, steps=4)
    with analysis.counted(digits) as cost:
        pullback.denoise(digits, x, 500, steps=4)
    before = cost.calls
    assert (cost.rows, cost.calls) == (9, 3)
    assert cost.seconds > 0
    pullback.denoise(digits, x, 500, steps=4)
    assert cost.calls == before  # the block has ended


def test_rows_are_counted_whatever_the_network_calls_its_arguments():
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Conv2d(1, 1, 1)

        def forward(self, *args, **kwargs):
            return self.inner(args[0])

    model = pullback.LatentModel(Wrapper().eval(), DDIMScheduler(), latent_shape=(1, 4, 4))
    with analysis.counted(model) as cost:
        pullback.denoise(model, torch.randn(3, 1, 4, 4), 500, steps=4)
    assert (cost.rows, cost.calls) == (9, 3)


def test_calls_of_a_function_cannot_be_counted():
    model = pullback.LatentModel(
        lambda x, t: x, DDIMScheduler(), latent_shape=(1, 2, 2), device="cpu", dtype=torch.float32
    )
    with pytest.raises(TypeError, match="nobody can see"), analysis.counted(model):
        pass
    with pytest.raises(TypeError), analysis.counted("digits"):
        pass
