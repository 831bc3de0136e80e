"""Local bases of the digit model against a dense float64 SVD of the same network."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import pullback
from pullback import local_basis, maps
from pullback.testing import leading, map_jacobian, orthogonality_loss, residuals, sine

TIMESTEPS = (900, 700, 500, 200)


@pytest.fixture(scope="module")
def truth(digits, digits64):
    """Per timestep: 8 latents, their dense Jacobians and the leading 50 triplets."""
    found = {}
    for t in TIMESTEPS:
        x = digits.sample_latents(8, t, seed=1)
        jacobian = map_jacobian(maps.encoder(digits64), x, t)
        found[t] = (x, jacobian, *leading(jacobian, 50))
    return found


@pytest.mark.parametrize("t", TIMESTEPS)
def test_rank_ten_in_float32(digits, truth, t):
    x, _, _, s, v = truth[t]
    basis = local_basis(digits, x, t, 10)
    true = sine(basis.v, v[:, :10])
    assert true.max() <= 2e-3
    assert ((basis.s.double() - s[:, :10]) / s[:, :10]).abs().max() <= 1e-4
    assert basis.converged.all()
    assert (true <= basis.angle_bound).all()
    if t == 500:
        assert basis.products.double().median() <= 110


@pytest.mark.parametrize("t", TIMESTEPS)
def test_rank_fifty_in_float32(digits, truth, t):
    x, jacobian, _, s, v = truth[t]
    basis = local_basis(digits, x, t, 50)
    rows = basis.v.double().flatten(2)
    captured = (jacobian @ rows.mT).square().sum((1, 2)) / s.square().sum(1)
    assert captured.min() >= 1 - 1e-3
    assert sine(basis.v, v[:, :25]).max() <= 2e-3
    true = sine(basis.v, v)
    assert (~basis.converged | (true <= basis.angle_bound)).all()
    assert ((basis.s.double() - s) / s).abs().max() <= 1e-4


@pytest.mark.parametrize("t", TIMESTEPS)
def test_float64_network_to_one_millionth(digits64, truth, t):
    x, _, u, s, v = truth[t]
    basis = local_basis(digits64, x.double(), t, 10, tol=1e-6)
    assert basis.converged.all()
    assert sine(basis.v, v[:, :10]).max() <= 1e-6
    assert sine(basis.u, u[:, :10]).max() <= 1e-5
    assert ((basis.s - s[:, :10]) / s[:, :10]).abs().max() <= 1e-10


def test_triplets_are_orthonormal_and_belong_together(truth, digits):
    x, jacobian, *_ = truth[500]
    basis = local_basis(digits, x, 500, 10)
    assert orthogonality_loss(basis.u).max() < 1e-5
    assert orthogonality_loss(basis.v).max() < 1e-5
    u, v = basis.u.double().flatten(2), basis.v.double().flatten(2)
    images = torch.einsum("bmn,bkn->bkm", jacobian, v)
    s = basis.s.double().unsqueeze(2)
    assert (torch.linalg.vector_norm(images - s * u, dim=2) / s[:, :1, 0]).max() < 1e-5
    residual = residuals(jacobian, basis.u, basis.s, basis.v)
    assert (residual - basis.residual.double()).abs().max() < 1e-5
    assert (v.gather(2, v.abs().argmax(2, keepdim=True)) > 0).all()


def test_a_sample_does_not_depend_on_its_batch(digits, truth):
    x, *_ = truth[700]
    together = local_basis(digits, x, 700, 6)
    for sample in (0, 5):
        alone = local_basis(digits, x[sample : sample + 1], 700, 6)
        assert sine(alone.v, together[sample].v).max() < 1e-4
        assert torch.allclose(alone.s, together[sample].s, rtol=1e-5)


def test_one_timestep_per_sample(digits, truth):
    x = torch.cat([truth[900][0][:1], truth[200][0][:1]])
    mixed = local_basis(digits, x, torch.tensor([900, 200]), 5)
    assert mixed.provenance["t"] == [900, 200]
    for row, t in enumerate((900, 200)):
        assert sine(mixed[row].v, truth[t][4][:1, :5]).max() <= 2e-3


def test_conditions_change_the_basis_and_are_used(digits, digits64, truth):
    x, *_ = truth[700]
    cond = {"class_labels": torch.tensor([3])}
    basis = local_basis(digits, x[:2], 700, 5, cond=cond)
    jacobian = map_jacobian(maps.encoder(digits64), x[:2], 700, cond)
    assert sine(basis.v, leading(jacobian, 5)[2]).max() <= 2e-3
    assert sine(basis.v, truth[700][4][:2, :5]).max() > 1e-2


@pytest.mark.parametrize("tap", ["down_blocks.0", "mid_block.resnets.0", "up_blocks.1"])
def test_other_taps(digits, digits64, truth, tap):
    x, *_ = truth[500]
    basis = local_basis(digits, x[:2], 500, 4, tap=tap)
    jacobian = map_jacobian(maps.encoder(digits64, tap), x[:2], 500)
    assert sine(basis.v, leading(jacobian, 4)[2]).max() <= 2e-3
    assert basis.provenance["tap"] == tap


def test_channels_last_networks_work(truth):
    model = pullback.load("digits")
    model.network.to(memory_format=torch.channels_last)
    x, _, _, _, v = truth[500]
    x = x[:2].to(memory_format=torch.channels_last)
    assert sine(local_basis(model, x, 500, 5).v, v[:2, :5]).max() <= 2e-3


def test_the_network_is_left_as_it_was_found(digits, truth):
    x, *_ = truth[500]
    before = {name: p.clone() for name, p in digits.network.named_parameters()}
    flags = [p.requires_grad for p in digits.network.parameters()]
    processors = str(digits.network)
    local_basis(digits, x[:1], 500, 2, quality="draft")
    assert all(torch.equal(p, before[n]) for n, p in digits.network.named_parameters())
    assert [p.requires_grad for p in digits.network.parameters()] == flags
    assert all(p.grad is None for p in digits.network.parameters())
    assert str(digits.network) == processors
    assert not any(m._forward_hooks for m in digits.network.modules())


def test_extend_goes_on_from_the_basis(digits, truth):
    x, _, _, _, v = truth[500]
    basis = local_basis(digits, x[:3], 500, 6)
    larger = basis.extend(10)
    fresh = local_basis(digits, x[:3], 500, 10)
    assert sine(larger.v, v[:3, :10]).max() <= 2e-3
    assert larger.products.sum() <= 1.1 * fresh.products.sum()
    with pytest.raises(ValueError, match="above 6, got 6"):
        basis.extend(6)


def test_a_neighbouring_timestep_is_a_good_start(digits, truth):
    x, _, _, _, v = truth[500]
    near = local_basis(digits, digits.sample_latents(8, 520, seed=1), 520, 10)
    cold, warm = local_basis(digits, x, 500, 10), local_basis(digits, x, 500, 10, init=near.v)
    assert warm.products.sum() < 0.9 * cold.products.sum()
    assert warm.converged.all()
    assert (sine(warm.v, v[:, :10]) <= warm.angle_bound).all()


def test_progress_reaches_the_caller(digits):
    seen = []
    x = digits.sample_latents(1, 500, seed=2)
    local_basis(digits, x, 500, 2, quality="draft", progress=seen.append)
    assert seen
    assert seen[-1].active == 0


def test_editing_the_latents_in_place_later_does_not_reach_the_basis(digits):
    x = digits.sample_latents(1, 500, seed=2)
    kept = x.clone()
    basis = local_basis(digits, x, 500, 2)
    x.add_(1)
    expected = local_basis(digits, kept, 500, 3)
    assert torch.allclose(basis.extend(3).s, expected.s, rtol=1e-4)


def test_two_threads_may_use_one_network(digits):
    x = digits.sample_latents(1, 500)
    paths = ["down_blocks.0", "mid_block"] * 4
    encoders = [maps.encoder(digits, path).at(x, 500) for path in paths]
    expected = [encoder.value() for encoder in encoders]

    def many(encoder):
        return [encoder.value() for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        for values, value in zip(pool.map(many, encoders), expected, strict=True):
            assert all(torch.allclose(one, value, atol=1e-5) for one in values)


def test_products_add_up_to_what_the_operator_counted(digits):
    x = digits.sample_latents(3, 500, seed=2)
    counted = []
    operator_of = maps.Bound.operator
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            maps.Bound,
            "operator",
            lambda *a, **k: counted.append(operator_of(*a, **k)) or counted[-1],
        )
        basis = local_basis(digits, x, 500, 3, quality="draft")
    assert int(basis.products.sum()) == counted[0].count.total
    assert not counted[0]._products._pieces  # no activations are kept when the work is done
