"""Judge parallel transport on the digit model: `python -m pullback.zoo.digits.transport`.

A direction found at one sample is carried to another and applied there: does the same class
change follow? Beside it stand the raw copy of the direction and controls of the same norm. Further:
how far apart tangent spaces are, across samples and timesteps, how long paths between samples are,
and what directions that were averaged over samples do beside local ones. What is found is written
as it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

import pullback
from pullback import LatentModel, LocalBasis
from pullback.analysis import summary
from pullback.geometry import grassmann
from pullback.zoo.digits import transport_report
from pullback.zoo.digits.data import NULL_CLASS
from pullback.zoo.digits.edits import instead
from pullback.zoo.digits.judge import Judge

#: How a direction comes to another sample, and what takes its place.
CARRIED = ("isometric", "pullback", "vjp", "raw", "spectrum", "random")
#: How directions for all samples are found, and what they are compared with.
AVERAGED = ("frechet", "hungarian", "nearest", "metric")
PATHS = ("lerp", "slerp", "shooting")
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        pairs: of a source and a target; sources have the seeds from `seed` on, targets the next.
        times: timesteps in training units, multiples of the stride below 1000.
        rank: of the bases.
        directions: of each source, the leading ones.
        strength: norm that is added to latents, forwards and backwards.
        distance_times: timesteps in training units between whose tangent spaces distances are.
        path_pairs: of samples that paths join.
        path_times: timesteps in training units of paths.
        segments: of a path.
        steps: of the whole schedule.
        copies: distorted copies of real digits that the judge learns.
    """

    model: str = "digits"
    pairs: int = 64
    seed: int = 0
    times: tuple[int, ...] = (900, 700, 500, 300)
    rank: int = 10
    directions: int = 3
    strength: float = 4.0
    distance_times: tuple[int, ...] = (900, 800, 700, 600, 500, 400, 300, 200, 100)
    path_pairs: int = 50
    path_times: tuple[int, ...] = (900, 500)
    segments: int = 30
    steps: int = 25
    copies: int = 5

    @classmethod
    def quick(cls) -> Settings:
        """Less than a minute's work, which shows that everything runs."""
        return cls(
            pairs=3, times=(480,), rank=3, directions=2, distance_times=(720, 480), path_pairs=2,
            path_times=(480,), segments=3, steps=5, copies=0,
        )  # fmt: skip


class _Bench:
    """The model, the judge, and the samples at every timestep."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        null = {"class_labels": torch.tensor(NULL_CLASS)}
        self.model: LatentModel = pullback.load(settings.model, null_cond=null)
        self.judge = Judge(copies=settings.copies)
        self._bases: dict[int, tuple[torch.Tensor, LocalBasis]] = {}

    def at(self, t: int) -> tuple[torch.Tensor, LocalBasis]:
        """Latents of sources and then targets `[2 pairs, 1, 16, 16]`, and their bases."""
        if t not in self._bases:
            settings = self.settings
            count = 2 * settings.pairs
            x = self.model.sample_latents(count, t, settings.seed, steps=settings.steps)
            self._bases[t] = x, pullback.local_basis(self.model, x, t, settings.rank)
        return self._bases[t]

    def changes(self, x: torch.Tensor, t: int, rows: torch.Tensor) -> _Changes:
        """What latents `[B, 1, 16, 16]` at t show more when unit rows `[B, D, ...]` are added."""
        strength = self.settings.strength
        moved = x[:, None, None] + torch.stack([rows, -rows], 2) * strength
        before, after = self._images(x, t), self._images(moved, t)
        classes = self.judge(after) - self.judge(before)[:, None, None]
        return _Changes(classes, (after - before[:, None, None]).flatten(3).double())

    def _images(self, x: torch.Tensor, t: int) -> torch.Tensor:
        rows = x.reshape(-1, *x.shape[-3:]).split(256)
        steps = self.settings.steps
        found = [pullback.denoise(self.model, part, t, steps=steps) for part in rows]
        return torch.cat(found).reshape(x.shape).clamp(-1, 1)


@dataclass(frozen=True, eq=False)
class _Changes:
    """What edits change, of B samples by D directions, forwards and backwards.

    Attributes:
        classes: of the classes' probabilities, `[B, D, 2, 10]`.
        pixels: of the image, `[B, D, 2, 256]`.
    """

    classes: torch.Tensor
    pixels: torch.Tensor

    def of(self) -> dict[str, Any]:
        """How large they are: total variation, and root mean square of pixels."""
        return {
            "variation": summary(self.classes.abs().sum(-1).mean((1, 2)) / 2),
            "energy": summary(self.pixels.square().mean(-1).sqrt().mean((1, 2))),
        }

    def gains(self) -> torch.Tensor:
        """What the classes gain that gain, `[B, D · 2 · 10]`: that is what an edit leads to."""
        return self.classes.clamp_min(0).flatten(1)

    def follow(self, other: _Changes) -> dict[str, torch.Tensor]:
        """How alike the changes are of pairs of samples, cosines `[B]`."""
        cosine = torch.nn.functional.cosine_similarity
        return {
            "gain": cosine(self.gains(), other.gains(), eps=1e-12),
            "image": cosine(self.pixels.flatten(1), other.pixels.flatten(1), eps=1e-12),
        }

    def alike(self) -> dict[str, torch.Tensor]:
        """How alike the changes are that all samples show, each against the mean of the others."""
        found = {}
        for name, rows in (("gain", self.gains()), ("image", self.pixels.flatten(1))):
            others = (rows.sum(0) - rows) / (len(rows) - 1)
            found[name] = (rows * others).sum(1) / rows.square().sum(1).mean().clamp_min(1e-12)
        return found


def carried(bench: _Bench, t: int) -> dict[str, Any]:
    """Directions of sources at their targets, each beside the raw copy and controls.

    Returns:
        How the change follows, by kind, with differences to the raw copy, and what was retained.
    """
    settings = bench.settings
    x, bases = bench.at(t)
    n, count = settings.pairs, settings.directions
    source, target = bases[:n], bases[n:]
    raw = source.v[:, :count]
    wanted = bench.changes(x[:n], t, raw)
    lines, following, retained = [], {}, None
    for kind in CARRIED:
        if kind == "raw":
            rows = raw
        elif kind in ("spectrum", "random"):
            rows = instead(kind, raw, seed=t)
        else:
            moved = pullback.transport(list(range(count)), source, target, back=kind)
            own = torch.arange(n)
            rows = moved.v.unflatten(0, (n, count))[own, :, own]
            retained = moved.retained.unflatten(0, (n, count))[own, :, own]
        there = bench.changes(x[n:], t, rows)
        following[kind] = wanted.follow(there)
        told = {name: summary(values) for name, values in following[kind].items()}
        lines.append({"t": t, "kind": kind, **told, **there.of()})
    less = [
        {
            "t": t, "kind": kind, "minus": other,
            **{name: summary(following[kind][name] - following[other][name])
               for name in ("gain", "image")},
        }
        for kind, other in (("isometric", "raw"), ("isometric", "random"), ("raw", "random"),
                            ("isometric", "pullback"), ("isometric", "vjp"))
    ]  # fmt: skip
    assert retained is not None
    return {
        "lines": lines,
        "differences": less,
        "retained": {"t": t, **summary(retained.mean(1))},
        "source": {"t": t, **wanted.of()},
    }


def distances(bench: _Bench) -> dict[str, Any]:
    """Distances of tangent spaces: of samples at each timestep, and of each across timesteps."""
    times = bench.settings.distance_times
    frames = torch.stack([bench.at(t)[1].u.flatten(2) for t in times], 1)
    samples = []
    for place, t in enumerate(times):
        far = grassmann.all_pairs(frames[:, place]).distance
        samples.append({"t": t, **summary(far.sum(1) / (len(far) - 1))})
    between = grassmann.distance(frames[:, :, None], frames[:, None])
    matrix = [[summary(between[:, i, j]) for j in range(len(times))] for i in range(len(times))]
    noise = torch.randn(
        frames.shape[0], *frames.shape[2:], generator=torch.Generator().manual_seed(0)
    )
    chance = grassmann.all_pairs(noise).mean()
    return {"across_samples": samples, "across_times": matrix, "chance": chance}


def paths(bench: _Bench, t: int) -> dict[str, Any]:
    """Lengths of paths between pairs of samples, and how they bend on the way."""
    settings = bench.settings
    count = settings.path_pairs
    x = bench.model.sample_latents(2 * count, t, settings.seed, steps=settings.steps)
    lengths, lines = {}, []
    for kind in PATHS:
        path = pullback.latent_path(
            bench.model, x[:count], x[count:], t, kind=kind, segments=settings.segments,
            rank=settings.rank, quality="draft",
        )  # fmt: skip
        lengths[kind] = path.length.double()
        lines.append(
            {
                "t": t,
                "kind": kind,
                "length": summary(path.length.double()),
                "latent_length": summary(path.latent_length.double()),
                "gap": summary(path.gap.double()),
                "segments": [summary(one.double()) for one in path.distance],
            }
        )
    order = [
        {"t": t, "kind": one, "minus": other, "length": summary(lengths[one] - lengths[other])}
        for one, other in (("lerp", "slerp"), ("slerp", "shooting"), ("lerp", "shooting"))
    ]
    return {"lines": lines, "differences": order}


def averaged(bench: _Bench, t: int) -> list[dict[str, Any]]:
    """Directions for all samples, found at the sources and localised at the targets."""
    settings = bench.settings
    x, bases = bench.at(t)
    n, count = settings.pairs, settings.directions
    source, target = bases[:n], bases[n:]
    rows = {}
    for how in AVERAGED:
        if how == "metric":
            found = pullback.mean_metric(bench.model, x[:n], t, count)
        else:
            found = pullback.global_directions(source, how, count=count)
        rows[how] = found.localise(target).v[:count].transpose(0, 1)
    rows["local"] = target.v[:, :count]
    rows["random"] = instead("random", rows["local"], seed=t)
    lines = []
    for how, one in rows.items():
        there = bench.changes(x[n:], t, one.to(x))
        alike = {name: summary(values) for name, values in there.alike().items()}
        lines.append({"t": t, "how": how, **alike, **there.of()})
    return lines


def measure(settings: Settings, tell: Any = lambda _: None) -> dict[str, Any]:
    """Everything that is reported, as JSON holds it.

    Args:
        settings: what to measure.
        tell: called with a line on what comes next.
    """
    tell("the judge")
    bench = _Bench(settings)
    following, ways, everywhere = [], [], []
    for t in settings.times:
        tell(f"transport at t = {t}")
        following.append(carried(bench, t))
    for t in settings.times:
        tell(f"global directions at t = {t}")
        everywhere += averaged(bench, t)
    tell("distances")
    apart = distances(bench)
    for t in settings.path_times:
        tell(f"paths at t = {t}")
        ways.append(paths(bench, t))
    return {
        "settings": asdict(settings),
        "condition": "null class",
        "judge": bench.judge.report,
        "source": [one["source"] for one in following],
        "retained": [one["retained"] for one in following],
        "following": [line for one in following for line in one["lines"]],
        "following_compared": [line for one in following for line in one["differences"]],
        "distances": apart,
        "paths": [line for one in ways for line in one["lines"]],
        "paths_compared": [line for one in ways for line in one["differences"]],
        "averaged": everywhere,
        "fingerprint": bench.model.fingerprint,
        "versions": {
            "torch": torch.__version__, "diffusers": diffusers.__version__,
            "pullback": pullback.__version__,
        },
    }  # fmt: skip


if __name__ == "__main__":
    transport_report.REPORT.run(lambda tell: measure(Settings(), tell), _FOLDER / "transport.json")
