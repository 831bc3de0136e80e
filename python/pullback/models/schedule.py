"""What a model's scheduler says of its timesteps."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from pullback.models import fingerprints
from pullback.models.levels import Levels, count_of, is_continuous, levels_of

#: Flow-matching schedulers: x = (1 − σ) x_0 + σ ε at the timestep t = num_train_timesteps σ.
_FLOW_MATCHING = frozenset(
    {
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "FlowMatchLCMScheduler",
        "LTXEulerAncestralRFScheduler",
    }
)
#: Those that have an ᾱ for every timestep, and whose networks are told that timestep.
_VARIANCE_PRESERVING = frozenset(
    {
        "CogVideoXDDIMScheduler",
        "CogVideoXDPMScheduler",
        "DDIMInverseScheduler",
        "DDIMParallelScheduler",
        "DDIMScheduler",
        "DDPMParallelScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepInverseScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSDEScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LCMScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "SASolverScheduler",
        "TCDScheduler",
        "UnCLIPScheduler",
        "UniPCMultistepScheduler",
    }
)
#: Those that call the F of EDM "epsilon"; it is neither the noise nor its negative.
_PRECONDITIONED = frozenset(
    {
        "CosineDPMSolverMultistepScheduler",
        "EDMDPMSolverMultistepScheduler",
        "EDMEulerScheduler",
    }
)
#: Settings with which a scheduler of a known class counts time in other units.
_USUAL = {"timestep_type": "discrete", "invert_sigmas": False}
_PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")


class Schedule:
    """The timesteps of a model, in the training units of its scheduler.

    Args:
        scheduler: a diffusers scheduler; its config says how noise was added in training.
        flow: whether the network is of a family that predicts a flow.

    Raises:
        TypeError: it is no diffusers scheduler.
        ValueError: it does not say at which whole timestep there is how much noise, or what the
            network predicts; or the network predicts a flow and the scheduler is of no flow.
    """

    def __init__(self, scheduler: Any, *, flow: bool = False) -> None:
        if not hasattr(scheduler, "config") or not hasattr(scheduler, "set_timesteps"):
            raise TypeError(
                f"Expected a diffusers scheduler, got {type(scheduler).__name__}. Pass the one "
                "the model was trained with, for example DDPMScheduler.from_pretrained(folder)."
            )
        self.scheduler = scheduler
        _check_known(scheduler)
        if flow and self.prediction_type != "flow":
            raise ValueError(
                f"The network predicts a flow, and {type(scheduler).__name__} is set up for "
                f"{self.prediction_type!r}. Expected a scheduler of a flow, such as "
                "FlowMatchEulerDiscreteScheduler, as the model was trained with."
            )

    @property
    def num_timesteps(self) -> int:
        """Training timesteps of the schedule; t runs from 0 to one less."""
        return count_of(self.scheduler)

    @property
    def max_timestep(self) -> int:
        """The noisiest timestep: pure noise for flow models, the last of training otherwise."""
        return self.num_timesteps if self.prediction_type == "flow" else self.num_timesteps - 1

    @property
    def prediction_type(self) -> str:
        """What the network predicts, one of `pullback.sampling.PREDICTIONS`."""
        if _kinds(self.scheduler) & _FLOW_MATCHING:
            return "flow"
        kind = str(self.scheduler.config.get("prediction_type", "epsilon"))
        if kind == "epsilon" and _kinds(self.scheduler) & _PRECONDITIONED:
            return "negative_v_prediction"  # which these classes call so
        return "flow" if kind == "flow_prediction" else kind

    @property
    def continuous(self) -> bool:
        """Whether the network is told another time than the whole training timestep."""
        return is_continuous(self.scheduler)

    @property
    def deviation(self) -> float:
        """Of the data, by which the prediction is scaled; 1 but for EDM."""
        return self._levels.deviation if self.continuous else 1.0

    @cached_property
    def _levels(self) -> Levels:
        return levels_of(self.scheduler)

    def told(self, t: torch.Tensor) -> torch.Tensor:
        """What the network is told at timesteps t `[B]`, in training units: `[B]`.

        Those themselves, unless the schedule is continuous.
        """
        return self._levels.told.to(t.device)[t] if self.continuous else t

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """ᾱ, the share of data in the variance of x_t, float32 `[num_timesteps]`.

        Neither flows nor continuous schedules have it.

        Raises:
            ValueError: the scheduler was made where tensors have no numbers.
        """
        alphas: torch.Tensor = self.scheduler.alphas_cumprod
        if alphas.is_meta:
            raise ValueError(
                f'This {type(self.scheduler).__name__} was made on the device "meta", where its '
                "schedule has no numbers. Expected one with numbers: make it again under "
                'torch.device("cpu").'
            )
        return alphas.float()

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
            t / 1000 and signal the rest. For EDM x_t is what the network is given, scaled to unit
            variance, so that signal is up to 1 / `deviation`.
        """
        if self.prediction_type == "flow":
            sigma = t.float() / self.num_timesteps
            return 1 - sigma, sigma
        if self.continuous:
            signal, sigma = self._levels.signal.float(), self._levels.sigma.float()
            return signal.to(t.device)[t.long()], sigma.to(t.device)[t.long()]
        share = self.alphas_cumprod.to(t.device)[t.long()]
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


def _kinds(scheduler: Any) -> set[str]:
    """The names of a scheduler's class and of those it is derived from."""
    return {kind.__name__ for kind in type(scheduler).__mro__}


def _check_known(scheduler: Any) -> None:
    """Raise ValueError unless the scheduler says how much noise there is at a whole timestep.

    Those of consistency models, and some more, count time in other units, which the networks
    trained with them are told; nothing here can know which noise a timestep means.
    """
    if is_continuous(scheduler):
        return
    name, config = type(scheduler).__name__, scheduler.config
    for setting, usual in _USUAL.items():
        if config.get(setting, usual) != usual:
            raise ValueError(
                f"This {name} has {setting} = {config[setting]!r}, with which the network is told "
                f"another time than the training timestep. Expected {usual!r}, as the model was "
                "trained, or a function f(x, t, **cond) around the network that takes t in "
                "training timesteps."
            )
    if _kinds(scheduler) & _FLOW_MATCHING:
        return
    if not _kinds(scheduler) & _VARIANCE_PRESERVING:
        raise ValueError(
            f"{name} is not known to say how much noise there is at a whole training timestep. "
            "Expected the scheduler that the model was trained with, of a class such as "
            "DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler or "
            "FlowMatchEulerDiscreteScheduler; docs/models.md lists them all. A network in other "
            "units can be wrapped in a function f(x, t, **cond) that takes t in those of a "
            "scheduler of this list."
        )
    kind = config.get("prediction_type")
    if kind not in _PREDICTIONS:
        raise ValueError(
            f"Expected a scheduler whose prediction_type is epsilon, sample, v_prediction or "
            f"flow_prediction, got {kind!r}."
        )
    if (kind == "flow_prediction") != bool(config.get("use_flow_sigmas", False)):
        raise ValueError(
            f"This {name} says prediction_type = {kind!r} and use_flow_sigmas = "
            f"{config.get('use_flow_sigmas', False)}. Expected flow sigmas for a network that "
            "predicts a flow, and for no other."
        )
