"""Principal components of streams against the dense SVD of all rows."""

import math

import pytest
import torch

from pullback.directions import StreamingPCA
from pullback.operators.memory import measure


def planted(rng, count, size, spectrum, mean=1.0):
    """Rows [count, size] in float32 that lie in as many dimensions as the spectrum has entries."""
    spectrum = torch.tensor(spectrum, dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(size, len(spectrum), generator=rng, dtype=torch.float64)).Q.T
    along = torch.randn(count, len(spectrum), generator=rng, dtype=torch.float64) * spectrum
    centre = mean * torch.randn(size, generator=rng, dtype=torch.float64)
    return (along @ axes + centre).float(), axes


def dense(rows, rank):
    """Components [rank, d] with their largest entry positive, and deviations, in float64."""
    centred = rows.double() - rows.double().mean(0)
    _, s, v = torch.linalg.svd(centred, full_matrices=False)
    v = v[:rank]
    largest = v.gather(1, v.abs().argmax(1, keepdim=True))
    return v * largest.sign(), s[:rank] / math.sqrt(len(rows) - 1)


def streamed(rows, sizes, rank, **options):
    stream = StreamingPCA(rank, **options)
    for part in rows.split(sizes):
        stream.add(part)
    return stream


def check(found, rows, rank, atol=1e-5):
    components, deviations = dense(rows, rank)
    torch.testing.assert_close(found.components.double(), components, rtol=0, atol=atol)
    torch.testing.assert_close(found.deviations, deviations, rtol=atol, atol=0)
    variance = rows.double().var(0).sum()
    torch.testing.assert_close(found.variance, float(variance), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.ratios, deviations.square() / variance, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.mean, rows.double().mean(0).to(found.mean), rtol=0, atol=1e-5)
    assert found.count == len(rows)


SPECTRUM = [9.0, 6.0, 4.0, 2.0, 1.0]


@pytest.mark.parametrize("size", [6, 20, 300])
@pytest.mark.parametrize("sizes", [1, 7, 32, 33, 100, 157])
def test_a_stream_has_the_components_of_the_dense_svd(rng, size, sizes):
    rows, _ = planted(rng, 157, size, SPECTRUM)
    found = streamed(rows, sizes, 4, extra=2).result()
    check(found, rows, 4)
    assert 0 <= found.lost < 1e-12
    assert found.components.dtype == torch.float32
    identity = found.components.double() @ found.components.double().T
    torch.testing.assert_close(identity, torch.eye(4).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [3, 9, 31, 40])
def test_of_fewer_rows_than_dimensions(rng, count):
    rows = torch.randn(count, 200, generator=rng) * torch.linspace(0.2, 3, 200)
    rank = min(count - 1, 5)
    found = streamed(rows, 4, rank, extra=50).result()
    components, deviations = dense(rows, rank)
    cosines = (found.components.double() * components).sum(1)
    torch.testing.assert_close(cosines, torch.ones(rank).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.deviations, deviations, rtol=1e-5, atol=0)
    assert found.lost < 1e-12


def test_entries_that_are_constant_and_a_mean_far_off(rng):
    rows, _ = planted(rng, 90, 40, SPECTRUM, mean=300.0)
    rows[:, 5] = 1234.5
    rows[:, 7] = 0.0
    found = streamed(rows, 13, 3, extra=10).result()
    check(found, rows, 3)
    assert not found.components[:, [5, 7]].any()


def test_the_batches_make_no_difference_at_all(rng):
    """Also where merges drop something: blocks are of a fixed number of rows."""
    rows = torch.randn(400, 90, generator=rng)
    first = streamed(rows, 400, 3, extra=0).result()
    assert first.lost > 0.1
    for sizes in (1, 10, 37):
        again = streamed(rows, sizes, 3, extra=0).result()
        assert torch.equal(again.components, first.components)
        assert again.lost == first.lost


def test_a_result_changes_nothing(rng):
    rows, _ = planted(rng, 100, 30, SPECTRUM)
    stream = StreamingPCA(3)
    for part in rows.split(9):
        stream.add(part)
        if len(stream) > 10:
            stream.result()
    assert torch.equal(stream.result().components, streamed(rows, 100, 3).result().components)
    check(stream.result(2), rows, 2)


@pytest.mark.parametrize("order", ["left", "right", "tree"])
@pytest.mark.parametrize("cuts", [[1, 1, 60, 95], [50, 50, 50, 7], [3, 2, 2, 150]])
def test_streams_are_merged_in_any_order(rng, order, cuts):
    rows, _ = planted(rng, 157, 60, SPECTRUM)
    streams = [streamed(part, 20, 4, extra=3) for part in rows.split(cuts)]
    empty = StreamingPCA(4, extra=3)
    if order == "left":
        whole = empty
        for stream in streams:
            whole.merge(stream)
    elif order == "right":
        *others, whole = streams
        for stream in reversed(others):
            whole.merge(stream)
        whole.merge(empty)
    else:
        streams[0].merge(streams[1])
        streams[2].merge(streams[3])
        whole = streams[0]
        whole.merge(streams[2])
    assert len(whole) == 157
    found = whole.result()
    assert found.lost < 1e-12
    # The same rows in another order.
    check(found, rows, 4)
    whole.add(rows)
    check(whole.result(), torch.cat([rows, rows]), 4)


def test_what_is_merged_stays_as_it_is(rng):
    rows, _ = planted(rng, 80, 30, SPECTRUM)
    one, two = (streamed(part, 7, 3) for part in rows.split(40))
    before = two.result().components
    one.merge(two)
    one.add(rows)
    assert len(two) == 40
    assert torch.equal(two.result().components, before)


def test_float64_stays_float64(rng):
    rows = planted(rng, 120, 40, SPECTRUM)[0].double() * (1 + 1e-9)
    found = streamed(rows, 11, 4).result()
    assert found.components.dtype == torch.float64
    check(found, rows, 4, atol=1e-10)


def test_half_precision_becomes_float32(rng):
    rows = planted(rng, 120, 40, SPECTRUM)[0].bfloat16()
    check(streamed(rows, 11, 3, extra=40).result(), rows, 3)


def test_planted_factors_are_recovered_within_their_statistical_error(rng):
    """By the asymptotic law of the eigenvectors of a sample covariance (Anderson 1963)."""
    count, size, noise = 6000, 50, 0.5
    rows, axes = planted(rng, count, size, SPECTRUM[:3])
    rows = rows + noise * torch.randn(count, size, generator=rng)
    found = streamed(rows, 64, 3).result()
    values = torch.full((size,), noise**2, dtype=torch.float64)
    values[:3] += torch.tensor(SPECTRUM[:3], dtype=torch.float64).square()
    for i in range(3):
        others = torch.cat([values[:i], values[i + 1 :]])
        expected = float((values[i] * others / (values[i] - others).square()).sum() / count)
        error = 1 - float((found.components[i].double() @ axes[i]) ** 2)
        assert expected / 20 < error < 4 * expected
        ratio = float(found.deviations[i] / values[i].sqrt())
        assert abs(ratio - 1) < 4 / math.sqrt(2 * count)
    total = float(values.sum())
    assert abs(found.variance / total - 1) < 0.1


def test_what_is_lost_bounds_the_error(rng):
    """Of a spectrum that falls slowly, merged with few rows: a lower and an upper bound hold."""
    scales = 1 / torch.arange(1, 101) ** 0.5
    rows = torch.randn(700, 100, generator=rng) * scales
    covariance = rows.double().T.cov()
    true = torch.linalg.eigvalsh(covariance).flip(0)
    lost = []
    for extra in (0, 5, 20, 95):
        found = streamed(rows, 50, 5, extra=extra).result()
        told = found.deviations.square()
        along = torch.einsum(
            "kd,de,ke->k", *[found.components.double(), covariance], found.components.double()
        )
        slack = 1e-6 * float(true[0])
        assert bool((told <= along + slack).all())
        assert bool((told <= true[:5] + slack).all())
        assert bool((true[:5] <= told + found.lost * found.variance + slack).all())
        lost.append(found.lost)
    assert lost[0] > lost[1] > lost[2] > 0.05
    assert lost[3] < 1e-12


def test_memory_does_not_grow_with_the_rows(rng):
    rows, size = 40, 3000

    def run(batches):
        stream = StreamingPCA(5, extra=15)
        for _ in range(batches):
            stream.add(torch.randn(rows, size, generator=rng))
        return stream.result().components

    peaks = [measure(lambda batches=batches: run(batches))[1][0] for batches in (5, 50)]
    assert peaks[1] < 1.1 * peaks[0]
    # Rows that are kept and wait, twice, a batch, and the float64 copies of as many.
    assert peaks[1] < (2 * (20 + 32) + rows) * size * 4 + 3 * (20 + 32 + 1) * size * 8
    assert peaks[1] < 50 * rows * size * 4 / 4


def test_what_is_wrong_is_said(rng):
    rows, _ = planted(rng, 20, 30, SPECTRUM)
    stream = StreamingPCA(3)
    with pytest.raises(ValueError, match="two rows or more, which can vary, got 0"):
        stream.result()
    stream.add(rows[:1])
    with pytest.raises(ValueError, match="two rows or more, which can vary, got 1"):
        stream.result()
    stream.add(rows[1:3])
    with pytest.raises(ValueError, match="rank of at most 2 for 3 rows, got 3"):
        stream.result()
    stream.result(2)
    with pytest.raises(ValueError, match="Expected rank to be between 1 and 3"):
        stream.result(4)
    for wrong in (math.nan, math.inf):
        bad = rows.clone()
        bad[4, 2] = wrong
        with pytest.raises(ValueError, match=r"finite rows, got NaN or Inf in \[4\]"):
            stream.add(bad)
    with pytest.raises(ValueError, match="rows of 30 numbers, as those before, got 29"):
        stream.add(rows[:, :29])
    with pytest.raises(ValueError, match=r"Expected rows \[n, d\]"):
        stream.add(rows[0])
    with pytest.raises(ValueError, match=r"Expected rows \[n, d\]"):
        stream.add(rows[:0])
    with pytest.raises(ValueError, match=r"Expected rows \[n, d\]"):
        stream.add(rows.int())
    with pytest.raises(TypeError, match="rows as a tensor"):
        stream.add(rows.tolist())
    assert len(stream) == 3
    with pytest.raises(ValueError, match="rank of at most 30, the numbers of a row, got 31"):
        StreamingPCA(31).add(rows)
    with pytest.raises(ValueError, match="Expected rank to be at least 1"):
        StreamingPCA(0)


def test_rows_that_vary_too_little_are_refused(rng):
    rows, _ = planted(rng, 70, 30, SPECTRUM[:2], mean=10.0)
    with pytest.raises(ValueError, match="rank of at most 2, in which the 70 rows vary"):
        streamed(rows, 8, 3).result()
    with pytest.raises(ValueError, match="rows that vary, got 70 equal ones"):
        streamed(rows[:1].expand(70, 30), 8, 3).result()


def test_streams_that_do_not_fit_are_not_merged(rng):
    one = streamed(planted(rng, 20, 30, SPECTRUM)[0], 5, 3)
    with pytest.raises(TypeError, match="Expected a StreamingPCA, got list"):
        one.merge([])
    with pytest.raises(ValueError, match="rows of 30 numbers, got one of 31"):
        one.merge(streamed(planted(rng, 20, 31, SPECTRUM)[0], 5, 3))
    with pytest.raises(ValueError, match="a rank of at least 3, got 2"):
        one.merge(streamed(planted(rng, 20, 30, SPECTRUM)[0], 5, 2))
    assert len(one) == 20
