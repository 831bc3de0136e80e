"""What the fields of a direction must be; each check gives the field in its one lasting form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch

from pullback._numbers import whole
from pullback.models import Site

SPACES = ("x", "h", "prompt")

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: How far from 1 a norm may be: in steps of the dtype, since rounding each entry costs half a step;
#: and for float64, whose sums of many squares differ between machines by more than that.
_STEPS, _ROUNDING = 4, 1e-12

#: Entries of the provenance that others read, where they are there.
_TEXTS = ("model", "fingerprint", "dtype", "how", "pullback", "torch", "diffusers")


def check_numbers(vector: object) -> torch.Tensor:
    """A tensor that can be made a unit vector: dense, floating, finite, not zero.

    Raises:
        TypeError: it is no tensor.
        ValueError: what else is wrong with it.
    """
    if not isinstance(vector, torch.Tensor):
        raise TypeError(
            f"Expected the vector as a tensor [*shape], got {type(vector).__name__}. Convert it "
            "with torch.as_tensor."
        )
    if vector.dtype not in _DTYPES or vector.layout != torch.strided or vector.is_meta:
        raise ValueError(
            f"Expected the vector as a dense tensor in one of {', '.join(map(str, _DTYPES))}, got "
            f"{vector.dtype}, {vector.layout}, on {vector.device}. Convert it with .float()."
        )
    if vector.dim() == 0 or vector.numel() == 0:
        raise ValueError(
            f"Expected a vector [*shape] of one direction, without a batch, got shape "
            f"{list(vector.shape)}."
        )
    if not bool(torch.isfinite(vector).all()):
        raise ValueError("Expected finite numbers in the vector, got NaN or Inf.")
    if not bool(vector.any()):
        raise ValueError("Expected a vector other than zero, which has no direction.")
    return vector


def normalised(vector: torch.Tensor) -> torch.Tensor:
    """A new tensor [*shape] of norm 1 in the same dtype; of numbers that were checked."""
    # Divided by the largest first: squares of float64 overflow and vanish.
    wide = vector.detach().double()
    wide = wide / wide.abs().max()
    return (wide / torch.linalg.vector_norm(wide)).to(vector.dtype)


def check_unit_vector(vector: object) -> None:
    """Raise unless it is what `check_numbers` takes, and of norm 1 up to rounding."""
    found = check_numbers(vector)
    norm = float(torch.linalg.vector_norm(found.detach().double()))
    if abs(norm - 1) > max(_STEPS * torch.finfo(found.dtype).eps, _ROUNDING):
        raise ValueError(
            f"Expected a vector of norm 1, got {norm:.6g}. Direction.of(vector, ...) divides by "
            "the norm."
        )


def check_space(space: object) -> None:
    """Raise ValueError unless it is one of the spaces that directions lie in."""
    if not isinstance(space, str) or space not in SPACES:
        raise ValueError(
            'Expected space as "x" (latents), "h" (a feature) or "prompt" (a prompt\'s embedding), '
            f"got {space!r:.60}."
        )


def tap_of(tap: Any, space: str) -> str | None:
    """The tap as a text, in the space h; None in the others.

    Raises:
        ValueError: there is none where one is needed, or one where none is.
        TypeError: it is no tap's name.
    """
    if space != "h":
        if tap is not None:
            raise ValueError(f'Expected no tap for the space "{space}", got {tap!r:.60}.')
        return None
    found = None if tap is None else str(Site.of(tap))
    if not found or not found.isprintable():
        raise ValueError(
            'Expected tap to say where h is read, such as "mid_block" or "blocks.0:1", got '
            f"{tap!r:.60}. LatentModel.taps lists a model's taps."
        )
    return found


def check_shape(shape: tuple[int, ...], space: str, pool: object) -> None:
    """Raise ValueError unless the shape is one of the space, and pool allows it."""
    if pool not in (None, "space"):
        raise ValueError(f'Expected pool="space" or None, got {pool!r:.60}.')
    if pool is not None and space != "h":
        raise ValueError(f'Expected no pool for the space "{space}": only features are pooled.')
    if pool is not None and len(shape) != 1:
        raise ValueError(
            f"Expected a pooled feature [C], with one number for each channel, got {list(shape)}. "
            "Leave pool out for a feature of every place."
        )
    if space == "prompt" and len(shape) != 2:
        raise ValueError(f"Expected a prompt's embedding [tokens, width], got {list(shape)}.")


def window_of(window: Any) -> tuple[int, int] | None:
    """The window as (from, to) timesteps in training units, from the larger to the smaller."""
    if window is None:
        return None
    ordered = isinstance(window, (list, tuple)) or getattr(window, "ndim", 0) == 1
    if not ordered or len(window) != 2:
        raise ValueError(
            f"Expected window as two timesteps (from, to), got {window!r:.60}. None is for t alone."
        )
    start, stop = (whole("a timestep of the window", value, 0) for value in window)
    if start < stop:
        raise ValueError(
            f"Expected a window from a timestep down to a smaller one, as sampling goes, got "
            f"{start} to {stop}. Swap them."
        )
    return start, stop


def unit_of(unit: object) -> float:
    """The unit as a float; raises ValueError unless it is finite and above 0."""
    value = _number(unit)
    if not 0 < value < math.inf:
        raise ValueError(f"Expected unit as a finite number above 0, got {unit!r:.60}.")
    return value


def strength_of(strength: object) -> float:
    """A strength as a float; raises ValueError unless it is a finite number."""
    value = _number(strength)
    if not math.isfinite(value):
        raise ValueError(f"Expected strength as a finite number, got {strength!r:.60}.")
    return value


def _number(value: object) -> float:
    """A number of any real type, or a tensor or array of one, as a float; NaN where it is none."""
    one = isinstance(value, Real) or getattr(value, "ndim", None) == 0
    if not one or isinstance(value, bool):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (OverflowError, TypeError, ValueError, RuntimeError):
        return math.nan


def check_name(name: object) -> None:
    """Raise ValueError unless it is a text of one line."""
    if not isinstance(name, str) or not name.isprintable() or len(name) > 100:
        raise ValueError(
            f"Expected name as a label of one line and at most 100 characters, got {name!r:.60}."
        )


def provenance_of(provenance: object) -> dict[str, Any]:
    """A copy of the provenance as JSON gives it back: lists for tuples, texts for keys.

    Raises:
        ValueError: it is no mapping, JSON cannot hold it, or an entry that others read is no text.
    """
    if not isinstance(provenance, Mapping):
        raise ValueError(f"Expected provenance as a mapping, got {provenance!r:.60}.")
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected provenance as JSON holds it: texts, finite numbers, lists, mappings; "
            f"{error}. Convert tensors with .tolist()."
        ) from None
    for name in _TEXTS:
        if not isinstance(found.get(name, ""), str):
            raise ValueError(
                f"Expected {name} as a text in the provenance, got {found[name]!r:.60}."
            )
    return found
