"""Local linearity of the denoised estimate x̂₀, and the rank of its Jacobian."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pullback.analysis.findings import Analysis, compare, within
from pullback.analysis.spectra import numerical_rank
from pullback.analysis.trends import check_rows, check_times

_SOURCE = "Chen et al. 2024, arXiv:2409.02374"
#: The cosine that was published, up to steps of 40 for images of 3 × 256 × 256: 40 / √n of √n.
PUBLISHED_COSINE, PUBLISHED_STEP = 0.99, 40 / (3 * 256 * 256) ** 0.5
#: The part of the schedule of which linearity and a low rank are claimed.
MIDDLE = (0.5, 0.7)
_SHARE = 0.99**2


@dataclass(frozen=True, eq=False)
class Moves:
    """What steps along D directions do to a map f at N samples and T timesteps.

    Attributes:
        products: J v of each direction, `[N, T, D, ...]`.
        moved: f(x + λ v), `[N, T, D, K, ...]`, of K steps λ.
    """

    products: torch.Tensor
    moved: torch.Tensor


@dataclass(frozen=True, eq=False)
class Linearity(Analysis):
    """How linear a map is along directions: made by `linearity`.

    Attributes:
        steps: the K lengths λ, as shares of √n for latents of n entries.
        cosine: of f(x + λv) with f(x) + λJv, `[N, T, K]`, float64, mean over directions.
        constant: of f(x + λv) with f(x), which knows no direction at all, `[N, T, K]`.
        ratio: ‖f(x + λv)‖ / ‖f(x) + λJv‖, `[N, T, K]`.
        change: cosine of f(x + λv) − f(x) with λJv, which asks more, `[N, T, K]`.
        random_change: the same along random directions, `[N, T, K]`.
    """

    steps: tuple[float, ...]
    cosine: torch.Tensor
    constant: torch.Tensor
    ratio: torch.Tensor
    change: torch.Tensor
    random_change: torch.Tensor


@dataclass(frozen=True, eq=False)
class RankRatio(Analysis):
    """The share of directions that a Jacobian needs: made by `rank_ratio`.

    Attributes:
        ratio: numerical rank over the number of entries, `[N, T]`, float64.
        random: that of a Jacobian of independent Gaussian entries.
    """

    ratio: torch.Tensor
    random: float


def linearity(
    origin: torch.Tensor,
    along: Moves,
    random: Moves,
    steps: Sequence[float],
    times: Sequence[int],
    *,
    size: int,
    num_timesteps: int,
) -> Linearity:
    """Whether a map is what its first derivative says, and how far.

    Args:
        origin: f(x), `[N, T, ...]`.
        along: what steps along the directions in question do.
        random: the same along random directions of the same norm.
        steps: K lengths λ, ascending, in the unit of x.
        times: timesteps in training units, T of them, descending.
        size: n, entries of the latents.
        num_timesteps: of the whole schedule.

    Returns:
        `Linearity`. Its findings are of the middle of the schedule, from 0.5 to 0.7, where
        linearity is claimed, and of the largest step up to the published one.

    Raises:
        TypeError: something is no tensor of floating numbers.
        ValueError: shapes do not fit one another, there is NaN or Inf, or steps do not ascend from
            above 0.

    Source: Chen et al. 2024, arXiv:2409.02374: cosine and ratio of 0.99 or more up to λ = 40 for
    images of 3 × 256 × 256, which is 0.09 √n.
    """
    times, lengths = check_times(times, 1), _steps_of(steps)
    base = check_rows("origin", origin, times, 3).flatten(2).double().cpu()
    by = torch.tensor(lengths, dtype=torch.float64, device="cpu")[:, None]
    told = {}
    for name, moves in (("along", along), ("random", random)):
        moved = check_rows(f"{name}.moved", moves.moved, times, 5).flatten(4).double().cpu()
        product = check_rows(f"{name}.products", moves.products, times, 4).flatten(3).double().cpu()
        shape = (*product.shape[:3], len(lengths), base.shape[2])
        if tuple(moved.shape) != shape or product.shape[3] != shape[4] or len(base) != shape[0]:
            raise ValueError(
                f"Expected {name} of D directions and {len(lengths)} steps for origin "
                f"{list(origin.shape)}, got products {list(moves.products.shape)} and moved "
                f"{list(moves.moved.shape)}."
            )
        told[name] = moved, by * product[..., None, :]
    f = base[:, :, None, None]
    moved, change = told["along"]
    far, slope = told["random"]
    cosine = _cosine(moved, f + change)
    unit = size**0.5
    shares = tuple(length / unit for length in lengths)
    step = _published(shares)
    where = _middle(times, num_timesteps)
    constant = _cosine(moved, f.expand_as(moved))
    ratio = (moved.norm(dim=-1) / (f + change).norm(dim=-1).clamp_min(1e-300)).mean(2)
    at = f"at {shares[step]:.2g} √n, t = {', '.join(str(times[place]) for place in where)}"
    ours = cosine[:, where, step].mean(1)
    return Linearity(
        times=times,
        findings=(
            compare(
                "x̂₀ follows its first derivative in mid-range t", _SOURCE, f"Cosine {at}", ours,
                "that published, at least", torch.full_like(ours, PUBLISHED_COSINE),
            ),
            compare(
                "it is the derivative that makes it so, not that x̂₀ hardly moves", _SOURCE,
                f"Cosine {at}", ours, "of x̂₀ without the derivative",
                constant[:, where, step].mean(1),
            ),
            within(
                "x̂₀ has the norm that its first derivative says", _SOURCE,
                f"Norm over that of the derivative {at}",
                ratio[:, where, step].mean(1), 1.0, 1 - PUBLISHED_COSINE,
            ),
        ),
        steps=shares,
        cosine=cosine,
        constant=constant,
        ratio=ratio,
        change=_cosine(moved - f, change),
        random_change=_cosine(far - f, slope),
    )  # fmt: skip


def rank_ratio(
    s: torch.Tensor, times: Sequence[int], *, size: int, total: torch.Tensor | None = None
) -> RankRatio:
    """The numerical rank of Jacobians over their size, and whether it is low in the middle.

    The rank is the number of singular values that hold 0.99² of the sum of squares. Where a curve
    is lowest is decided by one half of the samples and measured on the other, so that noise makes
    no valley.

    Args:
        s: singular values, descending, `[N, T, k]`: all of them, or as many as hold that share.
        times: timesteps in training units, T of them, three or more, descending.
        size: n, how many singular values there are.
        total: ‖J‖², `[N, T]`, where s has leading values only.

    Returns:
        A `RankRatio`.

    Raises:
        TypeError: s is no tensor of floating numbers.
        ValueError: it has another shape, or NaN or Inf; or it does not hold the share.

    Source: Chen et al. 2024, arXiv:2409.02374.
    """
    times = check_times(times, 3)
    s = check_rows("s", s, times, 3).double().cpu()
    ranks = numerical_rank(s, _SHARE, None if total is None else total.double().cpu())
    if not bool(torch.isfinite(ranks).all()):
        raise ValueError(
            f"Expected singular values that hold {_SHARE:.2f} of the sum of squares, got too few: "
            f"{s.shape[2]} of {size}. Compute more of them."
        )
    ratio = ranks / size
    lowest = ratio.new_empty(len(ratio))
    even = torch.arange(len(ratio), device="cpu") % 2 == 0
    for half in (even, ~even):
        inside = ratio[~half].mean(0)[1:-1].argmin() + 1
        lowest[half] = ratio[half, inside]
    return RankRatio(
        times=times,
        findings=tuple(
            compare(
                f"the rank of the Jacobian of x̂₀ is lowest in mid-range t, below that at {end}",
                _SOURCE, f"Rank ratio at t = {times[place]}", ratio[:, place],
                "where it is lowest in between", lowest,
            )
            for place, end in ((0, "the noisiest t"), (-1, "the cleanest t"))
        ),
        ratio=ratio,
        random=_of_noise(size),
    )  # fmt: skip


def _of_noise(size: int) -> float:
    """The rank ratio of a square matrix of Gaussian entries, which hardly depends on its size."""
    side = min(size, 512)
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn(side, side, generator=generator, dtype=torch.float64, device="cpu")
    return float(numerical_rank(torch.linalg.svdvals(noise), _SHARE)) / side


def _middle(times: tuple[int, ...], num_timesteps: int) -> list[int]:
    """Places of the timesteps from 0.5 to 0.7 of the schedule; of the nearest where none is."""
    low, high = (share * num_timesteps for share in MIDDLE)
    found = [place for place, t in enumerate(times) if low <= t <= high]
    middle = (low + high) / 2
    return found or [min(range(len(times)), key=lambda place: abs(times[place] - middle))]


def _published(shares: tuple[float, ...]) -> int:
    """The place of the largest step up to the published one; of the first where all are larger."""
    below = [place for place, one in enumerate(shares) if one <= 1.01 * PUBLISHED_STEP]
    return below[-1] if below else 0


def _steps_of(steps: Sequence[float]) -> tuple[float, ...]:
    found = tuple(map(float, steps))
    if not found or found[0] <= 0 or any(a >= b for a, b in itertools.pairwise(found)):
        raise ValueError(f"Expected steps that ascend from above 0, got {list(steps)}.")
    return found


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosines of vectors `[N, T, D, K, m]`, the mean over D directions: `[N, T, K]`."""
    return torch.nn.functional.cosine_similarity(a, b, dim=-1, eps=1e-300).mean(2)
