"""Files that appear complete or not at all, and folders that one run has for itself."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LOCK = ".pullback.lock"

#: Where `replacing` writes, and where earlier versions did.
_UNFINISHED = re.compile(r"\..+\.\d+(-[0-9a-f]{8})?\.partial")

#: Where this process is writing now.
_being_written: set[Path] = set()

#: Lock files that this process holds.
_locks: set[Path] = set()

#: Folders that the present thread has for itself.
_occupied: ContextVar[frozenset[Path]] = ContextVar("occupied", default=frozenset())


@contextmanager
def replacing(path: Path, *, only_new: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, moved there when the block ends without an error.

    The move is atomic, and the temporary file is removed when the block raises, also on Ctrl-C.
    A symbolic link stays, and the file that it leads to is replaced. When the block has ended, the
    file outlasts a loss of power.

    Args:
        path: where it goes.
        only_new: raise FileExistsError where a file stands already, however short a time before.

    Raises:
        OSError: the file cannot be written, or something stands there that is no regular file,
            such as a folder or a device.
    """
    # Of a link, what it leads to; the move would put a file in the place of the link itself.
    target = Path(os.path.realpath(path))
    _check_regular(path, target)
    try:
        room, held = _begun(target)
    except OSError as error:
        raise _unwritten(path, error) from error
    try:
        temporary = room / target.name
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # Some libraries make files that only their owner can read.
        temporary.chmod(stat.S_IMODE(mode))
        _flush(temporary)
        if only_new:
            _place_new(temporary, target)
        else:
            os.replace(temporary, target)
        with suppress(OSError):  # some file systems flush no folders
            _flush(target.parent)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)
        _being_written.discard(room)
        os.close(held)


def discard_unfinished() -> None:
    """Remove the files that this process is writing, and its locks: for one that ends at once."""
    for lock in tuple(_locks):
        with suppress(OSError):
            lock.unlink()
    for room in tuple(_being_written):
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Have a folder for oneself, and remove what killed processes left unfinished in it.

    The system releases a folder when its process ends, in whatever way; it may be entered twice by
    one thread. Where the file system knows no locks, everyone may enter.

    Args:
        folder: an existing folder.

    Raises:
        OSError: another process has it, or no file can be written there.
    """
    here = folder.resolve()
    if here in _occupied.get():
        yield
        return
    lock = _locked(here / _LOCK, folder)
    token = _occupied.set(_occupied.get() | {here})
    try:
        sweep(here)
        yield
    finally:
        _occupied.reset(token)
        # Removed while it is held, so that no other process loses one that it has just made.
        with suppress(OSError):
            (here / _LOCK).unlink()
        _locks.discard(here / _LOCK)
        os.close(lock)


def sweep(folder: Path) -> None:
    """Remove what was left unfinished in a folder by processes that are no more.

    What others are writing now is locked and stays, but on a file system that knows no locks
    nothing is removed.
    """
    for path in folder.iterdir():
        if not _UNFINISHED.fullmatch(path.name):
            continue
        with suppress(OSError):
            held = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if _try_lock(held) is True:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(held)


def write_json(path: Path, value: Any, *, only_new: bool = False) -> None:
    """Write a value as indented JSON (NaN and Inf, which JSON has not, raise ValueError).

    Raises:
        OSError: the file cannot be written; FileExistsError: it is there, and has to be new.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with replacing(path, only_new=only_new) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors of any device and layout, with metadata in the header.

    Args:
        path: the file, in a folder that exists.
        tensors: by name; they must not share memory with one another.
        metadata: the header's own entries.

    Raises:
        OSError: the file cannot be written.
    """
    # Imported here: who writes JSON alone does not wait for torch.
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        try:
            save_file(
                {name: tensor.contiguous().cpu() for name, tensor in tensors.items()},
                temporary,
                dict(metadata),
            )
        except SafetensorError as error:  # which is how a full disk is told
            raise OSError(str(error)) from error


def read_safetensors(
    path: Path,
    form: str,
    fields: Callable[[dict[str, torch.Tensor], dict[str, str]], dict[str, Any]],
    *,
    otherwise: str,
    again: str,
) -> dict[str, Any]:
    """What `fields` makes of the tensors, on the CPU, and of the header's entries of a file.

    Args:
        path: the file, which exists.
        form: the entry "format" that it must have.
        fields: raises ValueError with what is wrong, beginning with "expected".
        otherwise: what a file with another format is, such as "is not a local basis".
        again: how to get another one, such as "compute the basis again".

    Raises:
        ValueError: the file is damaged or of another kind; it says what is wrong.
    """
    # Imported here: who reads JSON alone does not wait for torch.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != form:
                raise ValueError(
                    f"{path} {otherwise}: expected the format {form!r} in its header, got "
                    f"{metadata.get('format')!r:.60}. Was it written by a later version, or by "
                    "something else?"
                )
            # Copies: tensors lie in the file itself, and would follow what is written there.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged or is no safetensors file ({error}). Copy it again, or {again}."
        ) from error
    try:
        return fields(tensors, metadata)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}. Copy it again, or {again}.") from None


def _check_regular(path: Path, target: Path) -> None:
    """Raise where something stands at the target that must not be replaced by a file."""
    try:
        mode = target.lstat().st_mode
    except OSError:
        return  # nothing there; or writing says why it cannot be reached
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
        stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a symbolic link that leads in a circle",
    }  # fmt: skip
    what = kinds.get(stat.S_IFMT(mode), "no regular file")
    raise FileExistsError(
        f"{path} is {what}, and is left as it is. Expected the path of a new file, or of a regular "
        "file to replace: choose another path."
    )


def _begun(target: Path) -> tuple[Path, int]:
    """A new folder beside the target, and the descriptor whose lock says that it is in use.

    It is a folder because libraries may write to further files beside the one that they are given.
    """
    room = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    _being_written.add(room)
    try:
        room.mkdir()
        held = os.open(room, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        _being_written.discard(room)
        raise
    _try_lock(held)
    return room, held


def _place_new(temporary: Path, target: Path) -> None:
    """Move a file where none stands; raises FileExistsError where one does."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # some file systems know no links
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.replace(temporary, target)


def _flush(path: Path) -> None:
    """Wait until a file is on the disk; some file systems tell only now that it is full."""
    held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(held)
    finally:
        os.close(held)


def _locked(lock: Path, folder: Path) -> int:
    """The descriptor of a lock file that is held until it is closed or the process ends."""
    while True:
        try:
            held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise type(error)(
                f"No file can be written in the folder {folder}: {error.strerror}. Expected a "
                "folder to write results in: make it writable, free space, or choose another one."
            ) from error
        if _try_lock(held) is False:
            owner = os.read(held, 200).decode(errors="replace").strip()
            os.close(held)
            raise BlockingIOError(
                f"Another run is at work in the folder {folder} ({owner or 'its name is not known'}"
                "). Expected one run at a time in a folder: wait until it ends, stop it, or choose "
                "another folder."
            )
        # The run before may have removed the file after it was opened here.
        if _is_at(held, lock):
            break
        os.close(held)
    _locks.add(lock)
    with suppress(OSError):  # only for the message above
        os.truncate(held, 0)
        os.write(held, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return held


def _try_lock(descriptor: int) -> bool | None:
    """Whether a file could be locked; None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _unwritten(path: Path, error: OSError) -> OSError:
    """An error of the system, with the file that it hit and what to do."""
    said = (error.strerror or str(error)).rstrip(".")
    found = type(error)(
        f"{path} could not be written: {said}. Files that were finished before are kept. Make room "
        "and see that the folder can be written to, or choose another one; then run it again."
    )
    found.errno = error.errno
    return found
