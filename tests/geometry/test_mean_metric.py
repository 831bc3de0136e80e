"""The leading directions of E[JᵀJ] against the dense metric in float64."""

import inspect
import math

import pytest
import torch

import pullback
from pullback import GlobalDirections, maps, mean_metric
from pullback.geometry import Options
from pullback.operators import JacobianOperator
from pullback.testing import map_jacobian, sine


@pytest.fixture(scope="module")
def x(digits):
    return digits.sample_latents(2, 500, seed=2)


@pytest.fixture(scope="module")
def truth(digits64, x):
    """Square roots of the eigenvalues [256] of E[JᵀJ], descending, and its eigenvectors as rows."""
    jacobian = map_jacobian(maps.encoder(digits64), x, 500)
    values, vectors = torch.linalg.eigh((jacobian.mT @ jacobian).mean(0))
    return values.flip(0).sqrt(), vectors.mT.flip(0)


def off(found, rows):
    """The sine of the largest angle between directions and true rows."""
    return float(sine(found.vectors.flatten(1)[None], rows[None, : len(found)]))


@pytest.fixture(scope="module")
def streamed(digits, x):
    return {count: mean_metric(digits, x, 500, 3, samples=count) for count in (None, 1, 2)}


def test_the_directions_are_the_eigenvectors_of_the_dense_mean_metric(streamed, truth):
    s, rows = truth
    for found in streamed.values():
        assert off(found, rows) <= 2e-3
        torch.testing.assert_close(found.s, s[:3], rtol=1e-4, atol=0)
        torch.testing.assert_close(found.agreement, found.s.square() / found.s[0] ** 2)
        assert found.provenance["converged"] is True
        assert off(found, rows) <= found.provenance["angle_bound"] <= 2e-3
        assert (found.how, found.space, found.vectors.shape) == ("metric", "x", (3, 1, 16, 16))
        flat = found.vectors.flatten(1)
        assert bool((flat.gather(1, flat.abs().argmax(1, keepdim=True)) > 0).all())


def test_how_many_samples_go_through_at_a_time_changes_rounding_alone(streamed):
    one = streamed[1]
    torch.testing.assert_close(streamed[2].vectors, one.vectors, rtol=0, atol=1e-5)
    torch.testing.assert_close(streamed[2].s, one.s, rtol=1e-6, atol=0)


def test_images_of_no_more_samples_are_held(digits, monkeypatch):
    batches = set()
    for name in ("matmat", "rmatmat"):
        product = getattr(JacobianOperator, name)

        def watched(self, block, product=product):
            batches.add(len(block))
            return product(self, block)

        monkeypatch.setattr(JacobianOperator.__mro__[1], name, watched)
    three = digits.sample_latents(3, 500, seed=5)
    mean_metric(digits, three, 500, 1, samples=2, quality="draft")
    assert batches == {1, 2}


def test_any_map_and_its_variable(digits, x):
    found = mean_metric(maps.decoder(digits), x, 500, 2, quality="draft")
    assert (found.space, found.vectors.shape) == ("h", (2, 96, 4, 4))
    found.direction(0).check_fits(digits, 500)
    pooled = mean_metric(maps.encoder(digits, pool="space"), x, 500, 2, quality="draft")
    assert pooled.provenance["map"] == "encoder mid_block, pooled over space"
    assert pooled.direction(1).space == "x"
    assert pooled.direction(1).pool is None


def test_a_condition_of_each_sample_is_used(digits, x):
    labels = {"class_labels": torch.arange(2)}
    some = [mean_metric(digits, x, 500, 2, cond, quality="draft") for cond in (None, labels)]
    assert float((some[0].s - some[1].s).abs().max()) > 1e-2


def test_timesteps_may_be_given_for_each_sample_if_they_are_one(digits, x):
    each = mean_metric(digits, x, torch.full((2,), 500), 1, quality="draft")
    assert torch.equal(each.vectors, mean_metric(digits, x, 500, 1, quality="draft").vectors)
    assert each.provenance["t"] == 500


def test_the_provenance_says_how_and_the_file_keeps_it(streamed, tmp_path):
    found = streamed[None]
    known = found.provenance
    assert (known["samples"], known["stopped"], known["seed"]) == (2, "converged", 0)
    assert known["products"] > 2 * 2 * 3
    path = tmp_path / "metric.safetensors"
    found.save(path)
    again = GlobalDirections.load(path)
    for name in ("vectors", "agreement", "s"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert again.provenance == known
    one = found[1:].direction(0)
    assert one.provenance["s"] == float(found.s[1])


def test_options_are_those_of_bases(digits, x):
    shown = inspect.signature(mean_metric).parameters
    assert set(Options.__annotations__) < set(shown)
    first = mean_metric(digits, x, 500, 3, quality="draft", seed=3)
    started = mean_metric(digits, x, 500, 3, tol=1e-2, init=first.vectors[None], chunk=2)
    assert started.provenance["tol"] == 1e-2
    assert first.provenance["seed"] == 3
    seen = []
    mean_metric(digits, x, 500, 2, quality="draft", progress=seen.append)
    assert seen[-1].samples == 1
    with pytest.raises(TypeError, match=r"mean_metric\(\) got .* 'block'"):
        mean_metric(digits, x, 500, 2, block=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(1, 1, 16, 16)}, "two samples or more, got 1"),
        ({"x": torch.full((2, 1, 16, 16), math.nan)}, "NaN or Inf"),
        ({"t": torch.tensor([500, 400])}, r"one timestep, got \[400, 500\]"),
        ({"t": 1000}, "between 0 and 999"),
        ({"rank": 0}, "rank to be a whole number between 1"),
        ({"rank": 257}, "rank to be a whole number between 1"),
        ({"samples": 0}, "samples to be at least 1, got 0"),
        ({"samples": 1.5}, "samples to be a whole number"),
        ({"tol": 2}, "tol between 0 and 1"),
    ],
)
def test_what_it_does_not_take_is_named(digits, change, message):
    given = {"x": torch.randn(2, 1, 16, 16), "t": 500, "rank": 2, **change}
    with pytest.raises(ValueError, match=message):
        mean_metric(digits, **given)


def test_what_is_no_model_or_map_is_a_type_error(x):
    with pytest.raises(TypeError, match="Expected a model or a map, got str"):
        mean_metric("digits", x, 500, 2)


@pytest.mark.parametrize("samples", [None, 2])
def test_what_has_not_converged_is_warned_of(digits, x, samples):
    with pytest.warns(
        UserWarning, match=r"not converged.*not by tol = 1\.0e-04 \(max_prod"
    ) as seen:
        found = mean_metric(digits, x, 500, 4, quality="tight", max_products=12, samples=samples)
    assert seen[0].filename == __file__
    assert found.provenance["converged"] is False
    assert found.provenance["stopped"] == "max_products"


@pytest.mark.parametrize(("samples", "why"), [(None, "move no feature"), (1, "no smaller ones")])
def test_a_metric_of_lower_rank_gives_as_many_directions(digits, x, samples, why):
    few = maps.encoder(digits).then(lambda h: h.flatten(1)[:, [0, *[5] * 9]])  # two entries of h
    expected = rf"numerical rank of 4, below the 6 directions asked for: 4 .* {why}"
    with pytest.warns(UserWarning, match=expected):
        found = mean_metric(few, x[:2], 500, 6, samples=samples, quality="draft")
    assert len(found) == len(found.s) == len(found.agreement) == 4
    assert float(found.s.min()) > 1e-2 * float(found.s[0])
    nothing = maps.encoder(digits).then(lambda h: h * 0)
    with pytest.raises(ValueError, match=r"depends on x, got encoder mid_block then .* are zero"):
        mean_metric(nothing, x[:2], 500, 2, samples=samples)


def test_it_is_a_name_of_the_package():
    assert pullback.mean_metric is mean_metric
    assert "mean_metric" in dir(pullback)
