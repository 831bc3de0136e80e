"""Large runs as files that other programs read, each written by one process from finished units."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pullback._files import replacing
from pullback.runs.batch_plan import BatchPlan, Unit
from pullback.runs.batch_store import read_note, read_unit, receipt_path

#: A finished unit with its tensors, `[T, B, ...]` by name, and its notes.
Finished = Iterator[tuple[Unit, dict[str, torch.Tensor], dict[str, Any]]]

#: Names of the axes behind [T, B] of each tensor; the rest are those of latents or features.
_AXES = {"s": ("direction",), "residual": ("direction",), "v": ("direction",), "u": ("direction",)}


def read(folder: Path, unit: Unit, digest: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A finished unit, with the seconds that it took among its notes, or None for them.

    Raises:
        ValueError: it is damaged.
    """
    tensors, notes = read_unit(folder, unit, digest)
    receipt = read_note(receipt_path(folder, unit.number)) or {}
    return tensors, {**notes, "seconds": receipt.get("seconds_of_bases")}


def to_zarr(path: Path, plan: BatchPlan, settings: Mapping[str, Any], finished: Finished) -> None:
    """Write a zarr store: see `BatchRun.to_zarr`."""
    try:
        import zarr
    except ImportError as error:
        raise _missing("zarr", "A zarr store") from error
    if path.exists():
        raise FileExistsError(
            f"{path} is there already, and is left as it is. Choose another path, or remove it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    room = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        store = zarr.open_group(room, mode="w", zarr_format=3)
        store.attrs.update({"settings": json.dumps(settings)})
        _write_axes(store, plan)
        for unit, tensors, _ in finished:
            for name, tensor in tensors.items():
                if name not in store:
                    _make(store, name, tensor, plan)
                here = slice(unit.first, unit.first + len(unit.seeds))
                # From [T, B, ...] to [sample, timestep, ...].
                store[name][unit.condition, here] = _numbers(tensor.transpose(0, 1))
            store["done"][unit.condition, here] = True
        room.rename(path)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def to_parquet(path: Path, plan: BatchPlan, finished: Finished) -> None:
    """Write a Parquet file: see `BatchRun.to_parquet`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise _missing("pyarrow", "A Parquet file") from error
    condition = pa.string() if plan.prompts is not None else pa.int64()
    whole, number = pa.int64(), pa.float64()
    schema = pa.schema(
        {
            "condition": condition, "seed": whole, "t": whole, "direction": whole, "s": number,
            "residual": number, "angle_bound": number, "converged": pa.bool_(), "rank": whole,
            "products": whole, "stopped": pa.string(), "unit": whole, "unit_seconds": number,
        }
    )  # fmt: skip
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for unit, tensors, notes in finished:
            writer.write_table(pa.table(_columns(unit, tensors, notes), schema=schema))


def _columns(
    unit: Unit, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
) -> dict[str, Any]:
    """The columns of a unit: a row for each timestep, sample and direction, in this order."""
    steps, count, rank = shape = tensors["s"].shape
    seconds = notes["seconds"] or [None] * steps
    rows, paired = steps * count * rank, notes["condition"]

    def each(values: Any, *axes: int) -> list[Any]:
        """Values along some of the axes, repeated along the others."""
        around = [shape[axis] if axis in axes else 1 for axis in range(3)]
        return (
            np.broadcast_to(np.array(values, dtype=object).reshape(around), shape).ravel().tolist()
        )

    return {
        "condition": each(paired, 1) if isinstance(paired, list) else [paired] * rows,
        "seed": each(unit.seeds, 1),
        "t": each(notes["timesteps"], 0),
        "direction": each(range(rank), 2),
        **{name: tensors[name].double().flatten().numpy() for name in ("s", "residual")},
        **{
            name: each(tensors[name].tolist(), 0, 1)
            for name in ("angle_bound", "converged", "rank", "products")
        },
        "stopped": each(notes["stopped"], 0, 1),
        "unit": [unit.number] * rows,
        "unit_seconds": each(seconds, 0),
    }


def _write_axes(store: Any, plan: BatchPlan) -> None:
    """The coordinates, and what is done."""
    labels = [json.dumps(condition) for condition in plan.conditions]
    store.attrs["conditions"] = labels
    numbered = plan.class_labels is None or plan.paired
    axes = {
        "condition": np.array(range(len(labels)) if numbered else plan.conditions),
        "sample": np.array(plan.seeds),
        "timestep": np.array(plan.timesteps),
    }
    for name, values in axes.items():
        store.create_array(name, data=values.astype(np.int64), dimension_names=(name,))
    store.create_array(
        "done", shape=(len(labels), len(plan.seeds)), dtype="bool", fill_value=False,
        dimension_names=("condition", "sample"),
    )  # fmt: skip


def _make(store: Any, name: str, tensor: torch.Tensor, plan: BatchPlan) -> None:
    """An empty array for a tensor `[T, B, ...]` of each unit; a unit is a chunk of it."""
    numbers = _numbers(tensor[:0])
    steps, _, *inside = tensor.shape
    axes: tuple[str, ...] = _AXES.get(name, ())
    kind = {"u": "h", "v": "v"}.get(name, "x")  # v may be of another variable than x
    axes += tuple(f"{kind}{place}" for place in range(len(inside) - len(axes)))
    store.create_array(
        name,
        shape=(len(plan.conditions), len(plan.seeds), steps, *inside),
        chunks=(1, min(plan.batch, len(plan.seeds)), steps, *inside),
        dtype=numbers.dtype,
        fill_value=np.nan if numbers.dtype.kind == "f" else 0,
        dimension_names=("condition", "sample", "timestep", *axes),
    )


def _numbers(tensor: torch.Tensor) -> Any:
    """As numpy has them, which knows no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _missing(name: str, what: str) -> ImportError:
    return ImportError(
        f"{what} is written by {name}, which is not installed: pip install 'pullback[publish]'. "
        "BatchRun.bases reads the run without it."
    )
