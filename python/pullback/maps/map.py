"""A map: what is computed of a model, and with respect to what it is differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from pullback.maps.variables import Bound, ConditionPair, Function, Given, Variable
from pullback.models import Condition, LatentModel, Site


@dataclass(frozen=True, eq=False)
class Map:
    """A differentiable function of one variable of a model.

    It is a recipe: it knows a model and what is computed of it, but no latents. `pullback.basis`
    binds it to latents, a timestep and a condition.

    Attributes:
        model: the model.
        name: what it is, such as "encoder mid_block"; goes into provenance.
        variable: what it is differentiated with respect to.
        site: where h is read or put; None for maps of the output.
        function: what is computed.
        negative: the other condition of classifier-free guidance, tensors `[1, ...]` for all
            samples or `[B, ...]`; None where there is no guidance.
    """

    model: LatentModel
    name: str
    variable: Variable
    site: Site | None
    function: Function
    negative: dict[str, torch.Tensor] | None = None

    @property
    def wrt(self) -> str:
        """Name of the variable: "x", "h" (a feature that is put into the network) or "prompt"."""
        return self.variable.name

    def then(self, module: Callable[[torch.Tensor], torch.Tensor], name: str = "") -> Map:
        """The map followed by another: a VAE decoder, a feature network, any function.

        Args:
            module: maps [B, ...] to [B, ...], every sample by itself.
            name: what it is, for the provenance; by default its class or function name.

        Raises:
            TypeError: module cannot be called.
        """
        if not callable(module):
            raise TypeError(
                f"Expected a function or a module to follow {self.name}, got "
                f"{type(module).__name__}."
            )
        label = name or getattr(module, "__name__", type(module).__name__)
        return self._after(module, f"{self.name} then {label}")

    def restrict(self, mask: torch.Tensor) -> Map:
        """The entries of the output where a mask is true, as one row [B, entries].

        Args:
            mask: bool, of the output's shape without the batch, or of its last sizes (a region
                [H, W] of every channel).

        Raises:
            ValueError: the mask is not bool or selects nothing.
        """
        if not isinstance(mask, torch.Tensor):
            mask = torch.as_tensor(mask, device="cpu")
        if mask.dtype != torch.bool or not bool(mask.any()):
            raise ValueError(
                f"Expected a bool mask that selects something, got {mask.dtype} with "
                f"{int(mask.count_nonzero())} entries set."
            )

        def pick(output: torch.Tensor) -> torch.Tensor:
            shape = output.shape[1:]
            if mask.dim() > len(shape) or tuple(shape[len(shape) - mask.dim() :]) != mask.shape:
                raise ValueError(
                    f"Expected a mask of shape {list(shape)}, or of its last sizes, got "
                    f"{list(mask.shape)}."
                )
            where = torch.nonzero(mask.to(output.device).expand(shape).flatten()).flatten()
            return output.flatten(1).index_select(1, where)

        return self._after(pick, f"{self.name} on {int(mask.count_nonzero())} of {mask.numel()}")

    def select(self, rows: torch.Tensor) -> Map:
        """The map for some of the samples: a negative condition of each goes with its sample.

        Args:
            rows: int64 `[B']` indices of samples.
        """
        if self.negative is None:
            return self
        chosen = {
            name: value if len(value) == 1 else value[rows.to(value.device)]
            for name, value in self.negative.items()
        }
        return replace(self, negative=chosen)

    def _after(self, step: Callable[[torch.Tensor], torch.Tensor], name: str) -> Map:
        function = self.function
        return replace(self, name=name, function=lambda *args: step(function(*args)))

    def at(self, x: torch.Tensor, t: int | torch.Tensor, cond: Condition | None = None) -> Bound:
        """The map at latents.

        Args:
            x: latents x_t, `[B, *x_shape]`, in the model's dtype and on its device; a copy is kept.
            t: their timestep in training units: one for all, or int64 `[B]`.
            cond: as for `local_basis`.

        Raises:
            ValueError: x, t or cond is not what the model takes.

        Cost: as `bind`.
        """
        model = self.model
        model.check_latents(x)
        timesteps = model.schedule.timesteps(t, len(x), model.device)
        return self.bind(x.detach().clone(), timesteps, model.conditions.of(cond, len(x)))

    def bind(self, x: torch.Tensor, t: torch.Tensor, cond: dict[str, torch.Tensor]) -> Bound:
        """The map where everything has been checked before.

        Args:
            x: latents `[B, *x_shape]`.
            t: timesteps `[B]`, in training units.
            cond: tensors `[B, ...]`.

        Cost: one forward pass up to the tap where the variable is h, else none.
        """
        negative = None
        if self.negative is not None:
            negative = self.model.conditions.of(self.negative, len(x))
        return self.variable.bind(
            self.function, Given(self.model, x, t, ConditionPair(cond, negative))
        )
