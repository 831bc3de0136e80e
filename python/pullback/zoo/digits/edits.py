"""Judge edits of the digit model: `python -m pullback.zoo.digits.edits`.

Latents on their way to digits of no class in particular are moved, denoised, and shown to a
classifier that learnt real digits: how much do the probabilities of the classes change, and how
much the image? Beside each edit stand controls of the same norm. What is found is written as it is,
for the method or against it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import diffusers
import torch

from pullback import LatentModel, LocalBasis, denoise, load, local_basis, maps, sweep
from pullback._version import __version__
from pullback.analysis import at_equal_energy, summary
from pullback.directions import Direction
from pullback.editing import Guidance, Injection, Way
from pullback.zoo.digits import edits_report
from pullback.zoo.digits.data import NULL_CLASS
from pullback.zoo.digits.judge import Judge

#: What takes the place of a sample's own directions.
CONTROLS = ("random", "spectrum", "another")
#: Which ways are compared.
_GUIDED = (("guidance", "addition"), ("guidance", "random"), ("addition", "random"))
_INJECTED = (
    ("pullback asymmetric", "pullback symmetric"),
    ("pullback symmetric", "random symmetric"),
    ("pullback asymmetric", "random asymmetric"),
)
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        samples: latents, of the seeds from `seed` on.
        times: timesteps of additions, in training units, multiples of the stride below 1000.
        directions: of each local basis.
        compared: how many of them, the leading ones, are compared with as many controls.
        strengths: norms that are added to latents.
        ways_at: timestep in training units of guidance and injection.
        pushes: norms of the displacement within guidance.
        injected: norms that are added to features at every step.
        energies: root mean square changes of the image at which curves are compared.
        steps: of the whole schedule.
        copies: distorted copies of real digits that the judge learns.
    """

    model: str = "digits"
    samples: int = 64
    seed: int = 0
    times: tuple[int, ...] = (900, 700, 500, 300)
    directions: int = 5
    compared: int = 3
    strengths: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0)
    ways_at: int = 500
    pushes: tuple[float, ...] = (2.0, 4.0, 8.0)
    injected: tuple[float, ...] = (8.0, 16.0, 32.0)
    energies: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    steps: int = 25
    copies: int = 5

    @classmethod
    def quick(cls) -> Settings:
        """Less than a minute's work, which shows that everything runs."""
        return cls(
            samples=3, times=(500,), directions=2, compared=2, strengths=(0.0, 4.0, 16.0),
            pushes=(4.0,), injected=(0.0, 16.0), steps=5, copies=0,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Effect:
    """What edits do, `[B, D, K]` each: B samples, D directions, K strengths.

    Attributes:
        energy: root mean square change of the image, whose range is 2.
        variation: total variation between the classes' probabilities before and after.
        loss: how much the class that was the most probable loses.
        sure: the probability of the most probable class after the edit, which falls where what is
            left is no digit.
    """

    energy: torch.Tensor
    variation: torch.Tensor
    loss: torch.Tensor
    sure: torch.Tensor

    def leading(self, count: int) -> Effect:
        """That of the first directions."""
        return Effect(**{name: values[:, :count] for name, values in self.parts().items()})

    def of(self, strength: int, direction: int | None = None) -> dict[str, Any]:
        """Means with their intervals at one strength, of one direction or over all of them."""
        picked = slice(None) if direction is None else slice(direction, direction + 1)
        return {
            name: summary(values[:, picked, strength].mean(1))
            for name, values in self.parts().items()
        }

    def minus(self, other: Effect, strength: int) -> dict[str, Any]:
        """Paired differences at one strength, means over all directions."""
        return {
            name: summary((values - other.parts()[name])[:, :, strength].mean(1))
            for name, values in self.parts().items()
        }

    def parts(self) -> dict[str, torch.Tensor]:
        """Each by its name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


class _Bench:
    """The model, the judge, and images before any edit."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        null = {"class_labels": torch.tensor(NULL_CLASS)}
        self.model: LatentModel = load(settings.model, null_cond=null)
        self.judge = Judge(copies=settings.copies)

    def latents(self, t: int) -> torch.Tensor:
        """Latents `[B, 1, 16, 16]` at t in training units."""
        settings = self.settings
        return self.model.sample_latents(settings.samples, t, settings.seed, steps=settings.steps)

    def images(self, x: torch.Tensor, t: int) -> torch.Tensor:
        """What latents `[..., 1, 16, 16]` at t in training units lead to, of the same shape."""
        rows = x.reshape(-1, *x.shape[-3:]).split(256)
        found = torch.cat(
            [denoise(self.model, part, t, steps=self.settings.steps) for part in rows]
        )
        return found.reshape(x.shape)

    def effect(self, before: torch.Tensor, after: torch.Tensor) -> Effect:
        """Of edits whose images are `[B, D, K, 1, 16, 16]`; before them they are `[B, ...]`."""
        before, after = before.clamp(-1, 1)[:, None, None], after.clamp(-1, 1)
        energy = (after - before).flatten(3).square().mean(3).sqrt().double()
        was, now = self.judge(before), self.judge(after)
        top = was.argmax(-1, keepdim=True)
        lost = was.gather(-1, top) - now.gather(-1, top.expand(*now.shape[:-1], 1))
        variation = (now - was).abs().sum(-1) / 2
        return Effect(energy, variation, lost.squeeze(-1), now.max(-1).values)

    def additions(self, t: int) -> tuple[dict[str, Effect], dict[str, float]]:
        """Of a sample's own directions and of what takes their place, added at t.

        Returns:
            Effects, and means over samples before any edit.
        """
        settings = self.settings
        x = self.latents(t)
        before = self.images(x, t)
        seen = {
            "latent_norm": float(x.flatten(1).norm(dim=1).mean()),
            "sure": float(self.judge(before).max(-1).values.mean()),
        }
        basis = local_basis(self.model, x, t, settings.directions)
        bases = {"pullback": basis}
        for number, name in enumerate(CONTROLS):
            rows = instead(name, basis.v[:, : settings.compared], seed=1000 * t + number)
            bases[name] = replace(basis, v=rows, s=basis.s[:, : settings.compared])
        effects = {
            name: self.effect(before, self._swept(x, t, one).latents) for name, one in bases.items()
        }
        return effects, seen

    def _swept(self, x: torch.Tensor, t: int, basis: LocalBasis) -> Any:
        settings = self.settings
        return sweep(self.model, x, t, basis, settings.strengths, steps=settings.steps)

    def guided(self) -> tuple[dict[str, Effect], dict[str, torch.Tensor]]:
        """Of guidance, and of plain addition along v and along noise as far as it leads.

        Returns:
            Effects, and of guidance the displacements' norms and cosines with v, `[B, D, K]`.
        """
        settings, t = self.settings, self.settings.ways_at
        x = self.latents(t)
        basis = local_basis(self.model, x, t, settings.compared)
        v = basis.v[:, :, None]
        # γ = 0.1 in 16 repetitions is what is published for pixels.
        found = sweep(
            self.model, x, t, basis, settings.pushes, way=Guidance(scale=0.1, repeats=16), stop=t,
            steps=settings.steps,
        )  # fmt: skip
        displacement = found.latents - x[:, None, None]
        length = displacement.flatten(3).norm(dim=3)[..., None, None, None]
        noise = instead("random", basis.v, seed=settings.seed)[:, :, None]
        before = self.images(x, t)
        ends = {
            "guidance": displacement,
            "addition": length * v,
            "random": length * noise,
        }
        effects = {
            name: self.effect(before, self.images(x[:, None, None] + end, t))
            for name, end in ends.items()
        }
        along = torch.nn.functional.cosine_similarity(
            displacement.flatten(3), v.expand_as(displacement).flatten(3), dim=3
        )
        return effects, {"norm": length.flatten(3)[..., 0], "cosine": along}

    def injected(self) -> tuple[dict[str, Effect], float]:
        """Of the features' directions and of random ones, symmetric and asymmetric.

        Returns:
            Effects, and the mean norm of the features.
        """
        settings, t = self.settings, self.settings.ways_at
        x = self.latents(t)
        before = self.images(x, t)
        basis = local_basis(self.model, x, t, settings.compared)
        noise = instead("random", basis.u, seed=settings.seed)
        ways: dict[str, Way] = {
            "symmetric": Injection(), "asymmetric": Injection(asymmetric=True),
        }  # fmt: skip
        effects = {}
        for kind, rows in (("pullback", basis.u), ("random", noise)):
            for name, way in ways.items():
                after = [
                    self._injected(x[sample : sample + 1], rows[sample], way)
                    for sample in range(len(x))
                ]
                effects[f"{kind} {name}"] = self.effect(before, torch.cat(after))
        feature = maps.encoder(self.model).at(x, t, None).value()
        return effects, float(feature.flatten(1).norm(dim=1).mean())

    def _injected(self, x: torch.Tensor, rows: torch.Tensor, way: Way) -> torch.Tensor:
        tap, settings = self.model.default_tap, self.settings
        directions = [Direction.of(row, "h", tap=tap) for row in rows]
        return sweep(
            self.model, x, settings.ways_at, directions, settings.injected, way=way,
            steps=settings.steps,
        ).latents  # fmt: skip


def instead(kind: str, v: torch.Tensor, seed: int) -> torch.Tensor:
    """Unit vectors `[B, D, *shape]` that take the place of directions v.

    Args:
        kind: "random" for normal ones, "spectrum" for v with the phases of noise, which has the
            power of v at every spatial frequency, "another" for those of the next sample.
        v: directions, `[B, D, *shape]`.
        seed: of the noise.
    """
    if kind == "another":
        return v.roll(1, 0)
    noise = torch.randn(v.shape, generator=torch.Generator().manual_seed(seed), dtype=v.dtype)
    if kind == "spectrum":
        spectrum = torch.fft.fft2(noise)
        noise = torch.fft.ifft2(spectrum / spectrum.abs() * torch.fft.fft2(v).abs()).real
    length = noise.flatten(2).norm(dim=2).reshape(*v.shape[:2], *[1] * (v.dim() - 2))
    return noise / length


def measure(settings: Settings, tell: Any = lambda _: None) -> dict[str, Any]:
    """Everything that is reported, as JSON holds it.

    Args:
        settings: what to measure.
        tell: called with a line on what comes next.
    """
    tell("the judge")
    bench = _Bench(settings)
    additions, differences, curves, by_index, unedited = [], [], [], [], []
    for t in settings.times:
        tell(f"additions at t = {t}")
        effects, before = bench.additions(t)
        unedited.append({"t": t, **before})
        whole = effects["pullback"]
        effects["pullback"] = whole.leading(settings.compared)
        for place, strength in enumerate(settings.strengths):
            at = {"t": t, "strength": strength}
            additions += [{**at, "kind": name, **one.of(place)} for name, one in effects.items()]
            by_index += [
                {**at, "index": i + 1, **whole.of(place, i)} for i in range(settings.directions)
            ]
            differences += [
                {**at, "control": name, **effects["pullback"].minus(effects[name], place)}
                for name in CONTROLS
            ]
        curves += [
            {"t": t, "control": name, "energy": energy, "difference": found}
            for name in CONTROLS
            for energy in settings.energies
            if (found := _equal_energy(effects["pullback"], effects[name], energy)) is not None
        ]
    tell("guidance")
    guided, seen = bench.guided()
    tell("injection")
    injected, norm = bench.injected()
    return {
        "settings": asdict(settings),
        "condition": "null class",
        "judge": bench.judge.report,
        "unedited": unedited,
        "additions": additions,
        "by_index": by_index,
        "equal_norm": differences,
        "equal_energy": curves,
        "guidance": _ways(guided, settings.pushes, _GUIDED, seen),
        "injection": _ways(injected, settings.injected, _INJECTED, {}),
        "feature_norm": norm,
        "fingerprint": bench.model.fingerprint,
        "versions": {
            "torch": torch.__version__, "diffusers": diffusers.__version__, "pullback": __version__,
        },
    }  # fmt: skip


def _equal_energy(ours: Effect, control: Effect, energy: float) -> dict[str, float] | None:
    pairs = [(one.energy.mean(1), one.variation.mean(1)) for one in (ours, control)]
    return at_equal_energy(pairs[0], pairs[1], energy)


def _ways(
    effects: dict[str, Effect],
    strengths: tuple[float, ...],
    pairs: tuple[tuple[str, str], ...],
    seen: dict[str, torch.Tensor],
) -> dict[str, list[dict[str, Any]]]:
    """What ways do at each strength, and paired differences: of the first of a pair to the second.

    Args:
        effects: by the name of the way.
        strengths: K of them.
        pairs: names of two ways.
        seen: more of the first way, `[B, D, K]`, whose means are told too.
    """
    lines, differences = [], []
    for place, strength in enumerate(strengths):
        more = {name: float(values[:, :, place].mean()) for name, values in seen.items()}
        lines += [
            {"strength": strength, "way": name, **more, **one.of(place)}
            for name, one in effects.items()
        ]
        differences += [
            {
                "strength": strength, "way": one, "minus": other,
                **effects[one].minus(effects[other], place),
            }
            for one, other in pairs
        ]  # fmt: skip
    return {"ways": lines, "differences": differences}


if __name__ == "__main__":
    edits_report.REPORT.run(lambda tell: measure(Settings(), tell), _FOLDER / "edits.json")
