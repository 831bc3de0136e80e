"""Directions that change a region of x̂₀ and not the rest, against known and dense Jacobians."""

import json
import math

import pytest
import scipy.linalg
import torch

import pullback
from benchmarks.local_published import two_iterations
from pullback import maps
from pullback.directions import local, toward
from pullback.operators import JacobianOperator
from pullback.testing import leading, map_jacobian, sine
from tests.directions.linear import N, T, X, denoiser_model, entries, region, two_sided

RANK, NULL, MU = 2, 5, 1e-2


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, *X, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def full():
    """A matrix of full rank on both sides, and its model."""
    matrix = two_sided()
    return matrix, denoiser_model(matrix)


def sides(matrix, mask=None):
    """The rows of a matrix in the region, and the others."""
    where = entries(region() if mask is None else mask)
    rest = torch.ones(len(matrix), dtype=torch.bool)
    rest[where] = False
    return matrix[where], matrix[rest]


def off(rows, outside, null=NULL):
    """Unit rows without their part in the leading right space of a matrix, and its norm."""
    frame = leading(outside[None], null)[2][0]
    left = rows - (rows @ frame.T) @ frame
    return left / left.norm(dim=1, keepdim=True), (rows @ frame.T).norm(dim=1)


def apart(found, wanted):
    """The sine of the angle between single vectors, whatever their sign: the largest of them."""
    pairs = zip(found.flatten(1).double(), wanted.flatten(1).double(), strict=True)
    return max(float(sine(one[None, None], other[None, None])) for one, other in pairs)


def score(v, inside, outside, share):
    """‖J_Ω v‖² / (‖J_Ωc v‖² + share) of unit rows v."""
    return (v @ inside.T).square().sum(1) / ((v @ outside.T).square().sum(1) + share)


def test_the_projection_of_known_jacobians(full, x):
    matrix, model = full
    inside, outside = sides(matrix)
    found = local(model, x, T, region(), RANK, quality="tight")
    wanted, removed = off(leading(inside[None], RANK)[2][0], outside)
    for sample in range(2):
        v = found.v[sample].flatten(1)
        assert apart(v, wanted) < 1e-3
        assert float((v.norm(dim=1) - 1).abs().max()) < 1e-12
        torch.testing.assert_close(found.removed[sample], removed, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.gain[sample], (v @ inside.T).norm(dim=1))
        torch.testing.assert_close(found.leakage[sample], (v @ outside.T).norm(dim=1))
    assert 0.1 < float(removed.min()) < float(removed.max()) < 1
    torch.testing.assert_close(found.ratio, found.gain / found.leakage)
    assert torch.equal(found.mask, region().expand(X))


def test_less_leaks_than_without_the_projection(full, x):
    model = full[1]
    none, some = (local(model, x, T, region(), RANK, null=null) for null in (0, NULL))
    assert bool((some.leakage < none.leakage).all())
    assert bool((some.ratio > none.ratio).all())
    assert none.outside is None
    assert not bool(none.removed.any())
    assert some.outside.v.shape == (2, NULL, N)


def test_where_null_covers_the_rank_of_the_rest_nothing_leaks(x):
    matrix = two_sided(rank=3)
    found = local(denoiser_model(matrix), x, T, region(), RANK, null=NULL)
    assert found.outside.rank.tolist() == [3, 3]
    assert float(found.leakage.max()) < 1e-10
    assert float(found.gain.min()) > 0.1
    # What stands beyond the rank is arbitrary, and nothing may be taken off along it.
    inside, outside = sides(matrix)
    removed = off(leading(inside[None], RANK)[2][0], outside, null=3)[1]
    torch.testing.assert_close(found.removed[0], removed, rtol=1e-3, atol=1e-3)
    less = local(denoiser_model(matrix), x, T, region(), RANK, null=2)
    assert float(less.leakage.min()) > 1e-3


@pytest.mark.parametrize("null", [0, NULL])
def test_joint_maximises_the_ratio_in_the_span_of_both(full, x, null):
    matrix, model = full
    inside, outside = sides(matrix)
    found = local(model, x, T, region(), RANK, null=null, joint=True, mu=MU, quality="tight")
    frames = [leading(inside[None], RANK)[2][0], leading(outside[None], null)[2][0]]
    span = torch.linalg.qr(torch.cat(frames).T).Q.T
    share = MU * float(torch.linalg.matrix_norm(inside, ord=2)) ** 2
    rows, rest = span @ inside.T, span @ outside.T
    values, vectors = scipy.linalg.eigh(
        (rows @ rows.T).numpy(), (rest @ rest.T).numpy() + share * torch.eye(len(span)).numpy()
    )
    wanted = torch.as_tensor(vectors).T.flip(0)[:RANK] @ span
    for sample in range(2):
        v = found.v[sample].flatten(1)
        assert apart(v, wanted / wanted.norm(dim=1, keepdim=True)) < 1e-3
        best = torch.as_tensor(values).flip(0)[:RANK]
        torch.testing.assert_close(score(v, inside, outside, share), best, rtol=1e-3, atol=0)
    assert found.removed is None
    assert found.provenance["mu"] == MU


@pytest.mark.parametrize("mu", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("rank", [3, None])
def test_joint_is_at_least_as_good_as_the_projection(x, rank, mu):
    matrix = two_sided(rank=rank)
    inside, outside = sides(matrix)
    model = denoiser_model(matrix)
    share = mu * float(torch.linalg.matrix_norm(inside, ord=2)) ** 2
    both = [
        local(model, x, T, region(), RANK, joint=joint, mu=mu, quality="tight").v[0].flatten(1)
        for joint in (False, True)
    ]
    plain, joint = (float(score(v, inside, outside, share).max()) for v in both)
    assert joint >= plain * (1 - 1e-6)


def test_the_products_are_those_of_one_operator(full, x, monkeypatch):
    made = []
    begin = JacobianOperator.__init__

    def kept(self, *args, **options):
        begin(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(JacobianOperator, "__init__", kept)
    for joint in (False, True):
        found = local(full[1], x, T, region(), RANK, joint=joint)
        assert len(made) == 1
        assert int(found.products.sum()) == made.pop().count.total
        bases = found.inside.products + found.outside.products
        # Two for the checks, the directions' own, and those of the span.
        more = 2 + RANK + (RANK + NULL if joint else 0)
        assert (found.products - bases).tolist() == [more, more]


def test_a_direction_of_the_latents(full, x):
    _, model = full
    found = local(model, x, T, region(), RANK, seed=4)
    one = found.direction(1, 1)
    torch.testing.assert_close(one.vector, found.v[1, 1], rtol=0, atol=1e-15)
    assert (one.space, one.tap, one.t, one.window, one.unit) == ("x", None, T, None, 1.0)
    known = one.provenance
    assert known["how"] == "local, projected"
    assert (known["index"], known["sample"], known["t"]) == (1, 1, T)
    assert (known["null"], known["rank"], known["seed"], known["entries"]) == (NULL, RANK, 4, 10)
    assert (known["gain"], known["leakage"]) == (
        float(found.gain[1, 1]),
        float(found.leakage[1, 1]),
    )
    assert known["fingerprint"] == model.fingerprint
    assert known["mask"].startswith("tensor 2 x 3 x 4")
    assert known["converged"] is True
    assert json.loads(json.dumps(known)) == known
    one.check_fits(model, T)
    for row in found.v.flatten(0, 1).flatten(1):
        assert float(row[row.abs().argmax()]) > 0


def test_nothing_is_left_of_what_changes_the_rest_as_well(x):
    # The region moves with a copy of the rest alone.
    matrix = two_sided(rank=2)
    where = entries(region())
    rest = sides(matrix)[1]
    matrix[where] = 0
    matrix[where[0]] = 0.5 * rest[0]
    found = local(denoiser_model(matrix), x, T, region(), 1, null=2)
    assert not bool(found.v.any())
    assert float(found.removed.min()) > 1 - 1e-9
    assert found.ratio.tolist() == [[0.0], [0.0]]
    with pytest.raises(ValueError, match="Nothing is left of direction 0 of sample 1"):
        found.direction(0, 1)
    beyond = local(denoiser_model(matrix), x, T, region(), 2, null=0)
    assert beyond.inside.rank.tolist() == [1, 1]
    with pytest.raises(ValueError, match="Nothing is left of direction 1"):
        beyond.direction(1)


def test_what_is_left_is_nothing_up_to_the_tolerance_of_the_bases(x):
    matrix = two_sided(rank=2)
    where = entries(region())
    rest = sides(matrix)[1]
    matrix[where] = 0
    unit = rest[0] / rest[0].norm()
    other = torch.linalg.svd(rest).Vh[-1]  # of which the rest knows nothing
    matrix[where[0]] = unit + 1e-3 * other
    model = denoiser_model(matrix)
    assert not bool(local(model, x, T, region(), 1, null=2).v.any())  # tol is 2e-3
    closer = local(model, x, T, region(), 1, null=2, tol=1e-5)
    assert apart(closer.v[0], other[None]) < 1e-3
    assert float(closer.gain[0, 0]) == pytest.approx(1e-3, rel=1e-3)


def test_a_sample_does_not_depend_on_the_others(digits):
    x = digits.sample_latents(2, 500, seed=3)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:9, 4:9] = True
    times = torch.tensor([500, 300])
    both = local(digits, x, times, mask, 1, null=2)
    alone = local(digits, x[1:], 300, mask, 1, null=2)
    assert apart(both.v[1], alone.v[0]) < 1e-2
    assert both.direction(0, 1).t == 300


def test_the_digit_model_against_its_dense_jacobian(digits, digits64):
    x = digits.sample_latents(1, 500, seed=3)
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, 4:9, 4:9] = True
    dense = map_jacobian(maps.output(digits64, "denoised"), x, 500)[0]
    rest = ~mask.flatten()
    inside, outside = dense[mask.flatten()], dense[rest]
    found = local(digits, x, 500, mask, 1, null=3, quality="tight")
    wanted, removed = off(leading(inside[None], 1)[2][0], outside, null=3)
    v = found.v[0].flatten(1).double()
    assert apart(v, wanted) < 2e-3
    torch.testing.assert_close(found.removed[0], removed, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(found.gain[0], (v @ inside.T).norm(dim=1), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.leakage[0], (v @ outside.T).norm(dim=1), rtol=1e-4, atol=0)
    joint = local(digits, x, 500, mask, 1, null=3, joint=True, quality="tight")
    share = MU * float(torch.linalg.matrix_norm(inside, ord=2)) ** 2
    better = score(joint.v[0].flatten(1).double(), inside, outside, share)
    assert float(better) >= float(score(v, inside, outside, share)) * (1 - 1e-4)
    found.direction(0).check_fits(digits, 500)


def test_the_published_loop_finds_the_same_direction(x):
    matrix = two_sided(0.6, 0.6, dtype=torch.float32)
    model, point = denoiser_model(matrix), x[:1].float()
    bound = maps.output(model, "denoised").at(point, T)
    own = two_iterations(
        lambda at: bound.f(at, torch.full((len(at),), T)), point, region().expand(X), 1, NULL
    )
    found = local(model, point, T, region(), 1, quality="tight")
    assert apart(found.v[0], own.v) < 1e-3
    assert int(found.products[0]) < own.products
    print(f"products: {int(found.products[0])}, published {own.products}")


def test_toward_another_condition(full, x):
    matrix, model = full
    inside, outside = sides(matrix)
    generator = torch.Generator().manual_seed(6)
    cond, target = (
        {"encoder_hidden_states": torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)}
        for _ in range(2)
    )
    found = toward(model, x, T, target, region(), cond=cond, quality="tight")
    words = [one["encoder_hidden_states"].mean(1) for one in (target, cond)]
    change = model.network.words(words[0] - words[1]).detach()[:, entries(region())]
    pulled = change @ inside
    wanted, removed = off(pulled / pulled.norm(dim=1, keepdim=True), outside)
    v = found.v.flatten(2)[:, 0]
    assert float((v - wanted).abs().max()) < 1e-3  # the sign is meant, too
    torch.testing.assert_close(found.removed[:, 0], removed, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.gain[:, 0], (v @ inside.T).norm(dim=1))
    assert found.inside is None
    one = found.direction(0, 1)
    assert one.provenance["how"] == "local, toward a condition"
    assert one.provenance["target"]["encoder_hidden_states"].startswith("tensor 2 x 3 x 5")
    with pytest.raises(ValueError, match="target condition changes nothing in it"):
        toward(model, x, T, cond, region(), cond=cond)
    bad = {"encoder_hidden_states": torch.full((2, 3, 5), math.nan, dtype=torch.float64)}
    with pytest.raises(ValueError, match="finite x̂₀ under both conditions"):
        toward(model, x, T, bad, region(), cond=cond)


def test_an_edit_changes_the_region_more_than_the_rest(digits):
    """To first order: x̂₀ after a small step along the direction."""
    x = digits.sample_latents(1, 500, seed=3)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:9, 4:9] = True
    found = local(digits, x, 500, mask, 1)
    one = found.direction(0).with_unit(0.1)
    moved = pullback.edit(digits, x, 500, one, stop=500)
    bound = maps.output(digits, "denoised").at(x, 500)
    after = maps.output(digits, "denoised").at(moved, 500).value()
    change = (after - bound.value())[0, 0] / 0.1
    assert float(change[mask].norm()) == pytest.approx(float(found.gain[0, 0]), rel=0.1)
    assert float(change[mask].norm()) > float(change[~mask].norm())


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (torch.zeros(3, 4, dtype=torch.bool), ValueError, "selects something"),
        (torch.ones(3, 4, dtype=torch.bool), ValueError, "leaves something out"),
        (torch.ones(3, 4), ValueError, "Expected a bool mask, got torch.float32"),
        (torch.ones(4, 3, dtype=torch.bool), ValueError, r"shape \[2, 3, 4\].*got \[4, 3\]"),
        (None, TypeError, "bool tensor .* got NoneType"),
    ],
)
def test_masks_that_do_not_fit(full, x, mask, error, words):
    with pytest.raises(error, match=words):
        local(full[1], x, T, mask, 1)
    with pytest.raises(error, match=words):
        toward(full[1], x, T, {}, mask)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rank": 11}, "rank to be a whole number between 1 and min"),
        ({"rank": 0}, "rank"),
        ({"null": -1}, "null to be between 0 and 14, got -1"),
        ({"null": 15}, "null to be between 0 and 14, got 15"),
        ({"mu": 0.0}, "mu as a finite number above 0, got 0"),
        ({"mu": math.nan}, "mu as a finite number above 0, got nan"),
        ({"quality": "best"}, "Expected quality"),
        ({"tol": 2.0}, "tol between 0 and 1"),
        ({"t": 4000}, "4000"),
    ],
)
def test_numbers_that_do_not_fit(full, x, given, words):
    with pytest.raises(ValueError, match=words):
        local(full[1], x, **{"t": T, "mask": region(), "rank": 1, **given})


def test_what_else_does_not_fit(full, x):
    model = full[1]
    with pytest.raises(TypeError, match="Expected a LatentModel"):
        local(model.network, x, T, region(), 1)
    with pytest.raises(TypeError, match=r"local\(\) got .* 'block'"):
        local(model, x, T, region(), 1, block=3)
    with pytest.raises(TypeError, match=r"toward\(\) got .* 'rank'"):
        toward(model, x, T, {}, region(), rank=3)
    bad = x.clone()
    bad[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        local(model, bad, T, region(), 1)
    with pytest.raises(ValueError, match="shape"):
        local(model, x[:, :1], T, region(), 1)
    still = two_sided()
    still[entries(region())] = 0
    with pytest.raises(ValueError, match=r"region of x̂₀ that changes .* in samples \[0, 1\]"):
        local(denoiser_model(still), x, T, region(), 1)
    found = local(model, x, T, region(), 1, quality="draft")
    with pytest.raises(ValueError, match="index to be between 0 and 0, got 1"):
        found.direction(1)
    with pytest.raises(ValueError, match="sample to be between 0 and 1, got 2"):
        found.direction(0, 2)
