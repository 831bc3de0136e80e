"""What edits changed, by the scores of their images: target, side effects, linearity, transfer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pullback._numbers import whole
from pullback.analysis.intervals import summary


@dataclass(frozen=True, eq=False)
class Effect:
    """Changes of one attribute, and of all others: made by `Evaluation.effect`.

    Attributes:
        target: `[B, D, K]`, float64: how far the attribute moved where the direction points, with
            the sign of the strength: an edit that raises it both forwards and backwards moves it to
            no side.
        side: `[B, D, K]`, float64: the mean magnitude of the other attributes' changes.
        linearity: `[B, D]`, float64, 0 to 1: the share of the attribute's squared changes over the
            strengths that a line through zero explains.
        attribute: `[B, D]`, int64: which attribute it is.
    """

    target: torch.Tensor
    side: torch.Tensor
    linearity: torch.Tensor
    attribute: torch.Tensor


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Edits of B samples by D directions at K strengths, scored on A attributes: by `evaluate`.

    Attributes:
        names: of the D edits.
        strengths: the K of them.
        before: scores without an edit, `[B, A]`, float64.
        changes: of the scores, `[B, D, K, A]`, float64, in the units of `scale`.
        scale: what one unit of each attribute is, `[A]`, float64, in that of its score.
        energy: root mean square change of the image, `[B, D, K]`, float64; images reach from −1
            to 1.
        inside: the share of the image's squared change that lies in the region, `[B, D, K]`,
            float64, 0 where nothing changes; None without a region.
        linearity: `[B, D]`, float64, 0 to 1: the share of the images' squared changes over the
            strengths that one image, times the strength, explains. Of one strength it is 1.
        passes: rows of the network that the edits took, with one to see what memory it needs, and
            for each direction in a feature one to see whether it fits.
    """

    names: tuple[str, ...]
    strengths: tuple[float, ...]
    before: torch.Tensor
    changes: torch.Tensor
    scale: torch.Tensor
    energy: torch.Tensor
    inside: torch.Tensor | None
    linearity: torch.Tensor
    passes: int

    def effect(self, attribute: int | Evaluation | None = None) -> Effect:
        """The change of one attribute, and those of the others.

        Args:
            attribute: which one a direction is meant for, from 0. Or what the same directions did
                elsewhere, such as at the samples that they were found at: of each sample and
                direction the attribute that moved farthest there, and the side to which it did.
                None is for directions whose meaning is not known and is one for all samples: for
                each half of the samples the attribute that the direction moves farthest in the
                other half is taken, and the side. So noise is not counted as an effect.

        Returns:
            The effect.

        Raises:
            ValueError: there is no such attribute; what was done elsewhere is of other samples,
                directions or attributes; an attribute is to be found of fewer than two samples; or
                there is one attribute alone, beside which are no others.
        """
        samples, _, _, attributes = self.changes.shape
        if attributes < 2:
            raise ValueError(
                "Expected scores of two attributes or more, beside one of which others are seen, "
                f"got {attributes}."
            )
        if isinstance(attribute, Evaluation):
            self._check_like(attribute)
            # In units of here, which could be others there.
            chosen, side = _farthest(attribute.moved() * (attribute.scale / self.scale))
        elif attribute is not None:
            shape = self.changes.shape[:2]
            named = whole("attribute", attribute, 0, attributes - 1)
            chosen = torch.full(shape, named, device="cpu")
            side = torch.ones(shape, dtype=torch.float64, device="cpu")
        elif samples < 2:
            raise ValueError(
                f"Expected two samples or more to find out what a direction does, got {samples}. "
                "Name the attribute."
            )
        else:
            chosen, side = _found_in_the_other_half(self.moved())
        index = chosen[:, :, None, None].expand(*self.changes.shape[:3], 1)
        change = self.changes.gather(3, index)[..., 0]
        others = (self.changes.abs().sum(3) - change.abs()) / (attributes - 1)
        signs = _tensor_of(self.strengths).sign()
        target = change * signs * side[:, :, None]
        return Effect(target, others, linearity_of(change[..., None], self.strengths), chosen)

    def moved(self) -> torch.Tensor:
        """How far each attribute moves where directions point, over strengths: `[B, D, A]`."""
        signs = _tensor_of(self.strengths).sign()
        return (self.changes * signs[:, None]).mean(2)

    def follows(self, other: Evaluation) -> torch.Tensor:
        """How alike scores move at other samples: cosines `[B, D]`, −1 to 1, 0 without a change.

        Where the first are those that directions were found at, it is how well they transfer. What
        changes the same way at strengths of both signs, as any disturbance may, is left out where
        there are both.

        Args:
            other: of as many samples, directions and strengths, and of the same attributes.

        Raises:
            ValueError: it is of others.
        """
        self._check_like(other)
        # The other's own units could be different ones.
        rows = other.moved() * (other.scale / self.scale)
        return torch.nn.functional.cosine_similarity(self.moved(), rows, dim=2, eps=1e-12)

    def _check_like(self, other: Evaluation) -> None:
        if self.changes.shape != other.changes.shape or self.strengths != other.strengths:
            raise ValueError(
                "Expected evaluations of as many samples and directions, at the same strengths, "
                f"got {list(self.changes.shape)} and {list(other.changes.shape)}."
            )

    def __str__(self) -> str:
        width = max(max(map(len, self.names)), 9)
        lines = [f"{'direction':{width}}  strength   energy   change  linearity"]
        size = self.changes.abs().mean(3)
        for place, name in enumerate(self.names):
            straight = float(self.linearity[:, place].mean())
            for number, strength in enumerate(self.strengths):
                energy = summary(self.energy[:, place, number])["mean"]
                change = summary(size[:, place, number])["mean"]
                lines.append(
                    f"{name:{width}} {strength:9.3g} {energy:8.3f} {change:8.3f} {straight:10.2f}"
                )
        return "\n".join(lines)


def linearity_of(changes: torch.Tensor, strengths: tuple[float, ...]) -> torch.Tensor:
    """The share of squared changes `[..., K, n]` that strengths times one vector explain: `[...]`.

    It is 1 where all changes are in proportion, and 0 where nothing changes.
    """
    by = _tensor_of(strengths)
    slope = torch.einsum("k,...kn->...n", by, changes.double()) / by.square().sum().sqrt()
    whole_change = changes.double().square().sum((-2, -1))
    share = slope.square().sum(-1) / whole_change.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(whole_change > 0, share.clamp(max=1), 0.0)


def _tensor_of(strengths: tuple[float, ...]) -> torch.Tensor:
    """Strengths as `[K]`, float64, on the CPU, as all numbers of an evaluation are."""
    return torch.tensor(strengths, dtype=torch.float64, device="cpu")


def _found_in_the_other_half(moved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What each direction does, by mean changes `[B, D, A]` of the samples not looked at.

    Returns:
        The attribute `[B, D]`, and the sign of its change `[B, D]`.
    """
    even = torch.arange(len(moved), device="cpu") % 2 == 0
    chosen = torch.empty(moved.shape[:2], dtype=torch.int64, device="cpu")
    side = torch.empty(moved.shape[:2], dtype=torch.float64, device="cpu")
    for half in (even, ~even):
        chosen[half], side[half] = _farthest(moved[~half].mean(0))
    return chosen, side


def _farthest(moved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The attribute of the largest change `[..., A]`, and its sign, as float64."""
    chosen = moved.abs().argmax(-1)
    sign = moved.gather(-1, chosen[..., None])[..., 0].sign()
    return chosen, torch.where(sign == 0, 1.0, sign).double()
