"""One who computes units of a large run, one after the other, wherever that is."""

from __future__ import annotations

import gc
import os
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pullback._memory import trim_heap
from pullback.models import LatentModel
from pullback.operators import empty_cache, is_out_of_memory
from pullback.runs.batch_plan import Unit
from pullback.runs.batch_store import (
    digest_of,
    plan_path,
    read_plan,
    write_failure,
    write_receipt,
    write_unit,
)
from pullback.runs.batch_unit import Computed, Watch, compute, samples_at_once
from pullback.runs.settings import ANOTHER, check_same

#: How often a unit is tried before it is noted as one that fails.
ATTEMPTS = 3

_TRACE = 4000  # characters of a traceback that are kept, from its end

#: What is told when a unit is done or has failed: its receipt, or the record of its failure.
Told = Callable[[dict[str, Any]], None]


class UnitWorker:
    """Computes units of the run in a folder.

    Args:
        folder: of the run.
        model: its model.
        watch: is told how the bases of a unit get on.

    Raises:
        ValueError: the model, or a version, is not that of the plan.
    """

    def __init__(self, folder: Path, model: LatentModel, watch: Watch | None = None) -> None:
        self.folder, self.model = folder, model
        self.watch = Watch() if watch is None else watch
        self.plan, settings, _ = read_plan(folder)
        check_same(plan_path(folder), settings, self.plan.settings(model), ANOTHER)
        self.digest = digest_of(settings)
        self.rows = samples_at_once(model, self.plan)

    def do(self, number: int) -> dict[str, Any]:
        """Compute a unit and write it, or note why it could not be computed.

        Returns:
            Its receipt, or the record of its failure, which has "errors" and no "seconds".

        Raises:
            OSError: a file cannot be written. That is no fault of the unit.
        """
        unit, rows = self.plan.units[number], self.rows
        begun = time.perf_counter()
        errors: list[dict[str, str]] = []
        while True:
            found = self._tried(unit, rows, errors)
            if isinstance(found, Computed):
                break
            if len(errors) == ATTEMPTS:
                return write_failure(self.folder, number, errors)
            if found:  # memory ran out
                rows = min(max(1, rows // 2), len(unit.seeds))
        write_unit(self.folder, unit, self.digest, found.tensors, found.notes)
        receipt = {
            "unit": number,
            "seconds": time.perf_counter() - begun,
            "seconds_of_bases": found.seconds,
            "samples_at_once": rows,
            "errors_before": errors,
            "worker": {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "device": str(self.model.device),
            },
            "finished": time.time(),
        }
        write_receipt(self.folder, number, receipt)
        del found
        trim_heap()
        return receipt

    def _tried(self, unit: Unit, rows: int, errors: list[dict[str, str]]) -> Computed | bool:
        """A unit; or, where an error came and is noted, whether memory had run out."""
        try:
            return compute(self.model, self.plan, unit, rows, self.watch)
        except Exception as error:
            trace = "".join(traceback.format_exception(error))[-_TRACE:]
            errors.append({"error": type(error).__name__, "message": str(error), "trace": trace})
            out_of_memory = is_out_of_memory(error)
        # Outside the except clause, so that the traceback no longer holds the tensors.
        if out_of_memory:
            gc.collect()
            empty_cache(self.model.device)
        return out_of_memory
