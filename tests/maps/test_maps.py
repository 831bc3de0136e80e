"""Maps of a small network of one's own, against formulas and a forward pass written by hand."""

import math
import threading

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import nn

import pullback
from pullback import LatentModel, maps
from pullback.testing import dense, dense_jacobian, leading, sine

C, H, W, WIDE, WORDS, TEXT = 2, 3, 4, 6, 2, 5
T = 400


class Block(nn.Module):
    """Mixes channels and neighbours; counts the calls of its forward pass."""

    def __init__(self, width, twice=False):
        super().__init__()
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.twice, self.calls = twice, 0

    def forward(self, h, shift):
        self.calls += 1
        h = h + torch.tanh(self.mix(h) + shift[:, :, None, None])
        return (shift, h) if self.twice else h


class Denoiser(nn.Module):
    """`first` → `pair` (two tensors) → `middle` → `last`, with a skip from first to last."""

    def __init__(self):
        super().__init__()
        self.into = nn.Conv2d(C, WIDE, 1)
        self.first = Block(WIDE)
        self.pair = Block(WIDE, twice=True)
        self.middle = Block(WIDE)
        self.last = Block(WIDE)
        self.out = nn.Conv2d(WIDE, C, 1)
        self.text = nn.Linear(TEXT, WIDE)
        self.unused = nn.Linear(2, 2)

    def forward(self, x, t, encoder_hidden_states=None):
        shift = torch.sin(t.to(x) / 100)[:, None] * torch.arange(1.0, WIDE + 1).to(x) / WIDE
        if encoder_hidden_states is not None:
            shift = shift + torch.tanh(self.text(encoder_hidden_states)).mean(1)
        skip = self.first(self.into(x), shift)
        _, h = self.pair(skip, shift)
        h = self.middle(h, shift)
        h += skip  # in place, on the feature itself
        return self.out(self.last(h, shift))

    @property
    def blocks(self):
        return self.first, self.pair, self.middle, self.last

    def parts(self, x, t, words=None):
        """All that the forward pass makes on its way, for hand-written splits."""
        shift = torch.sin(t.to(x) / 100)[:, None] * torch.arange(1.0, WIDE + 1).to(x) / WIDE
        if words is not None:
            shift = shift + torch.tanh(self.text(words)).mean(1)
        skip = self.first(self.into(x), shift)
        pair = self.pair(skip, shift)[1]
        return {"shift": shift, "skip": skip, "pair": pair, "middle": self.middle(pair, shift)}

    def rest(self, tap, h, parts):
        """The output from the feature at a tap, all else held."""
        shift = parts["shift"]
        if tap == "first":
            # The skip is the feature itself.
            h = self.middle(self.pair(h, shift)[1], shift) + h
        elif tap == "pair":
            h = self.middle(h, shift) + parts["skip"]
        else:
            h = h + parts["skip"]
        return self.out(self.last(h, shift))


@pytest.fixture
def network():
    torch.manual_seed(1)
    return Denoiser().eval().double()


def model_of(network, kind="epsilon", **options):
    """The network as a model whose scheduler says that it predicts this."""
    if kind == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler()
    else:
        scheduler = DDPMScheduler(prediction_type=kind)
    return LatentModel(network, scheduler, latent_shape=(C, H, W), **options)


@pytest.fixture
def model(network):
    return model_of(network)


@pytest.fixture
def x(rng):
    return torch.randn(3, C, H, W, generator=rng, dtype=torch.float64)


@pytest.fixture
def words(rng):
    return torch.randn(3, WORDS, TEXT, generator=rng, dtype=torch.float64)


def times(x, t=T):
    return torch.full((len(x),), t)


def jacobians(f, point):
    """Dense Jacobians [B, m, n] of f(point, rows of the batch), in reverse mode."""
    return dense_jacobian(f, point, torch.arange(len(point)), mode="reverse")


def check(map, x, cond, f, point):
    """A map's value and Jacobians are those of a hand-written f(point, rows), rows of the batch."""
    bound = map.at(x, T, cond)
    assert torch.equal(bound.point, point)
    everything = slice(0, len(x))
    torch.testing.assert_close(bound.value(), f(point, everything), rtol=1e-10, atol=1e-12)
    truth = jacobians(f, point)
    torch.testing.assert_close(dense(bound.operator()), truth, rtol=1e-8, atol=1e-10)
    # The same pass by pass, and within next to no memory.
    for options in ({"chunk": 1}, {"memory": 1}):
        torch.testing.assert_close(dense(bound.operator(**options)), truth, rtol=1e-8, atol=1e-10)
    return truth


TAPS = [("first", "first"), (("pair", 1), "pair"), ("pair:1", "pair"), ("middle", "middle")]


# ------------------------------------------------------------------------------------- encoder


@pytest.mark.parametrize(("tap", "name"), TAPS)
@pytest.mark.parametrize("pool", [None, "space"])
def test_the_encoder_is_the_feature_at_the_tap(network, model, x, words, tap, name, pool):
    def f(point, rows):
        parts = network.parts(point, times(point), words[rows])
        found = {"first": parts["skip"], "pair": parts["pair"], "middle": parts["middle"]}[name]
        return found if pool is None else found.mean((2, 3))

    map = maps.encoder(model, tap, pool=pool)
    assert (map.wrt, str(map.site)) == ("x", "pair:1" if name == "pair" else name)
    check(map, x, {"encoder_hidden_states": words}, f, x)


def test_the_encoder_stops_at_its_tap(network, model, x):
    maps.encoder(model, ("pair", 1)).at(x, T).value()
    assert [block.calls for block in network.blocks] == [1, 1, 0, 0]


def test_the_encoder_with_respect_to_the_prompt(network, model, x, words):
    def f(point, rows):
        return network.parts(x[rows], times(point), point)["middle"]

    map = maps.encoder(model, "middle", wrt="prompt")
    check(map, x, {"encoder_hidden_states": words}, f, words)
    found = pullback.basis(map, x, T, 2, {"encoder_hidden_states": words}, quality="tight")
    assert found.v.shape == (3, 2, WORDS, TEXT)
    assert float(sine(found.v, leading(jacobians(f, words), 2)[2]).max()) < 1e-4
    assert found.provenance["wrt"] == "prompt"


def test_without_a_prompt_there_is_nothing_to_differentiate(model, x):
    map = maps.encoder(model, "middle", wrt="prompt")
    with pytest.raises(ValueError, match="Expected a condition with 'encoder_hidden_states'"):
        map.at(x, T)


def test_what_an_encoder_does_not_take(model, x):
    with pytest.raises(ValueError, match=r"no module 'midle'. Its taps are: into, first, pair"):
        maps.encoder(model, "midle")
    with pytest.raises(ValueError, match="Expected pool=\"space\" or None, got 'time'"):
        maps.encoder(model, "first", pool="time")
    with pytest.raises(ValueError, match=r"got 'h'; see maps\.decoder"):
        maps.encoder(model, "first", wrt="h")
    with pytest.raises(TypeError, match=r"returns 2 values.*tap=\('pair', index\)"):
        maps.encoder(model, "pair").at(x, T).value()
    with pytest.raises(TypeError, match=r"no index 2\. Expected 0 to 1"):
        maps.encoder(model, ("pair", 2)).at(x, T).value()
    with pytest.raises(ValueError, match="ended without reaching 'unused'"):
        maps.encoder(model, "unused").at(x, T).value()
    with pytest.raises(ValueError, match=r"Which module of this Denoiser.*into, first, pair"):
        maps.encoder(model)


# --------------------------------------------------------------------------- maps of the output


def formulas(kind, raw, x, t):
    """ε and x̂₀ from what a network predicts, as the papers have it."""
    if kind == "flow":
        sigma = t / 1000
        return x + (1 - sigma) * raw, x - sigma * raw
    alpha = float(DDPMScheduler().alphas_cumprod[t])
    signal, sigma = math.sqrt(alpha), math.sqrt(1 - alpha)
    if kind == "epsilon":
        return raw, (x - sigma * raw) / signal
    if kind == "sample":
        return (x - signal * raw) / sigma, raw
    return signal * raw + sigma * x, signal * x - sigma * raw


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow"])
@pytest.mark.parametrize("t", [20, 400, 990])
def test_noise_denoised_and_score_follow_from_every_kind_of_prediction(network, x, kind, t):
    model = model_of(network, kind)
    assert model.prediction_type == kind
    raw = network(x, times(x, t))
    noise, clean = formulas(kind, raw, x, t)
    value = {name: maps.output(model, name).at(x, t).value() for name in maps.OUTPUTS}
    # The schedule is known in float32.
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(value["noise"], noise, **close)
    torch.testing.assert_close(value["denoised"], clean, **close)
    signal, sigma = (float(part) for part in model.signal_and_noise(torch.tensor([t])))
    torch.testing.assert_close(value["score"], -value["noise"] / sigma)
    # x holds signal and noise in these parts.
    torch.testing.assert_close(signal * value["denoised"] + sigma * value["noise"], x, **close)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow"])
@pytest.mark.parametrize("what", [0, 1])
def test_jacobians_of_the_output_maps(network, x, kind, what):
    model = model_of(network, kind)

    def f(point, rows):
        return formulas(kind, network(point, times(point)), point, T)[what]

    bound = maps.output(model, maps.OUTPUTS[what]).at(x, T)
    torch.testing.assert_close(dense(bound.operator()), jacobians(f, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow"])
def test_a_perfect_prediction_is_taken_apart_exactly(kind, rng):
    # The network knows x₀ and ε, so all maps must give them back.
    clean, noise = torch.randn(2, 4, C, H, W, generator=rng, dtype=torch.float64)
    t = 700
    model = model_of(lambda x, t: x, kind, dtype=torch.float64)
    signal, sigma = (float(part) for part in model.signal_and_noise(torch.tensor([t])))
    model.network = lambda x, t: {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": signal * noise - sigma * clean,
        "flow": noise - clean,
    }[kind]
    x = signal * clean + sigma * noise
    for name, truth in (("noise", noise), ("denoised", clean), ("score", -noise / sigma)):
        found = maps.output(model, name).at(x, t).value()
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)


def test_samples_of_one_batch_may_be_at_different_timesteps(network, model, x):
    t = torch.tensor([20, 400, 900])
    value = maps.output(model, "denoised").at(x, t).value()
    for b in range(3):
        alone = maps.output(model, "denoised").at(x[b : b + 1], int(t[b])).value()
        torch.testing.assert_close(value[b : b + 1], alone, rtol=1e-10, atol=1e-12)


def test_output_with_respect_to_the_prompt(network, model, x, words):
    def f(point, rows):
        return network(x[rows], times(point), point)

    check(maps.output(model, "noise", wrt="prompt"), x, {"encoder_hidden_states": words}, f, words)


def test_kinds_that_do_not_exist(model):
    for make in (lambda: maps.output(model, "eps"), lambda: maps.decoder(model, "first", "eps")):
        with pytest.raises(ValueError, match="one of noise, denoised, score, got 'eps'"):
            make()
    with pytest.raises(ValueError, match='wrt to be "x" or "prompt", got \'y\''):
        maps.output(model, wrt="y")


def test_where_there_is_no_noise_there_is_no_score(network, x):
    map = maps.output(model_of(network, "flow"), "score")
    with pytest.raises(ValueError, match=r"share of noise in x_t, which is 0 at t = \[0\]"):
        map.at(x, torch.tensor([5, 0, 5])).value()
    # The other maps need no such division.
    for kind in ("noise", "denoised"):
        value = maps.output(model_of(network, "flow"), kind).at(x, 0).value()
        assert bool(value.isfinite().all())
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True)
    model = LatentModel(network, scheduler, latent_shape=(C, H, W))
    with pytest.raises(ValueError, match=r"share of signal in x_t, which is 0 at t = \[999"):
        maps.output(model, "denoised").at(x, 999).value()


# ------------------------------------------------------------------------------------ guidance


@pytest.mark.parametrize("kind", ["noise", "denoised"])
def test_guidance_mixes_the_predictions(network, x, words, rng, kind):
    other = torch.randn(1, WORDS, TEXT, generator=rng, dtype=torch.float64)
    model = model_of(network, "v_prediction", null_cond={"encoder_hidden_states": other[0]})
    many = torch.randn(3, WORDS, TEXT, generator=rng, dtype=torch.float64)
    for negative, used in (
        (None, other.expand(3, -1, -1)),
        ({"encoder_hidden_states": many}, many),
        ({"encoder_hidden_states": many[:1]}, many[:1].expand(3, -1, -1)),
    ):
        map = maps.output(model, kind, guidance=4.5, negative=negative)

        def f(point, rows, used=used):
            away = network(point, times(point), used[rows])
            raw = away + 4.5 * (network(point, times(point), words[rows]) - away)
            return formulas("v_prediction", raw, point, T)[maps.OUTPUTS.index(kind)]

        bound = map.at(x, T, {"encoder_hidden_states": words})
        close = {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(bound.value(), f(x, slice(0, 3)), **close)
        torch.testing.assert_close(dense(bound.operator()), jacobians(f, x), **close)
    assert "guidance 4.5" in map.name


def test_guidance_with_respect_to_the_prompt_leaves_the_negative_one(network, x, words, rng):
    other = torch.randn(3, WORDS, TEXT, generator=rng, dtype=torch.float64)
    map = maps.output(
        model_of(network), guidance=3.0, negative={"encoder_hidden_states": other}, wrt="prompt"
    )

    def f(point, rows):
        away = network(x[rows], times(point), other[rows])
        return away + 3.0 * (network(x[rows], times(point), point) - away)

    check(map, x, {"encoder_hidden_states": words}, f, words)


def test_a_negative_condition_of_every_sample_stays_with_its_sample(network, x, words, rng):
    other = 3 * torch.randn(3, WORDS, TEXT, generator=rng, dtype=torch.float64)
    negative, cond = {"encoder_hidden_states": other}, {"encoder_hidden_states": words}
    map = maps.output(model_of(network), guidance=3.0, negative=negative)
    found = pullback.basis(map, x, T, 2, cond, quality="tight")
    larger = found[[2, 0]].extend(4)
    alone = pullback.basis(
        maps.output(
            model_of(network), guidance=3.0, negative={"encoder_hidden_states": other[[2, 0]]}
        ),
        x[[2, 0]], T, 4, {"encoder_hidden_states": words[[2, 0]]}, quality="tight",
    )  # fmt: skip
    torch.testing.assert_close(larger.s, alone.s, rtol=1e-6, atol=0)


def test_a_negative_condition_is_checked_when_the_map_is_made(digits):
    with pytest.raises(ValueError, match="got 'class_label'"):
        maps.output(digits, guidance=2.0, negative={"class_label": torch.tensor([1])})
    with pytest.raises(ValueError, match="no effect at guidance = 1"):
        maps.output(digits, negative={"class_labels": torch.tensor([1])})
    with pytest.raises(TypeError, match="Expected cond as a mapping"):
        maps.output(digits, guidance=2.0, negative=torch.tensor([1]))
    # Labels need no tensor, as in a condition.
    assert maps.output(digits, guidance=2.0, negative={"class_labels": [1]}).negative is not None


# -------------------------------------------------------------------------- what follows a map


def test_a_map_followed_by_another(network, model, x):
    class Half(nn.Module):
        def forward(self, h):
            return torch.sin(h)[:, :, ::2] / 2

    def f(point, rows):
        return torch.sin(network(point, times(point)))[:, :, ::2] / 2

    map = maps.output(model).then(Half())
    assert map.name == "noise then Half"
    check(map, x, None, f, x)
    assert maps.output(model).then(lambda h: h, name="same").name == "noise then same"
    assert map.then(torch.cos).name.endswith("Half then cos")


@pytest.mark.parametrize("shape", ["region", "full"])
def test_a_map_restricted_to_a_mask(network, model, x, rng, shape):
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[1:, 2] = True
    if shape == "full":
        mask = torch.rand(C, H, W, generator=rng) < 0.4

    def f(point, rows):
        return network(point, times(point)).flatten(1)[:, mask.expand(C, H, W).flatten()]

    map = maps.output(model).restrict(mask)
    assert f"on {int(mask.sum())} of {mask.numel()}" in map.name
    truth = check(map, x, None, f, x)
    found = pullback.basis(map, x, T, 3, quality="tight")
    entries = int(mask.expand(C, H, W).sum())
    assert found.u.shape == (3, 3, entries)
    assert float(sine(found.v, leading(truth, 3)[2]).max()) < 1e-4


def test_masks_that_fit_nothing(model, x):
    map = maps.output(model)
    for mask in (torch.ones(H, W), torch.zeros(H, W, dtype=torch.bool)):
        with pytest.raises(ValueError, match="Expected a bool mask that selects something, got"):
            map.restrict(mask)
    for size in ((W, H), (C, H, W, 1), (1, H, W), (H,)):
        wrong = map.restrict(torch.ones(size, dtype=torch.bool))
        with pytest.raises(ValueError, match=rf"Expected a mask of shape \[{C}, {H}, {W}\]"):
            wrong.at(x, T).value()
        with pytest.raises(ValueError, match=r"Expected a mask of shape"):
            pullback.basis(wrong, x, T, 1)


# ------------------------------------------------------------------------------------- decoder


@pytest.mark.parametrize(("tap", "name"), TAPS)
@pytest.mark.parametrize("kind", ["noise", "denoised"])
def test_the_decoder_is_the_rest_of_the_network(network, x, words, tap, name, kind):
    model = model_of(network, "flow")  # whose schedule is exact

    with torch.no_grad():
        parts = network.parts(x, times(x), words)
    point = parts["skip" if name == "first" else name]

    def f(h, rows):
        raw = network.rest(name, h, {key: value[rows] for key, value in parts.items()})
        noise = x[rows] + (1 - T / 1000) * raw
        return noise if kind == "noise" else x[rows] - T / 1000 * raw

    map = maps.decoder(model, tap, kind)
    assert map.wrt == "h"
    # Float32 knows 0.4 to eight digits only.
    bound = map.at(x, T, {"encoder_hidden_states": words})
    torch.testing.assert_close(bound.point, point, rtol=1e-12, atol=1e-12)
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(bound.value(), f(point, slice(0, 3)), **close)
    torch.testing.assert_close(
        bound.value(),
        maps.output(model, kind).at(x, T, {"encoder_hidden_states": words}).value(),
        rtol=1e-12, atol=1e-12,
    )  # fmt: skip
    truth = jacobians(f, point)
    for options in ({}, {"chunk": 1}, {"memory": 1}):
        torch.testing.assert_close(dense(bound.operator(**options)), truth, **close)
    found = pullback.basis(map, x, T, 3, {"encoder_hidden_states": words}, quality="tight")
    assert float(sine(found.v, leading(truth, 3)[2]).max()) < 2e-4
    assert found.v.shape == (3, 3, *point.shape[1:])


@pytest.mark.parametrize("options", [{}, {"chunk": 1}, {"memory": 1}, {"chunk": 2, "memory": 1}])
def test_products_of_a_decoder_do_not_run_what_comes_before_the_tap(network, model, x, options):
    operator = maps.decoder(model, "middle").at(x, T).operator(**options)
    before = [block.calls for block in network.blocks]
    assert before[0] == before[1] == 2  # all samples, and the first alone
    operator.matmat(torch.randn(3, 4, *operator.x_shape, dtype=torch.float64))
    operator.rmatmat(torch.randn(3, 4, *operator.h_shape, dtype=torch.float64))
    operator.select(torch.tensor([2])).matmat(
        torch.randn(1, 4, *operator.x_shape, dtype=torch.float64)
    )
    after = [block.calls for block in network.blocks]
    assert after[:3] == before[:3]
    assert after[3] > before[3]


def test_some_samples_of_a_decoder_basis_and_an_extension(network, model, x):
    found = pullback.basis(maps.decoder(model, "middle"), x, T, 2, quality="tight")
    calls = network.first.calls
    larger = found[[2, 1]].extend(4)
    assert network.first.calls == calls + 2  # bound again, once
    with torch.no_grad():
        parts = network.parts(x, times(x))

    def f(h, rows):
        return network.rest("middle", h, {key: value[rows] for key, value in parts.items()})

    truth = jacobians(f, parts["middle"])[[2, 1]]
    assert float(sine(larger.v, leading(truth, 4)[2]).max()) < 2e-4
    torch.testing.assert_close(larger.s, leading(truth, 4)[1], rtol=1e-5, atol=0)


def test_a_decoder_of_one_sample_binds_with_one_pass(network, model, x):
    maps.decoder(model, "middle").at(x[:1], T)
    assert network.first.calls == 1


def test_a_decoder_followed_by_the_network_itself_runs_it_whole(network, model, x):
    # Two steps of a sampler: the second must not see what was recorded for the first.
    def again(noise):
        return network(noise, times(noise, 100))

    with torch.no_grad():
        parts = network.parts(x, times(x))
        truth = again(network.rest("middle", parts["middle"], parts))
    found = maps.decoder(model, "middle").then(again).at(x, T).value()
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)


class Shared(nn.Module):
    """Uses one block twice, before the tap and after it; and a table of positions, as tall as B."""

    def __init__(self):
        super().__init__()
        self.block, self.tap = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, C, 1)
        self.table = Table()

    def forward(self, x, t):
        h = torch.tanh(self.block(x)) * self.table(x)
        return torch.tanh(self.block(torch.tanh(self.tap(h)))) * self.table(x)


class Table(nn.Module):
    def forward(self, x):
        return torch.linspace(1, 2, H, dtype=x.dtype)[:, None]


def test_a_block_that_is_used_again_behind_the_tap_is_computed_there(rng):
    network = Shared().eval().double()
    model = model_of(network)
    x = torch.randn(H, C, H, W, generator=rng, dtype=torch.float64)  # as many as the table's rows

    def f(h, rows):
        return torch.tanh(network.block(torch.tanh(h))) * network.table(h)

    with torch.no_grad():
        point = network.tap(torch.tanh(network.block(x)) * network.table(x))
    bound = maps.decoder(model, "tap").at(x, T)
    torch.testing.assert_close(bound.point, point)
    torch.testing.assert_close(bound.value(), f(point, slice(None)))
    for options in ({}, {"memory": 1}):
        found = dense(bound.operator(**options))
        torch.testing.assert_close(found, jacobians(f, point), rtol=1e-9, atol=1e-11)
    chosen = bound.operator().select(torch.tensor([1]))
    torch.testing.assert_close(dense(chosen), jacobians(f, point)[1:2], rtol=1e-9, atol=1e-11)


class InPlace(nn.Module):
    """Changes the output of its first block in place before the tap and after it; taps it twice."""

    def __init__(self):
        super().__init__()
        self.block, self.tap = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, C, 1)

    def forward(self, x, t):
        skip = self.block(x)
        skip += 1
        h = self.tap(torch.tanh(skip))
        skip *= 2
        return self.tap(torch.tanh(h)) + skip


def test_what_is_changed_in_place_is_recorded_as_it_was_and_h_is_of_the_first_call(rng):
    network = InPlace().eval().double()
    x = torch.randn(3, C, H, W, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        skip = network.block(x) + 1
        point = network.tap(torch.tanh(skip))

    def f(h, rows):
        return network.tap(torch.tanh(h)) + 2 * skip[rows]

    bound = maps.decoder(model_of(network), "tap").at(x, T)
    torch.testing.assert_close(bound.point, point)
    for _ in range(2):
        torch.testing.assert_close(bound.value(), f(point, slice(0, 3)))
    found = dense(bound.operator())
    torch.testing.assert_close(found, jacobians(f, point), rtol=1e-9, atol=1e-11)


def test_hooks_of_the_user_change_the_outputs_once(network, model, x):
    hooks = [
        network.first.register_forward_hook(lambda _m, _i, o: 2 * o + 1),
        network.middle.register_forward_hook(lambda _m, _i, o: 3 * o),
    ]
    with torch.no_grad():
        truth = network(x, times(x))
    bound = maps.decoder(model, "middle").at(x, T)
    torch.testing.assert_close(bound.value(), truth, rtol=1e-10, atol=1e-12)
    for hook in hooks:
        hook.remove()


def test_what_a_decoder_does_not_take(model, x):
    with pytest.raises(ValueError, match="no module 'nowhere'"):
        maps.decoder(model, "nowhere")
    with pytest.raises(ValueError, match=r"ended without reaching 'unused'.*model\.taps"):
        maps.decoder(model, "unused").at(x, T)
    with pytest.raises(TypeError, match="returns 2 values"):
        maps.decoder(model, "pair").at(x, T)


# --------------------------------------------------------------- the network is left as it was


def state(network):
    """All that maps might leave behind in a network."""
    return [
        (
            path,
            dict(module._forward_hooks),
            dict(module._forward_pre_hooks),
            "forward" in vars(module),
            module.training,
            [(p.requires_grad, p.grad is None) for p in module.parameters(recurse=False)],
        )
        for path, module in network.named_modules()
    ]


@pytest.mark.parametrize("grad", [True, False])
def test_the_network_is_left_as_it_was_found(network, model, x, grad):
    network.requires_grad_(grad)
    network.out.requires_grad_(not grad)
    mine = network.last.register_forward_hook(lambda *_: None)
    before, weights = state(network), [p.clone() for p in network.parameters()]
    latents = x.clone()
    for map in (
        maps.encoder(model, "middle"),
        maps.decoder(model, "middle"),
        maps.output(model, "score"),
    ):
        pullback.basis(map, x, T, 2).extend(3)
        map.at(x, T).value()
    model.taps()
    assert state(network) == before
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    assert torch.equal(x, latents)
    mine.remove()


@pytest.mark.parametrize("failing", ["first", "last"])
def test_the_network_is_left_as_it_was_after_an_exception(network, model, x, failing):
    bound = maps.decoder(model, "middle").at(x, T)
    block = getattr(network, failing)
    before = state(network)

    class Broken(nn.Module):
        def forward(self, h):
            raise RuntimeError("broken on purpose")

    block.mix, mix = Broken(), block.mix
    calls = [lambda: maps.encoder(model, "last").at(x, T).value(), model.taps]
    if failing == "last":
        calls += [bound.value, bound.operator]
    else:
        calls += [lambda: maps.decoder(model, "middle").at(x, T)]
    for call in calls:
        with pytest.raises(RuntimeError, match="broken on purpose"):
            call()
    block.mix = mix
    assert state(network) == before


def test_two_threads_at_once_on_one_network(network, model, x, rng):
    others = torch.randn(3, C, H, W, generator=rng, dtype=torch.float64)
    makers = [
        lambda point: maps.decoder(model, "middle").at(point, T),
        lambda point: maps.decoder(model, "first").at(point, T),
        lambda point: maps.encoder(model, "middle").at(point, T),
        lambda point: maps.output(model).at(point, T),
    ]
    jobs = [(make, point) for make in makers for point in (x, others)]
    truth = [make(point).value() for make, point in jobs]
    before, wrong = state(network), []
    start = threading.Barrier(len(jobs))

    def work(place):
        make, point = jobs[place]
        start.wait()
        try:
            for _ in range(15):
                bound = make(point)
                for _ in range(3):
                    if not torch.allclose(bound.value(), truth[place], rtol=1e-10, atol=1e-12):
                        wrong.append(place)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert state(network) == before
    assert torch.equal(network(x, times(x)), maps.output(model).at(x, T).value())


def test_a_decoder_in_one_thread_is_not_seen_by_a_pass_in_another(network, model, x):
    # Surely at the same time: the last block of the decoder's pass waits for the other's result.
    with torch.no_grad():
        truth = network(2 * x, times(x))
    bound = maps.decoder(model, "middle").at(x, T)
    seen, owner = [], threading.get_ident()

    def wait(*_):
        if threading.get_ident() == owner:
            with torch.no_grad():
                other = threading.Thread(target=lambda: seen.append(network(2 * x, times(x))))
                other.start()
                other.join()

    hook = network.last.register_forward_hook(wait)
    bound.value()
    hook.remove()
    torch.testing.assert_close(seen[0].detach(), truth, rtol=1e-12, atol=1e-12)
