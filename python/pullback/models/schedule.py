"""What a model's scheduler says of its timesteps."""

from __future__ import annotations

from typing import Any

import torch

from pullback.models import fingerprints


class Schedule:
    """The timesteps of a model, in the training units of its scheduler.

    Args:
        scheduler: any diffusers scheduler; its config says how noise was added in training.
        flow: whether the network is of a family that predicts a flow, whatever the scheduler says.

    Raises:
        TypeError: it is no diffusers scheduler.
    """

    def __init__(self, scheduler: Any, *, flow: bool = False) -> None:
        if not hasattr(scheduler, "config") or "num_train_timesteps" not in scheduler.config:
            raise TypeError(
                f"Expected a diffusers scheduler, got {type(scheduler).__name__}. Pass the one "
                "the model was trained with, for example DDPMScheduler.from_pretrained(folder)."
            )
        self.scheduler, self._flow = scheduler, flow

    @property
    def num_timesteps(self) -> int:
        """Training timesteps of the schedule; t runs from 0 to one less."""
        return int(self.scheduler.config.num_train_timesteps)

    @property
    def max_timestep(self) -> int:
        """The noisiest timestep: pure noise for flow models, the last of training otherwise."""
        return self.num_timesteps if self.prediction_type == "flow" else self.num_timesteps - 1

    @property
    def prediction_type(self) -> str:
        """What the network predicts: "epsilon", "sample", "v_prediction" or "flow".

        Raises:
            ValueError: the scheduler says something else.
        """
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        if self._flow or "FlowMatch" in type(self.scheduler).__name__:
            return "flow"
        kind = "flow" if kind == "flow_prediction" else kind
        if kind not in ("epsilon", "sample", "v_prediction", "flow"):
            raise ValueError(
                f"Expected a scheduler whose prediction_type is epsilon, sample, v_prediction or "
                f"flow_prediction, got {kind!r}."
            )
        return str(kind)

    @property
    def fingerprint(self) -> str:
        """Short hash of the scheduler: its class, its configuration, and how noise was added."""
        return fingerprints.of(
            type(self.scheduler).__qualname__,
            self.prediction_type,
            fingerprints.config_of(self.scheduler),
            getattr(self.scheduler, "alphas_cumprod", None),
        )

    def signal_and_noise(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What x_t holds of data and noise: x_t = signal x_0 + sigma ε.

        Args:
            t: timesteps `[B]` in training units.

        Returns:
            signal and sigma, `[B]` each, float32 on the device of t. For flow models sigma is
            t / 1000 and signal the rest.
        """
        if self.prediction_type == "flow":
            sigma = t.float() / self.num_timesteps
            return 1 - sigma, sigma
        alphas = getattr(self.scheduler, "alphas_cumprod", None)
        if alphas is None:
            raise ValueError(
                f"{type(self.scheduler).__name__} does not say how much noise there is at a "
                "timestep (it has no alphas_cumprod). Expected a scheduler such as DDPMScheduler "
                "with the settings of training."
            )
        if alphas.is_meta:
            raise ValueError(
                f'This {type(self.scheduler).__name__} was made on the device "meta", where its '
                "schedule has no numbers. Expected one with numbers: make it again under "
                'torch.device("cpu").'
            )
        share = alphas.to(t.device).float()[t.long()]
        return share.sqrt(), (1 - share).sqrt()

    def check_timestep(self, t: float) -> int:
        """A timestep in training units as an int; raises ValueError unless it is a whole one."""
        try:
            value = int(t)
        except (TypeError, ValueError, OverflowError):
            value = -1
        if value != t or isinstance(t, bool) or not 0 <= value <= self.max_timestep:
            raise ValueError(
                f"Expected t as a whole training timestep between 0 and {self.max_timestep}, "
                f"got {t!r}. A fraction of the schedule must be multiplied by {self.num_timesteps}."
            )
        return value

    def timesteps(
        self, t: int | torch.Tensor, count: int, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Timesteps of a batch, int64 `[count]`.

        Args:
            t: one whole training timestep for all samples, or a tensor `[count]` of them.
            count: samples in the batch.
            device: where to put them.

        Raises:
            ValueError: another number of timesteps, or one that is not of the schedule.
        """
        given = t
        if not isinstance(given, torch.Tensor):
            given = torch.tensor(self.check_timestep(given), device="cpu")
        if given.dim() > 1 or (given.dim() == 1 and len(given) != count):
            raise ValueError(
                f"Expected t as one timestep or one per sample, [{count}], got shape "
                f"{list(given.shape)}."
            )
        for value in given.reshape(-1).tolist():
            self.check_timestep(value)
        return given.to(device, torch.int64).expand(count).clone()
