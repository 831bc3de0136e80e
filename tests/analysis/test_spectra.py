"""Ranks of spectra that are known, and their trend over time."""

import pytest
import torch

from pullback.analysis import effective_rank, numerical_rank, spectra
from tests.analysis.planted import TIMES, trend


def decaying(rng, slope, samples=8, rank=6):
    """Singular values `[N, T, k]` that decay the more slowly the later, where slope is above 0."""
    pace = trend(rng, samples, slope, 0.02).add(1.0)
    return torch.exp(-torch.arange(rank) / pace[..., None])


def test_effective_ranks_of_known_spectra():
    assert effective_rank(torch.full((2, 5), 3.0)).tolist() == pytest.approx([5.0, 5.0])
    assert effective_rank(torch.tensor([2.0, 0.0, 0.0])).item() == pytest.approx(1.0)
    # Of shares 1/2, 1/4, 1/4 the entropy is 3/2 bits.
    s = torch.tensor([2.0, 1.0, 1.0]).sqrt()
    assert effective_rank(s).item() == pytest.approx(2**1.5)


def test_numerical_ranks_of_known_spectra():
    s = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64).sqrt()  # shares 1/2, 1/4, 1/4
    assert [numerical_rank(s, share).item() for share in (0.5, 0.51, 0.75, 0.76, 1.0)] == [
        1.0, 2.0, 2.0, 3.0, 3.0,
    ]  # fmt: skip
    assert numerical_rank(s, 0.5, torch.tensor(8.0)).item() == 3
    assert numerical_rank(s, 0.6, torch.tensor(8.0)).item() == float("inf")
    with pytest.raises(ValueError, match="a share above 0"):
        numerical_rank(s, 0.0)


@pytest.mark.parametrize(("slope", "verdict"), [(2.0, "seen"), (-0.5, "opposite")])
def test_spectra_that_flatten_or_do_not(rng, slope, verdict):
    s = decaying(rng, slope)
    found = spectra(s, TIMES)
    assert found.findings[0].verdict == verdict
    assert "rank correlation" in found.finding
    torch.testing.assert_close(found.ratio, (s / s[..., :1]).double())
    assert found.effective.shape == found.numerical.shape == (8, 5)


def test_spectra_without_a_trend_show_none(rng):
    s = decaying(rng, 0.5)
    mixed = torch.cat([s, s.flip(1)])  # half of the samples the other way
    assert spectra(mixed, TIMES).findings[0].verdict == "not shown"


def test_bad_input_is_refused(rng):
    s = decaying(rng, 1.0)
    for bad, times, message in (
        (s, TIMES[:4], "for 4 timesteps"),
        (s, TIMES[::-1], "descending"),
        (s[:, :2], TIMES[:2], "3 timesteps or more"),
        (s.flip(2), TIMES, "descending"),
        (s * torch.nan, TIMES, "finite"),
        (s[:1], TIMES, "at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            spectra(bad, times)
    with pytest.raises(TypeError, match="floating"):
        spectra(s.long(), TIMES)
