"""Bases of all maps, on two families, against dense Jacobians of networks run by hand."""

import pytest
import torch

from pullback import basis, local_basis, maps
from tests.models import by_hand, families
from tests.models.by_hand import check, rank_of

#: One of each kind: a U-Net that predicts noise, a transformer that predicts velocity.
BOTH = ["UNet2DConditionModel", "SD3Transformer2DModel"]


def noise_by_hand(case, model):
    """(a, b, sigma), [B, 1, 1] each: noise = a x + b prediction; sigma is how much there is."""
    t = case.t.view(-1, 1, 1)
    if case.tiny.flow:
        return torch.ones(()), 1 - t.double() / 1000, t.double() / 1000
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return torch.zeros(()), torch.ones(()), (1 - (1 - betas).cumprod(0)[t]).sqrt()


@pytest.mark.parametrize("kind", ["noise", "denoised", "score"])
@pytest.mark.parametrize("name", BOTH)
def test_output_bases(name, kind):
    case, model = by_hand.case(name), families.model_of(name)
    a, b, sigma = noise_by_hand(case, model)
    signal = 1 - sigma if case.tiny.flow else (1 - sigma.square()).sqrt()
    identity = torch.eye(case.x[0].numel(), dtype=torch.float64)
    noise = a * identity + b * case.prediction()
    jacobian = {
        "noise": noise,
        "denoised": (identity - sigma * noise) / signal,  # x = signal x̂₀ + sigma ε
        "score": -noise / sigma,
    }[kind]
    found = basis(
        maps.output(model, kind), case.x, case.t, rank_of(jacobian), case.cond, max_products=2000
    )
    check(found, jacobian)


@pytest.mark.parametrize("name", BOTH)
def test_masked_bases(name):
    case, model = by_hand.case(name), families.model_of(name)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[1:4, 2:7] = True
    a, b, _ = noise_by_hand(case, model)
    identity = torch.eye(case.x[0].numel(), dtype=torch.float64)
    noise = (a * identity + b * case.prediction()).unflatten(1, (4, 8, 8))
    jacobian = noise[:, :, 1:4, 2:7].flatten(1, 3)
    assert jacobian.shape[1] == 4 * 3 * 5
    region = maps.output(model, "noise").restrict(mask)
    check(basis(region, case.x, case.t, rank_of(jacobian), case.cond), jacobian)


@pytest.mark.parametrize("name", BOTH)
def test_decoder_bases(name):
    """H is replaced by an ordinary hook; all else, skip connections too, is computed from x."""
    case, model = by_hand.case(name), families.model_of(name)
    path, index = case.tiny.default, case.tiny.index

    def make(x, t, cond):
        return by_hand.replaced(case.network64, path, index, x, t, cond)

    def point(x, t, cond):
        with torch.no_grad():
            return by_hand.feature(case.network64, path, index, t, cond)(x)

    _, b, _ = noise_by_hand(case, model)
    jacobian = b * case.jacobian(make, point)
    decoder = maps.decoder(model, path)
    found = basis(decoder, case.x, case.t, rank_of(jacobian), case.cond, max_products=2000)
    check(found, jacobian)
    assert found.v.shape[2:] == decoder.at(case.x, case.t, case.cond).point.shape[1:]


@pytest.mark.parametrize("name", BOTH)
def test_pooled_bases(name):
    case, model = by_hand.case(name), families.model_of(name)
    path, index = case.tiny.default, case.tiny.index

    def make(x, t, cond):
        read = by_hand.feature(case.network64, path, index, t, cond)
        # Space is the last two of [B, C, H, W] and the second of [B, tokens, C].
        return lambda x: read(x).mean((2, 3) if path == "mid_block" else 1)

    jacobian = case.jacobian(make)
    rank = rank_of(jacobian)
    found = local_basis(model, case.x, case.t, rank, cond=case.cond, pool="space")
    check(found, jacobian)
    assert found.u.shape == (2, rank, 32 if path == "mid_block" else 24)


@pytest.mark.parametrize("name", BOTH)
def test_bases_of_the_prompt(name):
    case, model = by_hand.case(name), families.model_of(name)
    path, index = case.tiny.default, case.tiny.index

    def make(x, t, cond):
        return lambda words: by_hand.feature(
            case.network64, path, index, t, {**cond, "encoder_hidden_states": words}
        )(x)

    jacobian = case.jacobian(make, lambda _x, _t, cond: cond["encoder_hidden_states"])
    rank = rank_of(jacobian)
    found = basis(maps.encoder(model, wrt="prompt"), case.x, case.t, rank, case.cond)
    check(found, jacobian)
    assert found.v.shape == (2, rank, families.WORDS, families.WIDTH)


def test_a_basis_with_guidance():
    name = "UNet2DConditionModel"
    case, model = by_hand.case(name), families.model_of(name)
    negative = families.text(1)
    words = by_hand.copies(negative, 0)

    away = case.jacobian(lambda _, t, _cond: lambda x: by_hand.call(case.network64, x, t, words))
    jacobian = 7.5 * case.prediction() - 6.5 * away
    guided = maps.output(model, "noise", guidance=7.5, negative=negative)
    found = basis(guided, case.x, case.t, rank_of(jacobian), case.cond, max_products=2000)
    check(found, jacobian)
