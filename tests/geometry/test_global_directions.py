"""Means of local bases: closed forms, what they do not depend on, and what they refuse."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

import pullback
from pullback import global_directions, local_basis, maps
from pullback.geometry.grassmann import distance, exp, principal_angles
from tests.geometry.made import H, X, frames, made

METHODS = ("nearest", "hungarian", "frechet")


def flat(found):
    return found.vectors.flatten(1).double()


def orthonormal(rows):
    eye = torch.eye(len(rows), dtype=torch.float64)
    return float(torch.linalg.matrix_norm(rows @ rows.mT - eye))


def shuffled(rows, samples):
    """The same rows for each sample `[S, k, N]`, in orders and with signs of their own."""
    k = len(rows)
    orders = [torch.arange(k), *(torch.randperm(k) for _ in range(samples - 1))]
    signs = [torch.ones(k, 1), *(torch.randn(k, 1).sign() for _ in range(samples - 1))]
    return torch.stack([sign * rows[order] for order, sign in zip(orders, signs, strict=True)])


@pytest.mark.parametrize("space", ["h", "x"])
@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_equal_samples_up_to_order_and_sign_give_the_frame_of_the_reference(
    how, space, dtype, near
):
    size = 96 if space == "h" else 256
    rows = shuffled(frames(1, 4, size)[0], 5).to(dtype)
    other = frames(5, 4, 352 - size, dtype)
    basis = made(rows, other) if space == "h" else made(other, rows)
    for reference in (0, 3):
        found = global_directions(basis, how, space=space, reference=reference)
        assert found.vectors.dtype == dtype
        assert found.vectors.shape == (4, *(H if space == "h" else X))
        assert float((flat(found) - rows[reference].double()).norm()) < near
        assert float((found.agreement - 1).abs().max()) < near
        assert (found.how, found.space, found.s, len(found)) == (how, space, None, 4)


def test_the_span_of_two_samples_is_the_middle_of_their_geodesic():
    axes = frames(1, 6, 96)[0]
    theta = torch.tensor([[0.4], [0.9], [1.4]], dtype=torch.float64)
    both = torch.stack([axes[:3], axes[:3] * theta.cos() + axes[3:] * theta.sin()])
    middle = axes[:3] * (theta / 2).cos() + axes[3:] * (theta / 2).sin()
    turned = frames(2, 3, 3) @ both
    found = global_directions(made(turned), "frechet")
    assert float(distance(flat(found), middle, "max")) < 1e-10
    assert orthonormal(flat(found)) < 1e-12
    half = principal_angles(flat(found), both)
    torch.testing.assert_close(half, (theta.flatten() / 2).expand(2, 3), rtol=1e-9, atol=1e-9)
    # With frames that match row by row the directions are the middles themselves.
    plain = global_directions(made(both), "frechet")
    assert float((flat(plain) - middle).norm()) < 1e-10
    torch.testing.assert_close(plain.agreement, (theta.flatten() / 2).cos())


@pytest.mark.parametrize("how", METHODS)
def test_the_mean_of_noisy_samples_is_nearer_to_the_truth_than_each_of_them(how):
    truth = frames(1, 3, 96)[0]
    noise = torch.randn(12, 3, 96, dtype=torch.float64)
    noise = noise - (noise @ truth.mT) @ truth
    samples = exp(truth, 0.7 * noise / noise.flatten(1).norm(dim=1)[:, None, None])
    found = flat(global_directions(made(samples), how))
    nearest = float(distance(samples, truth).min())
    assert nearest > 0.6
    assert float(distance(found, truth)) < nearest / 2
    assert float((found - truth).norm()) < float((samples - truth).flatten(1).norm(dim=1).min()) / 2


@pytest.mark.parametrize("how", METHODS)
def test_signs_and_order_of_the_directions_of_other_samples_do_not_matter(how):
    rows = frames(6, 3, 24)
    changed = torch.stack([shuffled(one, 2)[1] for one in rows])
    changed[2] = rows[2]
    first, second = (global_directions(made(one), how, reference=2) for one in (rows, changed))
    torch.testing.assert_close(first.vectors, second.vectors, rtol=0, atol=1e-7)
    torch.testing.assert_close(first.agreement, second.agreement, rtol=0, atol=1e-7)
    opposite = rows.clone()
    opposite[2] *= -1
    third = global_directions(made(opposite), how, reference=2)
    torch.testing.assert_close(third.vectors, -first.vectors, rtol=0, atol=1e-7)


def test_nearest_is_the_mean_of_what_is_nearest_and_may_take_a_direction_twice():
    e = torch.eye(96, dtype=torch.float64)
    both = torch.stack([e[:2], torch.stack([-(e[0] + 0.9 * e[1]) / math.sqrt(1.81), e[5]])])
    found = flat(global_directions(made(both), "nearest"))
    expected = e[:2] - both[1, 0]
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert orthonormal(found) > 0.1


def test_hungarian_is_the_frame_nearest_to_the_mean_of_a_matching_one_to_one():
    e = torch.eye(96, dtype=torch.float64)
    both = torch.stack([e[:2], torch.stack([-(e[0] + 0.9 * e[1]) / math.sqrt(1.81), e[5]])])
    found = global_directions(made(both), "hungarian")
    mean = torch.stack([e[0] - both[1, 0], e[1] + e[5]]) / 2
    u, _, vh = torch.linalg.svd(mean, full_matrices=False)
    torch.testing.assert_close(flat(found), u @ vh, rtol=0, atol=1e-12)
    matched = torch.stack([e[:2], torch.stack([-both[1, 0], e[5]])])
    expected = (matched * (u @ vh)).sum(-1).abs().mean(0)
    torch.testing.assert_close(found.agreement, expected)


def test_agreement_of_unrelated_samples_falls_with_their_number():
    e = torch.eye(96, dtype=torch.float64)
    for how in ("nearest", "hungarian"):
        found = global_directions(made(e[:25, None]), how)
        assert found.agreement.tolist() == pytest.approx([1 / 5])


def test_several_bases_are_as_one():
    basis = made(frames(5, 3, 96, torch.float32))
    for how in METHODS:
        whole = global_directions(basis, how, reference=3)
        parts = global_directions([basis[:2], basis[2], basis[3:]], how, reference=3)
        assert torch.equal(whole.vectors, parts.vectors)
        assert whole.provenance == parts.provenance
        assert whole.provenance["samples"] == 5


def test_more_directions_than_the_space_has_entries_for():
    """As many rows in all as entries, or more: nothing is gained from their span."""
    rows = frames(1, 2, 6)[0] + 0.1 * torch.randn(9, 2, 6, dtype=torch.float64)
    rows = torch.linalg.qr(rows.mT).Q.mT.contiguous()
    few = global_directions(made(rows, frames(9, 2, 256)), "frechet")
    padded = torch.cat([rows, torch.zeros(9, 2, 90, dtype=torch.float64)], dim=2)
    many = global_directions(made(padded), "frechet")
    torch.testing.assert_close(flat(many)[:, :6], flat(few), rtol=0, atol=1e-8)


def test_count_takes_the_leading_directions_of_each_sample():
    rows = frames(4, 5, 96)
    for how in METHODS:
        some = global_directions(made(rows), how, count=2)
        alone = global_directions(made(rows[:, :2].contiguous()), how)
        assert torch.equal(some.vectors, alone.vectors)
        assert some.vectors.shape == (2, *H)


def test_directions_of_real_bases_can_be_applied(digits):
    x = digits.sample_latents(6, 900, seed=4)
    basis = local_basis(digits, x, 900, 4)
    for how in METHODS:
        for space in ("h", "x"):
            found = global_directions(basis, how, space=space)
            one = found.direction(1)
            one.check_fits(digits, 900)
            assert (one.space, one.t, one.tap) == (
                space,
                900,
                "mid_block" if space == "h" else None,
            )
            assert one.provenance["how"] == f"global directions, {how}"
            assert one.provenance["agreement"] == float(found.agreement[1])
            assert one.provenance["fingerprint"] == digits.seen_fingerprint
            torch.testing.assert_close(one.vector, found.vectors[1])
            if how != "nearest":
                assert orthonormal(flat(found)) < 1e-5
    with pytest.raises(ValueError, match="between 0 and 3, got 4"):
        found.direction(4)


def test_pooled_features_and_maps_of_other_variables(digits):
    x = digits.sample_latents(3, 900, seed=4)
    pooled = global_directions(local_basis(digits, x, 900, 2, pool="space", quality="draft"))
    assert pooled.direction(0).pool == "space"
    assert pooled.vectors.shape == (2, 96)
    decoder = pullback.basis(maps.decoder(digits), x, 900, 2, quality="draft")
    found = global_directions(decoder, "hungarian")
    assert (found.space, found.provenance["vector"]) == ("h", "v")
    assert found.vectors.shape == (2, 96, 4, 4)
    with pytest.raises(ValueError, match='Expected the space as "h"'):
        global_directions(decoder, space="x")
    output = pullback.basis(maps.output(digits, "noise"), x, 900, 2, quality="draft")
    with pytest.raises(ValueError, match='Expected the space as "x"'):
        global_directions(output)


def test_some_of_the_directions():
    found = global_directions(made(frames(3, 4, 96)), "hungarian")
    for index, rows in ((1, [1]), (-1, [3]), (slice(0, 2), [0, 1]), ([2, 0], [2, 0]),
                        (torch.tensor([True, False, False, True]), [0, 3])):  # fmt: skip
        part = found[index]
        assert torch.equal(part.vectors, found.vectors[rows])
        assert torch.equal(part.agreement, found.agreement[rows])
        assert len(part) == len(rows)
    for wrong in (4, -5, [], slice(2, 2)):
        with pytest.raises(IndexError, match="Expected"):
            found[wrong]


def test_the_text_names_what_they_are():
    found = global_directions(made(frames(3, 4, 96)), "hungarian")
    text = repr(found)
    assert text.startswith(
        "GlobalDirections(4 by hungarian of 3 samples, h at mid_block, [6, 4, 4]"
    )
    assert "at t=500" in text
    assert text.endswith("of digits)")


# ------------------------------------------------------------------------------------ errors


def basis(**changes):
    return made(frames(2, 3, 96), **changes)


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        (lambda: [basis(), basis(fingerprint="11", model="other")],
         r"one weights, got '00ff' and, in basis 1, '11' \(models digits and other\)"),
        (lambda: [basis(), basis(), basis(map="x0")], "one map, got .* in basis 2, 'x0'"),
        (lambda: [basis(), basis(wrt="prompt")], "one variable, got 'x' .* 'prompt'"),
        (lambda: [basis(), basis(tap="down_blocks.1")], "one tap, got 'mid_block' .* 'down"),
        (lambda: [basis(), made(frames(2, 3, 80))], r"u of one shape .* \[6, 4, 4\] .* \[80\]"),
        (lambda: [basis(), made(frames(2, 3, 96), frames(2, 3, 64))], "v of one shape"),
        (lambda: [basis(), made(frames(2, 4, 96))], "one rank, got 3 directions .* 4"),
        (lambda: [basis(), basis(t=400)], r"one timestep, got \[400, 500\]"),
        (lambda: basis()[0], "two samples or more, got 1: .* own basis"),
        (lambda: [basis()[1]], "two samples or more, got 1"),
        (list, "one basis or more, got none"),
        (lambda: [basis(), basis(rank=torch.tensor([3, 2]))],
         "at least 3 in each sample, got 2 in sample 3.*count=2, or leave the sample out"),
        (lambda: basis(rank=torch.tensor([0, 3])), "got 0 in sample 0.* Leave the sample out"),
        (lambda: made(torch.full((2, 3, 96), math.nan)), r"NaN or Inf in samples \[0, 1\]"),
    ],
)  # fmt: skip
def test_bases_that_do_not_belong_together_are_told_in_what(bases, message):
    for how in METHODS:
        with pytest.raises(ValueError, match=message):
            global_directions(bases(), how)


@pytest.mark.parametrize("bases", [None, 3, "basis", [3], [None], torch.zeros(2, 3, 4)])
def test_what_is_no_basis_is_a_type_error(bases):
    with pytest.raises(TypeError, match=r"Expected .* LocalBasis"):
        global_directions(bases)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "mean"}, "one of nearest, hungarian, frechet, got 'mean'"),
        ({"how": None}, "one of nearest, hungarian, frechet, got None"),
        ({"how": "metric"}, r"pullback\.mean_metric\(model, x, t, rank\)"),
        ({"space": "prompt"}, 'Expected the space as "x"'),
        ({"space": "eps"}, 'Expected space as "x"'),
        ({"reference": 2}, "reference to be between 0 and 1, got 2"),
        ({"reference": -1}, "reference to be between 0 and 1"),
        ({"reference": 0.0}, "whole number"),
        ({"count": 0}, "count to be between 1 and 3, got 0"),
        ({"count": 4}, "count to be between 1 and 3, got 4"),
    ],
)
def test_options_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        global_directions(basis(), **options)


def test_samples_without_a_mean_get_other_ways_named():
    e = torch.eye(96, dtype=torch.float64)
    apart = made(torch.stack([e[:2], e[2:4]]))
    with pytest.raises(ValueError, match=r"count below 2.*larger t.*how=\"hungarian\""):
        global_directions(apart, "frechet")
    assert len(global_directions(apart, "hungarian")) == 2  # which says how little they agree
    assert float(global_directions(apart, "hungarian").agreement.max()) < 0.71
    # Two directions of the reference, met by one and the same half of others: no frame is nearest.
    one = made(torch.stack([e[:1], e[1:2], e[:1]]))
    with pytest.raises(ValueError, match=r"1 directions each: A principal angle .* Use a larger t"):
        global_directions(one, "frechet")


def test_a_sample_that_has_not_converged_is_warned_of():
    late = basis(
        converged=torch.tensor([True, False]),
        angle_bound=torch.tensor([1e-3, 0.3], dtype=torch.float64),
        stopped=("converged", "max_products"),
    )
    with pytest.warns(UserWarning, match=r"1 of 4 .*\(samples 3\).*3\.0e-01.*2\.0e-03") as caught:
        found = global_directions([basis(), late], "hungarian")
    assert caught[0].filename == __file__
    assert (found.provenance["converged"], found.provenance["angle_bound"]) == (False, 0.3)
    unknown = replace(late, angle_bound=torch.full((2,), math.inf, dtype=torch.float64))
    with pytest.warns(UserWarning, match="bounded by not known"):
        found = global_directions(unknown, "hungarian")
    assert found.provenance["angle_bound"] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert global_directions(basis(), "hungarian").provenance["converged"] is True
