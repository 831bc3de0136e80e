"""Gains of directions against dense Jacobians of the decoder in float64."""

import pytest
import torch

import pullback
from pullback import Direction, maps
from pullback.directions import Ranking, attention, rank_by, retained
from pullback.testing import in_float64, map_jacobian
from tests.models import families

T = 500


@pytest.fixture(scope="module")
def unet():
    return families.model_of("UNet2DModel")


@pytest.fixture(scope="module")
def x(unet):
    return torch.randn(2, *unet.latent_shape, generator=torch.Generator().manual_seed(2))


def dense_gain(model, x, rows, kind="noise", cond=None):
    """‖J v‖ of whole unit rows `[D, *h_shape]`, `[D, B]`."""
    double = in_float64(model)
    if cond is not None:
        cond = {name: value.double() for name, value in cond.items()}
    jacobians = map_jacobian(maps.decoder(double, None, kind), x, T, cond)
    return torch.einsum("bmn,dn->dbm", jacobians, rows.flatten(1)).norm(dim=2)


@pytest.mark.parametrize("kind", ["noise", "denoised"])
def test_gains_of_a_u_net(unet, x, kind):
    found = attention(unet, rank=4)
    table = rank_by(unet, x, T, found, kind=kind)
    rows = found.vectors[:, :, None, None].expand(4, 32, 4, 4) / 4
    truth = dense_gain(unet, x, rows, kind)
    torch.testing.assert_close(table.gain, truth, rtol=1e-4, atol=0)
    torch.testing.assert_close(table.eigenvalue, found.values)
    assert table.order() == truth.mean(1).argsort(descending=True).tolist()
    assert table.order("eigenvalue") == [0, 1, 2, 3]
    assert table.names[2] == "v 2 of mid_block.attentions.0"


def test_gains_in_tokens():
    name = "SD3Transformer2DModel"
    model, cond = families.model_of(name), families.TINY[name].draw(1)
    x = torch.randn(1, *model.latent_shape)
    found = attention(model, matrix="ov", rank=3)
    rows = found.vectors[:, None].expand(3, 16, 24) / 4
    table = rank_by(model, x, T, found, cond=cond)
    torch.testing.assert_close(table.gain, dense_gain(model, x, rows, cond=cond), rtol=1e-3, atol=0)


def test_a_pooled_direction_gains_what_the_same_whole_one_does(unet, x):
    pooled = attention(unet, rank=2).direction(1)
    vector = pooled.vector[:, None, None].expand(32, 4, 4)
    whole = Direction.of(vector, "h", tap="mid_block", name="whole")
    first, second = (rank_by(unet, x, T, [one]) for one in (pooled, whole))
    torch.testing.assert_close(first.gain, second.gain, rtol=1e-5, atol=0)
    assert first.eigenvalue is not None
    assert second.eigenvalue is None


def test_singular_vectors_gain_their_singular_values(unet, x):
    basis = pullback.basis(maps.decoder(unet), x[:1], T, 3, quality="tight")
    table = rank_by(unet, x[:1], T, [basis.direction(i) for i in range(3)], subspace=basis)
    torch.testing.assert_close(table.gain[:, 0], basis.s[0].double(), rtol=1e-3, atol=0)
    torch.testing.assert_close(table.retained, torch.ones(3, 1).double(), rtol=0, atol=1e-5)


def test_the_table_has_a_column_for_each_measure(unet, x):
    found = attention(unet, rank=3)
    basis = pullback.local_basis(unet, x, T, rank=5, quality="draft")
    table = rank_by(unet, x, T, found, subspace=basis)
    expected = retained(found, basis)
    assert expected.shape == (3, 2)
    assert torch.equal(table.retained, expected)
    assert 0 < expected.min() < expected.max() < 1
    assert table.order("retained") == expected.mean(1).argsort(descending=True).tolist()
    lines = str(table).splitlines()
    assert lines[0].split() == ["direction", "gain", "eigenvalue", "retained"]
    assert lines[1].startswith(table.names[table.order()[0]])
    assert float(lines[1].split()[-1]) == pytest.approx(
        float(expected.mean(1)[table.order()[0]]), rel=1e-3
    )
    with pytest.raises(ValueError, match="by as one of gain, eigenvalue, retained, got 'norm'"):
        table.order("norm")
    with pytest.raises(ValueError, match="by as one of gain, eigenvalue, got 'retained'"):
        rank_by(unet, x, T, found).order("retained")


def test_overlap_with_other_directions(unet, x):
    found = attention(unet, rank=3)
    table = rank_by(unet, x, T, found, subspace=[found.direction(0), found.direction(2)])
    truth = torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(table.retained, truth, rtol=0, atol=1e-10)


def test_eigenvalues_are_ordered_by_magnitude():
    gain = torch.tensor([[1.0], [3.0], [2.0]], dtype=torch.float64)
    table = Ranking(("a", "b", "c"), gain, torch.tensor([-3.0, 1.0, 2.0], dtype=torch.float64))
    assert table.order("eigenvalue") == [0, 2, 1]
    assert table.order() == [1, 2, 0]


def test_what_does_not_fit_is_named(unet, x):
    found = attention(unet, rank=2)
    latents = Direction.of(torch.randn(unet.latent_shape), "x")
    with pytest.raises(ValueError, match=r'directions in a feature \("h"\), got "x"'):
        rank_by(unet, x, T, [latents])
    with pytest.raises(ValueError, match=r"same space, got 'h' of v 0 of .* and 'x'"):
        rank_by(unet, x, T, [found.direction(0), latents])
    with pytest.raises(ValueError, match="same space"):
        rank_by(unet, x, T, found, subspace=[latents])
    with pytest.raises(TypeError, match="Expected several directions, got one LocalBasis"):
        rank_by(unet, x, T, pullback.local_basis(unet, x, T, rank=1, quality="draft"))
    with pytest.raises(TypeError, match="Expected a LatentModel"):
        rank_by(unet.network, x, T, found)
    with pytest.raises(ValueError, match="finite"):
        rank_by(unet, x * torch.nan, T, found)
    with pytest.raises(ValueError, match="Expected one of noise, denoised, score, got 'image'"):
        rank_by(unet, x, T, found, kind="image")
    narrow = Direction.of(torch.randn(31), "h", tap="mid_block", pool="space")
    with pytest.raises(ValueError, match=r"shape \[32\] in the pooled feature at mid_block"):
        rank_by(unet, x, T, [narrow])


def test_other_weights_give_a_warning(unet, x):
    found = attention(in_float64(unet), rank=1)
    with pytest.warns(UserWarning, match="has other weights"):
        rank_by(unet, x, T, found)
