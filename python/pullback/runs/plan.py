"""What is to be computed: samples, timesteps, the map, and how well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pullback import krylov, maps
from pullback._numbers import SEEDS
from pullback.maps import Map
from pullback.models import Condition, LatentModel
from pullback.runs.settings import settings_of_model

#: DDIM steps over the whole schedule, from noise to the latents x_t.
SAMPLING_STEPS = 50

#: Maps by the names that the command line uses.
MAPS = ("encoder", "decoder", *maps.OUTPUTS)


@dataclass(frozen=True)
class Plan:
    """What is to be computed, for a given model.

    Attributes:
        timesteps: where, in the scheduler's training units.
        rank: directions per sample.
        seeds: one per sample, of the noise that it starts from.
        tap: path of the module whose output is h, or "path:index"; None for maps without h.
        tol: bound on the sine of the largest principal angle.
        seed: of the solver's random start.
        class_labels: per sample, or None.
        prompts: per sample, or None; without labels and prompts it is the null condition.
        map: which map's Jacobian: one of `MAPS`.
    """

    timesteps: tuple[int, ...]
    rank: int
    seeds: tuple[int, ...]
    tap: str | None
    tol: float
    seed: int = 0
    class_labels: tuple[int, ...] | None = None
    prompts: tuple[str, ...] | None = None
    map: str = "encoder"

    def check(self, model: LatentModel) -> None:
        """Raise what can be known to be wrong before anything long is started.

        Raises:
            ValueError: a timestep, tap, class label or rank that the model does not have, or a
                list that is empty or has something twice.

        Cost: one forward pass of one sample, up to the tap.
        """
        for name, values in (("timesteps", self.timesteps), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"Expected one or more different {name}, got {list(values)}.")
        if any(not 0 <= seed < SEEDS for seed in self.seeds):
            raise ValueError(
                "Expected seeds of 0 or more and below 2^32, which generators tell apart, got "
                f"{list(self.seeds)}."
            )
        for t in self.timesteps:
            model.schedule.check_timestep(t)
        for name, given in (("class label", self.class_labels), ("prompt", self.prompts)):
            if given is not None and len(given) != len(self.seeds):
                raise ValueError(
                    f"Expected one {name} for all samples or one for each of the "
                    f"{len(self.seeds)}, got {len(given)}."
                )
        model.conditions.of(self.condition(model), len(self.seeds))
        n, m = self.sizes(model)
        krylov.check_rank(self.rank, n, m)

    def map_of(self, model: LatentModel) -> Map:
        """The map that is differentiated.

        Raises:
            ValueError: there is no such map or tap.
        """
        if self.map not in MAPS:
            raise ValueError(f"Expected a map of {', '.join(MAPS)}, got {self.map!r}.")
        if self.map == "encoder":
            return maps.encoder(model, self.tap)
        if self.map == "decoder":
            return maps.decoder(model, self.tap)
        return maps.output(model, self.map)

    def sizes(self, model: LatentModel) -> tuple[int, int]:
        """Entries of the map's variable and of its output, for one sample."""
        cond = model.conditions.of(self.condition(model, slice(0, 1)), 1)
        x = torch.zeros(1, *model.latent_shape, dtype=model.dtype, device=model.device)
        t = torch.tensor([self.timesteps[0]], device=model.device)
        bound = self.map_of(model).bind(x, t, cond)
        return bound.point.numel(), bound.value().numel()

    def condition(self, model: LatentModel, samples: slice = slice(None)) -> Condition | None:
        """The condition of some of the samples, as the model takes it."""
        if self.prompts is not None:
            return model.encode(prompt=self.prompts[samples])
        if self.class_labels is not None:
            return model.encode(class_label=self.class_labels[samples])
        return None

    def settings(self, model: LatentModel, t: int) -> dict[str, Any]:
        """All that the numbers of one timestep t, in training units, depend on, as JSON has it."""
        return {**self.shared_settings(model), "t": t}

    def shared_settings(self, model: LatentModel) -> dict[str, Any]:
        """What `settings` are at every timestep.

        Cost: as `settings_of_model`.
        """
        return {
            **settings_of_model(model, labelled=self.class_labels is not None),
            "map": self.map,
            "tap": self.tap,
            "rank": self.rank,
            "tol": self.tol,
            "seed": self.seed,
            "seeds": list(self.seeds),
            "class_labels": None if self.class_labels is None else list(self.class_labels),
            "prompts": None if self.prompts is None else list(self.prompts),
            "sampling_steps": SAMPLING_STEPS,
        }
