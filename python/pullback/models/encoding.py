"""The conditions that a pipeline hands to its network, for prompts and whatever else it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pullback.models.asking import with_rows
from pullback.models.reading import Reading, parts_of, same
from pullback.models.watching import watch


def encoded(pipeline: Any, reading: Reading, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The condition `[B, ...]` that a pipeline hands to its network.

    Args:
        pipeline: the pipeline of the reading.
        reading: how it calls its network.
        given: keyword arguments of its call.

    Raises:
        UnreadableError: it calls its network otherwise than when it was read.
        ValueError: it takes one prompt at a time, and these are of several lengths.
        Whatever the pipeline raises.

    Cost: that of its text encoders, and of helpers such as a ControlNet; not of the network.
    """
    network = reading.passes[-1].network
    prompts = given.get("prompt")
    asked = {**reading.given, **reading.guidance, **given}
    if isinstance(prompts, list):
        asked |= with_rows(asked, reading.per_sample, len(prompts))
    try:
        run = watch(pipeline, network, asked, 0)
    except Exception:  # a pipeline passes on whatever its parts raise
        if not isinstance(prompts, list) or len(prompts) < 2:
            raise
        each = [encoded(pipeline, reading, {**given, "prompt": [one]}) for one in prompts]
        return _joined(each, reading.shared)
    return reading.condition(run.steps[0].calls)


def _joined(
    conditions: list[dict[str, torch.Tensor]], shared: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """One condition of those of several samples, of a pipeline that takes one prompt at a time."""
    joined = {}
    for name, first in conditions[0].items():
        values = [one[name] for one in conditions]
        if len({value.shape for value in values}) > 1:
            raise ValueError(
                f"This pipeline takes one prompt at a time, and its network's {name!r} has the "
                f"shapes {[list(value.shape) for value in values]} for these. Expected prompts of "
                "one length: encode the others one by one."
            )
        joined[name] = first if name in shared else torch.cat(values)
    return joined


def avoided(pipeline: Any, reading: Reading) -> dict[str, torch.Tensor] | None:
    """The condition `[1, ...]` that a pipeline guides away from by default.

    Returns:
        The condition; None where the pipeline guides from none.

    Cost: one forward pass of two samples, and the text encoders twice.
    """
    if not reading.guidance:
        return None
    network = reading.passes[-1].network
    wanted = encoded(pipeline, reading, {})
    run = watch(pipeline, network, reading.guided, 1)
    calls, size = run.steps[0].calls, len(reading.passes)
    found = [parts_of(reading, calls[at : at + size]) for at in range(0, len(calls), size)]
    others = [one for parts in found for one in parts if not same(one, wanted)]
    return others[0] if others else None
