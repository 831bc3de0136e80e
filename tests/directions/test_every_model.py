"""Every way to find directions, on Stable Diffusion and Stable Diffusion 3 with their prompts."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch

import pullback
from pullback import Direction, LatentModel, basis, denoise, directions, edit, local_basis, maps
from pullback.testing import in_float64, leading, map_jacobian, sine
from tests.directions.made import same
from tests.models import hub

T, STEPS = 600, 5
QUICK = {"steps": STEPS}
PROMPTS = ["a cat", "the dog on a hill"]
#: A pipeline, a tap (the default one where there is none), and the shape of its feature.
PLACES = {
    "stable diffusion": ("Stable Diffusion", None, (32, 4, 4)),
    "a transformer in it": (
        "Stable Diffusion", "mid_block.attentions.0.transformer_blocks.0", (16, 32)
    ),
    "sd3": ("Stable Diffusion 3", None, (16, 24)),
    "its stream of text": ("Stable Diffusion 3", "transformer_blocks.1:0", (24, 24)),
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A model and a tap of it.

    Attributes:
        case: the tiny pipeline with its model.
        tap: as it is handed to the library.
        shape: of the feature.
    """

    case: hub.Case
    tap: str | None
    shape: tuple[int, ...]

    @property
    def model(self) -> LatentModel:
        return self.case.model

    @cached_property
    def double(self) -> LatentModel:
        return in_float64(self.model)

    @property
    def name(self) -> str:
        """The tap as directions call it."""
        return str(self.model.site(self.tap))

    @property
    def channels(self) -> int:
        return self.shape[0] if len(self.shape) == 3 else self.shape[-1]

    def of(self, pool: str | None) -> tuple[int, ...]:
        """The shape of the feature, pooled or not."""
        return self.shape if pool is None else (self.channels,)

    def encode(self, *prompts: str) -> dict[str, torch.Tensor]:
        return self.model.encode(prompt=list(prompts), **self.case.call)

    @cached_property
    def cond(self) -> dict[str, torch.Tensor]:
        """One of the prompts for each of two samples."""
        return self.encode(*PROMPTS)

    @cached_property
    def x(self) -> torch.Tensor:
        """Two latents at T on their way."""
        return self.model.sample_latents(2, T, seed=3, cond=self.cond, steps=STEPS)

    def jacobian(self, map: maps.Map) -> torch.Tensor:
        """A map's dense Jacobian at the first of the latents, `[m, n]` in float64."""
        cond = {name: value[:1].double() for name, value in self.cond.items()}
        return map_jacobian(map, self.x[:1], T, cond)[0]

    @cached_property
    def decoded(self) -> torch.Tensor:
        """That of the noise by the feature."""
        return self.jacobian(maps.decoder(self.double, self.tap))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    names = {name for name, *_ in PLACES.values()}
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return {
            name: hub.Case(name, hub.BUILDERS[name](tmp_path_factory.mktemp("words")))
            for name in sorted(names)
        }


@pytest.fixture(scope="module")
def places(cases):
    return {key: Place(cases[name], tap, shape) for key, (name, tap, shape) in PLACES.items()}


@pytest.fixture(scope="module", params=PLACES)
def place(request, places):
    return places[request.param]


@pytest.fixture(scope="module", params=["stable diffusion", "sd3"])
def whole(request, places):
    """A place for what is found in the latents, whatever the tap."""
    return places[request.param]


@pytest.fixture(scope="module")
def labelled(place):
    """Features of two timesteps, and how bright the decoded images are."""
    cond = place.encode(*PROMPTS * 8)
    return directions.label_samples(
        place.model, range(16), [800, T], brightness, tap=place.tap, cond=cond, **QUICK
    )


@pytest.fixture(autouse=True)
def no_warning():
    """None of these directions is of other weights, or is applied where it is not meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def brightness(images):
    return images.flatten(1).mean(1)


def check(place, entry, shape, tmp_path, *, t=T, x=None):
    """What holds of every edit, of one direction or of one for each step.

    The directions have a shape, fit the model, outlast a file, move the data and do so by nothing
    at strength 0.
    """
    model = place.model
    for one in [entry] if isinstance(entry, Direction) else entry:
        assert tuple(one.vector.shape) == shape
        assert one.provenance["fingerprint"] == model.seen_fingerprint
        assert one.tap == (place.name if one.space == "h" else None)
        one.check_fits(model)
        one.save(tmp_path / "one.safetensors")
        assert same(Direction.load(tmp_path / "one.safetensors"), one)
    given = {"cond": place.cond, **QUICK}
    x = place.x if x is None else x
    plain = denoise(model, x, t, **given)
    still = edit(model, x, t, entry, 0.0, **given)
    moved = edit(model, x, t, entry, 3.0, **given)
    torch.testing.assert_close(still, plain, rtol=0, atol=1e-5)
    assert bool(torch.isfinite(moved).all())
    assert float((moved - plain).flatten(1).norm(dim=1).min()) > 1e-3


@pytest.mark.parametrize("pool", [None, "space"])
@pytest.mark.parametrize("joint", [True, False])
def test_pca(place, joint, pool, tmp_path):
    model, cond = place.model, place.encode(PROMPTS[0])
    found = directions.pca(
        model, 6, 2, tap=place.tap, pool=pool, joint=joint, cond=cond, batch=4, **QUICK
    )
    start, shape = model.schedule.max_timestep, place.of(pool)
    x = model.sample_latents(6, start, seed=0, cond=place.encode(*[PROMPTS[0]] * 6), steps=STEPS)
    walk = directions.trajectory(
        model, x, start, tap=place.tap, pool=pool, cond=place.encode(*[PROMPTS[0]] * 6), **QUICK
    )
    assert found.times == walk.times
    assert found.components.shape == (2, len(walk.times), *shape)
    assert walk.features.shape == (6, len(walk.times), *shape)
    rows = (walk.features if joint else walk.features[:, 1]).flatten(1).double()
    _, s, vh = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    components, deviations = found.components, found.deviations
    if not joint:
        components, deviations = components[:, 1], deviations[:, 1]
    torch.testing.assert_close(deviations, s[:2] / 5**0.5, rtol=1e-3, atol=0)
    assert float(sine(components.flatten(1)[None], vh[None, :2])) < 1e-2
    check(place, found.entry(1), shape, tmp_path, t=start, x=x[:2])


@pytest.mark.parametrize("masked", [False, True])
def test_spectral(place, masked, tmp_path):
    mask = region() if masked else None
    found = directions.spectral(
        place.model, place.x, T, 2, tap=place.tap, mask=mask, cond=place.cond
    )
    dense = place.decoded
    if mask is not None:
        dense = dense[mask.expand(place.model.latent_shape).flatten()]
    _, s, v = leading(dense[None], 2)
    assert found.basis.v.shape == (2, 2, *place.shape)
    torch.testing.assert_close(found.basis.s[:1].double(), s, rtol=1e-3, atol=0)
    assert float(sine(found.basis.v[:1], v)) < 1e-2
    check(place, found.direction(1, 1, scaled=True), place.shape, tmp_path)


def region():
    """A corner of the latents, `[8, 8]`."""
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, :3] = True
    return mask


@pytest.fixture(scope="module")
def estimate(whole):
    """The rows of the dense ∂x̂₀/∂x of the first latents in the region, and the others."""
    dense = whole.jacobian(maps.output(whole.double, "denoised"))
    inside = region().expand(whole.model.latent_shape).flatten()
    return dense[inside], dense[~inside]


@pytest.mark.parametrize("joint", [False, True])
def test_local(whole, estimate, joint, tmp_path):
    found = directions.local(
        whole.model, whole.x, T, region(), 1, null=2, cond=whole.cond, joint=joint
    )
    assert found.v.shape == (2, 1, *whole.model.latent_shape)
    inside, outside = estimate
    v = found.v[0].flatten(1).double()
    torch.testing.assert_close(found.gain[0], (v @ inside.T).norm(dim=1), rtol=1e-3, atol=0)
    torch.testing.assert_close(found.leakage[0], (v @ outside.T).norm(dim=1), rtol=1e-3, atol=0)
    rest = leading(outside[None], 2)[2][0]
    if joint:
        plain = leading(inside[None], 1)[2][0]
        ratio = (plain @ inside.T).norm() / (plain @ outside.T).norm()
        assert float(found.ratio[0].max()) > float(ratio)
    else:
        assert float((v @ rest.T).norm()) < 1e-2
    check(whole, found.direction(0, 1), whole.model.latent_shape, tmp_path)


def test_toward(whole, estimate, tmp_path):
    model, target = whole.model, whole.encode(*PROMPTS[::-1])
    found = directions.toward(model, whole.x, T, target, region(), null=0, cond=whole.cond)
    assert found.v.shape == (2, 1, *model.latent_shape)
    with torch.no_grad():
        map = maps.output(model, "denoised")
        change = map.at(whole.x, T, target).value() - map.at(whole.x, T, whole.cond).value()
    inside = region().expand(model.latent_shape).flatten()
    wanted = change[0].flatten()[inside].double() @ estimate[0]
    assert float(sine(found.v[:1], (wanted / wanted.norm())[None, None])) < 1e-3
    assert float(found.v[0].flatten().double() @ wanted) > 0
    check(whole, found.direction(0), model.latent_shape, tmp_path)


def test_samples_are_scored_by_their_decoded_images(place, labelled):
    model, cond = place.model, place.encode(*PROMPTS * 8)
    assert labelled.features.shape == (16, 2, *place.shape)
    assert labelled.scores.shape == (16,)
    x = model.sample_latents(16, 800, seed=range(16), cond=cond, steps=STEPS)
    with torch.no_grad():
        exact = maps.encoder(model, place.tap).at(x, 800, cond).value()
    torch.testing.assert_close(labelled.features[:, 0], exact, rtol=1e-3, atol=1e-3)
    images = model.images_of(denoise(model, x, 800, cond=cond, **QUICK))
    torch.testing.assert_close(labelled.scores, brightness(images).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["mean", "lda", "logistic"])
def test_supervised(place, labelled, method, tmp_path):
    found = directions.supervised(
        labelled.features, labelled.scores, top=6, method=method, folds=3, **labelled.place
    )
    assert [one.t for one in found.entry()] == [800, T]
    if method == "mean":
        order = labelled.scores.argsort()
        change = labelled.features[order[-6:]].mean(0) - labelled.features[order[:6]].mean(0)
        moved = torch.stack([one.displacement(1.0) for one in found.entry()])
        torch.testing.assert_close(moved, change, rtol=1e-4, atol=1e-5)
    start = place.model.sample_latents(2, 800, seed=3, cond=place.cond, steps=STEPS)
    check(place, found.entry(), place.shape, tmp_path, t=800, x=start)


@pytest.mark.parametrize("pool", [None, "space"])
def test_pairs_of_prompts(place, pool, tmp_path):
    model, x = place.model, torch.randn(6, *place.model.latent_shape)
    first, second = (
        maps.encoder(model, place.tap, pool=pool).at(x, T, place.encode(*[one] * 6)).value()
        for one in PROMPTS
    )
    found = directions.from_pairs(
        first, second, folds=3, tap=place.tap or place.name, pool=pool, t=T, model=model
    )
    change = (second - first).mean(0).detach()
    torch.testing.assert_close(found.direction().displacement(1.0), change, rtol=1e-4, atol=1e-5)
    check(place, found.direction(), place.of(pool), tmp_path)


def test_disentangled(place, labelled, tmp_path):
    features, where = labelled.features[:, 1], {**labelled.place, "t": T}
    asked = directions.supervised(features, [0, 1] * 8, folds=0, **where).direction()
    bright = directions.supervised(
        features, labelled.scores > labelled.scores.median(), folds=0, **where
    ).direction()
    for metric in ({}, {"features": features}):
        found = directions.disentangle(asked, bright, **metric)
        known = found.provenance["disentangled"]
        assert max(map(abs, known["cosines_after"])) < 1e-6
        check(place, found, place.shape, tmp_path)
    plain = directions.disentangle(asked, bright)
    assert abs(float((plain.vector * bright.vector).sum())) < 1e-6


def test_boundaries_and_the_step_to_edit_at(place, labelled, tmp_path):
    from sklearn.svm import SVC

    classes = labelled.scores > labelled.scores.median()
    found = [
        directions.boundary(
            labelled.features[:, step], classes, folds=2, **{**labelled.place, "t": t}
        )
        for step, t in enumerate((800, T))
    ]
    rows = labelled.features[:, 1].flatten(1).double()
    machine = SVC(kernel="linear", tol=1e-10).fit(rows.numpy(), classes.numpy())
    normal = torch.tensor(machine.coef_)
    assert float(sine(found[1].normal[None, None], normal[None] / normal.norm())) < 1e-4
    check(place, found[1].direction(), place.shape, tmp_path)
    chosen = directions.mixing_step("separability", boundaries=found)
    assert chosen.t == max((800, T), key=lambda t: found[(800, T).index(t)].accuracy)


def test_radii_and_the_rules_that_look_at_them(whole):
    model, cond, times = whole.model, whole.encode(*PROMPTS * 2), (800, T, 400)
    sampled = directions.radii(model, range(4), times, cond=cond, **QUICK)
    x = model.sample_latents(4, 400, seed=range(4), cond=cond, steps=STEPS).flatten(1).norm(dim=1)
    assert float(sampled.mean[2]) == pytest.approx(float(x.mean()), rel=1e-4)
    inverted = directions.radii(
        model, denoise(model, whole.x, T, cond=whole.cond, **QUICK), times, cond=whole.cond, **QUICK
    )
    for one in (sampled, inverted):
        assert bool(torch.isfinite(one.mean).all())
        assert one.times == times
    chosen = directions.mixing_step("radius", sampled=sampled, inverted=inverted, tol=0.99)
    assert chosen.t in times
    assert directions.mixing_step("convergence", sampled=sampled, tol=0.99).t in times


def test_attention(place, tmp_path):
    for found in (
        directions.attention(place.model, rank=2, tap=place.tap),
        directions.attention(place.model, rank=2, matrix="k", side="output", tap=place.tap),
    ):
        check(place, found.direction(1).with_unit(5.0), (place.channels,), tmp_path)


def test_what_directions_do_is_ranked_and_compared(place):
    model, given = place.model, {"cond": place.cond}
    weights = directions.attention(model, rank=2, tap=place.tap)
    tangent = local_basis(model, place.x, T, 2, tap=place.tap, **given)
    found = directions.rank_by(model, place.x, T, weights, subspace=tangent, **given)
    rows = weights.vectors[:, :, None, None] if len(place.shape) == 3 else weights.vectors[:, None]
    rows = rows.expand(2, *place.shape).flatten(1)
    rows = rows / rows.norm(dim=1, keepdim=True)
    gain = (rows @ place.decoded.T).norm(dim=1)
    torch.testing.assert_close(found.gain[:, 0], gain, rtol=1e-3, atol=0)
    kept = (rows @ tangent.u[0].flatten(1).double().T).norm(dim=1)
    torch.testing.assert_close(found.retained[:, 0], kept, rtol=1e-3, atol=1e-4)
    cosines = directions.compare(weights).cosines
    torch.testing.assert_close(cosines, torch.eye(2).double(), rtol=0, atol=1e-6)
    assert float(directions.retained(weights, weights).min()) > 1 - 1e-9


@pytest.mark.parametrize("wrt", ["x", "prompt"])
def test_pullback(place, wrt, tmp_path):
    map = maps.encoder(place.model, place.tap, wrt=wrt)
    found = basis(map, place.x, T, 2, cond=place.cond, quality="draft")
    shape = (
        place.model.latent_shape if wrt == "x" else place.cond["encoder_hidden_states"].shape[1:]
    )
    check(place, found.direction(1).with_unit(5.0), tuple(shape), tmp_path)
    check(place, found.direction(0, space="h").with_unit(5.0), place.shape, tmp_path)


def test_global_directions(place, tmp_path):
    found = local_basis(place.model, place.x, T, 2, tap=place.tap, cond=place.cond)
    for space, shape in (("h", place.shape), ("x", place.model.latent_shape)):
        everywhere = pullback.global_directions(found, space=space)
        check(place, everywhere.direction(0).with_unit(5.0), tuple(shape), tmp_path)
