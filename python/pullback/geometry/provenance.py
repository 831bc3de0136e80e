"""What is written down of every result that the Jacobians of a map gave."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from pullback import maps
from pullback._version import __version__


def of_map(map: maps.Map, seed: int) -> dict[str, Any]:
    """The model, the map, the seed and the versions, as JSON holds them; the timesteps go beside.

    Cost: all weights are read once, unless they were before.
    """
    model = map.model
    return {
        "model": model.name,
        "fingerprint": model.seen_fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        "map": map.name,
        "wrt": map.wrt,
        "tap": None if map.site is None else str(map.site),
        "seed": seed,
        "pullback": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
