"""The folder of a large run: its plan, one file for each unit of work, and notes beside them.

    plan.json                        all that the numbers depend on; written once
    units/unit-000012.safetensors    the numbers of a unit, the same bytes whoever computes them
    receipts/unit-000012.json        who computed it, when, and how long it took
    failures/unit-000012.json        why it could not be computed
    cancelled.json                   there while nobody is to begin a unit

Every file appears complete or not at all. What is to be done is the plan without the units that are
there, so that no list of them has to be kept, and nothing is locked.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pullback._files import sweep, write_json, write_safetensors
from pullback.models import told
from pullback.runs.batch_plan import BatchPlan, Unit

#: Of plan.json.
RUN_FORMAT = "pullback.run/1"

_UNIT_FORMAT = "pullback.unit/1"

#: The one entry of a unit's header: several would come in any order, and change the bytes.
_HEADER = "unit"


def plan_path(folder: Path) -> Path:
    """Where the plan lies."""
    return folder / "plan.json"


def unit_path(folder: Path, number: int) -> Path:
    """Where the numbers of a unit lie."""
    return folder / "units" / f"unit-{number:06d}.safetensors"


def receipt_path(folder: Path, number: int) -> Path:
    """Where it says who computed a unit."""
    return folder / "receipts" / f"unit-{number:06d}.json"


def failure_path(folder: Path, number: int) -> Path:
    """Where it says why a unit could not be computed."""
    return folder / "failures" / f"unit-{number:06d}.json"


def cancel_path(folder: Path) -> Path:
    """What is there while nobody is to begin a unit."""
    return folder / "cancelled.json"


def digest_of(settings: Mapping[str, Any]) -> str:
    """A short hash of settings, by which units tell whose they are."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def write_plan(folder: Path, settings: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Write the plan of a new run, and make its folders.

    Args:
        folder: made where it is missing.
        settings: as `BatchPlan.settings` tells them.
        source: how the model is read again, as JSON has it.

    Raises:
        FileExistsError: there is a plan already.
        OSError: it cannot be written.
    """
    try:
        for path in (unit_path(folder, 0), receipt_path(folder, 0), failure_path(folder, 0)):
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"The folder {folder} of the run cannot be made: {error.strerror}. Choose another one, "
            "or make the one that it lies in writable."
        ) from error
    told = {"format": RUN_FORMAT, "settings": settings, "source": source}
    write_json(plan_path(folder), told, only_new=True)


def read_plan(folder: Path) -> tuple[BatchPlan, dict[str, Any], dict[str, Any]]:
    """The plan of a run, its settings, and how its model is read again.

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: its plan is damaged.
    """
    path = plan_path(folder)
    try:
        found = json.loads(path.read_text("utf-8"))
        if found["format"] != RUN_FORMAT:
            raise ValueError(f"expected the format {RUN_FORMAT!r}, got {found['format']!r:.60}")
        return BatchPlan.of_settings(found["settings"]), found["settings"], found["source"]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no run in {folder}: expected a {path.name} there, which `pullback run "
            "start` writes. Choose the folder of a run, or start one."
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or of a later version ({type(error).__name__}: {error}). Copy it "
            "again, or start another run in another folder."
        ) from None


def clean(folder: Path) -> None:
    """Remove what killed processes left unfinished."""
    for path in (plan_path(folder), unit_path(folder, 0), receipt_path(folder, 0)):
        sweep(path.parent)


def numbers_in(path: Path) -> set[int]:
    """The units that have a file of the kind of this one, such as `unit_path(folder, 0)`."""
    if not path.parent.is_dir():
        return set()
    names = (one.name for one in path.parent.iterdir() if one.suffix == path.suffix)
    return {
        int(name[5 : -len(path.suffix)])
        for name in names
        if name.startswith("unit-") and name[5 : -len(path.suffix)].isdigit()
    }


def left(folder: Path, plan: BatchPlan) -> list[Unit]:
    """What is to be done: the units that are not there and have not failed."""
    known = numbers_in(unit_path(folder, 0)) | numbers_in(failure_path(folder, 0))
    return [unit for unit in plan.units if unit.number not in known]


def write_unit(
    folder: Path,
    unit: Unit,
    digest: str,
    tensors: Mapping[str, torch.Tensor],
    notes: Mapping[str, Any],
) -> None:
    """Write the numbers of a unit.

    Args:
        folder: of the run.
        unit: which one.
        digest: of the run's settings.
        tensors: by name, `[T, B, ...]` at T timesteps of B samples each, on the CPU.
        notes: what else is known of them, as JSON has it.

    Raises:
        OSError: it cannot be written.
    """
    header = {
        "format": _UNIT_FORMAT, "run": digest, "number": unit.number, **notes,
        "checksums": told(dict(sorted(tensors.items()))),
    }  # fmt: skip
    write_safetensors(unit_path(folder, unit.number), tensors, {_HEADER: json.dumps(header)})


def header_of(folder: Path, unit: Unit, digest: str) -> dict[str, Any]:
    """What a unit's file says of itself.

    Raises:
        ValueError: it is damaged, or of another run.
    """
    path = unit_path(folder, unit.number)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
        found = [header[name] for name in ("format", "run", "number")]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    wanted = [_UNIT_FORMAT, digest, unit.number]
    if found != wanted:
        raise _damaged(path, f"expected format, run and number {wanted}, got {found}")
    return dict(header)


def read_unit(
    folder: Path, unit: Unit, digest: str, place: int | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The numbers of a unit, and what its file says of itself.

    Args:
        folder: of the run.
        unit: which one.
        digest: of the run's settings.
        place: which of the timesteps, from 0; None for all of them.

    Returns:
        Tensors `[B, ...]` by name, or `[T, B, ...]` of all timesteps, on the CPU.

    Raises:
        ValueError: the file is damaged, or of another run.
    """
    header = header_of(folder, unit, digest)
    path = unit_path(folder, unit.number)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in header["checksums"]}
            # Copies: tensors lie in the file itself, and would follow what is written there.
            which = slice(None) if place is None else place
            return {name: one[which].clone() for name, one in slices.items()}, header
    except (SafetensorError, KeyError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def checked_unit(
    folder: Path, unit: Unit, digest: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """As `read_unit` at all timesteps, where all of the file is what was written.

    Raises:
        ValueError: it is damaged, or of another run.

    Cost: every byte is read, and hashed.
    """
    tensors, header = read_unit(folder, unit, digest)
    if told(dict(sorted(tensors.items()))) != header["checksums"]:
        raise _damaged(unit_path(folder, unit.number), "numbers are not those of its checksums")
    return tensors, header


def clear(folder: Path) -> None:
    """Remove a run: its plan at last, which stays that of its files for as long as there are some.

    Raises:
        OSError: a file cannot be removed.
    """
    for kind in (unit_path(folder, 0), receipt_path(folder, 0), failure_path(folder, 0)):
        for path in kind.parent.glob("unit-*"):
            path.unlink(missing_ok=True)
    cancel_path(folder).unlink(missing_ok=True)
    plan_path(folder).unlink(missing_ok=True)


def set_aside(folder: Path, unit: Unit) -> Path:
    """Give a damaged file another name, so that its unit is computed again; returns that name."""
    path = unit_path(folder, unit.number)
    aside = path.with_suffix(".damaged")
    path.replace(aside)
    receipt_path(folder, unit.number).unlink(missing_ok=True)
    return aside


def write_receipt(folder: Path, number: int, receipt: Mapping[str, Any]) -> None:
    """Write who computed a unit.

    Raises:
        OSError: it cannot be written.
    """
    write_json(receipt_path(folder, number), receipt)


def write_failure(folder: Path, number: int, errors: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Write why a unit could not be computed, and return it."""
    failure = {"unit": number, "errors": list(errors), "finished": time.time()}
    write_json(failure_path(folder, number), failure)
    return failure


def read_note(path: Path) -> dict[str, Any] | None:
    """A receipt or the record of a failure; None where there is none that can be read."""
    try:
        note = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is damaged or of another run ({what}). `pullback run verify` sets such files "
        "aside, and `pullback run start`, or the command that began the run, computes them again."
    )
