"""Maps that are linear, and that are not; ranks that are known."""

import pytest
import torch

from pullback.analysis import Moves, linearity, rank_ratio
from tests.analysis.planted import TIMES

STEPS = (0.2, 0.5, 0.9, 3.0)
SIZE = 100  # so that 0.9 is the published step, 0.09 √n


def measured(rng, f, samples=8, directions=2):
    """Origins and moves of a function f: `[..., n]` to `[..., n]` along random directions."""
    x = torch.randn(samples, len(TIMES), SIZE, generator=rng, dtype=torch.float64)
    v = torch.randn(samples, len(TIMES), directions, SIZE, generator=rng, dtype=torch.float64)
    v = v / v.norm(dim=-1, keepdim=True)
    flat = x[:, :, None].expand_as(v).clone()
    product = torch.func.jvp(f, (flat,), (v,))[1]
    far = torch.stack([f(flat + step * v) for step in STEPS], 3)
    return f(x), Moves(product, far)


def found(origin, along, random, steps=STEPS):
    return linearity(origin, along, random, steps, TIMES, size=SIZE, num_timesteps=1000)


def test_a_linear_map_is_linear(rng):
    A = torch.randn(SIZE, SIZE, generator=rng, dtype=torch.float64)
    origin, along = measured(rng, lambda x: x @ A)
    one = found(origin, along, along)
    for values in (one.cosine, one.ratio, one.change, one.random_change):
        torch.testing.assert_close(values, torch.ones_like(values))
    assert one.steps == pytest.approx([step / 10 for step in STEPS])
    assert [finding.verdict for finding in one.findings] == ["seen"] * 3
    assert "t = 700, 500" in one.findings[0].measure
    assert "0.09" in one.findings[0].measure


def test_a_map_that_bends_is_not(rng):
    A = torch.randn(SIZE, SIZE, generator=rng, dtype=torch.float64)
    origin, along = measured(rng, lambda x: torch.sin(4 * x @ A))
    one = found(origin, along, along)
    assert float(one.change[..., -1].mean()) < 0.5 < float(one.change[..., 0].mean())
    assert [finding.verdict for finding in one.findings[::2]] == ["opposite"] * 2


def test_a_map_that_hardly_moves_does_not_owe_it_to_the_derivative(rng):
    origin, along = measured(rng, lambda x: x + 1000)
    wrong = Moves(-along.products, along.moved)
    one = found(origin, wrong, along)
    assert one.findings[0].verdict == "seen"
    assert one.findings[1].verdict == "opposite"


def test_bad_input_is_refused(rng):
    origin, along = measured(rng, lambda x: 2 * x)
    with pytest.raises(ValueError, match="ascend"):
        found(origin, along, along, STEPS[::-1])
    with pytest.raises(ValueError, match="of D directions"):
        found(origin, Moves(along.products[:, :, :1], along.moved), along)


def of_rank(ranks, samples=8, size=40):
    """Spectra `[N, T, n]` of equal values, as many as the ranks `[T]`, then zeros."""
    places = torch.arange(size)
    return (places < torch.tensor(ranks)[:, None]).double().expand(samples, -1, -1)


def test_rank_ratios_are_those_planted():
    one = rank_ratio(of_rank([30, 10, 4, 10, 20]), TIMES, size=40)
    assert one.ratio[0].tolist() == [0.75, 0.25, 0.1, 0.25, 0.5]
    assert [finding.verdict for finding in one.findings] == ["seen", "seen"]
    rising = rank_ratio(of_rank([2, 4, 6, 8, 10]), TIMES, size=40)
    assert [finding.verdict for finding in rising.findings] == ["opposite", "seen"]
    flat = rank_ratio(of_rank([6] * 5), TIMES, size=40)
    assert [finding.verdict for finding in flat.findings] == ["not shown"] * 2
    assert 0.5 < flat.random < 1


def test_noise_makes_no_valley(rng):
    ranks = torch.randint(5, 35, (200, 5), generator=rng)
    s = (torch.arange(40) < ranks[..., None]).double()
    for finding in rank_ratio(s, TIMES, size=40).findings:
        assert abs(finding.difference["mean"]) < 0.06


def test_leading_values_are_enough_where_they_hold_the_share():
    s = of_rank([10] * 5)
    total = s.square().sum(2)
    leading = rank_ratio(s[..., :12], TIMES, size=40, total=total)
    assert torch.equal(leading.ratio, rank_ratio(s, TIMES, size=40).ratio)
    with pytest.raises(ValueError, match="too few"):
        rank_ratio(s[..., :5], TIMES, size=40, total=total)
