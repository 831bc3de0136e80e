"""Randomised estimates of traces and diagonals, and their intervals, against the truth."""

import math

import pytest
import scipy.stats
import torch

from pullback.testing import MatrixOperator
from tests.operators.known import B, N, close, dense_operator, smooth_operator


def test_products_of_estimates_are_counted(rng):
    a, _ = smooth_operator(rng)
    before = a.count.total
    a.gram().trace(samples=20)
    assert a.count.total - before == B * 20 * 2


def test_estimates_are_unbiased_and_their_intervals_hold_as_often_as_they_say(make, rng):
    a, A = make(rng)
    metric = A.mT @ A
    trace, diagonal = torch.einsum("bnn->b", metric), metric.diagonal(dim1=1, dim2=2)
    runs, samples, confidence = 300, 12, 0.9
    gram = MatrixOperator(metric, (3, 4), (3, 4))
    found = [gram.trace(samples, seed=s, confidence=confidence) for s in range(runs)]
    values = torch.stack([one.value for one in found])
    # The mean of all runs lies within 4.5 standard errors, which are known: the variance of zᵀAz is
    # twice the sum of the squared entries off the diagonal of the symmetric part.
    off = metric - torch.diag_embed(diagonal)
    error = (2 * off.square().sum((1, 2)) / (samples * runs)).sqrt()
    assert bool(((values.mean(0) - trace).abs() < 4.5 * error).all())
    hits = torch.stack([(one.low <= trace) & (trace <= one.high) for one in found])
    within(hits, confidence, slack=0.05)
    found = [gram.diag(samples, seed=s, confidence=confidence) for s in range(runs)]
    values = torch.stack([one.value.flatten(1) for one in found])
    error = (off.square().sum(2) / (samples * runs)).sqrt()
    assert bool(((values.mean(0) - diagonal).abs() < 4.5 * error).all())
    truth = diagonal.unflatten(1, (3, 4))
    hits = torch.stack([(one.low <= truth) & (truth <= one.high) for one in found])
    within(hits.flatten(1), confidence, slack=0.05)
    # The matrix is the operator's: its own estimate is the same.
    close(a.gram().trace(samples, seed=5).value, gram.trace(samples, seed=5).value)
    close(a.gram().diag(samples, seed=5).value, gram.diag(samples, seed=5).value)


def within(hits, confidence, slack):
    """Each column's share of hits is the confidence, up to 4 binomial deviations and some slack.

    The slack is for estimates of single vectors being not quite normal.
    """
    share = hits.double().mean(0)
    deviation = math.sqrt(confidence * (1 - confidence) / len(hits))
    assert float(share.min()) > confidence - 4 * deviation - slack
    assert float(share.mean()) < confidence + 4 * deviation + slack
    assert float(share.mean()) < 0.999


def test_intervals_of_few_vectors_are_as_wide_as_student_says(rng):
    _, A = dense_operator(rng, m=N)
    square = MatrixOperator(A, (3, 4), (3, 4))
    truth = torch.einsum("bnn->b", A)
    hits = []
    for seed in range(400):
        found = square.trace(3, seed=seed)
        hits.append((found.low <= truth) & (truth <= found.high))
    # Those of the normal distribution would hold it 81 times of 100.
    assert float(torch.stack(hits).double().mean()) > 0.91


@pytest.mark.parametrize("samples", [2, 3, 6])
def test_the_square_of_a_width_is_on_average_what_the_variance_says(rng, samples):
    """An interval of N vectors is t √(s² / N) wide each way, with s² an unbiased variance."""
    _, A = dense_operator(rng, m=N)
    matrices = (A + A.mT) / 2
    operator = MatrixOperator(matrices)
    off = matrices - torch.diag_embed(matrices.diagonal(dim1=1, dim2=2))
    variances = {"trace": 2 * off.square().sum((1, 2)), "diag": off.square().sum(2)}
    student = scipy.stats.t.ppf(0.975, samples - 1)
    for name, variance in variances.items():
        found = [getattr(operator, name)(samples, seed=seed) for seed in range(200)]
        widths = torch.stack([(one.high - one.value) / student for one in found])
        average = samples * widths.square().mean(0)
        assert float(average.mean() / variance.mean()) == pytest.approx(1, rel=0.1)


def test_an_estimate_says_what_it_is(rng):
    _, A = dense_operator(rng, m=N)
    square = MatrixOperator(A.float(), (3, 4), (3, 4))
    found = square.diag(7, confidence=0.8)
    assert (found.samples, found.confidence) == (7, 0.8)
    assert found.value.shape == found.low.shape == found.high.shape == (B, 3, 4)
    assert found.value.dtype == torch.float64
    assert bool((found.low <= found.value).all())
    torch.testing.assert_close(found.high - found.value, found.value - found.low)
    wider = square.diag(7, confidence=0.99)
    torch.testing.assert_close(wider.value, found.value)
    assert bool((wider.high > found.high).all())
    assert square.columns == 2 * B * 7


def test_a_diagonal_matrix_is_estimated_exactly():
    entries = torch.arange(1.0, 13, dtype=torch.float64)
    operator = MatrixOperator(torch.diag(entries).unsqueeze(0), (3, 4), (3, 4))
    trace, diagonal = operator.trace(4), operator.diag(4)
    close(trace.value, torch.tensor([78.0], dtype=torch.float64))
    close(trace.high, trace.low)
    close(diagonal.value, entries.reshape(1, 3, 4))


@pytest.mark.parametrize("what", ["trace", "diag"])
@pytest.mark.parametrize("samples", [2, 16, 33])
def test_seeds_reproduce_and_samples_do_not_depend_on_their_batch(make, rng, what, samples):
    a, _ = make(rng)
    estimate = getattr(a.gram(), what)
    first, again, other = (estimate(samples, seed=seed).value for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, rtol=1e-3)
    alone = getattr(a.gram().select(torch.tensor([2])), what)(samples, seed=3)
    close(alone.value[0], first[2])


def test_estimates_leave_the_global_random_state_alone(rng):
    a, _ = dense_operator(rng)
    state = torch.get_rng_state()
    a.gram().trace()
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_estimated(rng):
    a, _ = dense_operator(rng)
    for name in ("trace", "diag"):
        with pytest.raises(ValueError, match=r"square operator, got one from \(3, 4\) to \(10,\)"):
            getattr(a, name)()
        for wrong in ({"samples": 1}, {"confidence": 0.0}, {"confidence": 1.0}):
            with pytest.raises(ValueError, match="two or more samples and a confidence between"):
                getattr(a.gram(), name)(**wrong)


#: Spectra of matrices with trace 1 on 48 entries; rank one is the worst for an estimate.
SPECTRA = {
    "rank one": torch.ones(1),
    "rank two": torch.full((2,), 0.5),
    "halved from one to the next": 2.0 ** -torch.arange(1.0, 40),
    "one above many": torch.cat([torch.full((1,), 0.5), torch.full((40,), 0.5 / 40)]),
    "flat": torch.linspace(0.5, 1.5, 48) / 48,
    "a difference": torch.tensor([2.0, -1.0]),
}


@pytest.mark.parametrize("samples", [2, 4, 8, 32])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_intervals_hold_for_the_worst_spectra_and_the_fewest_vectors(rng, spectrum, samples):
    """Each of many matrices with this spectrum, in random directions, is held 95 times of 100."""
    values, size, many = SPECTRA[spectrum].double(), 48, 500
    rows = torch.randn(many, size, len(values), generator=rng, dtype=torch.float64)
    vectors = torch.linalg.qr(rows).Q
    matrices = (vectors * values) @ vectors.mT
    operator = MatrixOperator(matrices)
    truth, diagonal = values.sum(), matrices.diagonal(dim1=1, dim2=2)
    runs = 8
    found = [operator.trace(samples, seed=seed) for seed in range(runs)]
    hits = torch.stack([(one.low <= truth) & (truth <= one.high) for one in found]).double()
    # At worst 0.05 are missed, with a deviation of the share by √(0.05 · 0.95 / trials); the
    # matrices share the vectors of a run, but point anywhere beside them.
    deviation = math.sqrt(0.05 * 0.95 / (many * runs))
    assert float(hits.mean()) > 0.95 - 3 * deviation
    found = [operator.diag(samples, seed=seed) for seed in range(runs)]
    hits = torch.stack([(one.low <= diagonal) & (diagonal <= one.high) for one in found])
    assert float(hits.double().mean()) > 0.95 - 3 * deviation


def test_the_interval_of_a_flat_spectrum_is_no_wider_than_it_must_be(rng):
    """Holding for rank one costs the others nothing: the width is from the matrix at hand."""
    size, samples = 48, 32
    vectors = torch.linalg.qr(torch.randn(20, size, size, generator=rng, dtype=torch.float64)).Q
    values = 0.5 + torch.rand(20, 1, size, generator=rng, dtype=torch.float64)
    matrices = (vectors * values) @ vectors.mT
    found = MatrixOperator(matrices).trace(samples)
    off = matrices - torch.diag_embed(matrices.diagonal(dim1=1, dim2=2))
    error = (2 * off.square().sum((1, 2)) / samples).sqrt()
    student = 2.0395  # with 31 degrees of freedom
    width = (found.high - found.low) / 2
    torch.testing.assert_close(width, student * error, rtol=0.2, atol=0)
