"""Bases, taps and predictions of every family against dense Jacobians and networks run by hand."""

import pytest
import torch

from pullback import local_basis, maps
from tests.models import by_hand, families
from tests.models.by_hand import check, rank_of

FAMILIES = list(families.TINY)


def taps_of(name):
    tiny = families.TINY[name]
    return [(tiny.default, tiny.index), *tiny.taps]


def with_null(name, **options):
    """The tiny model of a family; where its class has no null condition, zeros stand for it."""
    model = families.model_of(name, **options)
    if model.family.null(model.network) is not None:
        return model
    return families.with_null(model, families.null_of(name, 1))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("null", [False, True], ids=["condition", "null"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_basis_is_that_of_the_dense_jacobian(name, null, channels_last):
    case = by_hand.case(name, null)
    jacobian = case.encoder(case.tiny.default, case.tiny.index)
    model, x = with_null(name, channels_last=channels_last), case.x
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
        assert not x.is_contiguous()
        # Flux has no convolutions; in the others they now have the other layout.
        assert name.startswith("Flux") or any(
            not p.is_contiguous() for p in model.network.parameters()
        )
    given = None if null else case.cond or None
    check(local_basis(model, x, case.t, rank_of(jacobian), cond=given), jacobian)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_basis_at_another_tap_is_that_of_the_dense_jacobian(name):
    case = by_hand.case(name)
    path, index = case.tiny.taps[0]
    jacobian = case.encoder(path, index)
    found = local_basis(
        families.model_of(name), case.x, case.t, rank_of(jacobian), path, case.cond or None
    )
    check(found, jacobian)
    assert found.provenance["tap"] == path


@pytest.mark.parametrize(
    ("name", "path", "index"), [(name, *tap) for name in FAMILIES for tap in taps_of(name)]
)
def test_a_tap_reads_what_a_hook_by_hand_reads(name, path, index):
    case, model = by_hand.case(name), families.model_of(name)
    with torch.no_grad():
        expected = by_hand.feature(model.network, path, index, case.t, case.cond)(case.x)
    value = maps.encoder(model, path).at(case.x, case.t, case.cond or None).value()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    if index is not None:  # saying which tensor it is changes nothing
        said = maps.encoder(model, (path, index)).at(case.x, case.t, case.cond or None).value()
        assert torch.equal(said, value)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_tap_is_the_one_of_the_table(name):
    assert families.model_of(name).default_tap == families.TINY[name].default


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prediction_is_that_of_a_call_by_hand(name):
    case, model = by_hand.case(name), families.model_of(name)
    with torch.no_grad():
        expected = by_hand.call(model.network, case.x, case.t, case.cond)
    cond = model.conditions.of(case.cond or None, len(case.x))
    with torch.no_grad():
        found = model.call(case.x, case.t, cond)
    assert found.shape == case.x.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
