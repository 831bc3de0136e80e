"""Work in a process of its own, so that the memory it takes is known.

What libraries beside torch allocate is seen by the system alone, and only as that of a process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pullback._files import write_json

_ROOT = Path(__file__).resolve().parents[1]


def in_child(
    function: str, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> Any:
    """What a function of the benchmarks returns in a new process, with as many threads of torch.

    Args:
        function: "module:name"; it returns JSON values.
        arguments: of the function by keyword, JSON values.
        environment: variables that the process gets beside those of this one.

    Raises:
        subprocess.CalledProcessError: it failed; what it said went to standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        request = {
            "function": function,
            "arguments": dict(arguments),
            "threads": torch.get_num_threads(),
            "answer": str(answer),
        }
        command = [sys.executable, "-m", "benchmarks.resident", json.dumps(request)]
        variables = {**os.environ, **(environment or {})}
        subprocess.run(command, cwd=_ROOT, env=variables, check=True, stdout=subprocess.DEVNULL)
        return json.loads(answer.read_text("utf-8"))


def resident_bytes(run: Callable[[], object]) -> dict[str, int]:
    """What the process held before a function ran, and the most until it had run.

    Returns:
        `before`; `growth`, by which the most while it ran was above that; and `peak`, the most
        since the process began.
    """
    earlier = _status("VmHWM")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the most counts from here
    before = _status("VmRSS")
    run()
    most = _status("VmHWM")
    return {"before": before, "growth": most - before, "peak": max(earlier, most)}


def resident_now() -> int:
    """Bytes that the process holds."""
    return _status("VmRSS")


def _status(entry: str) -> int:
    """Bytes that the process holds (VmRSS), or held at most (VmHWM), as Linux tells.

    Where it does not, both are the most that it held. That is not asked for on Linux, where a new
    process has it from the one that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{entry}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _answer(request: dict[str, Any]) -> None:
    torch.set_num_threads(request["threads"])
    module, _, name = request["function"].partition(":")
    found = getattr(importlib.import_module(module), name)(**request["arguments"])
    write_json(Path(request["answer"]), found)


if __name__ == "__main__":
    _answer(json.loads(sys.argv[1]))
