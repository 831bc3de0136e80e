"""What finds directions for the command line: the options of every method, checked and told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from typing_extensions import override

from pullback import directions, editing
from pullback.directions import Direction
from pullback.geometry import local_basis
from pullback.models import Condition, LatentModel, told
from pullback.runs.plan import SAMPLING_STEPS
from pullback.runs.settings import settings_of_model

#: Is called with the samples done, and all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Finding(ABC):
    """A way to find directions, with its options, for a given model.

    Attributes:
        method: its name in the table of methods.
    """

    method: ClassVar[str]

    @property
    def labelled(self) -> bool:
        """Whether nothing has to be made of a condition, as of prompts and the null condition."""
        return True

    @abstractmethod
    def check(self, model: LatentModel) -> None:
        """Raise what can be known to be wrong before anything long is started.

        Raises:
            ValueError: an option is not what the model takes.
        """

    @abstractmethod
    def found(
        self, model: LatentModel, memory: int | None, progress: Progress | None
    ) -> Sequence[Sequence[Direction]]:
        """The edits that are found, each of one direction or of several.

        Args:
            model: the model, for which `check` has passed.
            memory: memory budget of a pass, in bytes.
            progress: is called by what walks samples.
        """

    def settings(self, model: LatentModel) -> dict[str, Any]:
        """All that the directions depend on, as JSON.

        Cost: as `settings_of_model`.
        """
        return {
            **settings_of_model(model, labelled=self.labelled),
            "method": self.method,
            **{one.name: told(getattr(self, one.name)) for one in fields(self)},
            "sampling_steps": SAMPLING_STEPS,
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class OfOneKind(Finding):
    """A way whose samples have one condition.

    Attributes:
        seed: of the noise of the sample, or of the first one.
        class_label: of the condition.
        prompt: of the condition; without label and prompt it is the null condition.
    """

    seed: int = 0
    class_label: int | None = None
    prompt: str | None = None

    @property
    @override
    def labelled(self) -> bool:
        """Whether the condition is a class label."""
        return self.class_label is not None

    def condition(self, model: LatentModel) -> Condition | None:
        """The condition, as the model takes it."""
        return condition_of(model, self.class_label, self.prompt)

    @override
    def check(self, model: LatentModel) -> None:
        """Raise unless the model takes the condition.

        Raises:
            ValueError: it does not.
        """
        model.conditions.of(self.condition(model), 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class AtASample(OfOneKind):
    """A way that finds directions at the latents of one sample.

    Attributes:
        t: the timestep of the latents, in training units.
        rank: directions.
        quality: of the bases: "draft", "standard" or "tight".
    """

    t: int = 500
    rank: int = 5
    quality: str = "standard"

    @override
    def check(self, model: LatentModel) -> None:
        """Raise unless the model takes the condition and the timestep.

        Raises:
            ValueError: it does not.
        """
        super().check(model)
        model.schedule.check_timestep(self.t)

    def latents(self, model: LatentModel) -> torch.Tensor:
        """The latents of the sample at t, `[1, *x_shape]`."""
        cond = self.condition(model)
        return model.sample_latents(1, self.t, [self.seed], cond, steps=SAMPLING_STEPS)


@dataclass(frozen=True, eq=False, kw_only=True)
class OfPullback(AtASample):
    """The local basis of a sample.

    Attributes:
        tap: where h is read; None for the middle block.
    """

    method: ClassVar[str] = "pullback"
    tap: str | None = None

    @override
    def check(self, model: LatentModel) -> None:
        """As `AtASample`, and raise unless the tap exists."""
        super().check(model)
        model.site(self.tap)

    @override
    def found(
        self, model: LatentModel, memory: int | None, progress: Progress | None
    ) -> Sequence[Sequence[Direction]]:
        """The right singular vectors v, in the latents, up to the numerical rank."""
        basis = local_basis(
            model, self.latents(model), self.t, self.rank, self.tap, self.condition(model),
            quality=self.quality, memory=memory,
        )  # fmt: skip
        # Of rank 0 the first one says why there is none.
        return [[basis.direction(index)] for index in range(max(int(basis.rank[0]), 1))]


@dataclass(frozen=True, eq=False, kw_only=True)
class OfSpectral(AtASample):
    """`directions.spectral`.

    Attributes:
        tap: where h is read; None for the middle block.
        mask: where the noise is looked at, `[H, W]` from 0 to 1, of the latents or a multiple; None
            for all of it.
    """

    method: ClassVar[str] = "spectral"
    tap: str | None = None
    mask: torch.Tensor | None = None

    @override
    def check(self, model: LatentModel) -> None:
        """As `AtASample`, and raise unless the tap exists and the mask fits."""
        super().check(model)
        model.site(self.tap)
        if self.mask is not None:
            region_of(model, self.mask)

    @override
    def found(
        self, model: LatentModel, memory: int | None, progress: Progress | None
    ) -> Sequence[Sequence[Direction]]:
        """The directions up to the numerical rank."""
        found = directions.spectral(
            model, self.latents(model), self.t, self.rank, tap=self.tap,
            mask=None if self.mask is None else region_of(model, self.mask),
            cond=self.condition(model), quality=self.quality, memory=memory,
        )  # fmt: skip
        # Of rank 0 the first one says why there is none.
        return [[found.direction(index)] for index in range(max(int(found.basis.rank[0]), 1))]


@dataclass(frozen=True, eq=False, kw_only=True)
class OfRegion(AtASample):
    """A way to find what changes a region.

    Attributes:
        mask: the region, `[H, W]` from 0 to 1, of the latents or a multiple.
        null: directions of the rest that are projected off.
    """

    mask: torch.Tensor
    null: int = 5

    @override
    def check(self, model: LatentModel) -> None:
        """As `AtASample`, and raise unless the mask fits."""
        super().check(model)
        region_of(model, self.mask)


@dataclass(frozen=True, eq=False, kw_only=True)
class OfLocal(OfRegion):
    """`directions.local`.

    Attributes:
        joint: weigh the region and the rest, in place of the projection.
    """

    method: ClassVar[str] = "local"
    joint: bool = False

    @override
    def found(
        self, model: LatentModel, memory: int | None, progress: Progress | None
    ) -> Sequence[Sequence[Direction]]:
        """The directions of which something is left."""
        found = directions.local(
            model, self.latents(model), self.t, region_of(model, self.mask), self.rank,
            null=self.null, cond=self.condition(model), joint=self.joint, quality=self.quality,
            memory=memory,
        )  # fmt: skip
        left = [index for index in range(self.rank) if bool(found.v[0, index].any())]
        # With none at all the first one says why.
        return [[found.direction(index)] for index in left or [0]]


@dataclass(frozen=True, eq=False, kw_only=True)
class OfTarget(OfRegion):
    """`directions.toward`.

    Attributes:
        rank: 1, since there is one direction.
        target_class: class label to move to.
        target_prompt: prompt to move to.
    """

    method: ClassVar[str] = "toward"
    rank: int = 1
    target_class: int | None = None
    target_prompt: str | None = None

    @property
    @override
    def labelled(self) -> bool:
        """Whether both conditions are class labels."""
        return super().labelled and self.target_class is not None

    def target(self, model: LatentModel) -> Condition:
        """The condition to move to.

        Raises:
            ValueError: there is none.
        """
        found = condition_of(model, self.target_class, self.target_prompt)
        if found is None:
            raise ValueError(
                "Expected a target to move to, got none. Give --target-class or --target-prompt."
            )
        return found

    @override
    def check(self, model: LatentModel) -> None:
        """As `OfRegion`, and raise unless the model takes the target."""
        super().check(model)
        model.conditions.of(self.target(model), 1)

    @override
    def found(
        self, model: LatentModel, memory: int | None, progress: Progress | None
    ) -> Sequence[Sequence[Direction]]:
        """The one direction."""
        found = directions.toward(
            model, self.latents(model), self.t, self.target(model), region_of(model, self.mask),
            null=self.null, cond=self.condition(model), quality=self.quality, memory=memory,
        )  # fmt: skip
        to = self.target_class if self.target_prompt is None else self.target_prompt
        return [[found.direction(0).renamed(called(f"toward {to}"))]]


def called(text: str) -> str:
    """A text as the name of a direction: one line, and not too long."""
    return " ".join(text.split())[:100]


def condition_of(
    model: LatentModel, class_label: int | None, prompt: str | None
) -> Condition | None:
    """The condition of a class label or of a prompt, of one row; None without either."""
    if prompt is not None:
        return model.encode(prompt=prompt)
    return None if class_label is None else model.encode(class_label=class_label)


def region_of(model: LatentModel, mask: torch.Tensor) -> torch.Tensor:
    """Where a mask of the latents or of the image is white by half or more, bool `[H, W]`.

    Raises:
        ValueError: it does not fit the latents, or it selects nothing or everything.
    """
    region = editing.on_latents(mask, model.latent_shape) >= 0.5
    if bool(region.all()) or not bool(region.any()):
        what = "everything" if bool(region.any()) else "nothing"
        raise ValueError(
            f"Expected a mask of a region, white on black, got one that selects {what}."
        )
    return region
