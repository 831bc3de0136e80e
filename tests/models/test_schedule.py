"""What a scheduler says, in the words of all its classes."""

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from pullback import denoise, maps
from pullback.models import Schedule
from tests.models.callables import SHAPE, model_of

FLOWS = [
    DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    FlowMatchEulerDiscreteScheduler(),
]


@pytest.mark.parametrize("scheduler", FLOWS)
def test_a_scheduler_that_says_flow_prediction_is_one_of_a_flow(scheduler, rng):
    """Its network gives the velocity ε − x₀ on x = (1 − σ) x₀ + σ ε, with σ = t / 1000."""
    clean, noise = torch.randn(2, 3, *SHAPE, generator=rng, dtype=torch.float64)
    model = model_of(lambda x, t: noise - clean, scheduler)
    assert (model.schedule.prediction_type, model.schedule.max_timestep) == ("flow", 1000)
    x = 0.7 * clean + 0.3 * noise
    found = {kind: maps.output(model, kind).at(x, 300).value() for kind in maps.OUTPUTS}
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(found["noise"], noise, **close)
    torch.testing.assert_close(found["denoised"], clean, **close)
    torch.testing.assert_close(found["score"], -noise / 0.3, **close)
    torch.testing.assert_close(denoise(model, x, 300, steps=10), clean, **close)


def test_a_prediction_that_is_not_known_is_named_with_those_that_are():
    scheduler = DDPMScheduler()
    scheduler.register_to_config(prediction_type="score")
    with pytest.raises(ValueError, match=r"v_prediction or flow_prediction, got 'score'"):
        _ = Schedule(scheduler).prediction_type
