"""Directions from the weights of self-attention alone: no samples and no products."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pullback import maps
from pullback._numbers import whole
from pullback.directions.direction import Direction
from pullback.directions.weights_of_attention import (
    MATRICES,
    AttentionLayer,
    attention_layers,
    head_of,
    read,
)
from pullback.models import LatentModel, Site, TapName

_SIDES = ("input", "output")
_PRODUCTS = ("bilinear", "ov")
_FORMS = ("svd", "symmetric")
_SITES = ("mid_output", "block_output", "attention_output")

#: What `attention` can decompose, as its keyword arguments, for an ablation: the paper's own choice
#: is not public.
VARIANTS: tuple[dict[str, str], ...] = (
    *({"matrix": one, "side": side} for one in ("v", "q", "k") for side in _SIDES),
    {"matrix": "qkv", "side": "input"},
    *({"matrix": one, "side": side} for one in _PRODUCTS for side in _SIDES),
    *({"matrix": one, "symmetrise": "symmetric"} for one in _PRODUCTS),
)


@dataclass(frozen=True, eq=False)
class AttentionDirections:
    """Eigenvectors of the weights of a self-attention layer: made by `attention`.

    Attributes:
        vectors: `[D, C]`, orthonormal rows, float64, on the CPU.
        values: `[D]`, float64: their eigenvalues, the largest first; of symmetric parts by
            magnitude, with their signs.
        layer: the layer.
        tap: where the directions are meant to be added.
        provenance: model, fingerprint, how, and all settings, as JSON holds them.
    """

    vectors: torch.Tensor
    values: torch.Tensor
    layer: AttentionLayer
    tap: str
    provenance: dict[str, Any]

    def __len__(self) -> int:
        """Number of directions D."""
        return len(self.vectors)

    def direction(self, index: int) -> Direction:
        """One of the directions, to be added at every place and timestep: see `Direction`.

        Args:
            index: which direction, from 0.

        Returns:
            The direction, pooled over space at the tap, of unit 1; its provenance is that of the
            directions, with index and eigenvalue.

        Raises:
            ValueError: there is no such direction.
        """
        index = whole("index", index, 0, len(self) - 1)
        known = {**self.provenance, "index": index, "eigenvalue": float(self.values[index])}
        return Direction.of(
            self.vectors[index],
            "h",
            tap=self.tap,
            pool="space",
            name=f"{self.provenance['matrix']} {index} of {self.layer.name}"[:100],
            provenance=known,
        )

    def __repr__(self) -> str:
        known = self.provenance
        head = "" if known["head"] is None else f", head {known['head']}"
        return (
            f"AttentionDirections({len(self)} of {known['matrix']} in {self.layer.name}{head}, "
            f"{known['side']} side, at {self.tap}, of {known['model']})"
        )


def attention(
    model: LatentModel,
    layer: str | AttentionLayer | None = None,
    *,
    matrix: str = "v",
    side: str = "input",
    symmetrise: str = "svd",
    head: int | None = None,
    fold_norm: bool = False,
    rank: int = 10,
    site: str = "mid_output",
    tap: TapName | None = None,
) -> AttentionDirections:
    """Directions in the channels of a feature, from the weights of a self-attention layer.

    They are eigenvectors of WᵀW or WWᵀ for a matrix W of the weights, found in float64, with the
    entry of largest magnitude positive. Where eigenvalues are equal, the vectors are arbitrary
    within their span. Biases, norms of queries and keys, and rotary embeddings are left out.

    Which matrix, layer, site and timesteps the paper uses is not public: `VARIANTS` lists what can
    be decomposed, for an ablation, and `rank_by` measures what directions do.

    Args:
        model: the model.
        layer: one of `attention_layers`, or its name; by default the last of the middle block.
        matrix: "v", "q" or "k": the projection W_V, W_Q or W_K; "qkv": the three stacked;
            "bilinear": W_Qᵀ W_K, which compares two places; "ov": W_O W_V, which a place gives to
            the others.
        side: "input": directions in the channels that W takes; "output": in those that it gives,
            which for "bilinear" are the channels of the queries' side.
        symmetrise: for "bilinear" and "ov", what is decomposed of M: "svd", MᵀM or MMᵀ; or
            "symmetric", (M + Mᵀ) / 2, which has one side, the input.
        head: one head alone, from 0; all by default. On the output side the directions are zero in
            the channels of the other heads.
        fold_norm: multiply the columns of the projections by the scale γ of the norm before them.
        rank: how many directions.
        site: where they are to be added: "mid_output", the output of the middle block;
            "block_output", of the block that the layer stands in; "attention_output", of the layer.
        tap: another place for them, in place of site.

    Returns:
        The directions; they cost no samples, and hold at every timestep.

    Raises:
        TypeError: the model is none, or the tap no tap's name.
        ValueError: the model has no self-attention or no such layer; an option is another; the
            weights hold NaN or Inf; W has fewer directions; or the feature at the tap has another
            number of channels.

    Cost: one eigendecomposition of a matrix of C rows, and one forward pass of one sample. All
    weights are read once, unless they were before.
    Source: Self-Attention Decomposition, Anand et al. 2025, arXiv:2510.22650.
    """
    found = _layer(model, layer)
    _check_options(matrix, side, symmetrise, site, tap)
    head = head_of(found, head)
    weights = read(model, found, fold_norm=bool(fold_norm)).matrix(matrix, head)
    if symmetrise == "symmetric" and weights.shape[0] != weights.shape[1]:
        raise ValueError(
            f"Expected a square matrix to take the symmetric part of, got {list(weights.shape)} "
            f'for "{matrix}" in {found.name}. Use symmetrise="svd".'
        )
    channels = weights.shape[1] if side == "input" else weights.shape[0]
    rank = whole("rank", rank, 1, channels)
    place = _place(model, found, site, tap)
    _check_channels(model, place, channels, f"the {side} side of {matrix!r} in {found.name}")
    values, vectors = _decomposed(weights, side, symmetric=symmetrise == "symmetric")
    above = int((values.abs() > channels * torch.finfo(values.dtype).eps * values[0].abs()).sum())
    if rank > above:
        of_head = "" if head is None else f", head {head}"
        raise ValueError(
            f"Expected rank to be at most {above}, the rank of {matrix!r} in {found.name}{of_head}"
            f", got {rank}: other eigenvalues are zero up to rounding, and their vectors arbitrary."
        )
    settings = {
        "how": "attention",
        "layer": found.name,
        "matrix": matrix,
        "side": side,
        "symmetrise": symmetrise if matrix in _PRODUCTS else None,
        "head": head,
        "fold_norm": bool(fold_norm),
    }
    first = Direction.of(
        vectors[0], "h", tap=str(place), pool="space", model=model, provenance=settings
    )
    return AttentionDirections(
        vectors[:rank].clone(), values[:rank].clone(), found, str(place), first.provenance
    )


def _layer(model: LatentModel, layer: str | AttentionLayer | None) -> AttentionLayer:
    layers = {one.name: one for one in attention_layers(model)}
    if not layers:
        raise ValueError(
            f"Expected a model with self-attention, got {model.name}, a model without "
            "self-attention. Find directions by other means, such as pullback.local_basis."
        )
    if layer is None:
        return _middle(model, list(layers.values()))
    name = layer.name if isinstance(layer, AttentionLayer) else layer
    if name not in layers:
        near = difflib.get_close_matches(str(name), layers, 3, 0) or list(layers)[:3]
        raise ValueError(
            f"Expected a self-attention layer of {model.name}, got {name!r:.100}. Near it are "
            f"{', '.join(near)}; attention_layers(model) lists all {len(layers)}."
        )
    return layers[name]


def _middle(model: LatentModel, layers: list[AttentionLayer]) -> AttentionLayer:
    try:
        block: str | None = model.default_tap
    except ValueError:  # networks of one's own, whose middle is not known
        block = None
    inside = [one for one in layers if one.block == block]
    if not inside:
        where = (
            "and which block is the middle one is not known" if block is None else f"not {block}"
        )
        raise ValueError(
            f"Expected layer to say which one: self-attention of {model.name} stands in "
            f"{', '.join(one.name for one in layers[:5])}"
            f"{f' and {len(layers) - 5} more' if len(layers) > 5 else ''}, {where}."
        )
    return inside[-1]


def _check_options(matrix: str, side: str, symmetrise: str, site: str, tap: object) -> None:
    given = (
        ("matrix", matrix, MATRICES),
        ("side", side, _SIDES),
        ("symmetrise", symmetrise, _FORMS),
        ("site", site, _SITES),
    )
    for name, value, allowed in given:
        if value not in allowed:
            raise ValueError(f"Expected {name} as one of {', '.join(allowed)}, got {value!r:.60}.")
    if tap is not None and site != "mid_output":
        raise ValueError(f"Expected either site or tap, got site={site!r} and tap={tap!r:.60}.")
    if matrix == "qkv" and side == "output":
        raise ValueError(
            'Expected side="input" for matrix="qkv": queries, keys and values are different '
            "spaces, which share their input alone."
        )
    if symmetrise == "symmetric" and (matrix not in _PRODUCTS or side == "output"):
        raise ValueError(
            'Expected symmetrise="symmetric" with matrix="bilinear" or "ov" and side="input", got '
            f'matrix="{matrix}" and side="{side}".'
        )


def _place(model: LatentModel, layer: AttentionLayer, site: str, tap: TapName | None) -> Site:
    if tap is not None or site == "mid_output":
        return model.site(tap)
    if site == "block_output":
        # Of a layer that stands in no block, the path is empty, which is no tap.
        return model.site(layer.block or layer.name)
    # Attention that is joint with a text returns both, the image first.
    return model.site((layer.name, 0) if layer.joint else layer.name)


def _check_channels(model: LatentModel, place: Site, channels: int, what: str) -> None:
    """Raise unless the feature at a place has so many channels."""
    x = torch.zeros(1, *model.latent_shape, dtype=model.dtype, device=model.device)
    t = torch.zeros(1, dtype=torch.int64, device=model.device)
    bound = maps.encoder(model, str(place)).bind(x, t, model.conditions.placeholder(1))
    shape = tuple(bound.value().shape[1:])
    if len(shape) not in (2, 3) or _is_transposed(model.module(place), shape):
        raise ValueError(
            f"Expected a tap of features [C, H, W] or [tokens, C], got {list(shape)} at {place}. "
            "Choose another tap."
        )
    if _channels(shape) != channels:
        fits = [one.path for one in model.taps() if _channels(one.shape) == channels]
        advice = f"Blocks that fit: {', '.join(fits)}." if fits else "No block has so many."
        raise ValueError(
            f"Expected a tap of {channels} channels for {what}, got {_channels(shape)} at {place}. "
            f"{advice}"
        )


def _channels(shape: tuple[int, ...]) -> int | None:
    """Channels of a feature [C, H, W] or [tokens, C]; None of another."""
    return {3: shape[0], 2: shape[-1]}.get(len(shape))


def _is_transposed(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a feature of tokens has its channels first, as norms in attention of U-Nets do."""
    return isinstance(module, nn.GroupNorm) and len(shape) == 2


def _decomposed(
    matrix: torch.Tensor, side: str, *, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues `[C]`, largest magnitude first, and eigenvectors `[C, C]` as rows."""
    if symmetric:
        square = (matrix + matrix.mT) / 2
    else:
        square = matrix.mT @ matrix if side == "input" else matrix @ matrix.mT
    values, vectors = torch.linalg.eigh(square)
    order = values.abs().argsort(descending=True, stable=True)
    rows = vectors.mT[order]
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return values[order], rows * largest.sign()
