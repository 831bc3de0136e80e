"""Cosines between directions, and what of them lies in a tangent space."""

import dataclasses

import pytest
import torch

import pullback
from pullback import Direction
from pullback.directions import attention, compare, retained
from tests.directions.made import drawn

T = 500


@pytest.fixture(scope="module")
def basis(digits):
    x = digits.sample_latents(2, T, seed=4, steps=10)
    return pullback.local_basis(digits, x, T, rank=4, quality="draft")


def pooled(vector, **fields):
    return Direction.of(vector, "h", **({"tap": "mid_block", "pool": "space"} | fields))


def test_cosines_are_those_of_the_vectors():
    first, second = drawn(), drawn(name="frown")
    found = first.compare([second, -first])
    expected = float((first.vector * second.vector).sum())
    truth = torch.tensor([[1, expected, -1], [expected, 1, -expected], [-1, -expected, 1]])
    torch.testing.assert_close(found.cosines, truth.double(), rtol=0, atol=1e-6)
    assert found.names == ("smile", "frown", "-smile")
    assert found.cosines.dtype == torch.float64
    assert found.size == 256
    assert (found.cosines.diagonal() == 1).all()
    assert "frown" in str(found).splitlines()[1]


def test_a_direction_of_another_dtype_is_compared_in_float64():
    one = drawn()
    half = one.to(torch.float16)
    found = compare([one, half])
    truth = torch.nn.functional.cosine_similarity(
        one.vector.double().flatten(), half.vector.double().flatten(), dim=0
    )
    torch.testing.assert_close(found.cosines[0, 1], truth, rtol=0, atol=1e-14)


def test_what_was_found_can_be_compared_as_it_is(digits):
    found = attention(digits, rank=4)
    torch.testing.assert_close(
        compare(found).cosines, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12
    )
    inside = retained(attention(digits, rank=2), found)
    torch.testing.assert_close(inside, torch.ones(2, 1).double(), rtol=0, atol=1e-12)
    output = attention(digits, side="output", rank=3)
    expected = (output.vectors @ found.vectors.mT).norm(dim=1, keepdim=True)
    torch.testing.assert_close(retained(output, found), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"space": "prompt"}, "same space, got 'x' of smile and 'prompt' of other"),
        (
            {"vector": torch.ones(1, 8, 8)},
            r"same shape, got \[1, 16, 16\] of smile and \[1, 8, 8\]",
        ),
        ({"provenance": {"fingerprint": "11"}}, "same fingerprint, got '00ff' of smile and '11'"),
    ],
)
def test_misfits_are_named(other, words):
    with pytest.raises(ValueError, match=words):
        compare([drawn(), drawn(**({"space": "x", "name": "other"} | other))])


def test_features_at_other_taps_are_named():
    first = drawn("h")
    with pytest.raises(ValueError, match=r"same tap, got 'mid_block' of smile and 'up_blocks\.0'"):
        compare([first, drawn("h", tap="up_blocks.0")])
    with pytest.raises(ValueError, match=r"same tap, got 'mid_block' of smile and 'up_blocks\.0'"):
        compare([first, pooled(torch.randn(96), tap="up_blocks.0")])
    with pytest.raises(ValueError, match="a pooled one of its channels"):
        compare([first, pooled(torch.randn(95))])


@pytest.mark.parametrize("shape", [(6, 4, 4), (9, 6)])
def test_pooled_directions_beside_whole_ones_are_repeated_at_every_place(shape):
    narrow, other, wide = torch.randn(6), torch.randn(6), torch.randn(*shape)
    given = [pooled(narrow), Direction.of(wide, "h", tap="mid_block"), pooled(other)]
    found = compare(given)
    places = (narrow[:, None, None], other[:, None, None]) if len(shape) == 3 else (narrow, other)
    rows = torch.stack([one.expand(shape).flatten() for one in (places[0], wide, places[1])])
    wanted = torch.corrcoef(torch.cat([rows, -rows], 1))  # of mean zero: cosines
    torch.testing.assert_close(found.cosines, wanted.double(), atol=1e-5, rtol=0)
    assert found.size == wide.numel()


def test_weights_that_are_not_known_are_no_misfit():
    assert compare([drawn(), drawn(provenance={})]).cosines.shape == (2, 2)


@pytest.mark.parametrize("call", [compare, lambda given: retained(given, [drawn()])])
def test_what_is_no_list_of_directions(call, basis):
    with pytest.raises(ValueError, match="Expected at least one direction, got none"):
        call([])
    with pytest.raises(TypeError, match="Expected several directions, got one Direction"):
        call(drawn())
    with pytest.raises(TypeError, match="Expected several directions, got one LocalBasis"):
        call(basis)
    with pytest.raises(TypeError, match="Expected directions, got Tensor"):
        call([drawn(), torch.ones(1, 16, 16)])


def in_span(rows, vector):
    """The norm of a unit vector's projection on rows, in float64 by another factorisation."""
    q = torch.linalg.qr(rows.double().flatten(1).mT).Q
    unit = vector.double().flatten() / vector.double().norm()
    return (q.mT @ unit).norm()


@pytest.mark.parametrize("space", ["x", "h"])
def test_what_is_retained_in_the_span_of_each_sample(basis, space):
    rows = basis.v if space == "x" else basis.u
    inside = basis.direction(2, sample=1, space=space)
    others = [drawn(space, provenance={}), inside]
    found = retained(others, basis)
    truth = [[in_span(rows[b], one.vector) for b in range(2)] for one in others]
    torch.testing.assert_close(found, torch.tensor(truth, dtype=torch.float64), rtol=0, atol=1e-10)
    assert found[1, 1] > 1 - 1e-6
    assert found[1, 0] < 1 - 1e-3


def test_pooled_directions_are_repeated_at_every_place(basis):
    one = pooled(torch.randn(96))
    expanded = one.vector[:, None, None].expand(96, 4, 4)
    truth = torch.stack([in_span(basis.u[b], expanded) for b in range(2)])
    torch.testing.assert_close(retained([one], basis)[0], truth, rtol=0, atol=1e-10)


def test_tokens_have_their_channels_last():
    one = pooled(torch.randn(5))
    whole = Direction.of(one.vector.expand(7, 5), "h", tap="mid_block")
    assert float(retained([one], [whole])) > 1 - 1e-6
    square = Direction.of(one.vector[:, None].expand(5, 5), "h", tap="mid_block")
    assert float(retained([one], [square])) < 0.99


def test_the_tangents_of_a_pooled_feature(digits, basis):
    x = digits.sample_latents(1, T, seed=4, steps=10)
    narrow = pullback.local_basis(digits, x, T, rank=2, quality="draft", pool="space")
    one = pooled(torch.randn(96))
    truth = in_span(narrow.u[0], one.vector)
    torch.testing.assert_close(retained([one], narrow)[0, 0], truth, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match=r"shape \[96\].*got \[96, 4, 4\] \(smile\)"):
        retained([drawn("h", provenance={})], narrow)


def test_rows_beyond_the_numerical_rank_do_not_count(basis):
    less = dataclasses.replace(basis, rank=torch.tensor([0, 2]))
    found = retained([basis.direction(3, sample=1)], less)
    assert float(found[0, 0]) == 0
    assert float(found[0, 1]) < 1e-3


def test_directions_that_depend_on_one_another_span_no_more():
    first, second = drawn(), drawn()
    both = Direction.of(first.vector + second.vector, "x")
    found = retained([both], [first, second, first, -second])
    assert abs(float(found) - 1) < 1e-6
    assert found.shape == (1, 1)


def test_a_space_that_does_not_fit_is_named(digits, basis):
    with pytest.raises(ValueError, match=r"same tap, got 'up_blocks\.0' of smile and 'mid_block'"):
        retained([drawn("h", tap="up_blocks.0", provenance={})], basis)
    with pytest.raises(ValueError, match="same fingerprint, got '00ff' of smile"):
        retained([drawn()], basis)
    with pytest.raises(ValueError, match='got "prompt"'):
        retained([drawn("prompt", provenance={})], basis)
    with pytest.raises(ValueError, match="same space, got 'h' of smile and 'x' of smile"):
        retained([drawn("h")], [drawn()])
    with pytest.raises(ValueError, match="pooled one of its channels, got"):
        retained([pooled(torch.randn(95))], basis)
    broken = basis.u.clone()
    broken[1, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="Expected finite numbers in u of the basis"):
        retained([drawn("h", provenance={})], dataclasses.replace(basis, u=broken))
