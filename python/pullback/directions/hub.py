"""Folders of directions, with their model cards: written, read, and exchanged with the hub."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.utils import HFValidationError, validate_repo_id

from pullback._files import replacing
from pullback._version import __version__
from pullback.directions import card, stored

FILE = "direction.safetensors"
_CARD = "README.md"

#: What a picture may be called, so that the card and the hub can show it.
_PICTURE = re.compile(r"[A-Za-z0-9][\w.-]*\.(png|jpe?g|gif|webp)", re.ASCII)

#: Pictures by the names that they have beside the card.
Pictures = Mapping[str, str | os.PathLike[str]]


def write(folder: Path, fields: Mapping[str, Any], pictures: Pictures | None, source: str) -> None:
    """Write file, pictures and card into a folder, each complete or not at all, the card last.

    Args:
        folder: made where it is missing.
        fields: of the direction.
        pictures: their files by the names that they get.
        source: what the card tells `from_pretrained` to read.

    Raises:
        ValueError: a picture's name is none.
        FileNotFoundError: a picture does not exist.
        OSError: a file cannot be written.
    """
    found = _checked(pictures)  # all of them, before anything is written
    stored.write(folder / FILE, fields)
    for name, path in found.items():
        with replacing(folder / name) as temporary:
            shutil.copyfile(path, temporary)
    with replacing(folder / _CARD) as temporary:
        temporary.write_text(card.text(fields, source, found), encoding="utf-8")


def locate(source: str | os.PathLike[str], revision: str | None) -> Path:
    """The direction file of a file, a folder or a hub id, fetched where it is not in the cache.

    Raises:
        FileNotFoundError: no such file or folder, and no hub id either.
        ValueError: a revision of what is no hub id.
        OSError: it could not be fetched.
    """
    path = Path(source).expanduser()
    if path.exists():
        if revision is not None:
            raise ValueError(
                f"Expected a hub id with revision={revision!r}, got {path}, which lies here and "
                "has no revisions. Leave revision out."
            )
        return path / FILE if path.is_dir() else path
    name = str(source)
    if isinstance(source, Path) or name.count("/") != 1 or not _is_repo_id(name):
        raise FileNotFoundError(
            "Expected a direction file, a folder that save_pretrained wrote or a hub id "
            f"(owner/name); {name!r} is none of them, and nothing lies there."
        )
    try:
        fetched = hf_hub_download(
            name, FILE, revision=revision, library_name="pullback", library_version=__version__
        )
    except Exception as error:  # the hub's client has no common error class
        raise OSError(
            f"The direction {name!r} could not be fetched from the hub: {_first_line(error)} Check "
            f"the name, that it holds {FILE}, and the network, or download it elsewhere and pass "
            "the folder's path."
        ) from error
    return Path(fetched)


def push(
    repo_id: str,
    fields: Mapping[str, Any],
    pictures: Pictures | None,
    private: bool | None,
    token: str | bool | None,
) -> str:
    """Make a repository on the hub where there is none, upload the folder, and give its address.

    Raises:
        ValueError: the name is no hub id, or a picture's name is none.
        OSError: it could not be uploaded.
    """
    if not _is_repo_id(repo_id):
        raise ValueError(
            f"Expected a hub id such as owner/name, of letters, digits, '-', '_' and '.', got "
            f"{repo_id!r}."
        )
    found = _checked(pictures)  # before the hub is asked for anything
    api = HfApi(token=token, library_name="pullback", library_version=__version__)
    with _uploading(repo_id):
        # With the owner, where only the name was given.
        whole_id: str = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory(prefix="pullback-") as folder:
        write(Path(folder), fields, found, whole_id)
        with _uploading(repo_id):
            done = api.upload_folder(
                repo_id=whole_id,
                folder_path=folder,
                commit_message=f"Upload the direction {fields['name']}".strip(),
            )
    return str(done.commit_url)


@contextmanager
def _uploading(repo_id: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # as above
        raise OSError(
            f"The direction could not be uploaded to {repo_id!r}: {_first_line(error)} Check the "
            "network and that the token may write there, or call save_pretrained and upload the "
            "folder by other means."
        ) from error


def _checked(pictures: Pictures | None) -> dict[str, Path]:
    return {name: _picture(name, path) for name, path in (pictures or {}).items()}


def _picture(name: object, path: str | os.PathLike[str]) -> Path:
    if not isinstance(name, str) or not _PICTURE.fullmatch(name):
        raise ValueError(
            "Expected a picture's name as a file name of ASCII letters, digits, '-', '_' and '.' "
            f"that ends in .png, .jpg, .jpeg, .gif or .webp, got {name!r}."
        )
    found = Path(path).expanduser()
    if not found.is_file():
        raise FileNotFoundError(f"No picture at {found}, which {name} is to be a copy of.")
    return found


def _is_repo_id(name: object) -> bool:
    if not isinstance(name, str):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _first_line(error: Exception) -> str:
    """What an error of the hub's client says first, as a sentence."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip()
    return line if line.endswith((".", "!", "?")) else line + "."
