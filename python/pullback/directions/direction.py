"""A semantic direction: one unit vector, where it lives, when it applies and how it was found."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pullback._numbers import whole
from pullback._version import __version__
from pullback.directions import bases, checks, comparing, fitting, hub, stored
from pullback.geometry import LocalBasis
from pullback.models import LatentModel, TapName, check_model


@dataclass(frozen=True, eq=False)
class Direction:
    """One semantic direction, in the latents, in a feature or in a prompt's embedding.

    What is added at strength a is `a * unit * vector`. `Direction.of` makes one of any vector,
    `Direction.of_basis` of a local basis.

    Attributes:
        vector: `[*shape]` of its space, without a batch, of norm 1, in a floating dtype.
        space: "x" (latents x_t), "h" (the feature at a tap) or "prompt" (a prompt's embedding
            `[tokens, width]`).
        tap: where h is read, such as "mid_block" or "blocks.0:1"; None in the other spaces.
        pool: "space" for a pooled feature `[C]`, which is meant for every place; else None.
        t: the timestep in training units at which it was found, or None.
        window: timesteps (from, to) in training units, from >= to, between which it is meant to be
            applied, both included; None leaves it to the edit: latents are moved once, features
            and prompts displaced at every step.
        unit: the norm that strength 1 adds, in the units of its space.
        name: a label of one line.
        provenance: what is known of how it was found, as JSON holds it: model, fingerprint, dtype,
            how, versions and more.

    Raises:
        TypeError: the vector is no tensor, or the tap no tap's name.
        ValueError: a field is not what it must be; the vector is not of norm 1 up to rounding.
    """

    vector: torch.Tensor
    space: str
    tap: str | None = None
    pool: str | None = None
    t: int | None = None
    window: tuple[int, int] | None = None
    unit: float = 1.0
    name: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.check_unit_vector(self.vector)
        checks.check_space(self.space)
        checks.check_shape(tuple(self.vector.shape), self.space, self.pool)
        checks.check_name(self.name)
        lasting = {
            "tap": checks.tap_of(self.tap, self.space),
            "t": None if self.t is None else whole("t", self.t, 0),
            "window": checks.window_of(self.window),
            "unit": checks.unit_of(self.unit),
            "provenance": checks.provenance_of(self.provenance),
        }
        for name, value in lasting.items():
            object.__setattr__(self, name, value)  # as frozen dataclasses set their fields

    @classmethod
    def of(
        cls,
        vector: torch.Tensor,
        space: str,
        *,
        tap: TapName | None = None,
        pool: str | None = None,
        t: int | None = None,
        window: tuple[int, int] | None = None,
        unit: float = 1.0,
        name: str = "",
        model: LatentModel | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Direction:
        """A direction along a vector of any length, which is divided by its norm.

        Args:
            vector: `[*shape]` of the space, finite and not zero, in float16, bfloat16, float32 or
                float64; a copy is kept, on its device.
            space: "x", "h" or "prompt".
            tap: where h is read: a module path, or (path, index) where the module returns a tuple.
            pool: "space" for a pooled feature.
            t: the timestep in training units at which it was found.
            window: timesteps (from, to) in training units between which it is meant.
            unit: the norm that strength 1 adds; `float(vector.norm())` keeps the vector's length.
            name: a label of one line.
            model: the model that it was found with, for the provenance.
            provenance: what else is known, such as `how`; its entries come before the model's.

        Raises:
            TypeError: the vector is no tensor, the tap no tap's name, or the model no model.
            ValueError: a field is not what it must be.

        Cost: with a model, all its weights are read once, unless they were before.
        """
        checks.check_space(space)
        known: dict[str, Any] = {}
        if model is not None:
            check_model(model)
            known = {
                "model": model.name,
                "fingerprint": model.seen_fingerprint,
                "dtype": str(model.dtype).removeprefix("torch."),
                "tap": checks.tap_of(tap, space),
                "t": t,
                "pullback": __version__,
                "torch": torch.__version__,
                "diffusers": version("diffusers"),
            }
        return cls(
            checks.normalised(checks.check_numbers(vector)),
            space,
            tap=checks.tap_of(tap, space),
            pool=pool,
            t=t,
            window=window,
            unit=unit,
            name=name,
            provenance={**known, **(provenance or {})},
        )

    @classmethod
    def of_basis(
        cls, basis: LocalBasis, index: int, sample: int = 0, space: str | None = None
    ) -> Direction:
        """One singular vector of one sample of a local basis, of unit 1.

        Args:
            basis: the basis.
            index: which direction, from 0, below the sample's numerical rank.
            sample: which sample, from 0.
            space: the space of the map's variable ("x", "h" or "prompt"), the default, takes v;
                "h" takes u, the feature's direction, of a basis of `maps.encoder`, also a pooled
                one.

        Returns:
            The direction, found at the sample's t; the provenance is the basis's, with how, index,
            sample, s and the bound.

        Raises:
            TypeError: it is no basis.
            ValueError: no such sample or index, or no vector in that space: of a map whose output
                is not the feature at its tap, only v is a direction.
        """
        return cls.of(**bases.fields(basis, index, sample, space))

    def displacement(self, strength: float) -> torch.Tensor:
        """What a strength adds: `strength * unit * vector`, `[*shape]`, in the vector's dtype.

        Raises:
            ValueError: the strength is no finite number.
        """
        return checks.strength_of(strength) * self.unit * self.vector

    def covers(self, t: int) -> bool:
        """Whether it is meant to be applied at t, in training units.

        Where it knows neither a window nor the timestep at which it was found, it is at every t.
        """
        if self.window is not None:
            return self.window[1] <= t <= self.window[0]
        return self.t is None or t == self.t

    def check_fits(self, model: LatentModel, t: int | None = None) -> None:
        """Raise unless the direction can be applied to a model, and warn where it may mislead.

        A direction of prompts is compared by its width alone, since the number of tokens is the
        condition's.

        Args:
            model: the model.
            t: where it is to be applied, in training units; None leaves the timestep out.

        Raises:
            TypeError: the model is none.
            ValueError: latents, feature or prompts of the model have another shape, the tap does
                not exist, or t is no timestep of the model.

        Warns:
            UserWarning: the model has other weights than the one that the direction was found
                with, or it is not meant for t.

        Cost: for h one forward pass of one sample, up to the tap; for prompts at most the text
        encoders, once. All weights are read once, unless they were before.
        """
        check_model(model)
        shape = tuple(self.vector.shape)
        if self.space == "x":
            fitting.check_x(model, shape)
        elif self.space == "prompt":
            fitting.check_prompt(model, shape)
        else:
            assert self.tap is not None
            fitting.check_h(model, shape, self.tap, self.pool)
        if t is not None and not self.covers(model.schedule.check_timestep(t)):
            warnings.warn(
                f"The direction is meant for {self._when()}, and is to be applied at t={t}, where "
                "it may mean something else. Find it there again, or say with with_window(start, "
                "stop) where it holds.",
                stacklevel=2,
            )
        other = fitting.other_weights(model, self.provenance)
        if other is not None:
            warnings.warn(other, stacklevel=2)

    def compare(self, others: Sequence[Direction]) -> comparing.Comparison:
        """Its cosines with other directions, and theirs with one another; it comes first.

        Raises:
            TypeError: one of them is no direction.
            ValueError: they differ from it in space, tap, shape or weights.
        """
        return comparing.compare([self, *comparing.checked(others)])

    def __neg__(self) -> Direction:
        """The opposite direction; its name begins with "-", and its provenance says "negated"."""
        name = self.name[1:] if self.name.startswith("-") else f"-{self.name}" if self.name else ""
        provenance = {**self.provenance, "negated": not self.provenance.get("negated", False)}
        return replace(self, vector=-self.vector, name=name, provenance=provenance)

    def renamed(self, name: str) -> Direction:
        """The same under another name, a label of one line."""
        return replace(self, name=name)

    def with_unit(self, unit: float) -> Direction:
        """The same with another norm for strength 1, finite and above 0."""
        return replace(self, unit=unit)

    def with_window(self, start: int, stop: int) -> Direction:
        """The same, meant from the timestep start down to stop, in training units, both included.

        Raises:
            ValueError: they are no timesteps, or start is below stop.
        """
        return replace(self, window=(start, stop))

    def to(self, *args: Any, **kwargs: Any) -> Direction:
        """The direction on another device or in another floating dtype, of norm 1 again.

        Takes what `torch.Tensor.to` takes.
        """
        moved = self.vector.to(*args, **kwargs)
        if moved.dtype != self.vector.dtype:
            # Half precision is further from norm 1 than a wider dtype allows.
            moved = checks.normalised(checks.check_numbers(moved))
        return replace(self, vector=moved)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the direction to a safetensors file, with all but the vector in the header.

        The file appears complete or not at all. It may replace a regular file, and of a symbolic
        link the file that it leads to.

        Raises:
            OSError: the file cannot be written, or something else stands there, such as a device.
        """
        stored.write(Path(path), self._values())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Direction:
        """Read a direction that `save` wrote, onto the CPU. Every field is checked.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged or is not a direction; it says what is wrong. Pickles
                are never read.
        """
        path = Path(path)
        fields = stored.read(path)
        try:
            return cls(**fields)
        except (TypeError, ValueError) as error:
            raise stored.damaged(path, f"{error}") from None

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, pictures: hub.Pictures | None = None
    ) -> None:
        """Write a folder for the hub: direction.safetensors, pictures, and a model card README.md.

        Files of these names that are there already are replaced, also a README.md that was edited.
        The card and the file's header show the whole provenance, so the model's name too, which is
        a path where the model was read from a folder.

        Args:
            folder: made where it is missing.
            pictures: files to show in the card, by the names that they get beside it, such as
                {"strengths.png": path}.

        Raises:
            ValueError: a picture's name is not a plain file name of a picture.
            FileNotFoundError: a picture does not exist.
            OSError: a file cannot be written.
        """
        hub.write(Path(folder).expanduser(), self._values(), pictures, "path/of/this/folder")

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], revision: str | None = None
    ) -> Direction:
        """Read a direction from a folder, a file or the hub, onto the CPU.

        Args:
            source: a folder that `save_pretrained` wrote, a file that `save` wrote, or a hub id
                (owner/name), of which only direction.safetensors is fetched. What lies on the disk
                comes first.
            revision: branch, tag or commit of the hub id.

        Raises:
            FileNotFoundError: none of them is there.
            ValueError: the file is damaged or no direction; a revision of what is on the disk.
            OSError: it could not be fetched from the hub.
        """
        return cls.load(hub.locate(source, revision))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        pictures: hub.Pictures | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to the hub, which replaces the same files there.

        Args:
            repo_id: owner/name, or a name of the token's owner; made where it does not exist.
            private: whether a new repository is private; None is the owner's default.
            token: of the hub; None is the one that was logged in with.
            pictures: as for `save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            ValueError: repo_id is no hub id, or a picture's name is none.
            FileNotFoundError: a picture does not exist.
            OSError: it could not be uploaded.
        """
        return hub.push(repo_id, self._values(), pictures, private, token)

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def _when(self) -> str:
        if self.window is not None:
            return f"t={self.window[0]} to {self.window[1]}"
        return "any t" if self.t is None else f"t={self.t}"

    def __repr__(self) -> str:
        vector = self.vector
        parts = [
            f"{self.name!r}" if self.name else "unnamed",
            f"{self.space} at {self.tap}" if self.space == "h" else self.space,
            *(["pooled over space"] if self.pool else []),
            f"{list(vector.shape)}",
            f"for {self._when()}",
            f"unit {self.unit:.4g}",
            f"{vector.dtype}",
            f"{vector.device}",
        ]
        model = self.provenance.get("model")
        return f"Direction({', '.join(parts)}{f', of {model}' if model else ''})"
