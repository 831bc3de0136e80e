"""The schedulers of diffusers, each held against its own steps and its own noise."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from pullback.models import Schedule
from pullback.sampling import denoise

SHAPE = (2, 3, 4, 4)
STEPS = (4, 10)  # over the whole schedule; their timesteps are whole ones for most classes

#: Classes of diffusers that cannot be made without a setting of their own; no image diffusion.
UNMADE = {"AmusedScheduler", "RFD4ProteinaScheduler", "VQDiffusionScheduler"}
#: Classes with settings by which their networks are told another time.
VARIANTS: dict[str, dict[str, Any]] = {
    "EDMDPMSolverMultistepScheduler, exponential": {"sigma_schedule": "exponential"},
    "EDMEulerScheduler, v_prediction": {
        "prediction_type": "v_prediction", "sigma_data": 1.0, "sigma_schedule": "exponential",
    },
    "EulerDiscreteScheduler, continuous": {
        "timestep_type": "continuous", "prediction_type": "v_prediction", "sigma_min": 0.002,
        "sigma_max": 700.0, "use_karras_sigmas": True, "timestep_spacing": "leading",
    },
}  # fmt: skip
#: Their steps are random, or go upwards, or start with an intermediate one.
NOT_DETERMINISTIC_FIRST = {
    "CosineDPMSolverMultistepScheduler": "random",
    "DDPMWuerstchenScheduler": "random",
    "CogVideoXDPMScheduler": "random",
    "DDIMInverseScheduler": "upwards",
    "DDPMParallelScheduler": "random",
    "DDPMScheduler": "random",
    "DPMSolverMultistepInverseScheduler": "upwards",
    "DPMSolverSDEScheduler": "random",
    "EulerAncestralDiscreteScheduler": "random",
    "FlowMatchLCMScheduler": "random",
    "KDPM2AncestralDiscreteScheduler": "random",
    "KDPM2DiscreteScheduler": "half a step first",
    "LCMScheduler": "random",
    "LTXEulerAncestralRFScheduler": "random",
    "TCDScheduler": "random",
    "UnCLIPScheduler": "random",
}


def names() -> list[str]:
    """Every scheduler class of diffusers that can be made without settings."""
    found = []
    for name in dir(diffusers):
        kind = getattr(diffusers, name)
        if name.endswith("Scheduler") and isinstance(kind, type) and name not in UNMADE:
            found.append(name)
    return sorted([*found, *VARIANTS])


def made(name: str, **settings: Any) -> Any:
    """A scheduler of a class with its default settings but for some.

    Raises:
        ImportError: it needs a library that is not installed.
    """
    kind = name.partition(",")[0]
    return getattr(diffusers, kind)(**VARIANTS.get(name, {}) | settings)


def is_known(name: str) -> bool:
    """Whether the library takes a scheduler of the class; it refuses the others by name."""
    try:
        Schedule(made(name))
    except ValueError as error:
        if not str(error).startswith(f"{name} is not known to say"):
            raise
        return False
    return True


def as_network_sees(scheduler: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Latents of the scheduler at a timestep, as it hands them to the network."""
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = scheduler._begin_index = None  # it is asked out of turn
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x


def counted(schedule: Schedule, told: torch.Tensor) -> int | None:
    """Our number of a timestep of the scheduler's own grid; None where it has none.

    That is itself where it is a whole number; in a continuous schedule, of the level that is told.
    """
    if not schedule.continuous:
        return round(float(told)) if float(told) == round(float(told)) else None
    levels = schedule.told(torch.arange(schedule.num_timesteps))
    at = int((levels - told).abs().argmin())
    return at if abs(float(levels[at] - told)) <= 1e-5 * max(1.0, abs(float(told))) else None


def noise_error(name: str) -> float:
    """Between the noise that a scheduler adds at its timesteps and what `Schedule` says of it.

    Relative to the latents; the worst of all whole timesteps of its own grids.
    """
    x_0, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    errors = []
    for steps in STEPS:
        settings = {"clip_sample": False} if "clip_sample" in made(name).config else {}
        scheduler = made(name, **settings)
        scheduler.set_timesteps(steps)
        schedule = Schedule(scheduler)
        for t in scheduler.timesteps:
            at = counted(schedule, t)
            if at is None:
                continue
            signal, sigma = schedule.signal_and_noise(torch.tensor([at]))
            expected = signal * x_0 + sigma * noise
            noisy = _noisy(scheduler, x_0, noise, t)
            errors.append(float((noisy - expected).abs().max() / expected.abs().max()))
    return max(errors)


def _noisy(scheduler: Any, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t by the scheduler itself, as it would hand it to the network."""
    if hasattr(scheduler, "scale_noise"):
        return as_network_sees(scheduler, scheduler.scale_noise(x_0, t.reshape(1), noise), t)
    if hasattr(scheduler, "add_noise"):
        return as_network_sees(scheduler, scheduler.add_noise(x_0, noise, t.reshape(1)), t)
    if hasattr(scheduler, "sigmas"):  # x moves by the velocity times the change of sigma
        clean, exact = x_0, noise - x_0
        at = scheduler.timesteps.tolist().index(float(t))
        return clean + scheduler.sigmas[at] * exact
    # It has steps alone, upwards, which end at t; with an exact prediction they stay on the way.
    before = int(t) - Schedule(scheduler).num_timesteps // len(scheduler.timesteps)
    alpha = scheduler.alphas_cumprod[before] if before >= 0 else torch.tensor(1.0)
    return scheduler.step(noise, t, alpha.sqrt() * x_0 + (1 - alpha).sqrt() * noise)[0]


def step_error(name: str, **settings: Any) -> float:
    """Between the first step of a scheduler and ours, for a prediction that is random.

    The first, which is of first order for every deterministic solver. Relative to the latents.
    """
    errors = []
    for steps in STEPS:
        scheduler = made(name, **settings)
        scheduler.set_timesteps(steps)
        first = scheduler.timesteps[0]
        second = next(t for t in scheduler.timesteps if t != first)
        schedule = Schedule(scheduler)
        start, stop = counted(schedule, first), counted(schedule, second)
        if start is None or stop is None:
            continue
        prediction, x = torch.randn(SHAPE), 2 * torch.randn(SHAPE)
        factor = as_network_sees(scheduler, torch.ones(1), first)
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = None
        stepped = scheduler.step(prediction, first, x / factor)[0]
        expected = as_network_sees(scheduler, stepped, second)
        whole = schedule.num_timesteps // (start - stop)
        assert schedule.num_timesteps // whole == start - stop  # our strides include this step
        found = denoise(schedule, lambda *_: prediction, x, start, stop, steps=whole)  # noqa: B023
        errors.append(float((found - expected).abs().max() / expected.abs().max()))
    return max(errors)


def clipping_settings(name: str) -> list[dict[str, Any]]:
    """Settings by which schedulers of a class clip x̂_0 or do not."""
    config = made(name).config
    found: list[dict[str, Any]] = [{}]
    if "clip_sample" in config:
        found += [{"clip_sample": clips} for clips in (False, True)]
    if "clip_sample_range" in config:
        found += [{"clip_sample": True, "clip_sample_range": 2.0}]
    if "thresholding" in config:
        found += [{"thresholding": True}, {"thresholding": True, "sample_max_value": 1.5}]
        found += [
            {"thresholding": True, "sample_max_value": 1e4, "dynamic_thresholding_ratio": ratio}
            for ratio in (0.5, 0.9)
        ]
    return found


BEGIN = "<!-- table: python -m tests.models.schedulers -->"
HEAD = "| scheduler | noise at t | first step |\n| --- | ---: | ---: |\n"


def line(name: str) -> str:
    """The line of a class that is taken, measured now."""
    cells = [f"`{name}`", _rounded(noise_error(name))]
    cells.append(
        NOT_DETERMINISTIC_FIRST.get(name)
        or _rounded(max(step_error(name, **one) for one in clipping_settings(name)))
    )
    return f"| {' | '.join(cells)} |\n"


def _rounded(error: float) -> str:
    return "0" if error == 0 else f"{error:.0e}"


def table() -> str:
    """Every class of diffusers: those taken, with what was measured, and those refused."""
    torch.manual_seed(0)
    known = [name for name in names() if is_known(name)]
    refused = ", ".join(f"`{name}`" for name in sorted({*names(), *UNMADE} - set(known)))
    return f"{HEAD}{''.join(map(line, known))}\nRefused by name: {refused}.\n"


if __name__ == "__main__":
    from tests.models.models_table import PAGE, replaced

    PAGE.write_text(replaced(PAGE.read_text("utf-8"), table(), BEGIN), "utf-8")
