"""A plan that is computed fast."""

import pytest

from pullback.runs import Plan


@pytest.fixture
def plan():
    """Two samples of the digit model at one timestep, two directions each."""
    return Plan(timesteps=(900,), rank=2, seeds=(0, 1), tap="mid_block", tol=5e-2)
