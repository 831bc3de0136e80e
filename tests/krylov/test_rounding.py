"""What rounding inside an operator does to the answer is in the bound."""

import pytest
import torch

from pullback import krylov, local_basis, maps
from pullback.testing import (
    MatrixOperator,
    in_float64,
    leading,
    map_jacobian,
    sine,
    with_spectrum,
)
from tests.models import families

SPECTRUM = [0.8**i for i in range(40)]


class Blurred(MatrixOperator):
    """Matrices of which nobody knows more than that they lie about `size` from others."""

    def __init__(self, matrices, x_shape=None, h_shape=None, size=0.0, seed=0):
        super().__init__(matrices, x_shape, h_shape)
        self.size, self.seed = size, seed

    def nearby(self, draw):
        return MatrixOperator(moved(self.matrices, self.size, self.seed + 1 + draw))

    def select(self, index):
        return Blurred(self.matrices[index], self.x_shape, self.h_shape, self.size, self.seed)


def moved(matrices, size, seed):
    """Matrices at a random difference of some norm, the same for every sample."""
    generator = torch.Generator().manual_seed(seed)
    shape = matrices.shape[1:]
    other = torch.randn(shape, generator=generator, dtype=torch.float64) / shape[0] ** 0.5
    return (matrices + size * other).to(matrices.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-5, 1e-3])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_bound_covers_what_the_operator_blurs(size, rank, dtype):
    for seed in range(10):
        truth = with_spectrum(SPECTRUM, 60, 50, dtype=dtype, seed=seed)
        operator = Blurred(moved(truth, size, 100 * seed), size=size, seed=100 * seed)
        result = krylov.svd(operator, rank, quality="tight", seed=seed)
        error = sine(result.v, leading(truth, rank)[2])
        assert (error <= result.angle_bound).all()
        over = (result.angle_bound - 1e-4).clamp_min(0) / error
        # Nor is it idle. What is measured is a sum over the rank: six directions take it to 237.
        assert over.max() <= (300 if rank == 6 else 100)
        assert over.median() <= 15 * rank
        if size == 1e-3:
            assert result.stopped == ("floor",) * 3
            # What is known to be blurred is not computed as if it were not.
            assert result.products.max() <= 14 * rank + 20


def test_without_it_the_bound_would_be_broken():
    truth = with_spectrum(SPECTRUM, 60, 50, dtype=torch.float64)
    result = krylov.svd(MatrixOperator(moved(truth, 1e-3, 0)), 3, quality="tight")
    assert (sine(result.v, leading(truth, 3)[2]) > 3 * result.angle_bound).all()


def test_directions_that_are_zero_are_not_measured():
    """Their vectors are any that are left over: nothing tilts them, and no bound is on them."""
    low = with_spectrum([1.0, 0.5, 0.0], 60, 50, dtype=torch.float64)
    whole = with_spectrum(SPECTRUM, 60, 50, dtype=torch.float64)
    alone = krylov.svd(Blurred(low, size=1e-7), 4)
    beside = krylov.svd(Blurred(torch.cat([low, whole]), size=1e-7), 4)
    assert beside.rank.tolist() == [2, 2, 2, 4, 4, 4]
    assert beside.stopped == ("converged",) * 6
    assert torch.equal(beside.products[:3], alone.products)
    assert (beside.angle_bound[:3] < 2 * alone.angle_bound).all()


@pytest.mark.parametrize("size", [float("nan"), float("inf")])
def test_where_a_nearby_product_is_not_finite_nothing_is_said_to_have_converged(size):
    truth = with_spectrum(SPECTRUM, 60, 50, dtype=torch.float64)
    found = krylov.svd(Blurred(truth, size=size), 3)
    assert "converged" not in found.stopped
    assert found.angle_bound.tolist() == [1, 1, 1]
    assert (sine(found.v, leading(truth, 3)[2]) < 1e-3).all()  # as good as it is without


def test_it_takes_three_products_and_is_counted():
    truth = with_spectrum(SPECTRUM, 60, 50, dtype=torch.float64)
    plain = krylov.svd(MatrixOperator(truth), 3)
    found = krylov.svd(Blurred(truth, size=1e-12), 3)
    assert torch.equal(found.products, plain.products + 3)
    assert torch.equal(found.v, plain.v)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_not_beyond_what_is_allowed(dtype):
    """Not in half precision either, where J w is no sum of stored images."""
    truth = with_spectrum(SPECTRUM, 60, 50, dtype=torch.float64).to(dtype)
    for allowed in range(20, 60) if dtype == torch.bfloat16 else range(20, 60, 3):
        found = krylov.svd(Blurred(truth, size=1e-4), 3, max_products=allowed)
        assert found.products.max() <= allowed


@pytest.mark.parametrize(
    "name", ["UNet2DConditionModel, SDXL", "DiTTransformer2DModel", "SD3Transformer2DModel"]
)
@pytest.mark.parametrize("quality", ["standard", "tight"])
def test_an_ill_conditioned_network(name, quality):
    """With tripled weights most bases at "tight" used to be above their bounds, 138 times once."""
    model = families.model_of(name)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.dim() > 1:
                parameter *= 3
    torch.manual_seed(1)
    cond = families.TINY[name].draw(4)
    x = torch.randn(4, *model.latent_shape)
    true = leading(map_jacobian(maps.encoder(in_float64(model)), x, 400, cond), 5)[2]
    for rank in (2, 5):
        basis = local_basis(model, x, 400, rank, quality=quality, cond=cond)
        error = sine(basis.v, true[:, :rank])
        assert (error <= basis.angle_bound).all()
