"""The maps on either side of a feature: x → h and h → output."""

from __future__ import annotations

import torch
from torch import nn

from pullback.maps.map import Map
from pullback.maps.outputs import converter
from pullback.maps.replay import not_reached
from pullback.maps.variables import ConditionPair, Feature, Held, variable_of
from pullback.models import LatentModel, Reached, TapName, check_model, hooked, pooled


def encoder(
    model: LatentModel,
    tap: TapName | None = None,
    *,
    pool: str | None = None,
    wrt: str = "x",
) -> Map:
    """The map x → h, the feature at a tap. The forward pass stops right after it.

    Args:
        model: the model.
        tap: a module path, or (path, index) where the module returns a tuple; the middle block by
            default.
        pool: "space" for the mean of the feature over space.
        wrt: "x", or "prompt" for the Jacobian with respect to the prompt's embedding.

    Raises:
        TypeError: the model is none.
        ValueError: there is no such module, or pool or wrt is something else.
    """
    check_model(model)
    site = model.site(tap)
    if pool not in (None, "space"):
        raise ValueError(f'Expected pool="space" or None, got {pool!r}.')
    variable = variable_of(wrt)
    module = model.module(site)

    def read(
        x: torch.Tensor, t: torch.Tensor, conditions: ConditionPair, _: Held | None
    ) -> torch.Tensor:
        reached: list[torch.Tensor] = []

        def stop(module: nn.Module, output: object) -> None:
            reached.append(site.read(module, output, len(x)))
            raise Reached

        with hooked(module, stop):
            try:
                model.call(x, t, conditions.positive)
            except Reached:
                return reached[0] if pool is None else pooled(reached[0])
        raise not_reached(site)

    name = f"encoder {site}" if pool is None else f"encoder {site}, pooled over {pool}"
    return Map(model, name, variable, site, read)


def decoder(
    model: LatentModel,
    tap: TapName | None = None,
    kind: str = "noise",
) -> Map:
    """The map h → the network's output, with x, the condition and all skip connections held.

    The feature at the tap is the variable; at the bound point it is that of x itself. Blocks up to
    the tap are computed once, when the map is bound: a product costs the decoder part only. Where
    a module is used more than once, h is the feature of its first call.

    Args:
        model: the model.
        tap: as in `encoder`; the feature must not be pooled.
        kind: as in `output`.

    Raises:
        TypeError: the model is none.
        ValueError: there is no such module, or kind is unknown.
    """
    check_model(model)
    site = model.site(tap)
    module, convert = model.module(site), converter(model, kind)

    def decode(
        x: torch.Tensor, t: torch.Tensor, conditions: ConditionPair, h: Held | None
    ) -> torch.Tensor:
        assert h is not None
        seen: list[bool] = []

        def put(module: nn.Module, output: object) -> object:
            if seen:  # a module that is used again: h is the feature of its first call
                return None
            seen.append(True)
            # A copy, since what follows may change it in place.
            return site.write(module, output, h.feature.clone())

        # Around the network's call alone: what `then` adds may use the same network.
        with h.replayed(), hooked(module, put):
            prediction = model.call(x, t, conditions.positive)
        if not seen:
            raise not_reached(site)
        return convert(prediction, x, t)

    return Map(model, f"decoder {site} to {kind}", Feature(site), site, decode)
