"""Whether what others published is seen on a model: claims beside intervals and controls."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from pullback.analysis.intervals import summaries, summary

#: With fewer samples even equal signs of all of them come by chance more often than 1 in 20 times.
FEWEST = 6

#: What can be found of a claim.
VERDICTS = ("seen", "not shown", "opposite")


@dataclass(frozen=True)
class Finding:
    """A published claim, and what is found of it here: made by `compare` and `within`.

    Attributes:
        claim: what was published, as a clause.
        source: where.
        measure: what the value is.
        value: its mean over the samples, with the interval of 95 %: "mean", "low" and "high".
        beside: what the control is.
        control: the same of the control.
        difference: how far the value exceeds the control to the side that was claimed.
        verdict: "seen" where the whole interval of the difference lies above zero, "opposite" where
            it lies below, else "not shown"; of fewer than 6 samples nothing is shown.
        samples: how many there are.
    """

    claim: str
    source: str
    measure: str
    value: dict[str, float]
    beside: str
    control: dict[str, float]
    difference: dict[str, float]
    verdict: str
    samples: int

    def __str__(self) -> str:
        few = f" {self.samples} samples are too few to show it." if self.samples < FEWEST else ""
        return (
            f"{self.verdict.capitalize()}: {self.claim} ({self.source}). {self.measure}: "
            f"{told(self.value)}; {self.beside}: {told(self.control)}.{few}"
        )


@dataclass(frozen=True, eq=False)
class Analysis:
    """What every analysis gives; all tensors of the others have the samples first, `[N, ...]`.

    Attributes:
        times: timesteps in training units, T of them, descending.
        findings: a claim of the papers each.
    """

    times: tuple[int, ...]
    findings: tuple[Finding, ...]

    @property
    def finding(self) -> str:
        """Whether the published trends are seen on this model, a sentence or two for each."""
        return " ".join(map(str, self.findings))

    def told(self) -> dict[str, Any]:
        """All numbers as JSON holds them: of tensors means over the samples with intervals."""
        found: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "findings":
                value = [{**asdict(part), "sentence": str(part)} for part in value]
            elif isinstance(value, torch.Tensor):
                value = summaries(value)
            found[one.name] = list(value) if isinstance(value, tuple) else value
        return found


def compare(
    claim: str,
    source: str,
    measure: str,
    values: torch.Tensor,
    beside: str,
    controls: torch.Tensor,
    *,
    less: bool = False,
) -> Finding:
    """A claim that values exceed those of a control, or fall below them.

    Args:
        claim: what was published, as a clause.
        source: where.
        measure: what the values are.
        values: `[N]`, one for each sample.
        beside: what the control is.
        controls: `[N]`, of the same samples.
        less: whether they are claimed to fall below the control.
    """
    difference = summary((controls - values if less else values - controls).double().cpu())
    return Finding(
        claim, source, measure, summary(values.double().cpu()), beside,
        summary(controls.double().cpu()), difference, verdict(difference, len(values)), len(values),
    )  # fmt: skip


def within(
    claim: str, source: str, measure: str, values: torch.Tensor, target: float, margin: float
) -> Finding:
    """A claim that the mean of values `[N]` is a target, up to a margin.

    It is "seen" where the whole interval lies inside the margin, "opposite" where it lies outside.

    Args:
        claim: what was published, as a clause.
        source: where.
        measure: what the values are.
        values: `[N]`, one for each sample.
        target: what they are claimed to be.
        margin: on both sides of the target, above 0.
    """
    value = summary(values.double().cpu())
    low, high = value["low"] - target, value["high"] - target
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    difference = {
        "mean": margin - abs(value["mean"] - target),
        "low": margin - max(abs(low), abs(high)),
        "high": margin - nearest,
    }
    limits = {"mean": target, "low": target - margin, "high": target + margin}
    return Finding(
        claim, source, measure, value, "claimed, with our margin", limits, difference,
        verdict(difference, len(values)), len(values),
    )  # fmt: skip


def verdict(difference: dict[str, float], samples: int) -> str:
    """What a difference shows: see `Finding`."""
    if samples < FEWEST or difference["low"] <= 0 <= difference["high"]:
        return "not shown"
    return "seen" if difference["low"] > 0 else "opposite"


def told(value: dict[str, float]) -> str:
    """A mean with its interval, in three digits."""
    mean, low, high = (f"{value[name]:.3g}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
