"""Principal components of trajectories of the digit model, and of features of one's own."""

import json
import math

import pytest
import torch

import pullback
from pullback.directions import StreamingPCA, pca, pca_of, trajectory

COUNT, RANK = 14, 3
QUICK = {"steps": 5}
TIMES = (999, 799, 599, 399, 199)
H = (96, 4, 4)


@pytest.fixture(scope="module")
def features(digits):
    """Those of the trajectories of seeds 0 to 13, [N, T, *h_shape]."""
    return trajectory(digits, digits.sample_latents(COUNT, 999), 999, **QUICK).features


@pytest.fixture(scope="module")
def joint(digits):
    return pca(digits, COUNT, RANK, **QUICK)


@pytest.fixture(scope="module")
def single(digits):
    return pca(digits, COUNT, RANK, joint=False, **QUICK)


def dense(rows):
    """Components and deviations of rows [N, d], by an SVD in float64."""
    rows = rows.double()
    _, s, v = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    return v[:RANK], s[:RANK] / math.sqrt(len(rows) - 1)


def close(found, expected, tol=1e-4):
    """Whether unit rows are equal up to sign."""
    cosines = (found.flatten(1).double() * expected).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=tol)


def test_joint_components_are_those_of_whole_trajectories(joint, features):
    assert joint.components.shape == (RANK, 5, *H)
    assert joint.times == TIMES
    assert (joint.stop, joint.joint, joint.tap, joint.pool) == (-1, True, "mid_block", None)
    components, deviations = dense(features.flatten(1))
    close(joint.components, components)
    torch.testing.assert_close(joint.deviations, deviations, rtol=1e-4, atol=0)
    torch.testing.assert_close(joint.mean, features.mean(0), rtol=1e-4, atol=1e-4)
    variance = features.flatten(1).double().var(0).sum()
    torch.testing.assert_close(joint.variance, variance, rtol=1e-4, atol=0)
    torch.testing.assert_close(joint.ratios, deviations.square() / variance, rtol=1e-3, atol=0)
    assert float(joint.lost) < 1e-10
    rows = joint.components.flatten(1)
    assert bool((rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all())


def test_components_of_single_steps_are_those_of_each(single, features):
    assert single.components.shape == (RANK, 5, *H)
    assert single.deviations.shape == single.ratios.shape == (RANK, 5)
    assert single.variance.shape == single.lost.shape == (5,)
    for step in range(5):
        components, deviations = dense(features[:, step].flatten(1))
        close(single.components[:, step], components)
        torch.testing.assert_close(single.deviations[:, step], deviations, rtol=1e-4, atol=0)
    flat = single.components.flatten(2)
    assert bool(((flat[:, 1:] * flat[:, :-1]).sum(2) >= 0).all())
    first = flat[:, 0]
    assert bool((first.gather(1, first.abs().argmax(1, keepdim=True)) > 0).all())


@pytest.mark.parametrize("kind", ["joint", "single"])
def test_an_entry_moves_by_one_deviation(request, kind):
    found = request.getfixturevalue(kind)
    for index in range(RANK):
        entry = found.entry(index)
        assert [one.t for one in entry] == list(TIMES)
        assert [one.window for one in entry] == [
            (999, 800), (799, 600), (599, 400), (399, 200), (199, 0)
        ]  # fmt: skip
        moved = torch.stack([one.displacement(1.0) for one in entry])
        deviation = found.deviations[index]
        deviation = deviation if kind == "joint" else deviation[:, None, None, None]
        expected = deviation * found.components[index]
        torch.testing.assert_close(moved.double(), expected.double(), rtol=1e-4, atol=1e-6)
        assert {(one.space, one.tap) for one in entry} == {("h", "mid_block")}
    known = entry[1].provenance
    assert known["how"].startswith("PCA of features")
    assert (known["samples"], known["seed"], known["steps"], known["index"]) == (COUNT, 0, 5, 2)
    assert json.loads(json.dumps(known)) == known


@pytest.mark.parametrize("kind", ["joint", "single"])
def test_edits_add_each_step_its_own_part(request, digits, kind):
    """Against a hook put in by hand."""
    found = request.getfixturevalue(kind)
    x = digits.sample_latents(2, 999, seed=50)
    entry = found.entry(1)
    result = pullback.edit(digits, x, 999, entry, 2.0, **QUICK)
    moves = iter([2.0 * one.unit * one.vector for one in entry])
    hook = lambda _m, _i, output: output + next(moves)  # noqa: E731
    handle = digits.network.mid_block.register_forward_hook(hook)
    try:
        expected = pullback.denoise(digits, x, 999, **QUICK)
    finally:
        handle.remove()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    plain = pullback.denoise(digits, x, 999, **QUICK)
    assert (result - plain).abs().amax((1, 2, 3)).min() > 0.05


@pytest.mark.parametrize("options", [{}, {"eta": 1.0}, {"joint": False}])
@pytest.mark.parametrize("batch", [1, 5])
def test_the_batch_makes_no_difference(digits, options, batch):
    one = pca(digits, COUNT, 2, batch=batch, seed=7, **options, **QUICK)
    two = pca(digits, COUNT, 2, seed=list(range(7, 7 + COUNT)), **options, **QUICK)
    torch.testing.assert_close(one.deviations, two.deviations, rtol=1e-4, atol=0)
    for a, b in zip(one.components, two.components, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3 * float(b.abs().max()))
    assert one.provenance["seed"] == 7
    assert "tensor 14" in two.provenance["seed"]


def test_noise_and_seeds_make_a_difference(digits, joint):
    other = pca(digits, COUNT, RANK, seed=100, **QUICK)
    noisy = pca(digits, COUNT, RANK, eta=1.0, **QUICK)
    for found in (other, noisy):
        assert not torch.allclose(found.deviations, joint.deviations, rtol=1e-3)
    assert (joint.provenance["eta"], noisy.provenance["eta"]) == (0.0, 1.0)


def test_each_trajectory_has_its_own_condition(digits):
    """Whatever the batch: the mean and components are those of the trajectories one by one."""
    cond = digits.encode(class_label=[1, 8] * 3)
    found = pca(digits, 6, 2, cond=cond, batch=4, t=599, **QUICK)
    assert found.times == (599, 399, 199)
    rows = []
    for sample in range(6):
        own = {name: value[sample : sample + 1] for name, value in cond.items()}
        x = digits.sample_latents(1, 599, seed=sample, cond=own, steps=5)
        rows.append(trajectory(digits, x, 599, cond=own, **QUICK).features)
    expected = pca_of(torch.cat(rows), 2, times=found.times, tap="mid_block")
    # The rounding of another batch grows along the steps; another condition changes entries by 1.
    torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=5e-3)
    close(found.components, expected.components.flatten(1).double(), tol=1e-3)
    assert found.provenance["cond"] is not None


def test_pooled_features_and_another_tap(digits):
    found = pca(digits, 6, 2, tap="up_blocks.1", pool="space", stop=399, **QUICK)
    assert found.components.shape == (2, 3, 64)
    assert found.times == (999, 799, 599)
    entry = found.entry(0)
    assert entry[-1].window == (599, 400)
    assert {(one.tap, one.pool) for one in entry} == {("up_blocks.1", "space")}
    x = digits.sample_latents(1, 999, seed=3)
    moved = pullback.edit(digits, x, 999, entry, 3.0, **QUICK)
    assert (moved - pullback.denoise(digits, x, 999, **QUICK)).abs().max() > 1e-2


def test_progress_counts_trajectories(digits):
    told = []
    pca(digits, 5, 1, batch=2, progress=lambda done, of: told.append((done, of)), **QUICK)
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_of_features_of_ones_own(joint, single, features):
    for expected, batches in ((joint, features), (single, features.split(4))):
        found = pca_of(
            batches, RANK, times=TIMES, tap="mid_block", joint=expected.joint,
            provenance={"model": "digits"},
        )  # fmt: skip
        close(
            found.components.flatten(0, 1) if not expected.joint else found.components,
            (expected.components.flatten(0, 1) if not expected.joint else expected.components)
            .flatten(1)
            .double(),
        )
        torch.testing.assert_close(found.deviations, expected.deviations, rtol=1e-4, atol=0)
        assert found.entry(0)[0].provenance["model"] == "digits"


def test_what_was_dropped_is_told(rng):
    features = torch.randn(300, 2, 50, generator=rng)
    for joint in (True, False):
        some = pca_of(features, 2, times=[9, 4], tap="mid_block", joint=joint, extra=0)
        most = pca_of(features, 2, times=[9, 4], tap="mid_block", joint=joint, extra=98)
        assert bool((some.lost > 0.3).all())
        assert bool((most.lost < 1e-10).all())
        assert bool((some.deviations < most.deviations).all())


def test_a_step_that_a_component_does_not_move_is_left_out(rng):
    features = torch.randn(30, 3, 8, generator=rng)
    features[:, 1] = 5.0
    found = pca_of(features, 2, times=[9, 6, 3], tap="mid_block", stop=0)
    assert [one.window for one in found.entry(0)] == [(9, 7), (3, 1)]
    with pytest.raises(ValueError, match=r"Of the features at t = 6: .*30 equal ones"):
        pca_of(features, 2, times=[9, 6, 3], tap="mid_block", joint=False)


def test_components_of_a_planted_direction_turn_over_time(rng):
    """A factor whose direction turns by a right angle over the steps, in noise."""
    angles = torch.linspace(0, math.pi / 2, 6)
    plane = torch.linalg.qr(torch.randn(40, 2, generator=rng)).Q
    path = torch.stack([angles.cos(), angles.sin()], 1) @ plane.T
    amount = 4.0 * torch.randn(2000, 1, 1, generator=rng)
    features = amount * path + 0.3 * torch.randn(2000, 6, 40, generator=rng)
    times = [60, 50, 40, 30, 20, 10]
    for joint in (True, False):
        found = pca_of(features, 1, times=times, tap="mid_block", joint=joint)
        parts = found.components[0] / found.components[0].norm(dim=1, keepdim=True)
        cosines = (parts * path).sum(1)
        # All of one sign, though the direction at the end is orthogonal to that at the start.
        assert float((cosines * cosines[0].sign()).min()) > 0.999
        length = math.sqrt(6) if joint else 1.0
        expected = torch.full_like(found.deviations[0], 4.0 * length)
        torch.testing.assert_close(found.deviations[0], expected, rtol=0.07, atol=0)


def test_what_is_wrong_is_said_before_any_pass(digits, monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(type(digits), "output", never)
    with pytest.raises(ValueError, match="Expected count to be at least 2, got 1"):
        pca(digits, 1, 1)
    with pytest.raises(ValueError, match="rank of at most 3 for 4 trajectories, got 4"):
        pca(digits, 4, 4)
    with pytest.raises(ValueError, match="Expected rank to be at least 1"):
        pca(digits, 4, 0)
    with pytest.raises(ValueError, match="no module 'nowhere'"):
        pca(digits, 4, 2, tap="nowhere")
    with pytest.raises(ValueError, match='Expected pool="space"'):
        pca(digits, 4, 2, pool="time")
    with pytest.raises(ValueError, match="one seed per sample, 4, got 3"):
        pca(digits, 4, 2, seed=[1, 2, 3])
    with pytest.raises(ValueError, match="a stop below t = 500"):
        pca(digits, 4, 2, t=500, stop=500)
    with pytest.raises(ValueError, match="steps from whole timesteps"):
        pca(digits, 4, 2, grid="published", steps=30)
    with pytest.raises(TypeError, match="unexpected option 'speed'"):
        pca(digits, 4, 2, speed=2)
    with pytest.raises(TypeError, match="Expected a LatentModel"):
        pca(None, 4, 2)


def test_features_that_do_not_fit_are_refused(rng):
    features = torch.randn(8, 2, 6, generator=rng)
    given = {"times": [9, 4], "tap": "mid_block"}
    bad = features.clone()
    bad[3, 1, 2] = math.nan
    with pytest.raises(ValueError, match=r"finite rows, got NaN or Inf in \[3\]"):
        pca_of(bad, 2, **given)
    with pytest.raises(ValueError, match="rank of at most 7 for 8 trajectories, got 8"):
        pca_of(features, 8, **given)
    with pytest.raises(ValueError, match="two trajectories or more"):
        pca_of(features[:1], 1, **given)
    with pytest.raises(ValueError, match="two rows or more, which can vary, got 1"):
        pca_of([features[:1]], 1, **given)
    with pytest.raises(ValueError, match="rank of at most 6, the numbers of a row, got 7"):
        pca_of(features, 7, joint=False, **given)
    with pytest.raises(ValueError, match=r"features \[n, 2, \*h_shape\]"):
        pca_of(features[:, :1], 2, **given)
    with pytest.raises(ValueError, match=r"shape \[2, 6\] each, as those before, got \[2, 5\]"):
        pca_of([features, features[:, :, :5]], 2, **given)
    with pytest.raises(ValueError, match="at least one batch of features"):
        pca_of([], 2, **given)
    with pytest.raises(TypeError, match=r"tensors \[n, T, \*h_shape\], got list"):
        pca_of([[1.0]], 2, **given)
    for times, stop in (([4, 9], -1), ([9, 9], -1), ([9, 4], 4)):
        with pytest.raises(ValueError, match="timesteps that go down to stop"):
            pca_of(features, 2, times=times, stop=stop, tap="mid_block")
    with pytest.raises(ValueError, match='Expected pool="space"'):
        pca_of(features, 2, pool="time", **given)
    with pytest.raises(ValueError, match="between 0 and 1, got 2"):
        pca_of(features, 2, **given).entry(2)


def test_the_memory_of_a_pass_bounds_the_batch(digits):
    told = []
    pca(digits, 4, 1, memory=1, progress=lambda done, of: told.append(done), **QUICK)
    assert told == [1, 2, 3, 4]


def test_what_a_component_explains_is_what_the_stream_says(features, joint):
    stream = StreamingPCA(RANK)
    stream.add(features.flatten(1))
    torch.testing.assert_close(stream.result().ratios, joint.ratios, rtol=1e-3, atol=0)
    shown = repr(joint)
    assert "3, joint, of 14 trajectories" in shown
    assert "5 steps from t=999 to -1" in shown
