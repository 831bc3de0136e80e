"""The files of edits: one of each sample, and one summary of all.

    edits-seed0.safetensors    latents [D, K, *x_shape] of D directions and K strengths, and x
                               [*x_shape], the latents at t that were edited
    basis-seed0.safetensors    the LocalBasis of the sample, where one was computed
    summary.json               settings, versions, and how images were inverted

They carry their settings, and are read where all of them are those that are asked for now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pullback._files import write_safetensors
from pullback.geometry import LocalBasis
from pullback.runs.edit_plan import EditPlan
from pullback.runs.settings import (
    check_same,
    damaged,
    header_of,
    json_of,
    mapping_of,
    settings_of_summary,
)
from pullback.runs.store import summary_path

#: Of summary.json.
SUMMARY_FORMAT = "pullback.edits.summary/1"

_FORMAT, _HEADER = "pullback.edits/1", "edits"


@dataclass(frozen=True, eq=False)
class SampleEdits:
    """The edits of one sample.

    Attributes:
        name: of the sample.
        x: the latents at t, `[*x_shape]`, on the CPU.
        latents: what they became, `[D, K, *x_shape]`, on the CPU.
        names: of the D directions.
        inversion: psnr, error and advice of an image; None of a sample of noise.
        basis: that was computed for it; None where none was.
        reused: whether they were read from a file.
    """

    name: str
    x: torch.Tensor
    latents: torch.Tensor
    names: tuple[str, ...]
    inversion: Mapping[str, Any] | None
    basis: LocalBasis | None
    reused: bool


def edits_path(folder: Path, name: str) -> Path:
    """Where the edits of a sample lie."""
    return folder / f"edits-{name}.safetensors"


def edit_basis_path(folder: Path, name: str) -> Path:
    """Where the basis of a sample lies that was computed for its edits."""
    return folder / f"basis-{name}.safetensors"


def write(folder: Path, edits: SampleEdits, settings: Mapping[str, Any]) -> None:
    """Write the files of a sample.

    Args:
        folder: an existing folder.
        edits: what was computed.
        settings: all that it depends on.
    """
    # The edits come last: where they are, the basis is.
    if edits.basis is not None:
        edits.basis.save(edit_basis_path(folder, edits.name))
    told = {
        "format": _FORMAT,
        "names": edits.names,
        "inversion": edits.inversion,
        "settings": settings,
    }
    write_safetensors(
        edits_path(folder, edits.name),
        {"x": edits.x, "latents": edits.latents},
        # In one entry, since safetensors writes several in any order: same edits, same bytes.
        {_HEADER: json.dumps(told)},
    )


def read(
    folder: Path, name: str, settings: Mapping[str, Any], shape: tuple[int, ...]
) -> SampleEdits | None:
    """What the folder has of a sample; None if there is nothing.

    Args:
        folder: an existing folder.
        name: of the sample.
        settings: all that its edits depend on.
        shape: of the latents of one sample.

    Raises:
        ValueError: it was made with other settings, or the file is damaged.
    """
    path = edits_path(folder, name)
    if not path.exists():
        return None
    there = mapping_of(path, "header", json_of(path, header_of(path).get(_HEADER, "null")))
    if there.get("format") != _FORMAT:
        raise damaged(path, f"expected the format {_FORMAT!r}")
    check_same(path, mapping_of(path, "settings", there.get("settings")), settings)
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: the tensors lie in the file, which may be replaced.
            x, latents = (file.get_tensor(one).clone() for one in ("x", "latents"))
    except SafetensorError as error:
        raise damaged(path, str(error)) from error
    names, inversion = there.get("names"), there.get("inversion")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise damaged(path, f"expected names of directions, got {names!r:.60}")
    if inversion is not None:
        mapping_of(path, "inversion", inversion)
    wanted = [len(names), len(settings["strengths"]), *shape]
    if list(latents.shape) != wanted or tuple(x.shape) != shape:
        raise damaged(path, f"expected latents {wanted}, got {list(latents.shape)}")
    own = edit_basis_path(folder, name)
    basis = LocalBasis.load(own) if settings["rank"] is not None and own.exists() else None
    return SampleEdits(name, x, latents, tuple(names), inversion, basis, reused=True)


def check_folder(
    folder: Path, plan: EditPlan, settings: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Raise unless a folder is empty of results, or they are edits of one plan that may go on.

    Args:
        folder: an existing folder.
        plan: what is asked for.
        settings: all that the edits of every sample depend on.
        overwrite: whether files of other settings may be replaced.

    Raises:
        ValueError: a file has other settings or is damaged, or the plan leaves out a sample that is
            there: its summary and figures would be of one part of the folder.
    """
    path = summary_path(folder)
    if path.exists():
        there = settings_of_summary(path, SUMMARY_FORMAT)
        if not overwrite:
            there.pop("samples", None)
            check_same(path, there, settings)
    known = {sample.name for sample in plan.samples}
    left_out = sorted(
        path.stem.partition("-")[2]
        for path in folder.glob("edits-*.safetensors")
        if path.stem.partition("-")[2] not in known
    )
    if left_out:
        raise ValueError(
            f"{folder} holds edits of {', '.join(left_out)} too, which are not asked for now "
            f"({', '.join(sorted(known))} are). Its summary and figures must be of one plan: ask "
            "for all of them, remove those files, or choose another --output folder."
        )
