"""What `evaluate` measures, on a model whose edits are known in closed form."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler

import pullback
from pullback import analysis
from pullback.directions import Direction
from pullback.editing import PerSample

SHAPE = (1, 4, 4)
T = 500


@pytest.fixture
def still():
    """A model that predicts no noise at all: data are latents times a number."""

    class NoNoise(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, t):
            return self.weight * x

    scheduler = DDIMScheduler(clip_sample=False)
    return pullback.LatentModel(NoNoise().eval(), scheduler, latent_shape=SHAPE)


def gain(model):
    """What latents at T are multiplied by on the way to data."""
    one = torch.full((1, *SHAPE), 1e-3)
    return float(pullback.denoise(model, one, T, steps=20).flatten()[0]) / 1e-3


@pytest.fixture
def latents(rng):
    return 0.05 * torch.randn(6, *SHAPE, generator=rng)


def direction(rng, space="x", **more):
    return Direction.of(torch.randn(*SHAPE, generator=rng), space, t=T, **more)


def test_linear_scores_change_as_they_must(still, latents, rng):
    weights = torch.randn(16, 3, generator=rng, dtype=torch.float64)
    score = lambda images: images.flatten(1).double() @ weights  # noqa: E731
    ways = [direction(rng, name="one"), direction(rng, name="two", unit=2.0)]
    strengths = (-0.02, 0.01, 0.03)
    region = torch.zeros(4, 4, dtype=torch.bool)
    region[:2] = True
    found = analysis.evaluate(still, latents, T, ways, strengths, score, region=region, steps=20)
    by = gain(still)
    units = torch.stack([one.displacement(1.0).flatten().double() for one in ways])
    wanted = by * torch.einsum("k,dn,na->dka", torch.tensor(strengths).double(), units, weights)
    changes = (found.changes * found.scale).expand(6, -1, -1, -1)
    torch.testing.assert_close(changes, wanted.expand(6, -1, -1, -1), rtol=1e-4, atol=1e-6)
    energy = by * units.norm(dim=1)[:, None] * torch.tensor(strengths).abs().double() / 4
    torch.testing.assert_close(found.energy, energy.expand(6, -1, -1), rtol=1e-4, atol=1e-7)
    share = units[:, :8].square().sum(1) / units.square().sum(1)
    torch.testing.assert_close(found.inside, share[:, None].expand(6, 2, 3), rtol=1e-3, atol=1e-4)
    assert found.linearity.min() > 1 - 1e-6
    assert found.names == ("one", "two")
    assert found.before.shape == (6, 3)
    torch.testing.assert_close(found.scale, found.before.std(0))
    # A row each for 2 directions by 3 strengths and none, in 11 steps, and one to plan.
    assert found.passes == 6 * 2 * 4 * 11 + 1


def test_effects_of_an_attribute_that_is_named(still, latents, rng):
    ways = [Direction.of(torch.ones(SHAPE), "x", t=T)]
    score = lambda images: torch.stack(  # noqa: E731
        [images.flatten(1).mean(1), -3 * images.flatten(1).mean(1), images[:, 0, 0, 0]], 1
    )
    scale = torch.tensor([1.0, 1.0, 2.0])
    found = analysis.evaluate(still, latents, T, ways, (-0.04, 0.04), score, scale=scale, steps=20)
    step = gain(still) * 0.04 / 4
    effect = found.effect(1)
    # Both signs of the strength move it to where they point: downwards, three times as far.
    torch.testing.assert_close(
        effect.target, torch.full((6, 1, 2), -3.0 * step, dtype=torch.float64), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(
        effect.side, torch.full((6, 1, 2), 0.75 * step, dtype=torch.float64), rtol=1e-3, atol=0
    )
    assert effect.linearity.min() > 1 - 1e-6
    # Of an unknown meaning, the one that moves farthest is found, and where to.
    own = found.effect()
    assert own.attribute.eq(1).all()
    torch.testing.assert_close(own.target, -effect.target)


def test_an_attribute_that_rises_either_way_is_no_effect(still, rng):
    score = lambda images: torch.stack(  # noqa: E731
        [images.square().flatten(1).sum(1), images.flatten(1).sum(1)], 1
    )
    x = torch.zeros(4, *SHAPE)
    way = Direction.of(torch.ones(SHAPE), "x", t=T)
    found = analysis.evaluate(still, x, T, [way], (-0.1, 0.1), score, scale=torch.ones(2), steps=20)
    effect = found.effect(0)
    assert effect.target.sum(2).abs().max() < 1e-9 < effect.target.abs().max()
    assert effect.linearity.max() < 1e-9


def test_the_attribute_is_chosen_from_samples_that_are_not_looked_at(still, rng):
    """Scores of pure noise: chosen and judged from the same samples they would show an effect."""
    way = Direction.of(torch.ones(SHAPE), "x", t=T)
    score = lambda images: images.flatten(1)[:, :2]  # noqa: E731
    x = torch.zeros(2, *SHAPE)
    found = analysis.evaluate(still, x, T, [way], (0.1,), score, scale=torch.ones(2), steps=2)
    ours, same = [], []
    for _ in range(400):
        noise = torch.randn(30, 1, 1, 12, generator=rng, dtype=torch.float64)
        ours.append(replace(found, changes=noise).effect().target.mean())
        same.append(noise.mean(0).abs().max())
    mean = torch.stack(ours).mean()
    assert abs(float(mean)) < 4 / (30 * 400) ** 0.5
    assert torch.stack(same).mean() > 10 / (30 * 400) ** 0.5


def test_own_directions_of_each_sample(still, latents, rng):
    score = lambda images: images.flatten(1)[:, :2].double()  # noqa: E731
    rows = [[direction(rng), direction(rng)] for _ in range(6)]
    own = analysis.evaluate(still, latents, T, PerSample(rows), (0.02,), score, steps=20)
    for sample, row in enumerate(rows):
        alone = analysis.evaluate(
            still, latents[sample : sample + 1], T, row, (0.02,), score, scale=own.scale, steps=20
        )
        torch.testing.assert_close(own.changes[sample], alone.changes[0])
        torch.testing.assert_close(own.energy[sample], alone.energy[0])
    assert own.follows(own).min() > 1 - 1e-9
    turned = PerSample([[-one for one in row] for row in rows])
    other = analysis.evaluate(still, latents, T, turned, (0.02,), score, steps=20)
    assert own.follows(other).max() < -1 + 1e-6


def test_follows_compares_what_is_told_in_other_units(still, latents, rng):
    score = lambda images: images.flatten(1)[:, :3].double()  # noqa: E731
    way = [direction(rng)]
    one = analysis.evaluate(
        still, latents, T, way, (0.02,), score, scale=torch.tensor([1.0, 2, 3]), steps=20
    )
    two = analysis.evaluate(
        still, latents.flip(0), T, way, (0.02,), score, scale=torch.tensor([5.0, 1, 1]), steps=20
    )
    assert one.follows(two).min() > 1 - 1e-6
    with pytest.raises(ValueError, match="at the same strengths"):
        one.follows(
            analysis.evaluate(still, latents, T, way, (0.03,), score, scale=one.scale, steps=20)
        )


def test_what_directions_do_elsewhere_is_what_they_did_where_they_were_found(still, latents, rng):
    weights = torch.randn(16, 4, generator=rng, dtype=torch.float64)
    score = lambda images: images.flatten(1).double() @ weights  # noqa: E731
    rows = PerSample([[direction(rng)] for _ in range(6)])
    given = {"scale": torch.ones(4), "steps": 20}
    source = analysis.evaluate(still, latents, T, rows, (-0.02, 0.02), score, **given)
    target = analysis.evaluate(still, latents.flip(0), T, rows, (-0.02, 0.02), score, **given)
    effect = target.effect(source)
    # The model is linear: each does the same anywhere, by the attribute that it moves farthest.
    along = torch.stack([row[0].vector.flatten().double() @ weights for row in rows.entries])
    assert torch.equal(effect.attribute[:, 0], along.abs().argmax(1))
    wanted = along.abs().max(1).values * gain(still) * 0.02
    torch.testing.assert_close(effect.target[:, 0, 0], wanted, rtol=1e-3, atol=0)
    torch.testing.assert_close(effect.target[:, 0, 1], wanted, rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match="as many samples and directions"):
        target.effect(
            analysis.evaluate(still, latents[:1], T, rows.entries[0], (0.02,), score, **given)
        )


def test_passes_are_those_of_edits_and_of_what_was_checked(digits, rng):
    x = digits.sample_latents(2, T, 0, steps=4)
    ways = [
        Direction.of(torch.randn(96, 4, 4, generator=rng), "h", tap="mid_block") for _ in range(3)
    ]
    score = lambda images: images.mean((1, 2, 3))  # noqa: E731
    found = analysis.evaluate(digits, x, T, ways, (1.0,), score, steps=4)
    # Two strengths with that of none, in 3 steps; one to plan, and one to check each direction.
    assert found.passes == 2 * 3 * 2 * 3 + 1 + 3


@pytest.mark.parametrize("count", [3, 6, 7])
def test_an_attribute_that_differs_by_rounding_alone_has_no_unit(still, rng, count):
    """The mean of these equal numbers is another one."""
    x = 0.05 * torch.randn(count, *SHAPE, generator=rng)
    score = lambda images: torch.full((len(images),), 0.7, dtype=torch.float64)  # noqa: E731
    with pytest.raises(ValueError, match=r"same score of \[0\]"):
        analysis.evaluate(still, x, T, [direction(rng)], (0.1,), score, steps=2)


def test_matched_strengths_change_images_by_what_is_asked(still, latents, rng):
    ways = [direction(rng), direction(rng, unit=50.0), direction(rng, unit=1e-9)]
    energy = 0.01
    found = analysis.matched(still, latents, T, ways, energy, steps=20)
    by = gain(still)
    wanted = [energy * 4 / by, energy * 4 / by / 50]
    torch.testing.assert_close(found[:2], torch.tensor(wanted).double(), rtol=1e-3, atol=0)
    assert math.isnan(found[2])


def test_strengths_that_overflow_are_not_needed_for_smaller_ones(latents):
    class Narrow(torch.nn.Module):
        """Of no noise up to a magnitude, from which on it gives NaN."""

        def __init__(self):
            super().__init__()
            self.most = torch.nn.Parameter(torch.tensor(8.0))

        def forward(self, x, t):
            return 0 * (self.most - x.abs()).sqrt()

    scheduler = DDIMScheduler(clip_sample=False)
    narrow = pullback.LatentModel(Narrow().eval(), scheduler, latent_shape=SHAPE)
    by = gain(narrow)
    way = [Direction.of(torch.ones(SHAPE), "x", t=T)]
    found = analysis.matched(narrow, latents, T, way, 0.01, steps=20)
    torch.testing.assert_close(
        found, torch.tensor([0.01 * 4 / by], dtype=torch.float64), rtol=1e-3, atol=0
    )
    assert analysis.matched(narrow, latents, T, way, 1.99, steps=20).isnan().all()
    with pytest.raises(ValueError, match="NaN or Inf"):
        analysis.matched(narrow, latents + 9, T, way, 0.01, steps=20)


def test_on_the_digit_model_a_matched_strength_is_right_to_a_quarter(digits):
    x = digits.sample_latents(4, T, 0, steps=5)
    basis = pullback.local_basis(digits, x, T, 2, quality="draft")
    strengths = analysis.matched(digits, x, T, basis, 0.2, steps=5)
    ink = lambda images: images.mean((1, 2, 3))  # noqa: E731
    for place, strength in enumerate(strengths.tolist()):
        found = analysis.evaluate(digits, x, T, basis, (strength, -strength), ink, steps=5)
        got = found.energy[:, place].square().mean().sqrt()
        assert abs(float(got) / 0.2 - 1) < 0.25
        assert found.energy.shape == (4, 2, 2)
        text = str(found)
        assert "v_1" in text
        assert "energy" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strengths": (1.0, 0.0)}, "strengths other than 0"),
        ({"strengths": ()}, "strengths other than 0"),
        ({"strengths": (math.nan,)}, "strengths other than 0"),
        ({"score": lambda images: torch.zeros(3)}, "one score for each image"),
        ({"score": lambda images: torch.full((len(images), 2), math.inf)}, "finite scores"),
        ({"score": lambda images: torch.zeros(len(images), 2)}, "that differ between samples"),
        ({"scale": torch.tensor([1.0])}, "scale as 2 finite numbers"),
        ({"scale": torch.tensor([1.0, 0.0])}, "scale as 2 finite numbers"),
        ({"region": torch.ones(4, 4)}, "tensor of bool"),
        ({"region": torch.zeros(4, 4, dtype=torch.bool)}, "selects something"),
        ({"region": torch.ones(3, 4, dtype=torch.bool)}, "selects something"),
        ({"directions": []}, "at least one direction"),
    ],
)
def test_bad_input_says_what_is_wrong(still, latents, rng, change, message):
    given = {
        "directions": [direction(rng)],
        "strengths": (0.1,),
        "score": lambda images: images.flatten(1)[:, :2],
        "steps": 5,
    }
    with pytest.raises(ValueError, match=message):
        analysis.evaluate(still, latents, T, **{**given, **change})


def test_bad_input_is_told_before_any_step(still, latents, rng, monkeypatch):
    monkeypatch.setattr(type(still), "output", None)
    score = lambda images: images.flatten(1)  # noqa: E731
    way = [direction(rng)]
    with pytest.raises(TypeError, match="score as a function of images, got str"):
        analysis.evaluate(still, latents, T, way, (0.1,), "ink", steps=5)
    with pytest.raises(ValueError, match="tensor of bool"):
        analysis.evaluate(still, latents, T, way, (0.1,), score, region=[[True]], steps=5)


@pytest.mark.parametrize("shape", [(4, 2), (0,), ()])
def test_an_interval_is_of_one_value_of_each_sample(shape):
    with pytest.raises(ValueError, match="one for each sample"):
        analysis.summary(torch.zeros(shape))


def test_edits_of_each_sample_are_as_many_as_samples(still, latents, rng):
    rows = PerSample([[direction(rng)]] * 5)
    with pytest.raises(ValueError, match="each of 6 samples"):
        pullback.sweep(still, latents, T, rows, [1.0], steps=5)
    with pytest.raises(ValueError, match="at least one, got \\[0\\]"):
        PerSample([[], []])
    with pytest.raises(ValueError, match="as many edits for every sample"):
        PerSample([[direction(rng)], [direction(rng)] * 2])
    with pytest.raises(ValueError, match="energy as a finite number"):
        analysis.matched(still, latents, T, [direction(rng)], 0.0, steps=5)
    found = analysis.evaluate(
        still, latents, T, [direction(rng)], (0.1,), lambda images: images.mean((1, 2, 3)), steps=5
    )
    with pytest.raises(ValueError, match="two attributes"):
        found.effect()


def test_images_are_decoded_one_by_one_and_scored_together(still, latents, rng, monkeypatch):
    decode, decoded, seen = still.images_of, [], []
    monkeypatch.setattr(still, "images_of", lambda x: decoded.append(len(x)) or decode(x))
    score = lambda images: seen.append(len(images)) or images.flatten(1)[:, :2]  # noqa: E731
    ways = [direction(rng), direction(rng)]
    analysis.evaluate(still, latents, T, ways, (-0.1, 0.1, 0.2), score, steps=2)
    assert decoded == [1] * (6 * 2 * 4)
    assert seen == [2 * 4] * 6
