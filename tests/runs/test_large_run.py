"""Large runs in this process: the same bytes whatever happens, and what is said of them."""

import json
import os
import resource
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import pullback
from pullback import maps
from pullback.runs import BatchRun, unit_path
from pullback.runs import batch_worker as at_work
from pullback.runs.batch_store import failure_path, receipt_path
from tests.runs.large import PLAN, numbers, read_other, stamps


@pytest.fixture(scope="module")
def truth(digits, tmp_path_factory):
    """A run that nobody disturbed, with what it told."""
    folder, told = tmp_path_factory.mktemp("truth"), []
    run = BatchRun.create(folder, digits, replace(PLAN, keep_u=True))
    run.work(digits, tell=told.append)
    return run, sorted(told, key=lambda note: note["unit"])


@pytest.fixture
def run(digits, tmp_path):
    """A run of one unit that has not begun."""
    plan = replace(PLAN, seeds=(4, 9), timesteps=(960,), class_labels=None)
    return BatchRun.create(tmp_path / "run", digits, plan)


def test_bases_are_those_of_the_sampled_latents(truth, digits):
    run, _ = truth
    found = list(run.bases())
    assert len(found) == 8
    by_place = {(one.condition, one.t, one.unit.seeds[0]): one for one in found}
    first, second = (by_place[7, t, 2] for t in (960, 940))
    cond = digits.encode(class_label=[7, 7])
    for one in (first, second):
        assert torch.equal(one.x, digits.sample_latents(2, one.t, [2, 3], cond))
        assert one.converged.tolist() == [why == "converged" for why in one.stopped]
        assert len(one) == 2
    encoder = maps.encoder(digits, PLAN.tap)
    alone = pullback.basis(
        encoder, second.x, 940, 2, cond, tol=5e-2, init=first.v, memory=PLAN.memory
    )
    for name in ("s", "v", "u", "residual", "angle_bound", "products"):
        assert torch.equal(getattr(second, name), getattr(alone, name)), name
    assert second.stopped == alone.stopped
    basis = second.local_basis()
    assert basis.provenance == alone.provenance


def test_some_of_the_bases_are_read_without_the_others(truth):
    run, _ = truth
    some = list(run.bases(timesteps=[940], conditions=[1]))
    assert [(one.t, one.condition, one.unit.number) for one in some] == [(940, 7, 2), (940, 7, 3)]
    with pytest.raises(ValueError, match=r"timesteps of the plan, \[960, 940\], got \[500\]"):
        next(run.bases(timesteps=[500]))


def test_u_is_kept_on_request_only(run, digits):
    run.work(digits)
    (one,) = run.bases()
    assert one.u is None
    with pytest.raises(ValueError, match="keep_u=True"):
        one.local_basis()


def test_receipts_tell_the_time_and_the_files_do_not(truth):
    run, told = truth
    assert [note["unit"] for note in told] == list(range(4))
    for note in told:
        assert json.loads(receipt_path(run.folder, note["unit"]).read_text()) == note
        assert 0 < sum(note["seconds_of_bases"]) < note["seconds"]
        assert note["errors_before"] == []
    state = run.status()
    assert (state["units"], state["done"], state["failed"], state["left"]) == (4, 4, 0, 0)
    assert state["bases"] == state["bases_in_all"] == 16
    assert json.loads(json.dumps(state, allow_nan=False)) == state


def test_order_and_interruptions_do_not_show(truth, digits, tmp_path):
    """Shares of two workers, the second first, each ended in its midst and called again."""
    run = BatchRun.create(tmp_path, digits, truth[0].plan)

    def end(note):
        raise KeyboardInterrupt

    for share in ((1, 2), (0, 2)):
        with pytest.raises(KeyboardInterrupt):
            run.work(digits, share=share, tell=end)
    before = stamps(tmp_path)
    assert sorted(before) == ["unit-000000.safetensors", "unit-000001.safetensors"]
    assert run.status()["left"] == 2
    assert run.status()["seconds_left"] > 0
    run.work(digits)
    assert numbers(tmp_path) == numbers(truth[0].folder)
    after = stamps(tmp_path)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("share", [(2, 2), (-1, 2), (0, 0)])
def test_shares_that_there_are_not(run, digits, share):
    with pytest.raises(ValueError, match="of a share"):
        run.work(digits, share=share)


def test_another_model_computes_nothing(run):
    with pytest.raises(ValueError, match=r"other settings: fingerprint \w+ \(now \w+\)"):
        run.work(read_other("cpu"))
    assert run.status()["done"] == 0


@pytest.mark.parametrize("what", ["numbers", "header", "cut", "other"])
def test_a_damaged_unit_is_found_and_done_again(run, digits, what):
    run.work(digits)
    path = unit_path(run.folder, 0)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    if what == "numbers":
        damaged[-5] ^= 1
    elif what == "header":
        damaged[100] ^= 1
    elif what == "cut":
        del damaged[-8:]
    else:
        damaged[:] = whole.replace(b'number\\": 0', b'number\\": 1')
    assert damaged != whole
    path.write_bytes(damaged)
    if what in ("cut", "other"):
        with pytest.raises(ValueError, match=r"unit-000000\.safetensors is damaged.*run verify"):
            next(run.bases())
    found = run.verify()
    assert list(found) == ["unit-000000.damaged"]
    assert run.status()["left"] == 1
    run.work(digits)
    assert path.read_bytes() == whole
    assert run.verify() == {}


def test_a_unit_that_fails_is_tried_thrice_and_does_not_stop_the_rest(
    truth, digits, tmp_path, monkeypatch
):
    plan = truth[0].plan
    run = BatchRun.create(tmp_path, digits, plan)
    compute, tried = at_work.compute, []

    def failing(model, plan, unit, rows, watch):
        tried.append(unit.number)
        if unit.number == 1:
            raise FloatingPointError("a NaN in the third sample")
        if unit.number == 2 and tried.count(2) == 1:
            raise RuntimeError("once only")
        return compute(model, plan, unit, rows, watch)

    told = []
    with monkeypatch.context() as patch:
        patch.setattr(at_work, "compute", failing)
        run.work(digits, share=(0, 1), tell=told.append)
        run.work(digits)
    assert tried == [0, 1, 1, 1, 2, 2, 3]
    assert len(told[1]["errors"]) == 3
    assert [error["error"] for error in told[2]["errors_before"]] == ["RuntimeError"]
    state = run.status()
    assert (state["done"], state["failed"], state["left"]) == (3, 1, 0)
    [failure] = state["failures"]
    assert failure["unit"] == 1
    assert failure["tried"] == 3
    assert failure["message"] == "a NaN in the third sample"
    assert "in failing" in json.loads(failure_path(tmp_path, 1).read_text())["errors"][0]["trace"]
    assert run.retry() == [1]
    run.work(digits)
    assert numbers(tmp_path) == numbers(truth[0].folder)


def test_a_unit_that_does_not_fit_the_memory_goes_in_smaller_parts(run, digits, monkeypatch):
    compute, rows = at_work.compute, []

    def narrow(model, plan, unit, count, watch):
        rows.append(count)
        if count > 1:
            raise torch.OutOfMemoryError("no more")
        return compute(model, plan, unit, count, watch)

    monkeypatch.setattr(at_work, "compute", narrow)
    told = []
    run.work(digits, tell=told.append)
    assert rows == [2, 1]
    assert told[0]["samples_at_once"] == 1
    (found,) = run.bases()
    torch.testing.assert_close(found.x, digits.sample_latents(2, 960, [4, 9]))
    assert found.s.shape == (2, 2)


@contextmanager
def largest_file(size):
    """No file of this process may grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def disk(tmp_path):
    """The folder of a disk of its own, of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path):
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_stops_the_run_and_keeps_what_is_finished(truth, digits, disk):
    run = BatchRun.create(disk, digits, truth[0].plan)
    with pytest.raises(OSError, match=r"unit-000001.* could not be written: .*No space left"):
        run.work(digits, share=(0, 1), tell=lambda _: fill(disk / "filler"))
    assert [path.name for path in (disk / "units").iterdir()] == ["unit-000000.safetensors"]
    assert run.status()["failed"] == 0
    before = stamps(disk)
    (disk / "filler").unlink()
    run.work(digits, share=(1, 4))
    done, whole = numbers(disk), numbers(truth[0].folder)
    assert sorted(done) == ["unit-000000.safetensors", "unit-000001.safetensors"]
    assert done.items() <= whole.items()
    assert stamps(disk).items() >= before.items()


def test_a_file_that_the_system_cuts_off_is_not_there(run, digits):
    run.work(digits)
    whole = numbers(run.folder)
    size = len(whole["unit-000000.safetensors"])
    unit_path(run.folder, 0).unlink()
    with (
        largest_file(size - torch.randint(1, size, ()).item()),
        pytest.raises(OSError, match=r"unit-000000.* could not be written: .*File too large"),
    ):
        run.work(digits)
    assert list((run.folder / "units").iterdir()) == []
    assert run.status()["failed"] == 0
    with largest_file(size):
        run.work(digits)
    assert numbers(run.folder) == whole


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(run, digits):
    run.folder.joinpath("units").chmod(0o500)
    try:
        with pytest.raises(OSError, match="could not be written"):
            run.work(digits)
    finally:
        run.folder.joinpath("units").chmod(0o700)
    assert run.status()["done"] == run.status()["failed"] == 0


def test_a_run_where_no_folder_can_be_made(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot be made: .*Choose another one"):
        BatchRun.create(tmp_path / "file" / "run", digits, PLAN)


def test_a_cancelled_run_begins_nothing_until_it_is_taken_up_again(run, digits, truth, tmp_path):
    run.cancel()
    with pytest.raises(ValueError, match=r"is cancelled.*pullback run retry"):
        run.work(digits)
    assert run.status()["cancelled"]
    assert run.retry() == []
    run.work(digits)
    assert run.status()["done"] == 1
    other = BatchRun.create(tmp_path / "other", digits, truth[0].plan)
    other.work(digits, tell=lambda _: other.cancel())
    assert other.status()["done"] == 1


def test_what_killed_workers_left_is_swept(run, digits):
    left = run.folder / "units" / ".unit-000000.safetensors.4711-0123abcd.partial"
    left.mkdir()
    (left / "unit-000000.safetensors").write_text("half")
    run.work(digits)
    assert [path.name for path in (run.folder / "units").iterdir()] == ["unit-000000.safetensors"]


def test_the_number_of_threads_is_the_plan_s_while_it_works(run, digits, monkeypatch):
    before, seen = torch.get_num_threads(), []
    compute = at_work.compute

    def looking(*args):
        seen.append(torch.get_num_threads())
        return compute(*args)

    monkeypatch.setattr(at_work, "compute", looking)
    torch.set_num_threads(2)
    try:
        run.work(digits)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [run.plan.threads] == [1]


def test_a_large_run_as_one_zarr_store(truth, tmp_path):
    pytest.importorskip("zarr", reason="the store needs `pip install 'pullback[publish]'`")
    xarray = pytest.importorskip("xarray", reason="it opens the store")
    run, _ = truth
    path = tmp_path / "run.zarr"
    run.to_zarr(path)
    found = xarray.open_zarr(path, consolidated=False)
    assert found.done.all()
    for one in run.bases():
        at = {"condition": one.condition, "sample": list(one.unit.seeds), "timestep": one.t}
        for name in ("x", "s", "v", "u", "residual", "angle_bound", "products"):
            assert torch.equal(torch.tensor(found[name].sel(at).values), getattr(one, name)), name
    assert json.loads(found.attrs["settings"]) == run.settings
    with pytest.raises(FileExistsError, match="there already"):
        run.to_zarr(path)
    assert [one.name for one in tmp_path.iterdir()] == ["run.zarr"]


def test_the_scalars_of_a_large_run_as_one_table(truth, tmp_path):
    pytest.importorskip("pyarrow", reason="the table needs `pip install 'pullback[publish]'`")
    import pyarrow.parquet as pq

    run, _ = truth
    run.to_parquet(tmp_path / "run.parquet")
    rows = pq.read_table(tmp_path / "run.parquet").to_pylist()
    wanted = [
        (one.condition, seed, one.t, k, one.s[i, k].item(), one.residual[i, k].item(),
         one.angle_bound[i].item(), one.products[i].item(), one.stopped[i])
        for one in run.bases() for i, seed in enumerate(one.unit.seeds) for k in range(2)
    ]  # fmt: skip
    keys = "condition seed t direction s residual angle_bound products stopped".split()
    assert [tuple(row[key] for key in keys) for row in rows] == wanted
    assert all(row["unit_seconds"] > 0 for row in rows)


@pytest.mark.parametrize(("module", "write"), [("zarr", "to_zarr"), ("pyarrow", "to_parquet")])
def test_what_is_not_installed_is_said(truth, tmp_path, monkeypatch, module, write):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=rf"{module}, which is not installed.*pullback\[publish"):
        getattr(truth[0], write)(tmp_path / "there")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_published_of_nothing(run, tmp_path):
    with pytest.raises(ValueError, match="with finished units"):
        run.to_parquet(tmp_path / "run.parquet")


def test_a_unit_is_a_plain_file(truth):
    tensors = load_file(unit_path(truth[0].folder, 0))
    assert tensors["v"].shape == (2, 2, 2, 1, 16, 16)
    assert tensors["s"].shape == tensors["residual"].shape == (2, 2, 2)
