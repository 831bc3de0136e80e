"""Who stops, and why: the decision as a function of what is known."""

import math
from dataclasses import replace

import pytest
import torch

from pullback.krylov.stopping import Evidence, decide

LIMITS = {"n": 50, "tol": 1e-2, "eps": 1e-7, "max_products": 100}


def evidence(norm=1e-4, gap=0.5, samples=1, **changes):
    """Two Ritz values of interest, 1 and 0.9, the next one `gap` below; residuals of one norm."""
    values = torch.tensor([[1.0, 0.9, 0.9 - gap]], dtype=torch.float64).expand(samples, 3)
    residual = torch.zeros(samples, 3, 2, dtype=torch.float64)
    residual[:, 0, 0] = residual[:, 1, 1] = norm
    known = Evidence(
        values=values,
        residual=residual,
        ranks=torch.full((samples,), 2),
        noise=torch.zeros(samples, dtype=torch.float64),
        hidden=torch.full((samples,), 8e-7, dtype=torch.float64),
        outside=torch.zeros(samples, dtype=torch.float64),
        earlier=torch.full((samples,), math.inf, dtype=torch.float64),
        trusted=torch.ones(samples, dtype=torch.bool),
        exhausted=torch.zeros(samples, dtype=torch.bool),
        complete=False,
        following=torch.full((samples,), 10),
    )
    return replace(known, **changes)


def verdict(known, **limits):
    found = decide(known, **{**LIMITS, **limits})
    return bool(found.stop[0]), found.reasons[0], float(found.bound[0])


def test_a_small_residual_beside_a_wide_gap_has_converged():
    stop, reason, bound = verdict(evidence(norm=1e-3, gap=0.5))
    assert (stop, reason) == (True, "converged")
    assert 0.5e-3 / 0.5 < bound < 1e-3 / 0.4


def test_a_large_residual_goes_on():
    assert not verdict(evidence(norm=0.1, gap=0.5))[0]


def test_a_guess_about_what_is_outside_stops_nothing():
    known = evidence(trusted=torch.tensor([False]))
    found = decide(known, **LIMITS)
    assert (bool(found.stop[0]), bool(found.doubtful[0])) == (False, True)
    # Not even when the products are spent may it be called converged.
    assert verdict(replace(known, following=torch.tensor([101])))[:2] == (True, "max_products")
    assert not decide(evidence(norm=0.1, trusted=torch.tensor([False])), **LIMITS).doubtful[0]


def test_products_that_are_spent_end_it_whatever_else_is_known():
    known = evidence(norm=0.1, following=torch.tensor([101]))
    assert verdict(known)[:2] == (True, "max_products")
    assert not verdict(replace(known, following=torch.tensor([100])))[0]


def test_a_residual_at_the_level_of_rounding_beside_a_narrow_gap_is_at_the_floor():
    known = evidence(norm=5e-7, gap=1e-5, noise=torch.tensor([4e-7], dtype=torch.float64))
    assert verdict(known)[:2] == (True, "floor")
    # With a gap that is wide enough the same residual has converged.
    assert verdict(evidence(norm=5e-7, gap=0.1))[1] == "converged"


def test_what_rounding_inside_the_operator_hides_is_at_the_floor():
    """More products go on with a residual above the floor, but below what the operator blurs."""
    number = torch.tensor([1e-4], dtype=torch.float64)
    known = evidence(norm=5e-5, gap=5e-3, noise=number)
    assert not verdict(known)[0]
    assert verdict(replace(known, hidden=number))[:2] == (True, "floor")


def test_a_residual_that_no_longer_falls_is_at_the_floor():
    stalled = evidence(norm=5e-6, gap=1e-6, earlier=torch.tensor([6e-6], dtype=torch.float64))
    assert verdict(stalled)[:2] == (True, "floor")
    falling = replace(stalled, earlier=torch.tensor([2e-5], dtype=torch.float64))
    assert not verdict(falling)[0]


STALLED = {"norm": 5e-6, "gap": 1e-6, "earlier": torch.tensor([6e-6], dtype=torch.float64)}


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("known", [evidence(**STALLED), evidence(), evidence(norm=0.1)])
def test_the_unit_of_the_operator_does_not_matter(known, unit):
    scaled = {
        name: getattr(known, name) * unit
        for name in ("values", "residual", "noise", "hidden", "outside", "earlier")
    }
    found, expected = verdict(replace(known, **scaled)), verdict(known)
    assert found[:2] == expected[:2]
    assert found[2] == pytest.approx(expected[2])


@pytest.mark.parametrize(
    ("changes", "eps"),
    [
        ({"earlier": 2.5 * 5e-6}, 1e-7),  # it fell to less than half
        ({"norm": 1e-3, "earlier": 1.1e-3}, 1e-7),  # far above what rounding explains
        ({"norm": 0.1, "earlier": 0.11}, 8e-3),  # nor does half precision explain a tenth
        ({"gap": 0.5, "outside": 1.0}, 1e-7),  # a value that is not known yet may make the gap
    ],
)
def test_a_residual_that_may_still_fall_or_gain_a_gap_goes_on(changes, eps):
    as_tensors = {
        name: value if name in ("norm", "gap") else torch.tensor([value], dtype=torch.float64)
        for name, value in changes.items()
    }
    assert not verdict(evidence(**{**STALLED, **as_tensors}), eps=eps, tol=1e-6)[0]
    assert verdict(evidence(**STALLED), eps=eps, tol=1e-6)[:2] == (True, "floor")


def test_rounding_is_measured_by_the_largest_value():
    """However small the values that are asked for are beside it."""
    values = torch.tensor([[1.0, 1e-3, 1e-3 - 1e-6]], dtype=torch.float64)
    assert verdict(evidence(**STALLED, values=values))[:2] == (True, "floor")


@pytest.mark.parametrize("known", [{"exhausted": torch.tensor([True])}, {"complete": True}])
def test_an_exhausted_space_ends_it(known):
    assert verdict(evidence(norm=0.1, gap=0.01, **known))[:2] == (True, "floor")


def test_there_is_only_one_space_of_all_dimensions():
    assert verdict(evidence(norm=0.1, gap=0.0), n=2) == (True, "converged", 0.0)
    assert verdict(evidence(norm=0.1, gap=0.0), n=3)[2] == 1.0


def test_the_whole_space_needs_no_trust_in_what_is_outside():
    known = evidence(norm=0.1, gap=0.0, trusted=torch.tensor([False]))
    assert verdict(known, n=2) == (True, "converged", 0.0)
    assert not verdict(known, n=3)[0]


def test_every_sample_is_judged_by_itself():
    known = evidence(samples=3)
    residual = known.residual.clone()
    residual[1] *= 1e3
    found = decide(replace(known, residual=residual), **LIMITS)
    assert found.stop.tolist() == [True, False, True]
