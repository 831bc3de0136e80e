"""Conditions: checking those that are given, and making them from prompts and class labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pullback._numbers import is_several, whole
from pullback.models import fingerprints
from pullback.models.encoding import avoided, encoded
from pullback.models.families import Argument, Family, flat
from pullback.models.finding import UnreadableError
from pullback.models.placement import Placement
from pullback.models.reading import Reading
from pullback.models.watching import accepts

#: The network's own forward arguments, batch first.
Condition = Mapping[str, Any]


class Conditions:
    """What a model's network is conditioned on.

    Args:
        network: the network, unwrapped.
        family: what is known of networks of its class.
        placement: its device and dtype.
        name: what messages call the model.
        pipeline: the diffusers pipeline that makes its conditions, or None.
        reading: how that calls the network, where it has been read.
        null: the condition that stands for "no condition", per sample (without the batch), where
            neither the network's class nor the pipeline says one.

    Raises:
        TypeError, ValueError: the null condition is none that the network takes.
    """

    def __init__(
        self,
        network: Any,
        family: Family,
        placement: Placement,
        name: str,
        pipeline: Any = None,
        reading: Reading | None = None,
        null: Condition | None = None,
    ) -> None:
        self._network, self._family, self._placement = network, family, placement
        self._name, self._pipeline, self._reading = name, pipeline, reading
        self._empty_prompt: dict[str, torch.Tensor] | None = None
        self._given: dict[str, torch.Tensor] | None = None
        if null is not None:
            self._given = {name: _tensor(value) for name, value in flat(null).items()}
            self.of(None, 1)  # raises what is wrong with it

    @property
    def arguments(self) -> dict[str, Argument] | None:
        """The conditioning arguments of the network; None where they are not known."""
        return self._family.arguments(self._network)

    @property
    def given_null(self) -> dict[str, torch.Tensor] | None:
        """The null condition that was given, flat, each `[*shape]` of one sample; else None."""
        return self._given

    @property
    def fingerprint(self) -> str:
        """Short hash of what conditions are made of: the null condition and the text encoders.

        Cost: all weights of the text encoders are read once.
        """
        given = self._given or {}
        null = [part for name in sorted(given) for part in (name, given[name])]
        return fingerprints.of(*null, fingerprints.of_prompts(self._pipeline))

    @property
    def null(self) -> dict[str, torch.Tensor]:
        """The null condition, each `[*shape]` of one sample; empty where none is needed.

        It is the one given, or what the network's class has for it, or what the pipeline guides
        away from, or the empty prompt where that does not guide.

        Raises:
            ValueError: the network needs a condition and has no known null condition.
        """
        found = self._given
        if found is None:
            found = self._family.null(self._network)
        if found is None:
            found = self._encoded_null()
        if found is not None:
            return {name: value.to(self._placement.device) for name, value in found.items()}
        needed = [name for name, kind in (self.arguments or {}).items() if kind.needed]
        if needed == ["class_labels"]:
            raise ValueError(
                f"{self._name} is conditional on a class and has no known null class, so a "
                'condition is needed. Pass cond={"class_labels": labels}, or name the null class '
                "once: LatentModel(network, scheduler, null_cond={'class_labels': "
                "torch.tensor(...)})."
            )
        if needed:
            raise ValueError(
                f"{self._name} needs a condition ({', '.join(needed)}) and knows no null "
                "condition. Pass cond={...}; or load the whole pipeline, so that the empty prompt "
                "can be encoded; or name it once: LatentModel(network, scheduler, null_cond={...})."
            )
        return {}

    def _encoded_null(self) -> dict[str, torch.Tensor] | None:
        """What the pipeline guides away from; where it guides from nothing, the empty prompt."""
        if self._empty_prompt is None and self._reading is not None:
            found = avoided(self._pipeline, self._reading)
            if found is None:
                prompt = {"prompt": ""} if accepts(self._pipeline, "prompt") else {}
                found = self._of_pipeline(prompt, 1)
            self._empty_prompt = {name: value[0] for name, value in found.items()}
        return self._empty_prompt

    def of(self, cond: Condition | None, count: int | None = None) -> dict[str, torch.Tensor]:
        """The condition of a batch: checked, on the network's device, `[count, ...]` each.

        Args:
            cond: tensors `[count, ...]` or `[1, ...]` by the names of the network's forward
                arguments; None is the null condition.
            count: samples in the batch; by default as many as the condition has rows.

        Raises:
            TypeError: cond is no mapping, or holds what is no tensor.
            ValueError: an unknown name, another batch size, or a class that does not exist.
        """
        if cond is None:
            cond = {name: value.unsqueeze(0) for name, value in self.null.items()}
            if not cond:
                return {}
        if count is None:
            count = _rows(cond)
        found = checked(cond, count, self.arguments, self._placement.device, self._name)
        if self.arguments is None or self._family.own_dtypes:
            return found
        # In the network's dtype, as pipelines hand them over; a callable takes what it is given.
        dtype = self._placement.dtype
        return {n: v.to(dtype) if v.is_floating_point() else v for n, v in found.items()}

    def placeholder(self, count: int) -> dict[str, torch.Tensor]:
        """A valid condition `[count, ...]`, for passes in which only shapes matter."""
        try:
            return self.of(None, count)
        except ValueError:  # no null condition is known
            blank = self._family.blank(self._network)
            place = self._placement
            return {
                name: value.to(place.device, place.dtype if value.is_floating_point() else None)
                .unsqueeze(0)
                .expand(count, *value.shape)
                for name, value in blank.items()
            }

    def encode(
        self,
        prompt: str | Sequence[str] | None = None,
        class_label: int | Sequence[int] | None = None,
        guidance: float | None = None,
        **given: Any,
    ) -> dict[str, torch.Tensor]:
        """A condition `[B, ...]` from prompts, labels or more: see `LatentModel.encode`."""
        if (prompt is None and not given) == (class_label is None):
            raise ValueError(
                "Expected either prompt= or class_label=, or else what the pipeline's call takes; "
                "got both or neither."
            )
        if class_label is not None:
            return self._of_labels(class_label)
        if guidance is not None:
            names = ("distilled_guidance_scale", "guidance_scale")
            taken = [name for name in names if accepts(self._pipeline, name)]
            given[taken[0] if taken else names[-1]] = self._scale(guidance)
        if prompt is None:
            return self.of(self._of_pipeline(given))
        several = isinstance(prompt, Sequence) and not isinstance(prompt, str)
        prompts = list(prompt) if several else [prompt]
        if not prompts or not all(isinstance(one, str) for one in prompts):
            raise ValueError(f"Expected one prompt or several, got {prompt!r}.")
        return self.of(self._of_pipeline({"prompt": prompts, **given}, len(prompts)), len(prompts))

    def _of_labels(self, class_label: int | Sequence[int]) -> dict[str, torch.Tensor]:
        known = self.arguments
        if known is not None and "class_labels" not in known:
            raise ValueError(f"{self._name} takes no class label.{_takes(known)}")
        labels = _labels(class_label)
        cond = {"class_labels": torch.tensor(labels, dtype=torch.int64, device="cpu")}
        return self.of(cond, len(labels))

    def _scale(self, guidance: float) -> float:
        if self._reading is None or not self._reading.distilled:
            raise ValueError(
                f"{self._name} takes no guidance scale: its network has no such argument. Leave "
                "guidance out."
            )
        try:
            return float(guidance)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"Expected guidance as a number, got {guidance!r}.") from None

    def _of_pipeline(self, given: Mapping[str, Any], count: int = 0) -> dict[str, torch.Tensor]:
        """The condition that the pipeline makes; of `count` samples, where that is known."""
        if self._reading is None:
            known = self.arguments
            if "prompt" in given and known is not None and "encoder_hidden_states" not in known:
                raise ValueError(f"{self._name} takes no prompt.{_takes(known)}")
            raise ValueError(self._why_no_pipeline())
        unknown = [name for name in given if not accepts(self._pipeline, name)]
        if unknown:
            takes = "" if self.arguments is None else _takes(self.arguments)
            raise ValueError(
                f"{self._name} takes no {unknown[0]}: its {type(self._pipeline).__name__} has no "
                f"such argument.{takes}"
            )
        try:
            found = encoded(self._pipeline, self._reading, given)
        except UnreadableError as error:
            raise ValueError(
                f"This {type(self._pipeline).__name__} calls its network in another way than when "
                f"it was loaded: {error}. Load it with the keyword arguments of such a call: "
                "pullback.load(pipeline, call={...})."
            ) from error
        rows = _rows({n: v for n, v in found.items() if n not in self._reading.shared})
        if count and rows != count:
            raise ValueError(
                f"Expected a condition of {count} samples from {self._name}, got one of {rows}."
            )
        return found

    def _why_no_pipeline(self) -> str:
        if self._pipeline is None:
            return (
                f"{self._name} was made from a network alone, which cannot encode a prompt. Load "
                "the whole pipeline: pullback.load(pipeline), or pass the embeddings as cond={...}."
            )
        return (
            f"This {type(self._pipeline).__name__} has no text encoder. Expected a pipeline that "
            "was saved whole; or pass the embeddings as cond={...}."
        )


def _takes(arguments: Mapping[str, Argument]) -> str:
    """What a network takes, as a sentence."""
    kinds = {"class_labels": "a class label", "encoder_hidden_states": "a prompt"}
    takes = [kind for name, kind in kinds.items() if name in arguments]
    return f" Expected {' or '.join(takes) or 'no condition at all'}."


def _labels(given: int | Sequence[int]) -> list[int]:
    """Class labels as ints, from one or several; raises ValueError unless they are whole."""
    labels: Any = given if is_several(given) else [given]
    return [whole("class_label", one, -(2**63), 2**63 - 1) for one in labels]


def _rows(cond: Condition) -> int:
    """The most rows that a tensor of a condition has; 1 where it has no tensors."""
    given = flat(cond).values() if isinstance(cond, Mapping) else ()
    values = (_tensor(value) for value in given)
    return max((len(value) for value in values if value.dim()), default=1)


def checked(
    cond: Mapping[str, Any],
    count: int,
    arguments: Mapping[str, Argument] | None,
    device: torch.device,
    name: str,
) -> dict[str, torch.Tensor]:
    """A condition as the network takes it: flat, on its device, `[count, ...]` each.

    Class labels become int64, whatever integers they are; everything else keeps its dtype.

    Args:
        cond: tensors `[count, ...]` or `[1, ...]` by the names of the network's forward arguments;
            mappings of such tensors where the network takes a mapping.
        count: samples in the batch.
        arguments: what the network takes; None where that is not known.
        device: the network's.
        name: the model's, for messages.

    Raises:
        TypeError: cond is no mapping, or holds what is no tensor.
        ValueError: an unknown or missing name, another batch size, or a class that does not exist.
    """
    if not isinstance(cond, Mapping):
        raise TypeError(
            f"Expected cond as a mapping from argument names to tensors, got "
            f'{type(cond).__name__}. For a class: cond={{"class_labels": torch.tensor([3])}}; for '
            "a prompt: cond=model.encode(prompt=...)."
        )
    result = {}
    for argument, given in flat(cond).items():
        if arguments is not None and argument not in arguments:
            raise ValueError(
                f"Expected a condition with the names {sorted(arguments) or 'none'} for {name}, "
                f"got {argument!r}."
            )
        try:
            value = _tensor(given)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"Expected cond[{argument!r}] as a tensor, batch first, got "
                f"{type(given).__name__}. model.encode turns prompts and labels into tensors."
            ) from None
        if value.dim() == 0 or value.shape[0] not in (1, count):
            raise ValueError(
                f"Expected cond[{argument!r}] with {count} rows, one per sample (or 1 for all), "
                f"got shape {tuple(value.shape)}."
            )
        classes = 0 if arguments is None else arguments[argument].classes
        if classes:
            value = _labels_of(value, classes)
        result[argument] = value.to(device).clone().expand(count, *value.shape[1:])
    missing = {
        argument for argument, kind in (arguments or {}).items() if kind.needed
    } - result.keys()
    if missing:
        raise ValueError(
            f"Expected a condition with {sorted(missing)} for {name}, got "
            f"{sorted(result) or 'an empty mapping'}."
        )
    return result


def _tensor(value: Any) -> torch.Tensor:
    """A tensor as it is; numbers and arrays as one on the CPU, whatever torch's default device."""
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value, device="cpu")


def _labels_of(value: torch.Tensor, classes: int) -> torch.Tensor:
    """Class labels in int64, which an embedding takes; whole numbers of any width will do."""
    whole_numbers = not (
        value.dim() != 1
        or value.is_floating_point()
        or value.is_complex()
        or value.dtype == torch.bool
    )
    labels = value.to(torch.int64) if whole_numbers else value
    if not whole_numbers or not bool(((labels >= 0) & (labels < classes)).all()):
        raise ValueError(
            f"Expected class labels as whole numbers [{len(value)}] between 0 and {classes - 1}, "
            f"got {value.tolist()}."
        )
    return labels
