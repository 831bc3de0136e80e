"""Decoders of small networks, against the rest of the forward pass written by hand."""

import pytest
import torch
from torch import nn

import pullback
from pullback import maps
from pullback.testing import dense, leading, sine
from tests.maps.denoiser import TAPS, C, H, T, W, jacobians, model_of, times


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
