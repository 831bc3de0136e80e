"""How much memory there is, how much a function takes, and how it is told that none is left."""

import random
from pathlib import Path

import pytest
import torch

from pullback import JacobianOperator
from pullback.operators.memory import default_budget, measure

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def files(monkeypatch):
    """What stands in the files of the system, by their names; any other cannot be read."""
    texts = {}

    def read_text(path, *args, **kwargs):
        if str(path) not in texts:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    return texts


def available(size):
    """Lines as Linux writes them, in KiB."""
    return f"MemTotal: {64 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {size // 1024} kB\n"


def test_the_budget_is_half_of_the_memory_that_is_available(files):
    files["/proc/meminfo"] = available(12 * GIB)
    assert default_budget(CPU) == 6 * GIB


@pytest.mark.parametrize(("limit", "used", "left"), [(16, 9, 7), (16, 2, 12), (64, 60, 4)])
def test_the_budget_is_half_of_what_a_container_leaves_where_that_is_less(files, limit, used, left):
    files["/proc/meminfo"] = available(12 * GIB)
    files["/sys/fs/cgroup/memory.max"] = f"{limit * GIB}\n"
    files["/sys/fs/cgroup/memory.current"] = f"{used * GIB}\n"
    assert default_budget(CPU) == left * GIB // 2
    del files["/proc/meminfo"]  # as on systems that have no such file
    assert default_budget(CPU) == (limit - used) * GIB // 2


def test_a_container_without_a_limit_leaves_what_the_machine_has(files):
    files["/proc/meminfo"] = available(12 * GIB)
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    files["/sys/fs/cgroup/memory.current"] = f"{3 * GIB}\n"
    assert default_budget(CPU) == 6 * GIB


def test_where_nothing_can_be_read_or_is_left_there_is_a_budget_still(files):
    assert default_budget(CPU) > 2**20
    operator = JacobianOperator(torch.sin, torch.ones(2, 3))
    assert operator.chunk.tangents > 1
    files["/sys/fs/cgroup/memory.max"] = files["/sys/fs/cgroup/memory.current"] = f"{GIB}\n"
    assert default_budget(CPU) < 2**20
    operator = JacobianOperator(torch.sin, torch.ones(2, 3))
    assert operator.matmat(torch.ones(2, 4, 3)).shape == (2, 4, 3)


@pytest.mark.parametrize("seed", range(5))
def test_memory_is_measured_whatever_is_made_and_freed_in_whatever_order(seed):
    """Nothing made outside is counted, also where it is looked at or freed on the way."""
    generator = random.Random(seed)
    outside = [torch.ones(generator.randint(1, 1000)) for _ in range(20)]
    alive, peak, total = [], 0, 0

    def run():
        nonlocal peak, total
        for _ in range(40):
            if alive and generator.random() < 0.4:
                alive.pop(generator.randrange(len(alive)))
            elif outside and generator.random() < 0.5:
                outside.pop().view(-1, 1).add_(1)
            else:
                alive.append(torch.zeros(generator.randint(1, 1000)))
                alive[-1].view(-1, 1).add_(1)
                total += alive[-1].nbytes
            peak = max(peak, sum(tensor.nbytes for tensor in alive))
        return torch.zeros(())

    _, (found_peak, found_total) = measure(run)
    size = 4  # of what is returned
    assert peak <= found_peak <= peak + size
    assert found_total == total + size


def test_what_the_allocator_refuses_is_told_as_a_lack_of_memory():
    def hungry(x):
        return x + torch.empty(2**60, dtype=torch.uint8)[:1].to(x)

    with pytest.raises(MemoryError, match="does not fit the memory of cpu"):
        JacobianOperator(hungry, torch.ones(2, 3))


def test_errors_that_only_speak_of_memory_come_through_unchanged():
    def breaks(x):
        raise RuntimeError("Expected a contiguous memory format.")

    with pytest.raises(RuntimeError, match="contiguous memory format"):
        JacobianOperator(breaks, torch.ones(2, 3))
