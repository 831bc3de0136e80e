"""Maps followed by another function, and maps restricted to a mask."""

import pytest
import torch
from torch import nn

import pullback
from pullback import maps
from pullback.testing import leading, sine
from tests.maps.denoiser import C, H, T, W, check, times


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


def test_what_follows_a_map_must_be_a_function(digits):
    with pytest.raises(TypeError, match=r"function or a module to follow encoder.*got NoneType"):
        maps.encoder(digits).then(None)
    empty = maps.encoder(digits).then(lambda h: h.flatten(1)[:, :0])
    with pytest.raises(ValueError, match=r"one entry or more per sample, got shape \(1, 0\)"):
        empty.at(digits.sample_latents(1, 500), 500).operator()


def test_editing_the_latents_after_a_map_was_bound_changes_nothing(digits):
    x = digits.sample_latents(2, 500)
    bounds = [maps.encoder(digits).at(x, 500), maps.decoder(digits).at(x, 500)]
    values = [bound.value() for bound in bounds]
    x.zero_()
    for bound, value in zip(bounds, values, strict=True):
        assert torch.equal(bound.value(), value)
