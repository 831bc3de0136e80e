"""Large runs hold nothing of a unit that is done, and give back what was freed."""

import gc
import platform
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pullback._memory import trim_heap
from pullback.runs import BatchRun
from pullback.runs import batch_worker as at_work
from tests.runs.large import PLAN


def alive():
    """Bytes of all tensors that are reachable, or wait for nobody but the collector."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated names of torch that are touched
        found = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    found = [one for one in found if one.layout == torch.strided]
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in found}
    return sum(storages.values())


def test_tensors_are_as_many_after_the_last_unit_as_after_the_first(digits, tmp_path, monkeypatch):
    """A unit that something still holds would be seen, and what is freed is given back."""
    plan = replace(
        PLAN, timesteps=(960,), class_labels=None, seeds=(0, 1, 2), batch=1, rank=1, keep_u=True
    )
    run, held, given_back = BatchRun.create(tmp_path, digits, plan), [], []
    monkeypatch.setattr(at_work, "trim_heap", lambda: given_back.append(1))
    run.work(digits, share=(0, 1), tell=lambda _: held.append(alive()))
    one = next(run.bases())
    assert (held[-1] - held[0]) / (len(held) - 1) < (one.u.nbytes + one.v.nbytes) / 4
    assert len(given_back) == len(held) == 3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_what_lies_between_blocks_in_use_is_given_back():
    blocks = [torch.ones(15_000) for _ in range(2_000)]  # 60 kB each, which come from the heap
    kept = blocks[::20]
    del blocks
    before = resident()
    trim_heap()
    assert before - resident() > 2_000 * 60_000 / 2
    assert all(bool((block == 1).all()) for block in kept)


def resident():
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
