"""Ways to make an operator whose matrices are known."""

import pytest

from tests.operators.known import dense_operator, smooth_operator


@pytest.fixture(params=[dense_operator, smooth_operator])
def make(request):
    """Makes an operator from [3, 4] to [m] and its matrices [B, m, 12]."""
    return request.param
