"""Gains over time against dense Jacobians in float64, and against formulas where they are known."""

import re

import pytest
import torch
from diffusers import DDPMScheduler

from pullback import Direction, maps
from pullback.directions import GainOverTime, attention, gain_over_time, pca, rank_by
from pullback.testing import in_float64, map_jacobian
from tests.directions.linear import WIDE, X, decoder_model, denoiser_model, two_sided
from tests.directions.made import drawn
from tests.models import families

TIMES = [799, 299]
SEEDS = [3, 8]
STEPS = {"steps": 10}


def bare(space="h", **given):
    """A random direction that knows no window and no weights."""
    return drawn(space, **{"t": None, "window": None, "provenance": {}, **given})


def on_walks(model, measure, seeds, cond=None):
    """What `measure(x, t)` has `[D, B]` at the latents of each time, `[D, T, B]`."""
    latents = {
        t: model.sample_latents(len(seeds), t, seed=seeds, cond=cond, **STEPS) for t in TIMES
    }
    return torch.stack([measure(x, t) for t, x in latents.items()], 1)


def by_differences(map, vectors, cond=None, h=1e-4):
    """Measures ‖J v‖ of unit vectors by central differences of a map in float64."""

    def measure(x, t):
        bound = map.at(x.double(), t, cond)
        with torch.no_grad():
            ahead, behind = (
                torch.stack(
                    [bound.f(bound.point + sign * h * v.double(), *bound.args) for v in vectors]
                )
                for sign in (1, -1)
            )
        return ((ahead - behind) / (2 * h)).flatten(2).norm(dim=2)

    return measure


def test_gains_of_features_by_dense_jacobians():
    """Of a direction, and of a pooled one, as the whole one that it is repeated to."""
    unet = families.model_of("UNet2DModel")
    one = bare(name="one", vector=torch.randn(32, 4, 4), window=(500, 400))
    pooled = attention(unet, rank=1).direction(0)
    found = [gain_over_time(unet, [each], SEEDS, TIMES, **STEPS) for each in (one, pooled)]
    repeated = pooled.vector[:, None, None].expand(32, 4, 4) / 4
    rows = torch.stack([one.vector, repeated]).flatten(1).double()
    decoder = maps.decoder(in_float64(unet))

    def measure(x, t):
        return torch.einsum("bmn,dn->dbm", map_jacobian(decoder, x, t), rows).norm(dim=2)

    expected = on_walks(unet, measure, SEEDS)
    torch.testing.assert_close(
        torch.cat([each.gain for each in found]), expected, rtol=2e-3, atol=0
    )


def test_gains_of_features(digits, digits64):
    found = [bare(name="one"), bare(name="two")]
    table = gain_over_time(digits, found, SEEDS, TIMES, **STEPS)
    measure = by_differences(maps.decoder(digits64), [one.vector for one in found])
    expected = on_walks(digits, measure, SEEDS)
    torch.testing.assert_close(table.gain, expected, rtol=2e-3, atol=0)
    torch.testing.assert_close(table.mean(), expected.mean(2), rtol=2e-3, atol=0)
    assert table.gain.dtype == torch.float64
    assert (table.names, table.times) == (("one", "two"), tuple(TIMES))
    assert (table.space, table.kind) == ("h", "noise")


@pytest.mark.parametrize("kind", ["noise", "denoised"])
def test_gains_of_latents(digits, digits64, kind):
    cond = digits.encode(class_label=[3, 8])
    found = [bare("x", name=name) for name in "ab"]
    table = gain_over_time(digits, found, SEEDS, TIMES, kind=kind, cond=cond, **STEPS)
    measure = by_differences(maps.output(digits64, kind), [one.vector for one in found], cond)
    expected = on_walks(digits, measure, SEEDS, cond)
    torch.testing.assert_close(table.gain, expected, rtol=2e-3, atol=0)
    assert (table.space, table.kind) == ("x", kind)


def test_each_timestep_is_what_rank_by_has_there(digits):
    found = attention(digits, rank=3)
    table = gain_over_time(digits, found, SEEDS, [499], **STEPS)
    x = digits.sample_latents(2, 499, seed=SEEDS, **STEPS)
    torch.testing.assert_close(
        table.gain[:, 0], rank_by(digits, x, 499, found).gain, rtol=1e-3, atol=0
    )
    assert table.names[1] == "v 1 of mid_block.attentions.0"


def test_a_linear_decoder_by_its_formula():
    """ε = A h: the gain is ‖A v‖ at every t; that of x̂₀ = (x − σ ε) / α is σ / α times as much."""
    model, matrix = decoder_model(torch.float64)
    vectors = torch.randn(3, WIDE, 3, 4, dtype=torch.float64)
    found = [Direction.of(one, "h", tap="first") for one in vectors]
    times = [900, 500, 100]
    own = matrix @ (vectors / vectors.flatten(1).norm(dim=1)[:, None, None, None]).flatten(1).mT
    own = own.norm(dim=0)[:, None, None].expand(3, 3, 2)
    noise = gain_over_time(model, found, [0, 1], times, grid=[999, 900, 500, 100])
    torch.testing.assert_close(noise.gain, own, rtol=1e-9, atol=0)
    clean = gain_over_time(model, found, [0, 1], times, kind="denoised", grid=[999, 900, 500, 100])
    signal = DDPMScheduler().alphas_cumprod[times].double()
    scale = ((1 - signal) / signal).sqrt()[:, None]
    torch.testing.assert_close(clean.gain, own * scale, rtol=1e-5, atol=0)


def test_a_linear_denoiser_by_its_formula():
    """x̂₀ = A x, whose gain is ‖A v‖; a direction in the kernel of A has none."""
    matrix = two_sided(rank=4)
    model = denoiser_model(matrix)
    kernel = torch.linalg.svd(matrix)[2][-1]
    vectors = torch.stack([torch.randn(len(kernel), dtype=torch.float64), kernel])
    found = [Direction.of(one.view(X), "x") for one in vectors]
    table = gain_over_time(model, found, [4], [899, 399], kind="denoised", steps=10)
    own = (matrix @ vectors[0]).norm() / vectors[0].norm()
    torch.testing.assert_close(table.gain[0], own.expand(2, 1), rtol=1e-9, atol=0)
    assert float(table.gain[1].max()) < 1e-12


def test_of_an_entry_the_direction_counts_that_covers_t(digits):
    components = pca(digits, 6, 2, steps=10)
    entry, known = components.entry(1), {one.t: one for one in components.entry(1)}
    other = bare(name="other")
    found = gain_over_time(digits, [entry, other], SEEDS, [799, 299], **STEPS)
    assert found.names == ("pca 1", "other")
    for place, t in enumerate((799, 299)):
        alone = gain_over_time(digits, [known[t], other], SEEDS, [t], **STEPS)
        torch.testing.assert_close(found.gain[:, place], alone.gain[:, 0], rtol=1e-4, atol=0)
    everywhere = gain_over_time(digits, [known[299]], SEEDS, [799], **STEPS)
    assert not torch.isclose(everywhere.gain[0, 0], found.gain[0, 0], rtol=1e-2).all()


def test_batches_change_nothing_and_tell_how_far_they_are(digits):
    told, found = [], [bare()]
    cond = digits.encode(class_label=[3, 8, 1])
    options = {"cond": cond, "eta": 1.0, "seed": 5, **STEPS}
    whole = gain_over_time(digits, found, [3, 8, 4], TIMES, **options)
    parts = gain_over_time(
        digits, found, [3, 8, 4], TIMES, batch=2, progress=lambda *one: told.append(one), **options
    )
    torch.testing.assert_close(whole.gain, parts.gain, rtol=1e-3, atol=0)
    assert told == [(2, 3), (3, 3)]
    guided = gain_over_time(digits, found, [3, 8, 4], TIMES, guidance=3.0, **options)
    assert not torch.allclose(guided.gain, whole.gain, rtol=1e-2), "the walk is guided"


def test_quartiles_are_those_of_the_samples():
    values = torch.rand(3, 4, 9, dtype=torch.float64)
    table = GainOverTime(("a", "b", "c"), (9, 6, 3, 0), values, "h", "noise")
    low, middle, high = table.quartiles()
    ranked = values.sort(dim=2).values
    assert torch.allclose(low, ranked[..., 2])
    assert torch.equal(middle, ranked[..., 4])
    assert torch.allclose(high, ranked[..., 6])


def test_a_table_of_means(digits):
    lines = str(gain_over_time(digits, [bare(), bare(name="")], [1], TIMES, **STEPS)).splitlines()
    assert re.split(r"\s{2,}", lines[0]) == ["direction", "t = 799", "t = 299"]
    assert lines[1].startswith("smile ")
    assert lines[2].startswith("direction 1 ")
    assert all(float(word) > 0 for word in lines[1].split()[1:])


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"directions": []}, ValueError, "at least one direction, got none"),
        ({"directions": [()]}, ValueError, "at least one direction, got none"),
        ({"directions": bare()}, TypeError, "in a list, got one Direction"),
        ({"directions": [bare(), 5]}, TypeError, "Expected directions, got int"),
        ({"directions": [(bare(), "a")]}, TypeError, "Expected directions, got str"),
        ({"directions": [bare(), bare("x")]}, ValueError, "same space, got 'h' of .* and 'x'"),
        ({"directions": [bare(), bare(tap="up_blocks.0")]}, ValueError, "same tap"),
        ({"directions": [(bare(), bare("x"))]}, ValueError, "same space"),
        ({"directions": [bare("prompt")]}, ValueError, 'in the latents .*, got "prompt"'),
        (
            {"directions": [bare(vector=torch.ones(96, 2, 2))]},
            ValueError,
            r"shape \[96, 4, 4\]",
        ),
        (
            {"directions": [(bare(window=(799, 500)),)]},
            ValueError,
            "the entry smile that covers t = 299, got none",
        ),
        ({"directions": [(bare(), bare())]}, ValueError, "covers t = 799, got 2"),
        ({"times": [299, 799]}, ValueError, "go down"),
        ({"times": [799, 300]}, ValueError, r"comes by.*\[300\]"),
        ({"seeds": 5}, ValueError, "a list of seeds"),
        ({"seeds": []}, ValueError, "a list of seeds"),
        ({"seeds": [-1]}, ValueError, "seed"),
        ({"batch": 0}, ValueError, "batch"),
        ({"kind": "image"}, ValueError, "one of noise, denoised, score, got 'image'"),
        ({"strides": 5}, TypeError, "unexpected option 'strides'"),
        ({"model": None}, TypeError, "LatentModel"),
    ],
)
def test_what_does_not_fit_is_named(digits, given, kind, words):
    usual = {
        "model": digits, "directions": [bare()], "seeds": SEEDS, "times": TIMES, **STEPS,
    }  # fmt: skip
    with pytest.raises(kind, match=words):
        gain_over_time(**{**usual, **given})


def test_components_as_a_whole_are_no_list(digits):
    with pytest.raises(TypeError, match=r"got one PrincipalComponents\. Put .* entry\(i\)"):
        gain_over_time(digits, pca(digits, 4, 1, steps=5), SEEDS, TIMES, **STEPS)


def test_other_weights_give_a_warning(digits):
    found = attention(in_float64(digits), rank=1)
    with pytest.warns(UserWarning, match="has other weights"):
        gain_over_time(digits, found, [1], [299], **STEPS)
