"""The folder that results go to."""

from __future__ import annotations

from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make it where it is missing.

    Raises:
        OSError: it cannot be made, or is a file.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(
                f"Expected --output to be a folder, or a path where one can be made; {folder} is "
                "a file. Choose another path."
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.strerror is None:
            raise
        raise OSError(
            f"The output folder {folder} cannot be made: {error.strerror}. Choose another --output."
        ) from error
