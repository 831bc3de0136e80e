"""Files that appear complete or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved there when the block ends without an error.

    The move is atomic, and the temporary file is removed when the block raises, also on Ctrl-C.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON (NaN and Inf, which JSON has not, raise ValueError)."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors of any device and layout, with metadata in the header.

    Args:
        path: the file, in a folder that exists.
        tensors: by name; they must not share memory with one another.
        metadata: the header's own entries.
    """
    # Imported here: who writes JSON alone does not wait for torch.
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in tensors.items()},
            temporary,
            dict(metadata),
        )
