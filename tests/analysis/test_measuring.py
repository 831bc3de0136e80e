"""What analyses measure of a model is what the library's functions give."""

import pytest
import torch

import pullback
from pullback import analysis, maps

TIMES = (900, 500, 100)


@pytest.fixture(scope="module")
def bases(digits):
    """Of four samples at three timesteps."""
    x = analysis.sampled(digits, range(4), TIMES, steps=5)
    return analysis.walked(digits, x, TIMES, 3)


def test_bases_are_local_bases_of_the_samples(digits, bases):
    for place, t in enumerate(TIMES):
        x = digits.sample_latents(4, t, 0, steps=5)
        assert torch.equal(bases.x[:, place], x)
        one = pullback.local_basis(digits, x, t, 3)
        for name in ("u", "s", "v"):
            assert torch.equal(getattr(bases, name)[:, place], getattr(one, name))
    few = bases.few(2, 2)
    assert few.times == (900, 100)
    assert torch.equal(few.v, bases.v[:2, ::2])
    assert torch.equal(few.tangents, few.u)


def test_an_ablation_changes_one_thing_alone(digits, bases):
    only_x, only_t = analysis.ablated(digits, bases.few(4, 2))
    last_x = pullback.local_basis(digits, bases.x[:, 2], 900, 3).u
    last_t = pullback.local_basis(digits, bases.x[:, 0], 100, 3).u
    assert torch.equal(only_x[:, 1], last_x)
    assert torch.equal(only_t[:, 1], last_t)
    assert torch.equal(only_x[:, 0], bases.u[:, 0])


def test_conditions_are_told_to_the_network(digits, bases):
    labels = digits.encode(class_label=[3, 1, 8])
    rows = analysis.under_conditions(digits, bases.few(2, 2), labels)
    assert rows.shape[:4] == (2, 2, 3, 3)
    cond = digits.encode(class_label=[1, 1])
    own = pullback.local_basis(digits, bases.x[:2, 2], 100, 3, cond=cond)
    assert torch.equal(rows[:, 1, 1], own.u)


def test_similarity_of_classes_is_that_of_their_embeddings(digits):
    labels = digits.encode(class_label=[3, 1, 8])
    found = analysis.similarity_of(digits, labels)
    table = digits.network.class_embedding.weight.detach().double()
    expected = torch.nn.functional.cosine_similarity(table[3], table[8], dim=0)
    assert float(found[0, 2]) == pytest.approx(float(expected))
    torch.testing.assert_close(found.diagonal(), torch.ones(3).double())
    tokens = torch.eye(3)[:, None].expand(3, 4, 3)
    assert torch.equal(
        analysis.similarity_of(digits, {"encoder_hidden_states": tokens}), torch.eye(3).double()
    )
    with pytest.raises(ValueError, match="of your own"):
        analysis.similarity_of(digits, {"added": torch.ones(3, 2)})


def test_paths_join_neighbours(digits, bases):
    options = {"segments": 2, "quality": "draft"}
    found = analysis.joined(digits, bases.x[:, ::2], TIMES[::2], ("lerp",), rank=3, **options)[
        "lerp"
    ]
    assert found.shape == (2, 2, 2)
    own = pullback.latent_path(
        digits, bases.x[2:3, 2], bases.x[3:4, 2], 100, kind="lerp", rank=3, **options
    )
    torch.testing.assert_close(found[1, 1], own.distance[:, 0], atol=0.05, rtol=0.05)


def test_moves_are_those_of_the_denoised_estimate(digits, bases):
    few = bases.few(2, 2)
    origin, along, random = analysis.moves(digits, few, 2, (0.5, 2.0))
    estimate = maps.output(digits, "denoised")
    own = pullback.basis(estimate, few.x[:, 0], 900, 2)
    torch.testing.assert_close(origin[:, 0], estimate.at(few.x[:, 0], 900).value())
    torch.testing.assert_close(
        along.products[:, 0].flatten(2).norm(dim=2), own.s, rtol=1e-3, atol=1e-4
    )
    moved = estimate.at(few.x[:, 0] + 2 * own.v[:, 0], 900).value()
    torch.testing.assert_close(along.moved[:, 0, 0, 1], moved, atol=1e-4, rtol=1e-3)
    assert float(random.products.norm()) < float(along.products.norm())


def test_whole_spectra_begin_with_those_of_bases(digits, bases):
    few = bases.few(1, 2)
    s = analysis.whole_spectrum(digits, few)
    assert s.shape == (1, 2, 256)
    own = pullback.basis(maps.output(digits, "denoised"), few.x[:, 0], 900, 3)
    torch.testing.assert_close(s[0, 0, :3].float(), own.s[0], rtol=1e-3, atol=1e-4)


def test_the_ends_of_samples_lead_to_one_another(digits, bases):
    clean, inverted = analysis.ends(digits, bases, steps=50)
    last = bases.x[:, -1]
    assert torch.equal(clean, pullback.denoise(digits, last, 100, steps=50))
    assert inverted.shape == bases.x.shape
    error = (inverted[:, -1] - last).norm() / last.norm()
    assert float(error) < 0.2, "inverted where the samples came from"


def test_what_is_measured_is_told_the_condition(digits, bases):
    few, cond = bases.few(2, 3), digits.encode(class_label=[3, 7])
    x, estimate = few.x[:, 0], maps.output(digits, "denoised")
    origin, along, _ = analysis.moves(digits, few, 1, (2.0,), cond, quality="draft")
    assert torch.equal(origin[:, 0], estimate.at(x, 900, cond).value())
    own = pullback.basis(estimate, x, 900, 1, cond, quality="draft")
    moved = estimate.at(x + 2 * own.v[:, 0], 900, cond).value()
    torch.testing.assert_close(along.moved[:, 0, 0, 0], moved, atol=1e-4, rtol=1e-3)
    one = {name: value[1:] for name, value in cond.items()}
    last = analysis.Bases(few.times, few.x[1:], few.s[1:], few.v[1:])
    s = analysis.whole_spectrum(digits, last, one)[0, 0]
    torch.testing.assert_close(s[:1].float(), own.s[1], rtol=1e-2, atol=1e-4)
    clean, inverted = analysis.ends(digits, last, one, steps=5)
    assert torch.equal(clean, pullback.denoise(digits, x[1:], 900, cond=one, steps=5))
    back = pullback.invert(digits, clean, 900, check=False, cond=one, steps=5)
    assert torch.equal(inverted[:, 0], back.x)
    # Without u the tangent spaces are those of x, here too.
    only_x, only_t = analysis.ablated(digits, last, one, quality="draft")
    assert only_x.shape == only_t.shape == last.v.shape
    told = pullback.local_basis(digits, x[1:], 900, 3, cond=one, quality="draft")
    assert torch.equal(only_t[:, 0], told.v)


def test_paths_are_told_the_condition_of_their_pair(digits, bases):
    cond = digits.encode(class_label=[3, 7])
    options = {"segments": 1, "quality": "draft", "rank": 2}
    found = analysis.joined(digits, bases.x[:, :2], TIMES[:2], ("lerp",), cond, **options)["lerp"]
    one = {name: value[1:] for name, value in cond.items()}
    own = pullback.latent_path(
        digits, bases.x[2:3, 1], bases.x[3:4, 1], TIMES[1], kind="lerp", cond=one, **options
    )
    torch.testing.assert_close(found[1, 1], own.distance[:, 0], atol=0.05, rtol=0.05)
