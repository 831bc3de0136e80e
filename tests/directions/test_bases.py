"""From a local basis to one of its directions."""

import dataclasses
import json

import pytest
import torch

import pullback
from pullback import Direction, LocalBasis, basis, local_basis, maps
from tests.models.families import TINY, model_of


@pytest.fixture(scope="module")
def small(digits):
    x = digits.sample_latents(2, 500, seed=4)
    return local_basis(digits, x, torch.tensor([500, 500]), 3, quality="draft")


def of_map(model, map, t=500, cond=None):
    x = model.sample_latents(2, t, seed=7, cond=cond, steps=5)
    return basis(map, x, t, 2, cond=cond, quality="draft")


def test_v_is_a_direction_of_x(small, digits):
    for sample in range(2):
        for index in range(3):
            found = small.direction(index, sample)
            assert torch.allclose(found.vector, small.v[sample, index], atol=1e-7)
            assert (found.space, found.tap, found.pool) == ("x", None, None)
            assert (found.t, found.window, found.unit) == (500, None, 1.0)
            known = found.provenance
            assert (known["how"], known["index"], known["sample"]) == ("local basis", index, sample)
            assert known["s"] == float(small.s[sample, index])
            assert known["fingerprint"] == digits.fingerprint
            assert (known["vector"], known["t"], known["tap"]) == ("v", 500, "mid_block")
            assert json.loads(json.dumps(known)) == known
    found.check_fits(digits, 500)


def test_u_is_a_direction_of_h(small, digits):
    found = small.direction(1, sample=1, space="h")
    assert torch.allclose(found.vector, small.u[1, 1], atol=1e-7)
    assert (found.space, found.tap, found.pool) == ("h", "mid_block", None)
    assert found.provenance["vector"] == "u"
    found.check_fits(digits, 500)


def test_u_of_a_pooled_basis_is_pooled(digits):
    found = of_map(digits, maps.encoder(digits, "up_blocks.1", pool="space")).direction(
        0, space="h"
    )
    assert (found.tap, found.pool, found.vector.shape) == ("up_blocks.1", "space", (64,))
    found.check_fits(digits, 500)


def test_v_of_a_decoder_is_a_direction_of_h(digits):
    wide = of_map(digits, maps.decoder(digits))
    for found in (wide.direction(1), wide.direction(1, space="h")):
        assert torch.allclose(found.vector, wide.v[0, 1], atol=1e-7)
        assert (found.space, found.tap) == ("h", "mid_block")
        found.check_fits(digits, 500)
    with pytest.raises(ValueError, match=r'as "h" \(v\) for a basis of the map .*got "x"'):
        wide.direction(0, space="x")


def test_v_with_respect_to_the_prompt():
    flow = model_of("SD3Transformer2DModel")
    cond = TINY["SD3Transformer2DModel"].draw(2)
    found = of_map(flow, maps.encoder(flow, wrt="prompt"), 600, cond)
    words, feature = found.direction(0), found.direction(0, space="h")
    assert words.space == "prompt"
    assert torch.allclose(words.vector, found.v[0, 0], atol=1e-7)
    assert torch.allclose(feature.vector, found.u[0, 0], atol=1e-7)
    words.check_fits(flow, 600)
    feature.check_fits(flow, 600)
    with pytest.raises(ValueError, match=r'as "prompt" \(v\) or "h" \(u\) .*got "x"'):
        found.direction(0, space="x")


def test_u_of_other_maps_is_no_feature(digits):
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    whole = maps.encoder(digits)
    for map in (maps.output(digits, "denoised"), whole.restrict(mask), whole.then(torch.tanh)):
        found = of_map(digits, map)
        assert found.direction(0).space == "x"
        for space in ("h", "prompt"):
            with pytest.raises(ValueError, match=r'Expected the space as "x" \(v\) for a basis'):
                found.direction(0, space=space)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3,), "index to be between 0 and 2, got 3"),
        ((-1,), "index to be between 0 and 2, got -1"),
        ((0.0,), "index to be a whole number"),
        ((0, 2), "sample to be between 0 and 1, got 2"),
        ((0, None), "sample to be a whole number"),
        ((0, 0, "z"), "Expected space as"),
    ],
)
def test_what_a_basis_does_not_have(small, arguments, words):
    with pytest.raises(ValueError, match=words):
        small.direction(*arguments)


def test_no_direction_beyond_the_rank(small):
    less = dataclasses.replace(small, rank=torch.tensor([3, 2]))
    less.direction(2, 0)
    with pytest.raises(ValueError, match="below 2, the numerical rank of sample 1, got 2"):
        less.direction(2, 1)


def test_no_basis():
    with pytest.raises(TypeError, match="Expected a LocalBasis, got Tensor"):
        Direction.of_basis(torch.ones(2), 0)


def test_of_a_saved_or_narrowed_basis_and_an_infinite_bound(small, tmp_path):
    small.save(tmp_path / "basis.safetensors")
    again = LocalBasis.load(tmp_path / "basis.safetensors")
    assert torch.equal(again.direction(1, 1).vector, small.direction(1, 1).vector)
    half = small[1].to(torch.float16).direction(1)
    assert half.vector.dtype == torch.float16
    endless = dataclasses.replace(small, angle_bound=torch.full((2,), torch.inf).double())
    assert endless.direction(0).provenance["angle_bound"] is None


def test_the_short_way_is_the_long_way(small):
    assert isinstance(small.direction(0), pullback.directions.Direction)
    assert torch.equal(small.direction(2, 1).vector, Direction.of_basis(small, 2, 1).vector)


def test_the_signs_and_singular_values_hold_in_the_model(digits64):
    """A small step along v moves h along u by s, as the direction's provenance says."""
    x = digits64.sample_latents(1, 500, seed=11)
    map = maps.encoder(digits64)
    found = basis(map, x, 500, 2, quality="tight")
    v, u = found.direction(0), found.direction(0, space="h")
    step = 1e-4
    ahead = map.at(x + v.displacement(step), 500).value()
    behind = map.at(x - v.displacement(step), 500).value()
    moved = ((ahead - behind) / (2 * step))[0]
    wanted = u.displacement(v.provenance["s"])
    assert float((moved - wanted).norm() / wanted.norm()) < 1e-3
