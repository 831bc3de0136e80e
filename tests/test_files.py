"""Files appear complete or not at all, and a folder is of one run at a time."""

import errno
import json
import os
import resource
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from pullback import _files


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def half():
        with _files.replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_indented_and_has_no_nan(tmp_path):
    path = tmp_path / "file.json"
    _files.write_json(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    assert path.read_text().endswith("}\n")
    with pytest.raises(ValueError, match="JSON compliant"):
        _files.write_json(path, float("nan"))
    assert json.loads(path.read_text()) == {"a": [1, None]}


def test_tensors_of_any_layout_with_their_metadata(rng, tmp_path):
    path = tmp_path / "file.safetensors"
    a = torch.randn(3, 4, generator=rng).mT
    _files.write_safetensors(path, {"a": a}, {"format": "test/1"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "test/1"}
        assert torch.equal(file.get_tensor("a"), a)
    assert list(tmp_path.iterdir()) == [path]


def write(path, text="new"):
    with _files.replacing(path) as temporary:
        temporary.write_text(text)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_has_to_be_new_replaces_none(tmp_path, monkeypatch, links):
    if not links:  # as on some file systems

        def link(*_):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", link)
    path = tmp_path / "file.json"
    _files.write_json(path, 1, only_new=True)
    with pytest.raises(FileExistsError, match=r"file\.json could not be written: File exists"):
        _files.write_json(path, 2, only_new=True)
    assert json.loads(path.read_text()) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_the_folder_is_flushed_after_the_move(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync

    def noted(descriptor):
        there = {one.name for one in tmp_path.iterdir() if not one.name.startswith(".")}
        flushed.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), there))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write(tmp_path / "file")
    assert flushed == [(False, set()), (True, {"file"})]


def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    for name in ("there", "not_yet"):
        link = tmp_path / name
        link.symlink_to(Path("far") / name)
        if name == "there":
            (tmp_path / "far" / name).write_text("old")
        write(link)
        assert link.is_symlink()
        assert (tmp_path / "far" / name).read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["not_yet", "there"]


def terminal():
    """A device of this test's own, whose folder takes no files: never one that others need."""
    return os.ttyname(os.openpty()[1])


def a_folder(path):
    path.mkdir()


def a_pipe(path):
    os.mkfifo(path)


def a_link_to_a_device(path):
    path.symlink_to(terminal())


def a_circle(path):
    path.symlink_to(path)


@pytest.mark.parametrize("make", [a_folder, a_pipe, a_link_to_a_device, a_circle])
def test_what_is_no_regular_file_is_left_as_it_is(tmp_path, make):
    path = tmp_path / "file"
    make(path)
    before = path.lstat()
    with pytest.raises(FileExistsError, match=r"left as it is.*choose another path"):
        write(path)
    assert os.path.samestat(path.lstat(), before)
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_is_never_replaced():
    path = Path(terminal())
    with pytest.raises(FileExistsError, match=f"{path} is a device"):
        write(path)
    assert stat.S_ISCHR(path.stat().st_mode)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_file_that_cannot_be_written_is_named_and_the_old_one_kept(tmp_path, code):
    path = tmp_path / "file"
    path.write_text("old")

    def full():
        with _files.replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(OSError, match="could not be written") as caught:
        full()
    assert caught.value.errno == code
    message = str(caught.value)
    assert "\n" not in message
    for words in (str(path), os.strerror(code), "are kept", "Make room"):
        assert words in message
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_while_tensors_are_written(tmp_path):
    """The limit on a file's size stands for the full disk: the write itself fails."""
    path = tmp_path / "file.safetensors"
    _files.write_safetensors(path, {"a": torch.ones(10)}, {})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"file\.safetensors could not be written.*too large"):
            _files.write_safetensors(path, {"a": torch.ones(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_can_be_read_by_whom_other_new_files_can(tmp_path):
    (tmp_path / "plain").touch()
    path = tmp_path / "file.safetensors"
    _files.write_safetensors(path, {"a": torch.ones(10)}, {})
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def child(program, *args):
    """A Python process that has run a program up to its line `wait()`."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{PREAMBLE}\n{program}", *map(str, args)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


PREAMBLE = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from pullback import _files
def wait():
    print("ready", flush=True)
    sys.stdin.read()
"""
WRITES = """
with _files.replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    wait()
"""
OCCUPIES = """
with _files.occupied(Path(sys.argv[1])):
    wait()
"""


def test_a_folder_is_of_one_process_until_it_ends_in_whatever_way(tmp_path):
    other = child(OCCUPIES, tmp_path)
    with (
        pytest.raises(BlockingIOError, match="Another run is at work") as caught,
        _files.occupied(tmp_path),
    ):
        pass
    message = str(caught.value)
    assert "\n" not in message
    for words in (str(tmp_path), f"process {other.pid} on", "wait until it ends", "stop it"):
        assert words in message
    other.kill()
    other.wait()
    with _files.occupied(tmp_path), _files.occupied(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_another_thread_does_not_share_a_folder(tmp_path):
    def enter():
        with _files.occupied(tmp_path):
            return True

    with ThreadPoolExecutor(1) as pool:
        with _files.occupied(tmp_path), pytest.raises(BlockingIOError):
            pool.submit(enter).result()
        assert pool.submit(enter).result()


def test_only_what_no_living_process_writes_is_swept(tmp_path):
    dead, alive = (child(WRITES, tmp_path / name) for name in ("dead", "alive"))
    dead.kill()
    dead.wait()
    (tmp_path / ".old.json.4711.partial").write_text("of an earlier version")
    (tmp_path / ".mine.partial").write_text("of somebody else")
    assert len(list(tmp_path.iterdir())) == 4
    with _files.occupied(tmp_path):
        left = {path.name for path in tmp_path.iterdir()} - {".pullback.lock", ".mine.partial"}
    assert len(left) == 1
    assert left.pop().startswith(f".alive.{alive.pid}")
    alive.communicate("go on")
    assert {path.name for path in tmp_path.iterdir()} == {"alive", ".mine.partial"}
    assert (tmp_path / "alive").read_text() == "half"


def test_unfinished_files_can_be_discarded_by_one_that_ends_at_once(tmp_path):
    with _files.replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        _files.discard_unfinished()
        assert list(tmp_path.iterdir()) == []
        temporary.parent.mkdir()
        temporary.write_text("whole")


def test_a_folder_that_cannot_be_written_to_is_told_at_once():
    with pytest.raises(OSError, match="No file can be written in the folder /proc:") as caught:
        _files.occupied(Path("/proc")).__enter__()
    assert "\n" not in str(caught.value)


def test_a_file_system_without_locks_lets_everyone_in(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    (tmp_path / ".file.4711-00000000.partial").mkdir()  # whose process may live
    with _files.occupied(tmp_path):
        write(tmp_path / "file")
    assert len(list(tmp_path.iterdir())) == 2
