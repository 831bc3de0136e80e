"""The self-attention layers of a network: where they stand, and their weights as matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pullback._numbers import whole
from pullback.models import LatentModel, check_model

#: What can be made of the weights of a layer: single projections, their stack, and two products.
MATRICES = ("v", "q", "k", "qkv", "bilinear", "ov")


@dataclass(frozen=True)
class AttentionLayer:
    """A self-attention layer of a network.

    Attributes:
        name: dotted path of its module, such as "mid_block.attentions.0".
        block: the block in which it stands, such as "mid_block"; empty where it stands in none.
        channels: C, of the features that are projected.
        inner: channels of all its queries, heads times width.
        heads: number of heads.
        width: channels of one head.
        square: whether the projections to queries, keys and values, and the one back where the
            layer has it, are all C by C.
        joint: whether a text takes part by projections of its own, which are left alone.
    """

    name: str
    block: str
    channels: int
    inner: int
    heads: int
    width: int
    square: bool
    joint: bool

    def __str__(self) -> str:
        size = f"{self.channels} channels, {self.heads} heads of {self.width}"
        return f"{self.name:60} {size}{'' if self.square else ', not square'}"


def attention_layers(model: LatentModel) -> list[AttentionLayer]:
    """The self-attention layers of a model, in the order of its blocks.

    They are the modules with the projections `to_q`, `to_k` and `to_v`, as diffusers' `Attention`
    has them. Cross-attention, whose keys come from the condition, is left out. Where image and text
    attend to one another (SD3, Flux), the projections are those of the image.

    Args:
        model: the model.

    Returns:
        The layers; none for a plain function, or for a network without self-attention.

    Raises:
        TypeError: the model is none.
    """
    check_model(model)
    network = model.network
    if not isinstance(network, nn.Module):
        return []
    order = {path: place for place, path in enumerate(model.blocks())}
    found = [
        _layer(name, module, list(order))
        for name, module in network.named_modules()
        if _is_self_attention(name, module)
    ]
    return sorted(found, key=lambda layer: order.get(layer.block, len(order)))


@dataclass(frozen=True)
class Weights:
    """The weights of a layer, in float64 on the CPU.

    Attributes:
        q: `[inner, C]`.
        k: `[inner, C]`, or fewer rows where several heads share keys and values.
        v: likewise.
        out: `[C_out, inner]`, from the values of all heads back; None where the layer has none.
        heads: number of heads.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor | None
    heads: int

    def matrix(self, which: str, head: int | None) -> torch.Tensor:
        """One of `MATRICES`, `[m, n]`.

        Of one head, the rows of the other heads are zero.

        Args:
            which: "v", "q" or "k": the projection; "qkv": the three stacked; "bilinear": W_Qᵀ W_K;
                "ov": W_O W_V.
            head: which head, or None for all.

        Raises:
            ValueError: "ov" of a layer without a projection back.
        """
        if which == "bilinear":
            return self._rows(self.q, head).mT @ self._repeated(self.k)
        if which == "ov":
            if self.out is None:
                raise ValueError(
                    'Expected a layer with a projection back (to_out) for matrix="ov": this one '
                    "leaves it to its block, which joins it with other weights. Choose another "
                    "matrix or layer."
                )
            return self.out @ self._rows(self._repeated(self.v), head)
        parts = {"q": self.q, "k": self.k, "v": self.v}
        return torch.cat([self._rows(parts[one], head) for one in which])

    def _rows(self, weight: torch.Tensor, head: int | None) -> torch.Tensor:
        """A projection with the rows of the other heads set to zero."""
        if head is None:
            return weight
        width = len(self.q) // self.heads
        # Of shared keys and values, those that the head uses.
        first = head * (len(weight) // width) // self.heads * width
        kept = torch.zeros_like(weight)
        kept[first : first + width] = weight[first : first + width]
        return kept

    def _repeated(self, weight: torch.Tensor) -> torch.Tensor:
        """Keys or values with rows for every head, `[inner, C]`, also where heads share them."""
        width = len(self.q) // self.heads
        shared = weight.unflatten(0, (-1, width))
        return shared.repeat_interleave(self.heads // len(shared), 0).flatten(0, 1)


def read(model: LatentModel, layer: AttentionLayer, *, fold_norm: bool) -> Weights:
    """The weights of a layer.

    Args:
        model: the model.
        layer: one of its layers.
        fold_norm: multiply the columns of the projections by the scale γ of the norm before them.

    Raises:
        ValueError: they hold NaN or Inf, an adapter changes them, or there is no such norm.
    """
    module = model.network.get_submodule(layer.name)
    q, k, v = (_weight(layer, f"to_{one}", getattr(module, f"to_{one}")) for one in "qkv")
    back = _back(module)
    out = None if back is None else _weight(layer, "to_out", back)
    if fold_norm:
        scale = _scale(model, layer, module)
        q, k, v = q * scale, k * scale, v * scale
    return Weights(q, k, v, out, layer.heads)


def head_of(layer: AttentionLayer, head: int | None) -> int | None:
    """The head as an int; raises ValueError where the layer has none of that number."""
    return None if head is None else whole("head", head, 0, layer.heads - 1)


def _layer(name: str, module: Any, blocks: list[str]) -> AttentionLayer:
    inner, channels = module.to_q.weight.shape
    around = [path for path in blocks if f"{name}.".startswith(f"{path}.")]
    projections = [module.to_q, module.to_k, module.to_v, _back(module)]
    shapes = {tuple(one.weight.shape) for one in projections if one is not None}
    return AttentionLayer(
        name=name,
        block=max(around, key=len, default=""),
        channels=channels,
        inner=inner,
        heads=module.heads,
        width=inner // module.heads,
        square=shapes == {(channels, channels)},
        joint=getattr(module, "added_kv_proj_dim", None) is not None,
    )


def _is_self_attention(name: str, module: nn.Module) -> bool:
    parts = [getattr(module, f"to_{one}", None) for one in "qkv"]
    heads = getattr(module, "heads", None)
    if not isinstance(heads, int) or not all(map(_is_projection, parts)):
        return False
    if len({part.weight.shape[1] for part in parts}) > 1:  # type: ignore[union-attr]
        return False  # keys of another width: of a condition
    if "AddedKV" in type(getattr(module, "processor", None)).__name__:
        return True  # the text has projections of its own, though the layer calls itself "cross"
    cross = getattr(module, "is_cross_attention", None)
    if cross is None:  # classes that do not say
        cross = name.endswith("attn2") or "cross" in type(module).__name__.lower()
    return not cross


def _is_projection(part: object) -> bool:
    weight = getattr(part, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() == 2


def _back(module: Any) -> Any:
    """The projection of the values back to features; None where the layer has none."""
    back = getattr(module, "to_out", None)
    if isinstance(back, (nn.ModuleList, nn.Sequential)) and len(back):
        back = back[0]
    return back if _is_projection(back) else None


def _weight(layer: AttentionLayer, which: str, projection: Any) -> torch.Tensor:
    if hasattr(projection, "base_layer") and not getattr(projection, "merged", False):
        raise ValueError(
            f"Expected plain weights in {layer.name}.{which}, got a {type(projection).__name__} "
            "that changes them as it runs. Merge the adapter first, with pipeline.fuse_lora()."
        )
    weight: torch.Tensor = projection.weight.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(f"Expected finite weights in {layer.name}.{which}, got NaN or Inf.")
    return weight


def _scale(model: LatentModel, layer: AttentionLayer, module: Any) -> torch.Tensor:
    """The scale γ `[C]` of the norm right before the projections."""
    norm = getattr(module, "group_norm", None)
    path, _, last = layer.name.rpartition(".")
    if norm is None and last == "attn1":
        # In blocks of transformers the norm stands beside the layer.
        norm = getattr(model.network.get_submodule(path), "norm1", None)
    if not isinstance(norm, (nn.GroupNorm, nn.LayerNorm)) or norm.weight is None:
        what = "none" if norm is None else f"a {type(norm).__name__} without a fixed one"
        raise ValueError(
            f"Expected a norm with a scale γ before {layer.name} for fold_norm=True, got {what}. "
            "Leave fold_norm out."
        )
    scale: torch.Tensor = norm.weight.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(scale).all()):
        raise ValueError(f"Expected a finite scale γ before {layer.name}, got NaN or Inf.")
    return scale
