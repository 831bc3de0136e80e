"""The unit of products, and what they cannot be."""

import math

import pytest
import torch

from pullback.krylov.products import check_finite, check_symmetric, power_of_two


@pytest.mark.parametrize("size", [1e-290, 1e-30, 0.3, 1.0, 7.0, 1e30, 1e290])
def test_the_unit_is_the_power_of_two_just_above_the_longest_row(rng, size):
    image = torch.randn(5, 3, 40, generator=rng, dtype=torch.float64)
    image[1] *= 1e-3
    image[2, 1] *= 100
    unit = power_of_two(size * image)
    assert torch.equal(torch.frexp(unit).mantissa, torch.full((5,), 0.5, dtype=torch.float64))
    ratio = image.norm(dim=2).amax(1) * (size / unit)
    assert ((ratio * (1 + 1e-12) >= 0.5) & (ratio < 1 + 1e-12)).all()


def test_zeros_and_what_is_not_finite_have_a_unit_too():
    image = torch.zeros(3, 2, 4)
    image[1, 1, 2], image[2, 0, 0] = math.inf, math.nan
    unit = power_of_two(image)
    assert unit[0] == 1
    assert unit.isfinite().all()
    assert (unit > 0).all()


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ([2], "in sample 12"),
        ([0, 4], "in samples 10, 14"),
        ([0, 1, 2, 3, 4], "in samples 10, 11, 12, 13, 14"),
        ([0, 1, 2, 3, 4, 6], "in samples 10, 11, 12, 13, 14, ..."),
        ([0, 1, 2, 3, 4, 5, 6], "in samples 10, 11, 12, 13, 14, ..."),
    ],
)
def test_samples_whose_products_are_not_finite_are_named(lost, named):
    finite = torch.ones(7, dtype=torch.bool)
    index = torch.arange(10, 17)
    check_finite(finite, index, torch.float16)
    finite[lost] = False
    with pytest.raises(FloatingPointError) as caught:
        check_finite(finite, index, torch.float16)
    assert f"{named}. The usual cause is an overflow in torch.float16" in str(caught.value)


@pytest.mark.parametrize("eps", [2.0**-52, 2.0**-23, 2.0**-8])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_a_projection_may_be_as_asymmetric_as_rounding_lets_it_be(size, eps):
    allowed = 64 * math.sqrt(eps) * size
    sizes = torch.tensor([size, 2 * size], dtype=torch.float64)
    check_symmetric(torch.tensor([0.9, 1.9], dtype=torch.float64) * allowed, sizes, eps)
    for asymmetry in ([1.1, 0.0], [0.0, 2.1]):
        with pytest.raises(ValueError, match="do not belong to one operator"):
            check_symmetric(torch.tensor(asymmetry, dtype=torch.float64) * allowed, sizes, eps)
