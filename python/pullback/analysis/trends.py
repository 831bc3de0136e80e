"""Trends over timesteps, as rank correlations of each sample, beside shuffled timesteps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from pullback._numbers import whole
from pullback.analysis.findings import Finding, compare

_SHUFFLED = "with shuffled timesteps"
_DRAWS = 32


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Spearman's rank correlation of values `[..., K]` along the last dimension: `[...]`, float64.

    Equal values share the mean of their ranks; where all values of one side are equal it is 0.

    Raises:
        ValueError: there are fewer than two values, or not as many on both sides.
    """
    if a.shape[-1] != b.shape[-1] or a.shape[-1] < 2:
        raise ValueError(
            f"Expected two values or more, as many on both sides, got {a.shape[-1]} and "
            f"{b.shape[-1]}."
        )
    return (unit_ranks(a) * unit_ranks(b)).sum(-1)


def unit_ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks `[..., K]` around zero, of norm 1: their products are rank correlations, float64.

    Equal values share the mean of their ranks; where all are equal, all are 0.
    """
    above = (values[..., :, None] > values[..., None, :]).sum(-1)
    below = (values[..., :, None] < values[..., None, :]).sum(-1)
    ranks = (above - below).double()
    return ranks / ranks.norm(dim=-1, keepdim=True).clamp_min(0.5)  # of whole numbers


def orders(count: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random orders of `length` things, one for each of `count` samples, `[count, length]`."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.rand(count, length, generator=generator, device="cpu").argsort(1)


def with_shuffled(
    measure: Callable[[torch.Tensor], torch.Tensor], count: int, length: int
) -> torch.Tensor:
    """What a measure gives of things in random orders, the mean over 32 of them: `[count]`.

    Args:
        measure: of orders int64 `[count, length]`, one for each sample, gives `[count]`.
        count: samples.
        length: how many things there are.
    """
    draws = [measure(orders(count, length, seed)) for seed in range(_DRAWS)]
    return torch.stack(draws).mean(0)


def over_time(
    claim: str,
    source: str,
    measure: str,
    values: torch.Tensor,
    times: Sequence[int],
    *,
    falls: bool = False,
) -> Finding:
    """A claim that values grow while t falls: by each sample's rank correlation with −t.

    Args:
        claim: what was published, as a clause.
        source: where.
        measure: what the values are.
        values: `[N, T]`.
        times: timesteps in training units, T of them.
        falls: whether the values are claimed to fall while t falls.
    """
    values = values.double().cpu()
    late = -torch.tensor(times, dtype=torch.float64, device="cpu").expand_as(values)
    shuffled = with_shuffled(
        lambda order: rank_correlation(values, late.gather(1, order)), *values.shape
    )
    return compare(
        claim, source, f"{measure}, rank correlation with falling t",
        rank_correlation(values, late), _SHUFFLED, shuffled, less=falls,
    )  # fmt: skip


def check_times(times: Sequence[int], fewest: int = 3) -> tuple[int, ...]:
    """Timesteps in training units, as a tuple.

    Raises:
        ValueError: they do not descend, or there are too few.
    """
    found = tuple(whole("a timestep", t, 0) for t in times)
    if len(found) < fewest or any(a <= b for a, b in itertools.pairwise(found)):
        raise ValueError(f"Expected {fewest} timesteps or more, descending, got {list(times)}.")
    return found


def check_rows(
    name: str, values: torch.Tensor, times: Sequence[int], least: int, samples: int = 2
) -> torch.Tensor:
    """Values of N samples at T timesteps, finite.

    Args:
        name: what messages call them.
        values: `[N, T, ...]`.
        times: T timesteps in training units.
        least: how many dimensions they must have.
        samples: how many of them there must be.

    Raises:
        TypeError: they are no tensor of floating numbers.
        ValueError: their shape is another, or there is NaN or Inf.
    """
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, torch.Tensor) else type(values).__name__
        raise TypeError(f"Expected {name} as a tensor of floating numbers, got {kind}.")
    shape = list(values.shape)
    if values.dim() < least or shape[1] != len(times) or shape[0] < samples or 0 in shape:
        dims = "".join(", k" if place == 2 else ", ..." for place in range(2, min(least, 4)))
        raise ValueError(
            f"Expected {name} of shape [N, {len(times)}{dims}] with N at least {samples}, for "
            f"{len(times)} timesteps, got {shape}."
        )
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"Expected finite {name}, got NaN or Inf.")
    return values
