"""Local latent bases of diffusion models: the geometry that features induce on latents.

The public names are loaded when they are first used, so that `import pullback` and the command
line's help do not wait for torch and diffusers.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from pullback._garbage import paused
from pullback._version import __version__

if TYPE_CHECKING:
    from pullback import krylov, maps
    from pullback.directions import Direction
    from pullback.editing import edit, sweep
    from pullback.geometry import (
        GlobalDirections,
        LocalBasis,
        basis,
        global_directions,
        local_basis,
        mean_metric,
        tangent_distances,
    )
    from pullback.geometry.transport import latent_path, shoot, transport
    from pullback.models import LatentModel, denoise, invert, load, states
    from pullback.operators import JacobianOperator

_MODULE_OF = {
    "Direction": "directions",
    "GlobalDirections": "geometry",
    "JacobianOperator": "operators",
    "LatentModel": "models",
    "LocalBasis": "geometry",
    "basis": "geometry",
    "denoise": "models",
    "edit": "editing",
    "global_directions": "geometry",
    "invert": "models",
    "latent_path": "geometry.transport",
    "load": "models",
    "local_basis": "geometry",
    "mean_metric": "geometry",
    "shoot": "geometry.transport",
    "states": "models",
    "sweep": "editing",
    "tangent_distances": "geometry",
    "transport": "geometry.transport",
}

__all__ = [
    "Direction",
    "GlobalDirections",
    "JacobianOperator",
    "LatentModel",
    "LocalBasis",
    "__version__",
    "basis",
    "denoise",
    "edit",
    "global_directions",
    "invert",
    "krylov",
    "latent_path",
    "load",
    "local_basis",
    "maps",
    "mean_metric",
    "shoot",
    "states",
    "sweep",
    "tangent_distances",
    "transport",
]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(_imported(_MODULE_OF[name]), name)
    if name in ("krylov", "maps"):
        return _imported(name)
    raise AttributeError(f"module 'pullback' has no attribute {name!r}")


def _imported(name: str) -> ModuleType:
    with paused():
        return importlib.import_module(f"pullback.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
