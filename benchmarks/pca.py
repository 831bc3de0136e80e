"""Principal components of many trajectories, of which few are ever held, against all of them.

`directions.pca` runs in a process of its own, whose memory the system tells. The truth is the
covariance of all entries of a trajectory, summed up in float64 over the same features in a further
pass, and its eigenvectors, in this process. How close the stream comes depends on how many
directions it keeps beyond the rank (`extra`), so several are measured, the default first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.pca_ways import dense
from benchmarks.resident import in_child
from pullback import load
from pullback.testing import sine

#: What must be shown: bytes that the whole process may hold, and closeness to the dense oracle.
MEMORY, CLOSE = 1_000_000_000, 1e-5


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        count: trajectories.
        steps: of each; their features are one row.
        rank: components.
        extras: directions kept beyond them, one stream for each; None is the default.
        batch: trajectories that are walked together.
    """

    model: str = "digits"
    count: int = 20_000
    steps: int = 5
    rank: int = 25
    extras: tuple[int | None, ...] = (None, 1275)
    batch: int = 64
    seed: int = 0

    @classmethod
    def quick(cls) -> Settings:
        """A few seconds' work, which shows that everything runs and measures nothing."""
        return cls(count=300, steps=1, rank=5, extras=(None,))


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure all streams against the oracle.

    Args:
        settings: what to measure.
        device: where the trajectories are walked.
        tell: called with a line on what comes next.

    Returns:
        JSON values: the problem with its spectrum, the streams, and the targets with what was
        reached.
    """
    given = asdict(settings)
    name, extras = given.pop("model"), given.pop("extras")
    model = load(name, device=device)
    tell(f"the oracle: {settings.count} trajectories, their covariance and eigenvectors")
    truth = dense(model, **given)
    streams = []
    for extra in extras:
        tell(f"the stream with extra = {extra}: {settings.count} trajectories")
        with TemporaryDirectory() as folder:
            file = str(Path(folder) / "stream.safetensors")
            arguments = {**given, "model": name, "device": str(device), "extra": extra}
            stream = in_child("benchmarks.pca_ways:streamed", {**arguments, "file": file})
            streams.append({**stream, **compared(load_file(file), truth, stream["lost"])})
    return {
        "settings": asdict(settings),
        "problem": {
            "fingerprint": model.fingerprint,
            "tap": model.default_tap,
            "entries": len(truth["mean"]),
            "dtype": str(model.dtype).removeprefix("torch."),
            **_spectrum(truth, settings.rank),
        },
        "streams": streams,
        "targets": _targets(streams),
    }


def compared(
    found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor], lost: float
) -> dict[str, Any]:
    """How far the components of a stream are from the truth, as JSON values.

    Args:
        found: what `pca_ways.streamed` wrote.
        truth: what `pca_ways.dense` returned.
        lost: share of the variance that the stream dropped.

    Returns:
        Relative errors of the mean, the variance and each deviation; sines of the angles of the
        span and of each vector; the most that the variance of a component falls short by, as a
        share of the whole; and whether that is within what was lost.
    """
    rank = len(found["deviations"])
    variances, axes = truth["variances"][:rank], truth["axes"][:rank]
    mine = found["deviations"].square()
    total = float(truth["variance"])
    missing = (variances - mine) / total
    rows = found["components"].double()
    singles = [float(sine(a[None, None], b[None, None])) for a, b in zip(rows, axes, strict=True)]
    away = (found["mean"].double() - truth["mean"]).norm() / truth["mean"].norm()
    return {
        "mean": float(away),
        "variance": abs(float(found["variance"]) / total - 1),
        "deviations": ((mine / variances).sqrt() - 1).abs().tolist(),
        "sine_of_span": float(sine(rows[None], axes[None])),
        "sines": singles,
        "missing": float(missing.max()),
        # Up to the rounding of float32, in which the rows are kept.
        "bound_holds": bool((missing.abs() <= lost + 1e-6).all() and missing.min() >= -1e-6),
    }


def _spectrum(truth: dict[str, torch.Tensor], rank: int) -> dict[str, Any]:
    """What the accuracy depends on: the share of the components, and the gaps after each."""
    variances = truth["variances"]
    return {
        "share_of_rank": float(variances[:rank].sum() / truth["variance"]),
        "gaps": ((variances[:-1] - variances[1:]) / variances[:-1]).tolist(),
    }


def _targets(streams: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must be shown, and what was seen; nothing fails by it."""
    most = max(stream["memory"]["peak"] for stream in streams)
    closest = min(streams, key=_farthest)
    default = streams[0]
    far = _farthest(default)
    return [
        {
            "name": "MB held by the process at most, of all streams",
            "asked": f"<= {MEMORY / 1e6:g}",
            "value": most / 1e6,
            "met": most <= MEMORY,
            "note": "",
        },
        {
            "name": "from the dense oracle (relative deviations, sine of the span), closest stream",
            "asked": f"<= {CLOSE:g}",
            "value": _farthest(closest),
            "met": _farthest(closest) <= CLOSE,
            "note": f"extra = {closest['extra'] or 'default'}",
        },
        {
            "name": "from the dense oracle, with the default extra",
            "asked": f"<= {CLOSE:g}",
            "value": far,
            "met": far <= CLOSE,
            "note": f"its deviations are off by {max(default['deviations']):.1e} at most",
        },
    ]


def _farthest(stream: dict[str, Any]) -> float:
    """The larger of the errors that are asked for."""
    return max(*stream["deviations"], stream["sine_of_span"], stream["variance"])
