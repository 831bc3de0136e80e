"""Directions and frames carried between tangent spaces, against dense float64 algebra."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

import pullback
from pullback import Direction, LocalBasis, denoise, local_basis, maps, sweep, transport
from pullback.geometry.transport import Transported, transport_frame
from pullback.geometry.transport.checks import least_of
from pullback.testing import leading, map_jacobian, orthogonality_loss
from tests.geometry.known import H, M, N, X, basis_of, jacobians

BACKS = ("isometric", "pullback", "vjp")
K = 6


@pytest.fixture
def source():
    return basis_of(jacobians(3, seed=1), K)


@pytest.fixture
def target():
    return basis_of(jacobians(2, seed=2), K)


def flat(x):
    return x.double().flatten(2)


def normed(x):
    return x / x.norm(dim=-1, keepdim=True)


def turned(basis, seed=0):
    """The basis with its rows turned by one rotation in u and v, for a flat spectrum."""
    generator = torch.Generator().manual_seed(seed)
    k = basis.s.shape[1]
    turn = torch.linalg.qr(torch.randn(len(basis), k, k, generator=generator).double()).Q
    parts = {name: (turn @ flat(getattr(basis, name))).unflatten(2, shape)
             for name, shape in (("u", H), ("v", X))}  # fmt: skip
    return replace(basis, **parts)


# --------------------------------------------------------------------------- what is carried


@pytest.mark.parametrize("back", BACKS)
def test_each_direction_is_itself_in_its_own_tangent_space(source, back):
    found = transport(range(K), source, source, back=back)
    assert found.coordinates.shape == (3 * K, 3, K)
    for sample in range(3):
        own = slice(sample * K, (sample + 1) * K)
        eye = torch.eye(K, dtype=torch.float64)
        torch.testing.assert_close(found.coordinates[own, sample], eye, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.retained[own, sample], torch.ones(K).double())
        torch.testing.assert_close(found.v[own, sample], source.v[sample], rtol=0, atol=1e-12)
        torch.testing.assert_close(found.u[own, sample], source.u[sample], rtol=0, atol=1e-12)


@pytest.mark.parametrize("back", BACKS)
def test_the_ways_back_are_those_of_the_dense_jacobian(source, back):
    """Jᵀû with the whole Jacobian; J⁺û with the one that knows the leading space alone."""
    dense = jacobians(2, seed=2)
    target = basis_of(dense, K)
    found = transport(2, source, target, back=back)
    for d in range(3):
        for b in range(2):
            u = flat(source.u)[d, 2]
            rows = flat(target.u)[b]
            projected = rows.T @ (rows @ u)
            assert found.retained[d, b] == pytest.approx(float(projected.norm()), rel=1e-12)
            tangent = normed(projected)
            torch.testing.assert_close(flat(found.u)[d, b], tangent, rtol=0, atol=1e-12)
            u_k, s_k, v_k = (part[b] for part in leading(dense, K))
            wanted = {
                "isometric": v_k.T @ (u_k @ tangent),
                "pullback": torch.linalg.pinv(u_k.T @ torch.diag(s_k) @ v_k, rtol=1e-10) @ tangent,
                "vjp": dense[b].T @ tangent,
            }[back]
            torch.testing.assert_close(flat(found.v)[d, b], normed(wanted), rtol=0, atol=1e-11)


def test_the_network_itself_moves_its_feature_along_what_is_carried(digits, digits64):
    """J v is along û for "pullback"; for "vjp" it has a part along it that is not negative."""
    x = digits.sample_latents(3, 500, seed=3, steps=10)
    jacobian = map_jacobian(maps.encoder(digits64), x[2:], 500)[0]
    basis = local_basis(digits64, x.double(), 500, 8, quality="tight")
    for back in ("pullback", "vjp"):
        found = transport(0, basis[:2], basis[2:], back=back)
        for d in range(2):
            image = jacobian @ flat(found.v)[d, 0]
            cosine = float(normed(image) @ flat(found.u)[d, 0])
            assert cosine > 1 - 1e-6 if back == "pullback" else 0.5 < cosine <= 1
    steepest = jacobian.T @ flat(found.u)[0, 0]
    assert float(normed(steepest) @ flat(found.v)[0, 0]) > 1 - 1e-6


def test_carried_directions_have_norm_one_and_what_is_retained_is_at_most_one(source, target):
    for back in BACKS:
        found = transport([0, 3], source, target, back=back)
        for rows in (found.coordinates, flat(found.v), flat(found.u)):
            torch.testing.assert_close(rows.norm(dim=2), torch.ones(6, 2).double())
        assert found.retained.min() > 0
        assert found.retained.max() <= 1


@pytest.mark.filterwarnings("ignore:.*directions keep less")  # random spaces share little
def test_nothing_depends_on_the_frame_of_the_target_or_the_sign_of_the_source(source):
    """With equal singular values every rotation of the rows is as good a basis."""
    target = basis_of(jacobians(2, seed=2, spectrum=[2.0] * N), K)
    for back in BACKS:
        found = transport(1, source, target, back=back)
        again = transport(1, source, turned(target), back=back)
        torch.testing.assert_close(again.v, found.v, rtol=0, atol=1e-12)
        torch.testing.assert_close(again.retained, found.retained)
        assert (again.coordinates - found.coordinates).abs().max() > 0.1
        opposite = replace(source, u=-source.u, v=-source.v)
        torch.testing.assert_close(transport(1, opposite, target, back=back).v, -found.v)


def test_all_pairs_are_the_pairs_one_by_one(source, target):
    together = transport([4, 1], source, target)
    assert together.coordinates.shape == (6, 2, K)
    for d, (sample, index) in enumerate([(s, i) for s in range(3) for i in (4, 1)]):
        assert (together.origins[d]["sample"], together.origins[d]["index"]) == (sample, index)
        for b in range(2):
            one = transport(index, source[sample], target[b])
            torch.testing.assert_close(
                one.coordinates[0, 0], together.coordinates[d, b], rtol=0, atol=1e-14
            )
            torch.testing.assert_close(one.retained[0, 0], together.retained[d, b])


def test_a_direction_may_be_given_as_a_tensor_or_a_direction(source, target):
    by_index = transport(2, source[1], target)
    direction = source.direction(2, 1, space="h")
    for given, where in (
        (5.0 * source.u[1, 2], None),
        (source.u[1:2, 2], None),
        (direction, None),
        (direction, source),
        (source.direction(2, 1), source[1]),  # in the latents
    ):
        found = transport(given, where, target)
        torch.testing.assert_close(found.coordinates, by_index.coordinates, rtol=0, atol=1e-12)
    stack = transport(source.u[:, 0], None, target)
    torch.testing.assert_close(stack.coordinates, transport(0, source, target).coordinates)


def test_a_direction_in_the_latents_is_taken_by_its_part_in_the_basis(source, target):
    own = source[0]
    outside = torch.randn(X, dtype=torch.float64)
    rows = flat(own.v)[0]
    outside = outside - ((rows @ outside.flatten()) @ rows).reshape(X)
    inside = own.v[0, 1] + 2 * own.v[0, 4]
    direction = Direction.of(inside + outside / outside.norm(), "x")
    wanted = transport(own.u[0, 1] + 2 * own.u[0, 4], None, target)
    torch.testing.assert_close(transport(direction, own, target).coordinates, wanted.coordinates)


def test_ranks_and_timesteps_may_differ(source):
    dense = jacobians(2, seed=2)
    small, large = basis_of(dense, 3, t=100), basis_of(dense, 9, t=900)
    few, many = transport(0, source, small), transport(0, source, large)
    assert few.coordinates.shape == (3, 2, 3)
    assert bool((few.retained <= many.retained).all())
    expected = normed(many.coordinates[..., :3])
    torch.testing.assert_close(few.coordinates, expected)
    assert few.direction(1, 2).t == 100


@pytest.mark.filterwarnings("ignore:.*directions keep less")  # random spaces share little
def test_beyond_the_numerical_rank_rows_count_for_nothing(source):
    """The last of two samples has three singular values that are not zero."""
    full = jacobians(2, seed=2)
    flat_one = jacobians(1, seed=3, spectrum=[3.0, 2.0, 1.0])
    target = basis_of(torch.cat([full[:1], flat_one]), K)
    assert target.rank.tolist() == [K, 3]
    for back in ("isometric", "vjp"):
        found = transport(0, source, target, back=back)
        assert bool((found.coordinates[:, 1, 3:] == 0).all())
        alone = transport(0, source, basis_of(flat_one, 3), back=back)
        torch.testing.assert_close(found.retained[:, 1:], alone.retained)
        torch.testing.assert_close(found.v[:, 1:], alone.v, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.u[:, 1:], alone.u, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"sample 1 of the target has numerical rank 3 of 6"):
        transport(0, source, target, back="pullback")


def test_float32_bases_are_carried_to_their_own_accuracy(source, target):
    wide = transport(0, source, target)
    found = transport(0, source.to(torch.float32), target.to(torch.float32))
    assert found.v.dtype == found.u.dtype == torch.float32
    assert found.coordinates.dtype == found.retained.dtype == torch.float64
    torch.testing.assert_close(found.coordinates, wide.coordinates, rtol=0, atol=1e-6)
    torch.testing.assert_close(flat(found.v).norm(dim=2), torch.ones(3, 2).double(), rtol=1e-6,
                               atol=0)  # fmt: skip


# ------------------------------------------------------------------------------- to be used


def test_a_carried_direction_knows_where_it_comes_from(source, target, tmp_path):
    found = transport([3, 1], source, target, back="vjp")
    one = found.direction(1, 3)
    torch.testing.assert_close(one.vector, found.v[3, 1], rtol=0, atol=1e-14)
    assert (one.space, one.t) == ("x", 400)
    known = one.provenance
    assert (known["how"], known["back"], known["sample"], known["index"]) == (
        "transport", "vjp", 1, 3,
    )  # fmt: skip
    assert known["retained"] == float(found.retained[3, 1])
    assert (known["source"]["sample"], known["source"]["index"]) == (1, 1)
    assert known["fingerprint"] == "00ff"
    in_h = found.direction(1, 3, space="h")
    assert (in_h.space, in_h.tap) == ("h", "first")
    torch.testing.assert_close(in_h.vector, found.u[3, 1], rtol=0, atol=1e-14)
    one.save(tmp_path / "one.safetensors")
    assert Direction.load(tmp_path / "one.safetensors").provenance == known
    again = transport(in_h, None, target[1])
    torch.testing.assert_close(again.retained, torch.ones(1, 1).double())
    for bad in ({"sample": 2}, {"sample": 0, "index": 6}, {"sample": 0, "space": "prompt"}):
        with pytest.raises(ValueError, match="Expected"):
            found.direction(**bad)


def test_edits_go_along_what_was_carried_to_each_sample(digits):
    x = digits.sample_latents(3, 500, seed=4, steps=10)
    basis = local_basis(digits, x, 500, 3, quality="draft")
    found = transport([0, 2], basis[:1], basis[1:])
    assert isinstance(found, Transported)
    edited = found.edit([0.0, 3.0], indices=[1, 0], steps=5)
    assert edited.latents.shape == (2, 2, 2, *digits.latent_shape)
    assert edited.names == ("v_2", "v_1")
    for place, d in enumerate((1, 0)):
        expected = denoise(digits, x[1:] + 3.0 * found.v[d], 500, steps=5)
        torch.testing.assert_close(edited.latents[:, place, 1], expected, rtol=1e-4, atol=1e-5)
    plain = denoise(digits, x[1:], 500, steps=5)
    torch.testing.assert_close(edited.latents[:, 0, 0], plain, rtol=1e-4, atol=1e-5)
    by_hand = sweep(digits, x[1:], 500, found, [3.0], indices=[1], steps=5)
    torch.testing.assert_close(by_hand.latents[:, 0], edited.latents[:, 0, 1:])
    with pytest.raises(ValueError, match="an index to be between 0 and 1, got 2"):
        found.edit([1.0], indices=[2])
    with pytest.raises(ValueError, match="basis of the 3 samples, got one of 2"):
        sweep(digits, x, 500, found, [1.0])


def test_edits_need_a_target_that_knows_its_samples(source, target):
    with pytest.raises(RuntimeError, match=r"pullback\.sweep\(model, x, t, basis, strengths\)"):
        transport(0, source, target).edit([1.0])


def test_transport_to_another_timestep_and_condition(digits):
    """A direction of t = 700 is kept better by the same sample a little later than by another."""
    x = digits.sample_latents(2, 700, seed=5, steps=10)
    cond = {"class_labels": torch.tensor([3])}
    here = local_basis(digits, x, 700, 6)
    later = local_basis(digits, denoise(digits, x, 700, 680, steps=50), 680, 6, cond=cond)
    found = transport(0, here, later)
    assert found.retained.diagonal().min() > 2 * found.retained[[0, 1], [1, 0]].max()


# ------------------------------------------------------------------------------- whole frames


def test_a_frame_is_carried_by_the_nearest_rotation(source, target):
    frames, angles = transport_frame(source, target)
    assert frames.shape == (3, 2, K, *X)
    assert angles.shape == (3, 2, K)
    generator = torch.Generator().manual_seed(0)
    for d in range(3):
        for b in range(2):
            assert orthogonality_loss(frames[d, b][None]).max() < 1e-12
            cross = flat(source.u)[d] @ flat(target.u)[b].T
            cosines = torch.linalg.svdvals(cross).clamp(max=1)
            torch.testing.assert_close(angles[d, b], cosines.acos(), rtol=0, atol=1e-7)
            # As rotations of V': the one found maximises tr(RᵀUU'ᵀ) = Σ cos θ.
            turn = frames[d, b].flatten(1) @ flat(target.v)[b].T
            best = float((turn * cross).sum())
            assert best == pytest.approx(float(cosines.sum()), rel=1e-10)
            for _ in range(20):
                other = torch.linalg.qr(torch.randn(K, K, generator=generator).double()).Q
                assert float((other * cross).sum()) <= best + 1e-12


def test_a_frame_in_its_own_space_is_itself_however_the_target_is_turned(source):
    frames, angles = transport_frame(source, turned(source))
    for sample in range(3):
        own = frames[sample, sample]
        torch.testing.assert_close(own, source.v[sample], rtol=0, atol=1e-12)
        assert angles[sample, sample].max() < 1e-7


def test_frames_need_one_rank_and_a_single_rotation(source, target):
    with pytest.raises(ValueError, match="one rank, got 6 and 4"):
        transport_frame(source, basis_of(jacobians(2, seed=2), 4))
    short = basis_of(jacobians(1, seed=3, spectrum=[3.0, 2.0]), K)
    with pytest.raises(ValueError, match="sample 0 of the target has numerical rank 2 of 6"):
        transport_frame(source, short)
    apart = target.u.clone()
    apart[1] = torch.eye(M, dtype=torch.float64)[:K].unflatten(1, H)
    other = replace(source, u=torch.eye(M, dtype=torch.float64)[K - 1 : 2 * K - 1]
                    .unflatten(1, H).expand(3, K, *H))  # fmt: skip
    with pytest.raises(ValueError, match=r"to sample 1 of the target: .* no nearest rotation"):
        transport_frame(other, replace(target, u=apart))


# ------------------------------------------------------------------------ warnings and errors


def test_what_counts_as_little_is_what_one_in_a_thousand_random_directions_exceed():
    generator = torch.Generator().manual_seed(0)
    random = normed(torch.randn(200_000, 40, generator=generator, dtype=torch.float64))
    above = (random[:, :4].norm(dim=1) > least_of(4, 40)).double().mean()
    assert 0.0007 < float(above) < 0.0013
    assert least_of(10, 81_920) == 0.1  # where chance is next to nothing
    assert least_of(40, 40) == 0.1  # where nothing can be lost


def test_little_that_is_retained_is_warned_of_with_the_least(target):
    bar = least_of(K, M)
    inside, outside = target.u[0, 0].flatten(), torch.linalg.svd(flat(target.u)[0]).Vh[K]
    share = bar - 0.01
    tangent = (share * inside + math.sqrt(1 - share**2) * outside).reshape(H)
    with pytest.warns(
        UserWarning, match=rf"1 of 1 .* less than {bar:.3g} .* chance .* the least is {share:.3g}"
    ) as told:
        found = transport(tangent, None, target[0])
    assert told[0].filename == __file__
    assert float(found.retained) == pytest.approx(share)
    more = ((bar + 0.01) * inside + math.sqrt(1 - (bar + 0.01) ** 2) * outside).reshape(H)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transport(more, None, target[0])


def test_a_basis_that_did_not_converge_is_warned_of_with_its_bound(source, target):
    not_there = torch.tensor([True, False])
    bounds = torch.tensor([1e-6, 0.25], dtype=torch.float64)
    loose = replace(target, converged=not_there, angle_bound=bounds)
    with pytest.warns(
        UserWarning, match=r"1 bases of the target .* may be 0.25 .* up to 0.25"
    ) as told:
        transport(0, source, loose)
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="of the source did not converge to 1e-05"):
        transport(0, loose, target)
    unknown = replace(loose, angle_bound=torch.full((2,), math.inf, dtype=torch.float64))
    with pytest.warns(UserWarning, match="any amount, since no bound was found") as told:
        transport_frame(unknown, target)
    assert told[0].filename == __file__


def test_a_direction_of_which_nothing_lies_in_the_tangent_space_is_refused(target):
    outside = torch.linalg.svd(flat(target.u)[1]).Vh[K]
    with pytest.raises(ValueError, match="Nothing of direction 0 lies in the tangent space of sam"):
        transport(outside.reshape(H), None, target[1])
    outside = torch.linalg.svd(flat(target.v)[1]).Vh[K]
    with pytest.raises(ValueError, match="the span of v of the source of sample 0"):
        transport(Direction.of(outside.reshape(X), "x"), target[1], target[0])


def nan_in(basis, name):
    value = getattr(basis, name).clone(memory_format=torch.contiguous_format)
    value.view(-1)[3] = math.nan
    return replace(basis, **{name: value})


def other(**changes):
    return basis_of(jacobians(2, seed=2), K, **changes)


def feature(**fields):
    vector = torch.randn(H, dtype=torch.float64)
    return Direction.of(**{"vector": vector, "space": "h", "tap": "first", **fields})


BAD = [
    (lambda s, t: transport(0, s, t, back="inverse"), ValueError, "isometric, pullback, vjp, got"),
    (lambda s, t: transport(0, s, "basis"), TypeError, "target as a LocalBasis, got str"),
    (lambda s, t: transport(0, s.u, t), TypeError, "source as a LocalBasis, got Tensor"),
    (lambda s, t: transport(0, None, t), ValueError, "Expected a source that 0 counts"),
    (lambda s, t: transport(6, s, t), ValueError, "direction to be between 0 and 5, got 6"),
    (lambda s, t: transport([0, -1], s, t), ValueError, "direction to be between 0 and 5, got -1"),
    (lambda s, t: transport([], s, t), TypeError, "an index, several indices"),
    (lambda s, t: transport("v0", s, t), TypeError, "an index, several indices"),
    (lambda s, t: transport(0.5, s, t), TypeError, "an index, several indices"),
    (lambda s, t: transport(None, s, t), TypeError, "an index, several indices"),
    (lambda s, t: transport(True, s, t), ValueError, "whole number"),
    (lambda s, t: transport(torch.ones(5), s, t), ValueError, r"shape \[10, 5, 4\], one or"),
    (lambda s, t: transport(torch.ones(0, *H), s, t), ValueError, "one or"),
    (lambda s, t: transport(torch.zeros(H), s, t), ValueError, "other than zero"),
    (lambda s, t: transport(torch.full(H, math.inf), s, t), ValueError, "finite numbers in tang"),
    (lambda s, t: transport(torch.ones(H, dtype=torch.int64), s, t), TypeError, "floating numbers"),
    (lambda s, t: transport(0, s, nan_in(t, "u")), ValueError, "in u of the target, got NaN"),
    (lambda s, t: transport(0, nan_in(s, "v"), t), ValueError, "in v of the source, got NaN"),
    (lambda s, t: transport(0, s, other(fingerprint="11")), ValueError, "same model .*'00ff'.*11"),
    (lambda s, t: transport(0, s, other(map="output")), ValueError, "same map, got 'encoder"),
    (lambda s, t: transport(0, s, other(wrt="prompt")), ValueError, "same variable, got 'x' and"),
    (lambda s, t: transport(0, s, other(tap="mid")), ValueError, "same tap, got 'first' and 'mid'"),
    (lambda s, t: transport_frame(s, other(tap="mid")), ValueError, "same tap"),
    (
        lambda s, t: transport(0, s, replace(t, u=t.u.flatten(3))),
        ValueError,
        r"one shape in source and target, got \[10, 5, 4\] and \[10, 20\]",
    ),
    (
        lambda s, t: transport(0, s, replace(t, rank=torch.tensor([K, 0]))),
        ValueError,
        "target has numerical rank 0 at sample 1",
    ),
    (
        lambda s, t: transport([1, 4], replace(s, rank=torch.tensor([K, 4, K])), t),
        ValueError,
        "below 4, the numerical rank of sample 1 of the source, got 4",
    ),
    (lambda s, t: transport(feature(tap="mid"), None, t), ValueError, "tap='first', as the target"),
    (
        lambda s, t: transport(feature(vector=torch.ones(5), pool="space"), None, t),
        ValueError,
        "pool=None, as the target has, got pool='space'",
    ),
    (
        lambda s, t: transport(feature(vector=torch.ones(5, 2)), None, t),
        ValueError,
        r'in "h" of shape \[10, 5, 4\], got \[5, 2\]',
    ),
    (
        lambda s, t: transport(feature(provenance={"model": "b", "fingerprint": "77"}), None, t),
        ValueError,
        r"target's model, 'known' .*00ff.* got one of 'b' \(fingerprint 77\)",
    ),
    (
        lambda s, t: transport(Direction.of(torch.ones(X), "x"), None, t),
        ValueError,
        'source with respect to "x".*got None',
    ),
    (
        lambda s, t: transport(Direction.of(torch.ones(X), "x"), s, t),
        ValueError,
        "source of one sample .* got 3",
    ),
    (
        lambda s, t: transport(Direction.of(torch.ones(4, 2), "prompt"), s[0], t),
        ValueError,
        "source with respect to \"prompt\".*got 'x'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_what_does_not_fit_is_refused(source, target, call, kind, message):
    with pytest.raises(kind, match=message):
        call(source, target)


def test_the_front_door(source, target, tmp_path):
    """`pullback.transport` is the function; bases read from files can be carried, too."""
    target.save(tmp_path / "target.safetensors")
    read = LocalBasis.load(tmp_path / "target.safetensors")
    found = pullback.transport(0, source, read)
    assert torch.equal(found.coordinates, transport(0, source, target).coordinates)
