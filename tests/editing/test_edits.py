"""Edits against the same thing done by hand."""

import pytest
import torch
from diffusers import DDIMScheduler

import pullback
from pullback import Direction, LatentModel, denoise, edit, editing, local_basis, sweep
from pullback.editing import Addition, Guidance, Injection, Shooting
from tests.models import families

T = 500
QUICK = {"steps": 10}


@pytest.fixture(scope="module")
def model(digits):
    return digits


@pytest.fixture(scope="module")
def x(model):
    return model.sample_latents(3, T, seed=4, steps=10)


@pytest.fixture(scope="module")
def basis(model, x):
    return local_basis(model, x, T, rank=3, quality="draft")


@pytest.fixture(scope="module")
def feature(basis):
    return basis.direction(0, space="h")


def normed(shape, seed=0):
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def in_x(model, seed=0, **fields):
    return Direction.of(normed(model.latent_shape, seed), "x", **fields)


def test_addition_is_a_sum_and_a_walk(model, x):
    direction = in_x(model, unit=2.0)
    found = edit(model, x, T, direction, 3.0, **QUICK)
    expected = denoise(model, x + 6.0 * direction.vector, T, **QUICK)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_no_strength_is_no_edit(model, x, feature):
    plain = denoise(model, x, T, **QUICK)
    ways = [None, Guidance(repeats=2), Injection(), Injection(asymmetric=True)]
    for way in ways:
        one = feature if isinstance(way, Injection) else in_x(model)
        found = edit(model, x, T, one, 0.0, way=way, **QUICK)
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


def test_guidance_is_the_published_formula(model, x):
    direction, scale = in_x(model), 0.7
    cond = model.conditions.of(None, len(x))
    alpha = DDIMScheduler.from_config(model.schedule.scheduler.config).alphas_cumprod[T]
    assert 0 < alpha < 1
    moved = x
    with torch.no_grad():
        for _ in range(4):  # x ← x + γ [ε(x + δ v) − ε(x)], at the same t with the same v
            ahead = model.predict(moved + 5.0 * direction.vector, T, cond)
            moved = moved + scale * (ahead - model.predict(moved, T, cond))
    expected = denoise(model, moved, T, **QUICK)
    found = edit(model, x, T, direction, 5.0, way=Guidance(scale, 4), **QUICK)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_normalised_move_keeps_mean_and_deviation_of_the_estimate(model, x):
    """To first order, which is exact where the noise does not change: here for a fixed one."""
    fixed = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(9))
    network = lambda x, t: fixed.expand_as(x) + 0 * x  # noqa: E731
    plain = LatentModel(network, DDIMScheduler(clip_sample=False), latent_shape=model.latent_shape)
    alpha = plain.schedule.alphas_cumprod[T]
    estimate = lambda y: (y - (1 - alpha).sqrt() * fixed) / alpha.sqrt()  # noqa: E731
    direction = Direction.of(torch.ones(model.latent_shape) + normed(model.latent_shape), "x")
    found = edit(plain, x, T, direction, 9.0, way=Addition(normalise=0.0), stop=T, **QUICK)
    before, after = estimate(x), estimate(found)
    for measure in (torch.mean, torch.std):
        torch.testing.assert_close(
            measure(after, (1, 2, 3)), measure(before, (1, 2, 3)), rtol=1e-3, atol=1e-4
        )
    assert (after - before).norm() > 1e-2 * before.norm()
    bare = edit(plain, x, T, direction, 9.0, stop=T, **QUICK)
    assert (estimate(bare).mean((1, 2, 3)) - before.mean((1, 2, 3))).abs().min() > 1e-2


def test_one_step_of_shooting_is_the_part_of_the_direction_in_the_basis(model, x, basis):
    direction = in_x(model)
    found = edit(model, x, T, direction, 4.0, way=Shooting(1, rank=3), stop=T, **QUICK)
    v = local_basis(model, x, T, 3).v.flatten(2)
    along = torch.einsum("brn,n->br", v, direction.vector.flatten())
    along = along / along.norm(dim=1, keepdim=True)
    expected = x + 4.0 * torch.einsum("br,brn->bn", along, v).reshape(x.shape)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)


def test_shooting_carries_the_direction_on(model, x, basis):
    """Each step goes along the leading directions there, by the image in the features so far."""
    start = local_basis(model, x[:1], T, 3, quality="tight")
    direction = start.direction(0)
    found = edit(
        model, x[:1], T, direction, 4.0, way=Shooting(2, 3, quality="tight"), stop=T, **QUICK
    )
    half = x[:1] + 2.0 * start.v[:, 0]
    there = local_basis(model, half, T, 3, quality="tight")
    along = torch.einsum("rm,m->r", there.u[0].flatten(1), start.u[0, 0].flatten())
    v = torch.einsum("r,rn->n", along / along.norm(), there.v[0].flatten(1)).reshape(x[:1].shape)
    torch.testing.assert_close(found, half + 2.0 * v, rtol=0, atol=5e-3)
    straight = x[:1] + 4.0 * start.v[:, 0]
    assert (found - straight).norm() > 5e-2


def test_injection_adds_to_the_feature_in_every_pass_of_the_window(model, x, feature):
    """Against a hook put in by hand."""
    seen = []

    def put(_module, _inputs, output):
        if window[0] >= at[0] >= window[1]:
            seen.append(at[0])
            return output + 2.0 * feature.vector
        return None

    at, window = [0], (T, 300)
    cond = model.conditions.of(None, len(x))
    grid = pullback.sampling.even_grid(model.schedule, T, steps=10)

    def predict(latents, t):
        at[0] = t
        return model.predict(latents, t, cond)

    handle = model.network.mid_block.register_forward_hook(put)
    try:
        expected = pullback.sampling.walk(model.schedule, predict, x, grid)
    finally:
        handle.remove()
    assert seen == [500, 400, 300]
    found = edit(model, x, T, feature, 2.0, window=window, **QUICK)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    everywhere = edit(model, x, T, feature.with_window(T, 0), 2.0, **QUICK)
    assert (everywhere - found).norm() > 1e-3


def test_an_asymmetric_step_keeps_the_noise_of_the_network_without_the_edit(model, x, feature):
    """x_s = √ᾱ_s x̂_0(ε with the edit) + √(1 − ᾱ_s) ε without it (Kwon et al. 2023)."""
    alpha = model.schedule.alphas_cumprod.double()
    cond = model.conditions.of(None, len(x))
    with torch.no_grad():
        plain = model.predict(x, T, cond)
        hook = lambda _m, _i, output: output + 4.0 * feature.vector  # noqa: E731
        handle = model.network.mid_block.register_forward_hook(hook)
        edited = model.predict(x, T, cond)
        handle.remove()
    clean = ((x - (1 - alpha[T]).sqrt() * edited) / alpha[T].sqrt()).clamp(-1, 1)
    expected = alpha[400].sqrt() * clean + (1 - alpha[400]).sqrt() * plain
    found = edit(
        model, x, T, feature.with_window(T, 0), 4.0, way=Injection(asymmetric=True), stop=400,
        **QUICK,
    )  # fmt: skip
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    symmetric = edit(model, x, T, feature.with_window(T, 0), 4.0, stop=400, **QUICK)
    assert (symmetric - found).norm() > 1e-2


def test_a_pooled_feature_is_added_at_every_place(model, x):
    pooled = Direction.of(normed((96,)), "h", tap="mid_block", pool="space")
    whole = Direction.of(
        pooled.vector[:, None, None].expand(96, 4, 4), "h", tap="mid_block", unit=4.0
    )
    found = edit(model, x, T, pooled, 1.0, **QUICK)
    expected = edit(model, x, T, whole, 1.0, **QUICK)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_direction_of_prompts_is_added_to_the_condition():
    tiny = families.model_of("UNet2DConditionModel")
    cond = families.text(2)
    embedding = cond["encoder_hidden_states"]
    x = tiny.sample_latents(2, T, cond=cond, steps=5)
    direction = Direction.of(normed(embedding.shape[1:]), "prompt", unit=3.0)
    found = edit(tiny, x, T, direction, 2.0, cond=cond, steps=5)
    moved = {**cond, "encoder_hidden_states": embedding + 6.0 * direction.vector}
    torch.testing.assert_close(
        found, denoise(tiny, x, T, cond=moved, steps=5), rtol=1e-4, atol=1e-4
    )
    late = edit(tiny, x, T, direction, 2.0, cond=cond, steps=5, window=(100, 0))
    first = denoise(tiny, x, T, 100, cond=cond, steps=5)
    torch.testing.assert_close(
        late, denoise(tiny, first, 100, cond=moved, steps=5), rtol=1e-4, atol=1e-4
    )


def test_latents_are_pushed_before_every_step_of_a_window(model, x):
    direction = in_x(model)
    found = edit(model, x, T, direction, 1.5, window=(T, 400), **QUICK)
    push = 1.5 * direction.vector
    at = denoise(model, x + push, T, 400, **QUICK)
    expected = denoise(model, at + push, 400, **QUICK)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_directions_together_add_up(model, x, feature):
    one, two = in_x(model, 1), in_x(model, 2, unit=3.0)
    found = edit(model, x, T, [one, two], 2.0, **QUICK)
    expected = denoise(model, x + 2.0 * one.vector + 6.0 * two.vector, T, **QUICK)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    mixed = edit(model, x, T, [one, feature.with_window(T, 0)], 2.0, **QUICK)
    inside = edit(model, x + 2.0 * one.vector, T, feature.with_window(T, 0), 2.0, **QUICK)
    torch.testing.assert_close(mixed, inside, rtol=1e-4, atol=1e-5)


def test_boosted_steps_are_stochastic_below_the_timestep(model, x):
    direction = in_x(model)
    found = edit(model, x, T, direction, 2.0, boost=200, seed=3, **QUICK)
    eta = lambda t: float(t < 200)  # noqa: E731
    expected = denoise(model, x + 2.0 * direction.vector, T, eta=eta, seed=3, **QUICK)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found, edit(model, x, T, direction, 2.0, **QUICK))
    with pytest.raises(ValueError, match="either eta or boost"):
        edit(model, x, T, direction, 2.0, boost=200, eta=0.5, seed=0, **QUICK)


@pytest.mark.parametrize("rows", [1, 2, 5, None])
def test_a_sweep_is_its_edits_one_by_one(model, x, feature, rows):
    """With stochastic steps: every edit of a sample gets that sample's noise, in any batch."""
    entries = [in_x(model, 1, name="one"), feature.with_window(T, 0), [in_x(model, 2)]]
    strengths = [-4.0, 0.0, 2.0]
    options = {**QUICK, "eta": 1.0, "seed": [7, 8, 9]}
    found = sweep(model, x, T, entries, strengths, rows=rows, **options)
    assert found.latents.shape == (3, 3, 3, *model.latent_shape)
    assert (found.names[0], found.strengths) == ("one", (-4.0, 0.0, 2.0))
    assert (found.t, found.stop) == (T, -1)
    for sample in range(3):
        alone = {**options, "seed": [7 + sample]}
        for place, entry in enumerate(entries):
            for which, strength in enumerate(strengths):
                one = edit(model, x[sample : sample + 1], T, entry, strength, **alone)
                torch.testing.assert_close(
                    found.latents[sample, place, which], one[0], rtol=1e-3, atol=1e-4
                )


def test_a_basis_moves_every_sample_along_its_own_directions(model, x, basis):
    found = basis.edit([3.0], indices=[2, 0], **QUICK)
    assert found.names == ("v_3", "v_1")
    for place, index in enumerate((2, 0)):
        expected = denoise(model, x + 3.0 * basis.v[:, index], T, **QUICK)
        torch.testing.assert_close(found.latents[:, place, 0], expected, rtol=1e-4, atol=1e-5)
    again = sweep(model, x, T, basis, [3.0], **QUICK)
    torch.testing.assert_close(again.latents[:, 2], found.latents[:, 0], rtol=1e-4, atol=1e-5)


def test_a_mask_keeps_what_it_leaves_out(model, x):
    mask = torch.zeros(32, 32)
    mask[:16] = 1  # the upper half, at twice the size
    direction = in_x(model)
    found = edit(model, x, T, direction, 5.0, mask=mask, stop=T, **QUICK)
    assert torch.equal(found[:, :, 8:], x[:, :, 8:])
    upper = x[:, :, :8] + 5.0 * direction.vector[:, :8]
    torch.testing.assert_close(found[:, :, :8], upper, rtol=1e-6, atol=1e-6)


def test_an_inverted_image_is_edited_along_its_own_walk(model):
    from pullback.zoo.digits.data import load_digits, resample

    images = resample(load_digits()[0][:2])
    inverted = pullback.invert(model, images, 700, method="stochastic", steps=10)
    direction = in_x(model)
    kept = edit(model, inverted.x, 700, direction, 0.0, inversion=inverted)
    torch.testing.assert_close(kept, images, rtol=0, atol=1e-4)
    found = edit(model, inverted.x, 700, direction, 3.0, inversion=inverted)
    expected = inverted.restore(inverted.x + 3.0 * direction.vector)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    three = {"class_labels": torch.tensor([3, 3])}  # with another condition than it was inverted
    other = edit(model, inverted.x, 700, direction, 3.0, inversion=inverted, cond=three)
    assert (other - found).norm() > 0.1
    with pytest.raises(ValueError, match=r"at t = 700, where the inversion arrived, got.*t = 600"):
        edit(model, inverted.x, 600, direction, 3.0, inversion=inverted)


def test_times_to_edit_come_from_the_models_own_features(model):
    from pullback.zoo.digits.data import load_digits, resample

    images = resample(load_digits()[0][:8])
    found = editing.edit_times(model, images, points=9)
    assert found.times.tolist()[0] == 1
    assert found.times.tolist()[-1] == 999
    assert found.estimate[0] < 0.05
    assert found.latents[0] < 0.05
    assert found.latents[-1] == pytest.approx(1, abs=0.1)
    assert found.estimate[found.times.tolist().index(found.t_edit)] >= 0.33
    assert bool((found.estimate[found.times < found.t_edit] < 0.33).all())
    assert bool((found.latents[found.times < found.t_boost] < 0.3).all())
    later = editing.edit_times(model, images, points=9, settled=0.6, textures=0.5)
    assert later.t_edit > found.t_edit
    assert later.t_boost > found.t_boost


BAD = [
    (lambda m, x: edit(m, x, T, in_x(m), float("nan")), ValueError, "finite strengths"),
    (lambda m, x: sweep(m, x, T, [in_x(m)], []), ValueError, "finite strengths, at least one"),
    (lambda m, x: sweep(m, x, T, [], [1.0]), ValueError, "at least one direction"),
    (lambda m, x: sweep(m, x, T, in_x(m), [1.0]), TypeError, "Put it into a list"),
    (lambda m, x: edit(m, x, T, []), ValueError, "got none in edit 1"),
    (lambda m, x: sweep(m, x, T, [in_x(m), []], [1.0]), ValueError, "got none in edit 2"),
    (lambda m, x: editing.PerSample([in_x(m)]), TypeError, "row of edits for each sample"),
    (lambda m, x: edit(m, x, T, torch.ones(2), 1.0), TypeError, "Expected directions, got Tensor"),
    (lambda m, x: edit(m, x, T, Direction.of(torch.ones(1, 8, 8), "x")), ValueError, "shape"),
    (lambda m, x: edit(m, x, 5000, in_x(m)), ValueError, "between 0 and 999"),
    (lambda m, x: edit(m, x[0], T, in_x(m)), ValueError, "latents of shape"),
    (lambda m, x: edit(m, x, T, in_x(m), way=Injection()), ValueError, "none among these"),
    (lambda m, x: edit(m, x, T, in_x(m), window=(100, 300)), ValueError, "downwards in time"),
    (
        lambda m, x: edit(m, x, T, in_x(m), mask=torch.ones(5, 16)),
        ValueError,
        "16 x 16, or",
    ),
    (lambda m, x: edit(m, x, T, in_x(m), mask=torch.full((16, 16), 255.0)), ValueError, "0 to 255"),
    (lambda m, x: edit(m, x, T, in_x(m), mask=[[1]]), TypeError, "mask as a tensor"),
    (lambda m, x: edit(m, x, T, in_x(m), stop=433, steps=10), ValueError, "strides of 100"),
    (lambda m, x: edit(m, x, T, in_x(m), boost=-3), ValueError, "whole training timestep"),
    (lambda m, x: edit(m, x, T, in_x(m), window=(59, 41)), ValueError, "begin at 500, 480, 460"),
    (lambda m, x: edit(m, x, T, in_x(m), window=(900, 800)), ValueError, "900 to 800, where none"),
    (
        lambda m, x: edit(m, x, T, in_x(m), window=(300, 0), stop=400),
        ValueError,
        "begin at 500, 480, 460, 440, 420: widen",
    ),
    (
        lambda m, x: edit(m, x, T, in_x(m), boost=200, solver="dpm++"),
        ValueError,
        "no boost of an edit",
    ),
    (lambda m, x: edit(m, x, T, in_x(m), stesp=3), TypeError, "unexpected option 'stesp'"),
    (lambda m, x: sweep(m, x, T, [in_x(m)], [1.0], rows=0), ValueError, "rows to be at least 1"),
    (lambda m, x: sweep(m, x, T, [in_x(m)], [1.0], indices=[0]), ValueError, "Indices choose"),
    (lambda m, x: Guidance(repeats=0), ValueError, "repeats to be at least 1"),
    (lambda m, x: Addition(normalise=1.0), ValueError, "from 0 to below 1"),
    (lambda m, x: editing.edit_times(m, x, settled=2.0), ValueError, "settled between 0 and 1"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_what_does_not_fit_is_refused(model, x, call, kind, message):
    with pytest.raises(kind, match=message):
        call(model, x)


def test_a_way_for_latents_is_refused_for_features(model, x, feature):
    with pytest.raises(ValueError, match="Guidance is for directions in the latents"):
        edit(model, x, T, feature, 1.0, way=Guidance(), **QUICK)


def test_a_strength_that_overflows_the_dtype_is_refused(x):
    network = lambda x, t: 0 * x  # noqa: E731
    half = LatentModel(
        network, DDIMScheduler(), latent_shape=x.shape[1:], dtype=torch.float16, device="cpu"
    )
    with pytest.raises(ValueError, match=r"strength of 1e\+09 overflows torch.float16"):
        edit(half, x.half(), T, in_x(half), 1e9)


def test_samples_at_several_timesteps_are_edited_one_by_one(model, x):
    mixed = local_basis(model, x[:2], torch.tensor([T, 300]), rank=1, quality="draft")
    with pytest.raises(ValueError, match=r"one timestep, got \[300, 500\]"):
        mixed.edit([1.0])


def test_a_basis_from_a_file_says_how_to_edit_with_it(basis, tmp_path):
    basis.save(tmp_path / "basis.safetensors")
    loaded = pullback.LocalBasis.load(tmp_path / "basis.safetensors")
    with pytest.raises(RuntimeError, match=r"pullback\.sweep\(model, x, t, basis, strengths\)"):
        loaded.edit([1.0])
