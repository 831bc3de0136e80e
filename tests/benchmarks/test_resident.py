"""Memory of processes of their own."""

import os
import subprocess
import sys

import pytest
import torch

from benchmarks.resident import in_child, resident_bytes

MB = 1 << 20


def held_by(size):
    """What a process holds for a tensor of so many bytes: called in a child."""
    memory = resident_bytes(lambda: torch.ones(size, dtype=torch.uint8))
    return {**memory, "threads": torch.get_num_threads(), "word": os.environ.get("PULLBACK_WORD")}


def test_a_child_tells_what_it_held_and_nothing_of_its_parent():
    mine = torch.ones(600 * MB, dtype=torch.uint8)
    told = in_child(
        "tests.benchmarks.test_resident:held_by", {"size": 100 * MB}, {"PULLBACK_WORD": "x"}
    )
    assert 100 * MB <= told["growth"] < 120 * MB
    assert told["before"] + told["growth"] <= told["peak"] < len(mine)
    assert told["threads"] == torch.get_num_threads()
    assert told["word"] == "x"


def test_a_peak_of_before_does_not_count():
    torch.ones(200 * MB, dtype=torch.uint8)
    told = resident_bytes(lambda: torch.ones(50 * MB, dtype=torch.uint8))
    if sys.platform == "linux":
        assert 45 * MB <= told["growth"] < 100 * MB
    assert told["peak"] >= told["before"]


def test_a_child_that_fails_is_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        in_child("benchmarks.resident:no_such_thing", {})
