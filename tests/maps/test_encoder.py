"""Encoders of a small network of one's own, against forward passes written by hand."""

import pytest

import pullback
from pullback import maps
from pullback.testing import leading, sine
from tests.maps.denoiser import TAPS, TEXT, WORDS, T, check, jacobians, times


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
