"""What is to be edited: samples, directions, strengths and the way."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from pullback._numbers import SEEDS, whole
from pullback.directions import Direction
from pullback.editing import Addition, Entry, Guidance, Injection, Shooting, Way, sweep
from pullback.geometry import LocalBasis
from pullback.models import Condition, LatentModel, told
from pullback.runs.plan import SAMPLING_STEPS
from pullback.runs.settings import settings_of_model

#: Of bases that are computed for edits.
QUALITY = "standard"

#: Ways by the names that the command line uses.
WAYS = ("addition", "guidance", "shooting", "injection", "asymmetric")


@dataclass(frozen=True, eq=False)
class EditSample:
    """One sample to edit.

    Attributes:
        name: in the names of its files, such as "seed0".
        seed: of the noise that it starts from, and of stochastic steps.
        data: an image or its latents `[*x_shape]`, to be inverted; None for a sample of noise.
        class_label: of its condition.
        prompt: of its condition; without label and prompt it is the null condition.
        basis: its directions, of one sample; None where they are those of the plan.
    """

    name: str
    seed: int = 0
    data: torch.Tensor | None = None
    class_label: int | None = None
    prompt: str | None = None
    basis: LocalBasis | None = None

    def condition(self, model: LatentModel) -> Condition | None:
        """Its condition, as the model takes it."""
        if self.prompt is not None:
            return model.encode(prompt=self.prompt)
        if self.class_label is not None:
            return model.encode(class_label=self.class_label)
        return None

    def settings(self) -> dict[str, Any]:
        """What its edits depend on beside the plan's settings, as JSON."""
        return {
            "seed": self.seed,
            "image": told(self.data),
            "class_label": self.class_label,
            "prompt": self.prompt,
            "basis": None if self.basis is None else told(self.basis.v),
        }


@dataclass(frozen=True, eq=False)
class EditPlan:
    """What is to be edited, for a given model.

    Attributes:
        samples: of different names.
        t: the timestep of the edit, in training units.
        strengths: of every direction.
        directions: edits for all samples, each one direction or several together; None for those
            of each sample's basis, which is computed at t where the sample has none.
        indices: which of a basis; None for all.
        rank: of bases that are computed.
        tap: where h is read for them; None for the middle block.
        way: as for `pullback.edit`. With Injection, a basis of x → h gives its directions of h.
        mask: where, `[H, W]`.
        window: timesteps (from, to) in training units.
        boost: timestep in training units below which steps are stochastic.
        guidance: of the walk from t to the data; samples of noise come to t without it.
        negative: prompt to guide away from.
        steps: steps over the whole schedule, of that walk and of inversions.
        eta: of that walk, and of a stochastic inversion, where 0 stands for 1.
        inversion: how images are inverted: "ddim" or "stochastic".
        corrections: of the inversion.
    """

    samples: tuple[EditSample, ...]
    t: int
    strengths: tuple[float, ...]
    directions: tuple[Entry, ...] | None = None
    indices: tuple[int, ...] | None = None
    rank: int = 3
    tap: str | None = None
    way: Way | None = None
    mask: torch.Tensor | None = None
    window: tuple[int, int] | None = None
    boost: int | None = None
    guidance: float = 1.0
    negative: str | None = None
    steps: int = 50
    eta: float = 0.0
    inversion: str = "ddim"
    corrections: int = 0

    def check(self, model: LatentModel) -> None:
        """Raise what can be known to be wrong before anything long is started.

        Raises:
            ValueError: what `pullback.edit` raises; or samples of one name or none.

        Cost: a few forward passes of one sample.
        """
        names = [sample.name for sample in self.samples]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"Expected one or more samples of different names, got {names}.")
        if any(not 0 <= sample.seed < SEEDS for sample in self.samples):
            raise ValueError(
                "Expected seeds of 0 or more and below 2^32, which generators tell apart, got "
                f"{[sample.seed for sample in self.samples]}."
            )
        model.schedule.check_timestep(self.t)
        for sample in self.samples:
            model.conditions.of(sample.condition(model), 1)
        if not self.strengths or not all(map(math.isfinite, self.strengths)):
            raise ValueError(
                f"Expected finite strengths, at least one, got {list(self.strengths)}."
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"Expected eta from 0 to 1, got {self.eta!r}.")
        if self.directions is None:
            ranks = [one.basis.s.shape[1] if one.basis else self.rank for one in self.samples]
            for index in self.indices or ():
                whole("an index of a basis", index, 0, min(ranks) - 1)
        self._try(model)

    def _try(self, model: LatentModel) -> None:
        """An edit of zeros that takes no step, which raises what a real one would."""
        x = torch.zeros(1, *model.latent_shape, dtype=model.dtype, device=model.device)
        first = self.samples[0]
        way = self.way
        directions: tuple[Entry, ...] = self.directions or ()
        if self.directions is None:
            if self.features:
                return  # of what shape they are is not known before there is a basis
            directions = (Direction.of(torch.ones_like(x[0]), "x"),)
        if isinstance(way, Guidance):
            way = replace(way, repeats=1)
        elif isinstance(way, Shooting):  # it would take a basis
            way = None
        sweep(
            model, x, self.t, directions, [max(self.strengths, key=abs)], way=way, mask=self.mask,
            window=self.window, boost=self.boost, stop=self.t,
            **self.walk(model, first, stochastic=first.data is not None),
        )  # fmt: skip

    @property
    def features(self) -> bool:
        """Whether directions of bases are those of features."""
        return isinstance(self.way, Injection)

    def walk(self, model: LatentModel, sample: EditSample, *, stochastic: bool) -> dict[str, Any]:
        """Options of the walk from t to the data.

        Args:
            model: the model.
            sample: whose condition and seed they have.
            stochastic: whether eta is that of the plan's stochastic inversion, if it has one.
        """
        eta = self.eta
        if stochastic and self.inversion == "stochastic":
            eta = eta or 1.0
        return {
            "cond": sample.condition(model),
            "guidance": self.guidance,
            "negative": None if self.negative is None else model.encode(prompt=self.negative),
            "steps": self.steps,
            "eta": eta,
            "seed": [sample.seed],
        }

    def settings(self, model: LatentModel) -> dict[str, Any]:
        """All that edits of every sample depend on, as JSON.

        Cost: as `settings_of_model`.
        """
        labelled = all(sample.class_label is not None for sample in self.samples)
        found = self.directions is None and any(one.basis is None for one in self.samples)
        return {
            **settings_of_model(model, labelled=labelled and self.negative is None),
            "t": self.t,
            "strengths": list(self.strengths),
            "directions": None if self.directions is None else list(map(_told, self.directions)),
            "indices": None if self.indices is None else list(self.indices),
            "rank": self.rank if found else None,
            "tap": self.tap if found else None,
            "way": None
            if self.way is None
            else {"name": type(self.way).__name__} | asdict(self.way),
            "mask": told(self.mask),
            "window": None if self.window is None else list(self.window),
            "boost": self.boost,
            "guidance": self.guidance,
            "negative": self.negative,
            "steps": self.steps,
            "eta": self.eta,
            "inversion": self.inversion,
            "corrections": self.corrections,
            "sampling_steps": SAMPLING_STEPS,
        }


def way_of(
    name: str | None, *, scale: float, repeats: int, rank: int, tap: str | None
) -> Way | None:
    """A way by the name that the command line has for it.

    Args:
        name: one of `WAYS`; None for the space's own.
        scale: of guidance.
        repeats: of guidance.
        rank: of the bases of shooting.
        tap: of the bases of shooting.

    Raises:
        ValueError: there is no such way.
    """
    made: dict[str | None, Way | None] = {
        None: None,
        "addition": Addition(),
        "guidance": Guidance(scale, repeats),
        "shooting": Shooting(rank=rank, tap=tap),
        "injection": Injection(),
        "asymmetric": Injection(asymmetric=True),
    }
    if name not in made:
        raise ValueError(f"Expected a way of {', '.join(WAYS)}, got {name!r}.")
    return made[name]


def _told(entry: Entry) -> str | list[str]:
    """An edit in a line for each of its directions, which are others for every other edit."""
    return _line(entry) if isinstance(entry, Direction) else [_line(part) for part in entry]


def _line(direction: Direction) -> str:
    where = direction.space if direction.tap is None else f"{direction.space} at {direction.tap}"
    when = direction.t if direction.window is None else list(direction.window)
    return (
        f"{direction.name!r} in {where}, pool {direction.pool}, t {when}, unit "
        f"{direction.unit!r}, {told(direction.vector)}"
    )
