"""Features that do not fit the memory: refused before any step, or taken batch by batch."""

import pytest
import torch

from pullback import _memory, directions
from pullback.directions import principal

QUICK = {"steps": 5}
FEATURE = 96 * 4 * 4 * 4  # bytes of one in the middle block of the digit model


@pytest.fixture
def room(monkeypatch):
    """Sets how many bytes there are to spare."""

    def leave(size):
        for module in (_memory, principal):
            monkeypatch.setattr(module, "free_bytes", lambda _device: size)

    return leave


@pytest.fixture
def passes(digits, monkeypatch):
    """Counts the samples of all passes of the network."""
    seen = []
    own = type(digits).output

    def counted(self, x, *args, **kwargs):
        seen.append(len(x))
        return own(self, x, *args, **kwargs)

    monkeypatch.setattr(type(digits), "output", counted)
    return seen


def labelled(model, count, **given):
    score = lambda images: images.flatten(1).mean(1)  # noqa: E731
    return directions.label_samples(model, range(count), 799, score, **given, **QUICK)


def test_a_trajectory_that_does_not_fit_takes_no_step(digits, room, passes):
    x = torch.randn(4, 1, 16, 16)
    room(4 * 5 * FEATURE - 1)
    words = r"4 samples at 5 steps, 96 x 4 x 4 each, take 0\.1 MiB, and the machine has 0\.1 MiB to"
    with pytest.raises(MemoryError, match=words + " spare.*`pca` walks batch by batch"):
        directions.trajectory(digits, x, 999, **QUICK)
    assert passes == [1]
    room(4 * 5 * FEATURE)
    assert directions.trajectory(digits, x, 999, **QUICK).features.nbytes == 4 * 5 * FEATURE
    room(4 * 5 * 96 * 4)
    directions.trajectory(digits, x, 999, pool="space", **QUICK)


def test_samples_whose_features_do_not_fit_are_not_drawn(digits, room, passes):
    room(100 * FEATURE - 1)
    with pytest.raises(MemoryError, match=r"100 samples at 1 steps.*StreamingPCA"):
        labelled(digits, 100)
    with pytest.raises(MemoryError, match=r"30 samples at 5 steps"):
        labelled(digits, 90, batch=30)
    assert passes == [1, 1]
    assert labelled(digits, 7, batch=4).features.shape == (7, 96, 4, 4)


def test_components_are_found_batch_by_batch_instead(digits, room, monkeypatch):
    told = []
    given = {"progress": lambda done, _of: told.append(done), **QUICK}
    plain = directions.pca(digits, 6, 1, **given)
    monkeypatch.setattr(principal, "free_bytes", lambda _device: 4 * 2 * 5 * FEATURE)
    few = directions.pca(digits, 6, 1, **given)
    assert told == [6, 2, 4, 6]
    torch.testing.assert_close(few.deviations, plain.deviations, rtol=1e-4, atol=0)
    told.clear()
    room(2 * (11 + 32) * 5 * FEATURE - 1)
    with pytest.raises(MemoryError, match=r"43 rows of 7680 numbers.*smaller rank"):
        directions.pca(digits, 6, 1, **given)
    assert told == []


@pytest.mark.parametrize("how", ["supervised", "boundary", "from_pairs"])
def test_a_copy_in_float64_that_does_not_fit(room, how):
    features = torch.randn(20, 50)
    other = torch.randn(20, 50) if how == "from_pairs" else [0, 1] * 10
    room(8 * 20 * 50 - 1)
    words = r'20 features of 50 numbers in float64 take.*\(pool="space"\)'
    with pytest.raises(MemoryError, match=words):
        getattr(directions, how)(features, other, tap="mid_block", t=500)
