"""Directions of ∂ε/∂h against known matrices, dense Jacobians and the published loop."""

import json

import pytest
import torch

import pullback
from benchmarks.spectral_published import deflated_power_iteration
from pullback import maps
from pullback.directions import SpectralDirections, spectral
from pullback.testing import leading, map_jacobian, sine
from tests.directions.linear import FEATURES, WIDE, N, T, X, decoder_model, entries, region

RANK = 3


@pytest.fixture(scope="module")
def linear():
    return decoder_model()


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, *X, generator=torch.Generator().manual_seed(1))


def truth_of(matrix, mask=None):
    """Leading u, s and v of the matrix, in a region or as a whole."""
    rows = matrix if mask is None else matrix[entries(mask)]
    return leading(rows[None], RANK)


def apart(found, wanted):
    """The sine of the angle between single vectors, whatever their sign: the largest of them."""
    pairs = zip(found.flatten(1).double(), wanted.flatten(1).double(), strict=True)
    return max(float(sine(one[None, None], other[None, None])) for one, other in pairs)


@pytest.mark.parametrize("where", ["everywhere", "region", "whole mask"])
def test_a_linear_decoder_has_the_singular_vectors_of_its_matrix(linear, x, where):
    model, matrix = linear
    mask = {"everywhere": None, "region": region(), "whole mask": region().expand(X)}[where]
    found = spectral(model, x, T, RANK, tap="first", mask=mask, quality="tight")
    u, s, v = truth_of(matrix, mask)
    for sample in range(2):
        assert apart(found.basis.v[sample], v[0]) < 1e-3
        assert apart(found.basis.u[sample], u[0]) < 1e-3
        torch.testing.assert_close(found.basis.s[sample].double(), s[0], rtol=1e-4, atol=0)
    assert found.basis.v.shape == (2, RANK, WIDE, 3, 4)
    assert mask is None or torch.equal(found.mask, mask)


def test_a_region_has_other_directions_than_the_whole(linear):
    matrix = linear[1]
    assert float(sine(truth_of(matrix)[2], truth_of(matrix, region())[2])) > 0.1


def test_a_direction_lies_in_the_feature_at_the_tap(linear, x):
    model, _ = linear
    found = spectral(model, x, T, RANK, tap="first", mask=region(), seed=5)
    one = found.direction(1, 1)
    assert torch.allclose(one.vector, found.basis.v[1, 1], atol=1e-7)
    assert (one.space, one.tap, one.t, one.window, one.unit) == ("h", "first", T, None, 1.0)
    known = one.provenance
    assert (known["how"], known["index"], known["sample"]) == ("spectral", 1, 1)
    assert (known["scaled"], known["seed"]) == (False, 5)
    assert known["map"] == "decoder first to noise on 5 of 12"
    assert known["mask"].startswith("tensor 3 x 4")
    assert known["fingerprint"] == model.fingerprint
    assert json.loads(json.dumps(known)) == known
    one.check_fits(model)


def test_scaled_by_s_and_at_the_one_step_it_changes_the_noise_by_s_squared(linear, x):
    model, _ = linear
    found = spectral(model, x, T, RANK, tap="first", quality="tight")
    one = found.direction(0, scaled=True, window=(T, T))
    assert one.covers(T)
    assert not one.covers(T - 20)
    assert (one.unit, one.provenance["scaled"]) == (float(found.basis.s[0, 0]), True)
    bound = maps.decoder(model, "first").at(x[:1], T)
    with torch.no_grad():
        moved = bound.f(bound.point + one.displacement(1.0), *bound.args) - bound.value()
    assert float(moved.norm()) == pytest.approx(float(found.basis.s[0, 0]) ** 2, rel=1e-4)


def test_the_published_loop_finds_the_same_directions(linear, x):
    model, matrix = linear
    bound = maps.decoder(model, "first").at(x[:1], T)
    published = deflated_power_iteration(lambda h: bound.f(h, *bound.args), bound.point, RANK)
    found = spectral(model, x[:1], T, RANK, tap="first", quality="tight")
    assert apart(published.v, found.basis.v[0]) < 1e-3
    assert apart(published.u, found.basis.u[0]) < 1e-3
    assert apart(published.v, truth_of(matrix)[2][0]) < 1e-3
    assert int(found.basis.products[0]) < published.products
    print(f"products: {int(found.basis.products[0])}, published {published.products}")


def test_the_digit_model_against_its_dense_jacobian(digits, digits64):
    x = digits.sample_latents(1, 500, seed=3)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:8, 5:9] = True
    found = spectral(digits, x, 500, 2, mask=mask, quality="tight")
    dense = map_jacobian(maps.decoder(digits64).restrict(mask), x, 500)
    _, s, v = leading(dense, 2)
    assert float(sine(found.basis.v, v)) < 1e-3
    torch.testing.assert_close(found.basis.s.double(), s, rtol=1e-3, atol=0)
    first = found.direction(0)
    assert (first.tap, first.vector.shape) == (digits.default_tap, (96, 4, 4))
    first.check_fits(digits, 500)


def test_a_direction_is_applied_by_an_edit_at_its_window(digits):
    x = digits.sample_latents(1, 500, seed=3)
    found = spectral(digits, x, 500, 1, quality="draft")
    options = {"stop": 400, "grid": [500, 450, 400]}
    still = pullback.denoise(digits, x, start=500, **options)
    step = found.direction(0, window=(500, 500)).with_unit(5.0)
    whole = found.direction(0).with_unit(5.0)
    once = pullback.edit(digits, x, 500, step, **options)
    often = pullback.edit(digits, x, 500, whole, **options)
    assert float((once - still).norm()) > 1e-3
    assert float((often - once).norm()) > 1e-3
    none = pullback.edit(digits, x, 500, step, 0.0, **options)
    torch.testing.assert_close(none, still, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (torch.zeros(3, 4, dtype=torch.bool), ValueError, "selects something"),
        (torch.ones(3, 4), ValueError, "Expected a bool mask, got torch.float32"),
        (torch.ones(4, 3, dtype=torch.bool), ValueError, r"shape \[2, 3, 4\].*got \[4, 3\]"),
        (torch.ones(1, 2, 3, 4, dtype=torch.bool), ValueError, r"or of its last sizes, got \[1, 2"),
        (torch.tensor(True), ValueError, r"last sizes, got \[\]"),
        ([[True]], TypeError, "bool tensor .* got list"),
    ],
)
def test_masks_that_do_not_fit(linear, x, mask, error, words):
    with pytest.raises(error, match=words):
        spectral(linear[0], x, T, 1, tap="first", mask=mask)


def test_what_else_does_not_fit(linear, x):
    model, _ = linear
    with pytest.raises(TypeError, match="Expected a LatentModel, got Conv2d"):
        spectral(torch.nn.Conv2d(1, 1, 1), x, T, 1)
    with pytest.raises(ValueError, match="no module 'nowhere'"):
        spectral(model, x, T, 1, tap="nowhere")
    with pytest.raises(ValueError, match="rank to be a whole number between 1"):
        spectral(model, x, T, 11, tap="first", mask=region())  # ten entries
    with pytest.raises(ValueError, match="rank"):
        spectral(model, x, T, min(N, FEATURES) + 1, tap="first")
    with pytest.raises(TypeError, match="unexpected keyword argument 'block'"):
        spectral(model, x, T, 1, tap="first", block=3)
    bad = x.clone()
    bad[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        spectral(model, bad, T, 1, tap="first")
    found = spectral(model, x, T, 1, tap="first", quality="draft")
    assert isinstance(found, SpectralDirections)
    with pytest.raises(ValueError, match="index to be between 0 and 0, got 1"):
        found.direction(1)
    with pytest.raises(ValueError, match="window from a timestep down"):
        found.direction(0, window=(100, 200))
