"""Judge ways to find directions on digits: `python -m pullback.zoo.digits.directions`.

Each way's directions are applied at samples with strengths that change images equally much, and
scored by attributes of handwriting and the class of the digit. Beside them stand noise of the same
norm, and labels that say nothing. Further: which eigenvectors of self-attention weights do anything
at all. What is found is written as it is, also where a way does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch

import pullback
from pullback import LatentModel, analysis, directions
from pullback.analysis import Evaluation, summary
from pullback.directions import Direction
from pullback.editing import Entry, Own, PerSample
from pullback.zoo.digits import directions_report
from pullback.zoo.digits.attributes import NAMES, Attributes
from pullback.zoo.digits.data import NULL_CLASS
from pullback.zoo.digits.finding import Finder, Way, controls
from pullback.zoo.digits.judge import Judge

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        samples: that own directions are of, and as many others that all are carried to; seeds from
            `seed` on.
        t: where edits begin, in training units, a multiple of the stride below 1000.
        directions: of each way that orders them, the leading ones.
        energy: root mean square change of the image at strength 1; images reach from −1 to 1.
        strengths: in units that change images by that much.
        matching: samples that the units are found from.
        learning: samples that PCA and labels are of.
        variants: samples that the variants of attention are judged at.
        variant_norm: of the features that their directions add.
        steps: of the whole schedule.
        copies: distorted copies of real digits that the judge learns.
    """

    model: str = "digits"
    samples: int = 40
    seed: int = 0
    t: int = 600
    directions: int = 3
    energy: float = 0.2
    strengths: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)
    matching: int = 4
    learning: int = 1000
    variants: int = 16
    variant_norm: float = 64.0
    steps: int = 25
    copies: int = 5

    @property
    def stride(self) -> int:
        """Training units between steps."""
        return 1000 // self.steps

    @classmethod
    def quick(cls) -> Settings:
        """Less than a minute's work, which shows that everything runs."""
        return cls(
            samples=3, directions=1, strengths=(-1.0, 1.0), matching=1, learning=24, variants=2,
            steps=5, copies=0,
        )  # fmt: skip


class _Bench:
    """The model, the judge, and the samples."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings = settings
        null = {"class_labels": torch.tensor(NULL_CLASS)}
        self.model: LatentModel = pullback.load(settings.model, null_cond=null, device=device)
        self.judge = Judge(copies=settings.copies)
        self.attributes = Attributes(self.judge)
        self.region = torch.zeros(16, 16, dtype=torch.bool)
        self.region[:8] = True
        self.learning = range(10_000, 10_000 + settings.learning)
        x = self.model.sample_latents(
            2 * settings.samples, settings.t, settings.seed, steps=settings.steps
        )
        self.sources, self.targets = x.split(settings.samples)
        plain = self.model.sample_latents(256, settings.t, 20_000, steps=settings.steps)
        images = self.model.images_of(self._walk(plain))
        self.scale = self.attributes(images).std(0).clamp_min(0.05)

    def _walk(self, x: torch.Tensor) -> torch.Tensor:
        return pullback.denoise(self.model, x, self.settings.t, steps=self.settings.steps)

    def finder(self) -> Finder:
        """Finds directions, own ones at the sources."""
        settings = self.settings
        return Finder(
            self.model, self.sources, settings.t, settings.directions, self.learning,
            self.attributes, settings.steps, self.region,
        )  # fmt: skip

    def matched(self, way: Way) -> tuple[Way, list[float | None]]:
        """The way with units that change images equally; None is one that does not get so far."""
        settings, own = self.settings, way.directions
        few = settings.matching
        if isinstance(own, PerSample):
            own = PerSample(own.entries[:few])
        units = analysis.matched(
            self.model, self.sources[:few], settings.t, own, settings.energy, steps=settings.steps
        )
        by = torch.where(units.isnan(), 4.0**6, units).tolist()
        rows: Sequence[Sequence[Entry]] = (
            way.directions.entries if isinstance(way.directions, PerSample) else [way.directions]
        )
        scaled = [
            [_scaled(entry, unit) for entry, unit in zip(row, by, strict=True)] for row in rows
        ]
        found = PerSample(scaled) if isinstance(way.directions, PerSample) else scaled[0]
        told = [None if bool(unit.isnan()) else float(unit) for unit in units]
        return replace(way, directions=found), told

    def evaluated(
        self,
        given: Own | Sequence[Entry],
        at: torch.Tensor,
        strengths: Sequence[float],
        window: tuple[int, int] | None = None,
    ) -> Evaluation:
        """Edits at samples `[B, 1, 16, 16]`, by the window's timesteps in training units."""
        settings = self.settings
        return analysis.evaluate(
            self.model, at, settings.t, given, strengths, self.attributes, scale=self.scale,
            region=self.region, window=window, steps=settings.steps,
        )  # fmt: skip


def _scaled(entry: Entry, by: float) -> Entry:
    if isinstance(entry, Direction):
        return entry.with_unit(entry.unit * by)
    return tuple(part.with_unit(part.unit * by) for part in entry)


def judged(bench: _Bench, way: Way, seed: int) -> dict[str, Any]:
    """One way's line of the table."""
    way, units = bench.matched(way)
    noise = controls(way, seed)
    by, both_samples = bench.settings.strengths, (bench.sources, bench.targets)
    home, there = (bench.evaluated(way.directions, at, by) for at in both_samples)
    noise_home, noise_there = (bench.evaluated(noise, at, by) for at in both_samples)
    # Of what is named the effect is that; of all else what the direction did at its source.
    told = there.effect(home if way.attribute is None else way.attribute)
    chance = noise_there.effect(noise_home if way.attribute is None else way.attribute)
    both = [number for number, strength in enumerate(by) if abs(strength) == 1]
    effect, without = (one.target[:, :, both].mean((1, 2)) for one in (told, chance))
    follows, by_chance = home.follows(there).mean(1), noise_home.follows(noise_there).mean(1)
    assert there.inside is not None
    return {
        "way": way.name,
        "space": way.space,
        "meant": None if way.attribute is None else NAMES[way.attribute],
        **way.cost(),
        "directions": len(home.names),
        "reached": sum(one is not None for one in units),
        "energy": summary(there.energy[:, :, both].mean((1, 2))),
        "noise_energy": summary(noise_there.energy[:, :, both].mean((1, 2))),
        "effect": summary(effect),
        "noise_effect": summary(without),
        "effect_less_noise": summary(effect - without),
        "side": summary(told.side[:, :, both].mean((1, 2))),
        "linearity": summary(there.linearity.mean(1)),
        "noise_linearity": summary(noise_there.linearity.mean(1)),
        "inside": summary(there.inside[:, :, both].mean((1, 2))),
        "transfer": summary(follows),
        "noise_transfer": summary(by_chance),
        "transfer_less_noise": summary(follows - by_chance),
    }


def variants(bench: _Bench) -> list[dict[str, Any]]:
    """Every variant of attention at the middle layer: gains, overlaps, changes of images."""
    settings, model = bench.settings, bench.model
    x = bench.targets[: settings.variants]
    basis = pullback.local_basis(model, x, settings.t, 10)
    components = directions.pca(
        model, min(200, settings.learning), 10, t=settings.t, stop=settings.t - settings.stride,
        steps=settings.steps, seed=30_000,
    )  # fmt: skip
    axes = [components.entry(i)[0] for i in range(len(components))]
    lines = []
    for variant in directions.VARIANTS:
        options: dict[str, Any] = {**variant}
        found = directions.attention(model, rank=settings.directions, **options)
        entries, noise = _with_noise(found)
        ranking = directions.rank_by(model, x, settings.t, entries, subspace=basis)
        chance = directions.rank_by(model, x, settings.t, noise, subspace=basis)
        assert ranking.retained is not None
        assert chance.retained is not None
        lines.append(
            {
                "variant": ", ".join(f"{name} {value}" for name, value in variant.items()),
                "gain_over_noise": summary((ranking.gain / chance.gain).mean(0)),
                "retained": summary(ranking.retained.mean(0)),
                "noise_retained": summary(chance.retained.mean(0)),
                "pca_retained": float(directions.retained(entries, axes).mean()),
                **_sizes(bench, x, entries, noise, None),
            }
        )
    return lines


def places(bench: _Bench) -> list[dict[str, Any]]:
    """Two variants of attention at every layer and site, and by thirds of the timesteps."""
    settings, model = bench.settings, bench.model
    third = settings.t // 3
    always = (settings.t, 0)
    layers = directions.attention_layers(model)
    sites = [
        (layer, site, always)
        for layer in layers
        for site in ("mid_output", "block_output", "attention_output")
    ]
    middle = next(layer for layer in layers if layer.block == model.default_tap)
    sites += [
        (middle, "mid_output", (part * third, 0 if part == 1 else (part - 1) * third + 1))
        for part in (3, 2, 1)
    ]
    return [
        _place(bench, layer, site, window, matrix, side)
        for layer, site, window in sites
        for matrix, side in (("v", "input"), ("ov", "output"))
    ]


def _place(
    bench: _Bench,
    layer: directions.AttentionLayer,
    site: str,
    window: tuple[int, int],
    matrix: str,
    side: str,
) -> dict[str, Any]:
    """What one variant at one layer and site changes, within a window of timesteps."""
    found = directions.attention(
        bench.model, layer, matrix=matrix, side=side, site=site, rank=bench.settings.directions
    )
    entries, noise = _with_noise(found)
    return {
        "layer": layer.name,
        "variant": f"matrix {matrix}, side {side}",
        "site": site,
        "window": list(window),
        **_sizes(bench, bench.targets[: bench.settings.variants], entries, noise, window),
    }


def _with_noise(
    found: directions.AttentionDirections,
) -> tuple[list[Direction], list[Direction]]:
    """Directions, and noise in their place."""
    entries = [found.direction(i) for i in range(len(found))]
    return entries, [analysis.random_like(one, 7 + place) for place, one in enumerate(entries)]


def _sizes(
    bench: _Bench,
    x: torch.Tensor,
    entries: list[Direction],
    noise: list[Direction],
    window: tuple[int, int] | None,
) -> dict[str, Any]:
    """How much images change by directions and by noise, of the same norm."""
    settings = bench.settings
    size = []
    for one in (entries, noise):
        scaled = [entry.with_unit(settings.variant_norm) for entry in one]
        found = bench.evaluated(scaled, x, (-1.0, 1.0), window)
        size.append(found.energy.mean((1, 2)))
    return {"energy": summary(size[0]), "energy_less_noise": summary(size[0] - size[1])}


def measure(
    settings: Settings,
    tell: Callable[[str], None] = lambda _: None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Everything that is reported, as JSON holds it.

    Args:
        settings: what to measure.
        tell: called with a line on what comes next.
        device: of the model; the CPU by default.
    """
    tell("the judge")
    bench = _Bench(settings, device or torch.device("cpu"))
    ways = []
    for number, way in enumerate(bench.finder().ways(tell)):
        tell(f"judging: {way.name}")
        ways.append(judged(bench, way, seed=100_000 * (number + 1)))
    tell("variants of attention")
    return {
        "settings": asdict(settings),
        "condition": "null class",
        "judge": bench.judge.report,
        "scale": dict(zip(NAMES, bench.scale.tolist(), strict=True)),
        "ways": ways,
        "variants": variants(bench),
        "places": places(bench),
        "threads": torch.get_num_threads(),
        "fingerprint": bench.model.fingerprint,
        "versions": {
            "torch": torch.__version__, "diffusers": diffusers.__version__,
            "pullback": pullback.__version__,
        },
    }  # fmt: skip


if __name__ == "__main__":
    directions_report.REPORT.run(
        lambda tell: measure(Settings(), tell), _FOLDER / "directions.json"
    )
