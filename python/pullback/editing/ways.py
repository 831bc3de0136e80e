"""The ways to apply a direction, with what each can be told."""

from __future__ import annotations

from dataclasses import dataclass

from pullback._numbers import whole


@dataclass(frozen=True)
class Addition:
    """x + displacement; the plain way for latents.

    Attributes:
        normalise: κ below 1, such as 0.99, to give the denoised estimate of every moved sample the
            mean and the deviation of the one before, which keeps colours from saturating; None
            leaves it as it is.

    Source: Park et al. 2023, arXiv:2302.12469.
    """

    normalise: float | None = None

    def __post_init__(self) -> None:
        _check_kappa(self.normalise)


@dataclass(frozen=True)
class Guidance:
    """x-space guidance: x + scale (ε(x + displacement) − ε(x)), repeated.

    Attributes:
        scale: γ, of each repetition.
        repeats: how many.
        normalise: as of `Addition`.

    Source: Park et al. 2023, arXiv:2307.12868; γ = 1 in 16 repetitions there for Stable Diffusion,
    0.1 for pixels.
    """

    scale: float = 1.0
    repeats: int = 16
    normalise: float | None = None

    def __post_init__(self) -> None:
        whole("repeats", self.repeats, 1)
        _check_kappa(self.normalise)


@dataclass(frozen=True)
class Shooting:
    """Geodesic shooting: the displacement in steps, each followed by parallel transport.

    After each step the local basis is found again, and the direction is carried into its tangent
    space over the features.

    Attributes:
        steps: how many.
        rank: of the local bases.
        quality: of the local bases: "draft", "standard" or "tight".
        tap: where their features are read; the middle block by default.

    Source: Park et al. 2023, arXiv:2302.12469.
    """

    steps: int = 4
    rank: int = 10
    quality: str = "standard"
    tap: str | None = None

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("rank", self.rank, 1)


@dataclass(frozen=True)
class Injection:
    """h + displacement at every step within the window; the way for features.

    Attributes:
        asymmetric: whether only the data that a step predicts see the edit, and the noise that it
            keeps does not. It costs a second pass of the network a step.

    Source: Kwon et al. 2023, arXiv:2210.10960.
    """

    asymmetric: bool = False


#: How a direction is applied.
Way = Addition | Guidance | Shooting | Injection


def _check_kappa(kappa: float | None) -> None:
    if kappa is not None and not 0 <= kappa < 1:
        raise ValueError(f"Expected normalise as a number from 0 to below 1, got {kappa!r}.")
