"""What is known of a network that belongs to a pipeline, and of one that does not."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import ModelMixin, UNet2DModel

from pullback.models.families import Family, Observed, blocks_of, family_of
from pullback.models.families.custom import Custom
from pullback.models.folders import first_line
from pullback.models.learning import read
from pullback.models.reading import Reading
from pullback.models.watching import accepts

_PROMPT = "a picture"


def known_family(network: Any, reading: Reading | None) -> Family:
    """The family of a network, called as its pipeline calls it where that has been read.

    Raises:
        ValueError: a network of diffusers in units that nobody has stated.
    """
    known = family_of(network)
    if reading is not None:
        return Observed(reading, blocks_of(network) if isinstance(known, Custom) else known)
    if isinstance(known, Custom) and isinstance(network, ModelMixin):
        name = type(network).__name__
        raise ValueError(
            f"In which units a {name} counts time, and what it returns, is not known for the "
            "network alone. Load the whole pipeline, which says so by its own run: "
            "pullback.load(pipeline); or wrap the network in a module f(x, t, **cond) that takes t "
            "in training timesteps of the scheduler and returns what that is made for."
        )
    return known


def reading_of(
    pipeline: Any,
    network: Any,
    call: Mapping[str, Any] | None,
    latent_shape: Sequence[int] | None,
) -> Reading | None:
    """How a pipeline calls its network.

    Args:
        pipeline: a diffusers pipeline, or None.
        network: its denoising network.
        call: keyword arguments that its call needs.
        latent_shape: the shape of x, where another than the pipeline's own is wanted.

    Returns:
        The reading; None where there is no pipeline, or where it cannot run and its network is
        of a class that is known by itself: unconditional ones, and without any text encoder.

    Raises:
        ValueError: it cannot be read, or nothing is called that would take the arguments.
    """
    if pipeline is None or isinstance(network, UNet2DModel):
        if call:
            raise ValueError(
                f"Expected no keyword arguments of a call, got {', '.join(call)}: how this "
                f"{type(network).__name__} is called is known, and no pipeline is asked. Leave "
                "call out."
            )
        return None
    encoders = [
        part for name, part in pipeline.components.items() if name.startswith("text_encoder")
    ]
    known = not isinstance(family_of(network), Custom)
    if known and encoders and not any(encoders) and not call:
        return None
    unknown = [name for name in call or {} if not accepts(pipeline, name)]
    if unknown:
        taken = list(inspect.signature(type(pipeline).__call__).parameters)[1:]
        raise ValueError(
            f"The call of this {type(pipeline).__name__} takes no {unknown[0]}. Expected some of "
            f"{', '.join(taken)}."
        )
    given = _asked(pipeline, latent_shape) | dict(call or {})
    try:
        return read(pipeline, network, given)
    except Exception as error:  # a pipeline passes on whatever its parts raise
        reason, cause = first_line(error), error
        if isinstance(error, NameError):  # of a package that diffusers imports where it is there
            reason += f" Is the package there? pip install {error.name}."
    needed = "pullback.load(pipeline, call={...}) with the keyword arguments that "
    raise ValueError(
        f"How this {type(pipeline).__name__} calls its {type(network).__name__} could not be read "
        f"from a run of it: {reason} Expected a pipeline that runs: {needed}its call needs."
    ) from cause


def _asked(pipeline: Any, latent_shape: Sequence[int] | None) -> dict[str, Any]:
    """Keyword arguments for one sample of any prompt or class."""
    given: dict[str, Any] = {"output_type": "latent"} if accepts(pipeline, "output_type") else {}
    if accepts(pipeline, "prompt"):
        given["prompt"] = _PROMPT
    if accepts(pipeline, "class_labels"):
        given["class_labels"] = [0]
    if latent_shape is not None and accepts(pipeline, "height"):
        scale = int(getattr(pipeline, "vae_scale_factor", 1))
        height, width = latent_shape[-2:]
        given |= {"height": height * scale, "width": width * scale}
    return given
