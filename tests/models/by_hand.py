"""What the library is compared with: the networks called by hand, and dense Jacobians in float64.

Nothing here uses the library's families, taps, maps or products. A network is called as the stock
pipeline of its family does, a feature is picked with an ordinary forward hook, and Jacobians come
from plain reverse mode, one unit cotangent per entry.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from diffusers import FluxPipeline

from pullback.testing import dense_jacobian, leading, sine
from tests.models import families

Function = Callable[[torch.Tensor], torch.Tensor]

COPIES = 128  # of a sample in one batch: rows of a Jacobian in one backward pass


def call(network: Any, x: torch.Tensor, t: torch.Tensor, cond: dict[str, Any]) -> torch.Tensor:
    """The prediction [B, C, H, W] of a network for latents at timesteps [B], called by hand."""
    kind, channels = type(network).__name__, x.shape[1]
    if kind == "UNet2DModel":
        return network(x, t).sample
    if kind == "UNet2DConditionModel":
        return network(
            x,
            t,
            encoder_hidden_states=cond["encoder_hidden_states"],
            added_cond_kwargs=cond.get("added_cond_kwargs"),
        ).sample
    if kind == "DiTTransformer2DModel":
        # The other half of the channels is the learned variance.
        return network(x, timestep=t, class_labels=cond["class_labels"]).sample[:, :channels]
    if kind == "PixArtTransformer2DModel":
        return network(
            x,
            encoder_hidden_states=cond["encoder_hidden_states"],
            encoder_attention_mask=cond["encoder_attention_mask"],
            timestep=t,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample[:, :channels]
    if kind == "SD3Transformer2DModel":
        return network(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=cond["encoder_hidden_states"],
            pooled_projections=cond["pooled_projections"],
        ).sample
    assert kind == "FluxTransformer2DModel"
    return _flux(network, x, t, cond)


def _flux(network: Any, x: torch.Tensor, t: torch.Tensor, cond: dict[str, Any]) -> torch.Tensor:
    batch, channels, height, width = x.shape
    words = cond["encoder_hidden_states"]
    place = (height // 2, width // 2, x.device, x.dtype)
    output = network(
        hidden_states=FluxPipeline._pack_latents(x, batch, channels, height, width),
        timestep=t / 1000,
        guidance=cond.get("guidance"),
        pooled_projections=cond["pooled_projections"],
        encoder_hidden_states=words,
        txt_ids=torch.zeros(words.shape[1], 3, dtype=x.dtype),
        img_ids=FluxPipeline._prepare_latent_image_ids(batch, *place),
    ).sample
    # Sizes in pixels: eight for one of the latent, as with the stock autoencoder.
    return FluxPipeline._unpack_latents(output, 8 * height, 8 * width, 8)


def feature(
    network: Any, path: str, index: int | None, t: torch.Tensor, cond: dict[str, Any]
) -> Function:
    """X → what a module returns, or one tensor of that."""

    def read(x: torch.Tensor) -> torch.Tensor:
        seen = []
        module = network.get_submodule(path)
        handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        try:
            call(network, x, t, cond)
        finally:
            handle.remove()
        return seen[0] if index is None else seen[0][index]

    return read


def replaced(
    network: Any,
    path: str,
    index: int | None,
    x: torch.Tensor,
    t: torch.Tensor,
    cond: dict[str, Any],
) -> Function:
    """H → the prediction for x, with what a module returns replaced."""

    def predict(h: torch.Tensor) -> torch.Tensor:
        def put(_module: object, _inputs: object, output: Any) -> Any:
            return h if index is None else (*output[:index], h, *output[index + 1 :])

        handle = network.get_submodule(path).register_forward_hook(put)
        try:
            return call(network, x, t, cond)
        finally:
            handle.remove()

    return predict


def dense(f: Function, point: torch.Tensor) -> torch.Tensor:
    """The Jacobian [m, n] of a function at one point, from copies of it in a batch.

    Args:
        f: maps [COPIES, ...] to [COPIES, ...] row by row.
        point: `COPIES` copies of the point.
    """
    return dense_jacobian(f, point[:1], mode="reverse", chunk=COPIES)[0]


def copies(cond: Any, sample: int) -> Any:
    """`COPIES` copies of the condition of one sample, in float64 where it is floating."""
    if isinstance(cond, dict):
        return {name: copies(value, sample) for name, value in cond.items()}
    value = cond[sample : sample + 1].expand(COPIES, *cond.shape[1:])
    return value.double() if value.is_floating_point() else value


def in_float64(network: torch.nn.Module) -> torch.nn.Module:
    """A copy of a network in float64, with its weights in the usual layout."""
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    return network.double().requires_grad_(False)


def rank_of(jacobian: torch.Tensor, most: int = 6) -> int:
    """The rank with the widest gap after it, so that there is a space to compare with.

    Args:
        jacobian: [B, m, n].
        most: the largest rank; the smallest is 2, so that it is a space and no line.
    """
    spectra = torch.linalg.svdvals(jacobian)
    gaps = (spectra[:, 1:most] / spectra[:, 2 : most + 1]).amin(0)
    return int(gaps.argmax()) + 2


def check(found: Any, jacobian: torch.Tensor, rank: int | None = None) -> None:
    """Compare a basis with the leading singular triplets of dense Jacobians."""
    rank = found.s.shape[1] if rank is None else rank
    _, s, v = leading(jacobian, rank)
    assert found.v.shape[:2] == v.shape[:2]
    assert sine(found.v, v).max() <= 2e-3
    assert ((found.s - s).abs() <= 1e-4 * s).all()


class Case:
    """Latents of a family's tiny network at their own timesteps and conditions; and the truth.

    Two with different conditions; one with the null condition.
    """

    def __init__(self, name: str, null: bool = False) -> None:
        self.name, self.tiny = name, families.TINY[name]
        with torch.random.fork_rng():
            torch.manual_seed(11)
            model, count = families.model_of(name), 1 if null else 2
            self.x = torch.randn(count, *model.latent_shape)
            self.t = torch.tensor([700, 250])[:count]
            self.cond = families.null_of(name, count) if null else self.tiny.draw(count)
        self.network64 = in_float64(model.network)

    def jacobian(
        self, make: Callable[..., Function], point: Callable[..., torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The Jacobians [B, m, n] of the functions `make(x, t, cond)`.

        Args:
            make: gets copies of one sample's x, t and condition, in float64.
            point: the point `point(x, t, cond)` of differentiation, if it is not x.
        """
        found = []
        for index in range(len(self.x)):
            x, t, cond = (copies(value, index) for value in (self.x, self.t, self.cond))
            found.append(dense(make(x, t, cond), x if point is None else point(x, t, cond)))
        return torch.stack(found)

    @functools.cache  # noqa: B019 - cases live as long as the tests
    def encoder(self, path: str, index: int | None) -> torch.Tensor:
        """The Jacobians [B, m, n] of x → h at a tap."""
        return self.jacobian(lambda _, t, cond: feature(self.network64, path, index, t, cond))

    @functools.cache  # noqa: B019 - likewise
    def prediction(self) -> torch.Tensor:
        """The Jacobians [B, n, n] of x → what the network itself predicts."""
        return self.jacobian(lambda _, t, cond: lambda x: call(self.network64, x, t, cond))


@functools.cache
def case(name: str, null: bool = False) -> Case:
    """The case of a family, made once."""
    return Case(name, null)
