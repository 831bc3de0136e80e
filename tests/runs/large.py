"""A large run that is over in seconds, and what reads models in the workers' own processes."""

import os
import signal
import time
from pathlib import Path

import torch

from pullback.models import LatentModel, load
from pullback.runs import BatchPlan, unit_path

#: Four units: two blocks of seeds under two conditions.
PLAN = BatchPlan(
    timesteps=(960, 940), rank=2, seeds=tuple(range(4)), tap="mid_block", tol=5e-2, batch=2,
    class_labels=(3, 7), memory=2**28,
)  # fmt: skip


def numbers(folder):
    """The bytes of all finished units, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "units").iterdir())}


def stamps(folder):
    """What changes when a file is written again, even with the same bytes."""
    kept = {path.name: path.stat() for path in (folder / "units").glob("unit-*.safetensors")}
    return {name: (found.st_ino, found.st_mtime_ns) for name, found in kept.items()}


def read_digits(device):
    return load("digits", device=device)


def read_other(device):
    model = read_digits(device)
    with torch.no_grad():
        model.network.conv_out.bias += 1
    return model


def read_fragile(device):
    """The model; in the first process that reads it, one that dies at its second unit."""
    marker = Path(os.environ["PULLBACK_TEST_MARKER"])
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return read_digits(device)
    model = read_digits(device)
    sample = LatentModel.sample_latents
    calls = []

    def fatal(*args, **options):
        calls.append(0)
        if len(calls) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return sample(model, *args, **options)

    model.sample_latents = fatal
    return model


def read_deadly(device):
    """The model, whose process dies with every unit."""
    model = read_digits(device)
    model.sample_latents = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    return model


def await_units(folder, count, process, seconds=60):
    """Wait until so many units are there."""
    end = time.monotonic() + seconds
    while sum(unit_path(folder, number).exists() for number in range(4)) < count:
        assert process.poll() is None, "the run has ended"
        assert time.monotonic() < end
        time.sleep(0.01)
