"""Every barrier and shuffle of the CUDA kernels is needed, and missed when it is left out."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.pullback_ext.emulation import emulated

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler")

WAITS = re.compile(
    r"__syncthreads|__syncwarp|__shfl|__any_sync|__all_sync|__ballot|PULLBACK_(SYNC|ANY|MEET|MULTIPLY|LOAD_\w+)\("
)
# Where algorithms for teams wait is told by the places that call these.
WRAPPERS = ("cuda/team.h", "numerics/team.h", "cuda/launch.h", "cuda/meeting.h", "cuda/mma.h")

# Sites, (file, function, how manieth there), without which all cases come out right under all
# schedules, each with the reason why it stays. None at present.
REDUNDANT = {}


@pytest.fixture(scope="module")
def mutants():
    """(file, function, how manieth there) -> the case and schedule that noticed it missing."""
    environment = {**os.environ, "PULLBACK_EMULATION": str(emulated.build())}
    run = subprocess.run(
        [sys.executable, "-m", "tests.pullback_ext.emulation.mutations"],
        cwd=emulated.CSRC.parent,
        env={**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found, seen = {}, Counter()
    for row in sorted(json.loads(run.stdout), key=lambda row: (row["site"][1], row["site"][3])):
        _, file, function, _ = row["site"]
        seen[file, function] += 1
        found[file, function, seen[file, function]] = row["noticed"]
    return found


def test_every_place_where_threads_wait_is_reached(mutants):
    written = Counter()
    for path in sorted([*emulated.CSRC.glob("cuda/*"), *emulated.CSRC.glob("numerics/*.h")]):
        if str(path.relative_to(emulated.CSRC)) not in WRAPPERS:
            code = re.sub(r"//.*", "", path.read_text())
            written[path.name] += len(WAITS.findall(code))
    assert +written == Counter(Path(file).name for file, _, _ in mutants)


def test_every_missing_wait_is_noticed(mutants):
    unnoticed = {site for site, noticed in mutants.items() if noticed is None}
    assert unnoticed == set(REDUNDANT)


def test_no_single_schedule_would_do(mutants):
    """Some mutants show under one schedule only; several are needed."""
    assert len({noticed[1] for noticed in mutants.values() if noticed}) > 1
