"""Predictions of a network whose features, or whose prompts, are displaced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pullback.models import Site, Walker, hooked

_PROMPT = "encoder_hidden_states"


@dataclass(frozen=True)
class Displaced:
    """A displacement inside the network.

    Attributes:
        site: the tap, for a feature; None for the prompt's embedding.
        rows: what is added, `[B, *h_shape]`, or `[B, C]` for every place of a pooled feature, or
            `[B, tokens, width]`.
        window: timesteps (from, to) in training units at which it is, both included; None is all.
    """

    site: Site | None
    rows: torch.Tensor
    window: tuple[float, float] | None

    def covers(self, t: float) -> bool:
        """Whether it is applied at t, in training units."""
        return self.window is None or self.window[1] <= t <= self.window[0]


class Injected:
    """A network's prediction with displacements at their timesteps.

    Args:
        walker: predicts without them.
        displaced: the displacements.
        asymmetric: whether the noise is taken from the prediction without those of features.
    """

    def __init__(self, walker: Walker, displaced: list[Displaced], *, asymmetric: bool) -> None:
        self._walker, self._displaced, self._asymmetric = walker, displaced, asymmetric

    def __call__(self, x: torch.Tensor, t: Any, /) -> Any:
        """The prediction for x `[B, *x_shape]` at t in training units, `[B, ...]`; or a pair."""
        now = [one for one in self._displaced if one.covers(t)]
        walker = self._walker
        for one in now:
            if one.site is None:
                walker = _with_prompt(walker, one.rows)
        inside = [one for one in now if one.site is not None]
        with ExitStack() as stack:
            for one in inside:
                stack.enter_context(self._put(one))
            edited = walker.predict(x, t)
        if not (self._asymmetric and inside):
            return edited
        return edited, walker.predict(x, t)

    @contextmanager
    def _put(self, one: Displaced) -> Iterator[None]:
        """Context in which a feature of every pass has a displacement added to it."""
        site = one.site
        assert site is not None
        seen: list[bool] = []

        def put(module: nn.Module, output: object) -> object:
            seen.append(True)
            feature = site.read(module, output, len(one.rows))
            return site.write(module, output, feature + _as(feature, one.rows))

        with hooked(self._walker.model.module(site), put):
            yield
        if not seen:
            raise ValueError(
                f"The forward pass ended without reaching {site.path!r}, so that nothing was "
                "injected. Expected a module that the network uses."
            )


def _as(feature: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Displacements as they broadcast with a feature: those of a pooled one at every place."""
    rows = rows.to(feature)
    if rows.dim() == feature.dim():
        return rows
    # Channels come second in [B, C, H, W], and last in tokens [B, S, C].
    return rows[:, :, None, None] if feature.dim() == 4 else rows[:, None, :]


def _with_prompt(walker: Walker, rows: torch.Tensor) -> Walker:
    """The walker whose condition has an embedding with displacements added."""
    embedding = walker.condition.get(_PROMPT)
    if embedding is None or embedding.shape[1:] != rows.shape[1:]:
        what = "none" if embedding is None else str(list(embedding.shape[1:]))
        raise ValueError(
            f"Expected a condition with {_PROMPT!r} of shape {list(rows.shape[1:])}, as the "
            f"direction has, got {what}. Encode the prompt as it was when the direction was found."
        )
    changed = {**walker.condition, _PROMPT: embedding + rows.to(embedding)}
    return replace(walker, condition=changed)
