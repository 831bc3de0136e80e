"""Bases of a few samples: what is computed, what is reused, published, refused, and told."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file

import pullback
from pullback import LocalBasis, basis
from pullback._files import write_json
from pullback.models import LatentModel
from pullback.runs import (
    BatchRun,
    Watch,
    basis_path,
    batch_worker,
    discover,
    latents_path,
    plan_path,
    summarize,
    summary_path,
    unit_path,
)

PUBLISHED = {"basis_t0900.safetensors", "latents_t0900.safetensors"}


class Log(Watch):
    """Notes what it is told."""

    def __init__(self):
        self.events, self.products = [], 0

    def reused(self, samples):
        self.events.append(("reused", samples))

    def started(self, t):
        self.events.append(("started", t))

    def stepped(self, step):
        self.products = step.products

    def finished(self, t, found):
        self.events.append(("finished", t, len(found)))


@pytest.fixture
def blocks(monkeypatch):
    """Runs of one sample a unit."""
    monkeypatch.setattr("pullback.runs.run.samples_at_once", lambda *_: 1)


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def published(folder):
    return {path.name for path in folder.glob("*.safetensors")}


def test_bases_are_those_of_the_walk_over_the_sampled_latents(plan, digits, tmp_path):
    """In the plan's order; each starts from the one at the timestep before it."""
    plan = replace(plan, timesteps=(500, 900))
    found = discover(digits, plan, tmp_path)
    assert [item.t for item in found] == [500, 900]
    init = None
    for item in reversed(found):
        torch.testing.assert_close(item.x, digits.sample_latents(2, item.t, seed=[0, 1]))
        alone = basis(plan.map_of(digits), item.x, item.t, 2, tol=5e-2, init=init)
        torch.testing.assert_close(item.basis.s, alone.s)
        torch.testing.assert_close(item.basis.v, alone.v)
        assert item.basis.converged.all()
        assert item.seconds > 0
        init = alone.v


def test_what_is_published_is_what_the_units_hold(plan, digits, tmp_path, blocks):
    plan = replace(plan, class_labels=(7, 3))
    (found,) = discover(digits, plan, tmp_path)
    saved = LocalBasis.load(basis_path(tmp_path, 900))
    x = load_file(latents_path(tmp_path, 900))["x"]
    run = BatchRun(tmp_path)
    units = list(run.bases())
    assert [one.condition for one in units] == [(7,), (3,)]
    assert torch.equal(torch.cat([one.x for one in units]), x)
    assert torch.equal(x, found.x)
    for name, tensor in saved.tensors().items():
        assert torch.equal(torch.cat([getattr(one, name) for one in units]), tensor), name
        assert torch.equal(found.basis.tensors()[name], tensor), name
    assert saved.stopped == sum((one.stopped for one in units), ())
    assert saved.provenance == found.basis.provenance
    assert saved.provenance["run"] == {"settings": run.settings}
    assert saved.provenance["t"] == [900, 900]
    three = {"class_labels": torch.tensor([3])}
    torch.testing.assert_close(x[1:], digits.sample_latents(1, 900, seed=[1], cond=three))


def test_a_run_goes_on_from_the_units_that_are_there(plan, digits, tmp_path, blocks, monkeypatch):
    compute, told = batch_worker.compute, Log()

    def ending(model, plan, unit, *rest):
        if unit.number == 1:
            raise KeyboardInterrupt
        return compute(model, plan, unit, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(batch_worker, "compute", ending)
        with pytest.raises(KeyboardInterrupt):
            discover(digits, plan, tmp_path, watch=told)
    assert told.events == [("reused", 0), ("started", 900), ("finished", 900, 1)]
    assert told.products > 0
    assert published(tmp_path) == set()
    before = unit_path(tmp_path, 0).stat()
    told = Log()
    (found,) = discover(digits, plan, tmp_path, watch=told)
    assert not found.reused
    assert told.events == [("reused", 1), ("started", 900), ("finished", 900, 1)]
    after = unit_path(tmp_path, 0).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(found.basis) == 2
    told, whole = Log(), snapshot(tmp_path)
    (found,) = discover(digits, plan, tmp_path, watch=told)
    assert found.reused
    assert told.events == [("reused", 2)]
    assert snapshot(tmp_path) == whole


def test_the_command_for_large_runs_goes_on_with_it(plan, digits, tmp_path, blocks):
    discover(digits, plan, tmp_path, source={"model": "digits", "dtype": None, "call": []})
    whole = snapshot(tmp_path / "units")
    unit_path(tmp_path, 1).unlink()
    run = BatchRun(tmp_path)
    assert run.source["model"] == "digits"
    assert run.status()["left"] == 1
    run.work(digits)
    assert snapshot(tmp_path / "units") == whole


@pytest.mark.parametrize("path_of", [basis_path, latents_path])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_what_is_published_is_mended_from_the_units(plan, digits, tmp_path, path_of, damage):
    discover(digits, plan, tmp_path)
    path, unit = path_of(tmp_path, 900), unit_path(tmp_path, 0).stat().st_mtime_ns
    whole = {name: tensor.clone() for name, tensor in load_file(path).items()}
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    (found,) = discover(digits, plan, tmp_path)
    assert found.reused
    for name, tensor in load_file(path).items():
        assert torch.equal(tensor, whole[name])
    assert unit_path(tmp_path, 0).stat().st_mtime_ns == unit


def test_a_damaged_unit_is_named_and_can_be_computed_again(plan, digits, tmp_path):
    discover(digits, plan, tmp_path)
    path = unit_path(tmp_path, 0)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[-5] ^= 1  # a number, which only checksums tell
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"unit-000000\.safetensors is damaged.*checksums.*verify"):
        discover(digits, plan, tmp_path)
    assert list(BatchRun(tmp_path).verify()) == ["unit-000000.damaged"]
    discover(digits, plan, tmp_path)
    assert path.read_bytes() == whole


def test_other_settings_are_refused_before_anything_is_computed(plan, digits, tmp_path):
    discover(digits, plan, tmp_path)
    before, log = snapshot(tmp_path), Log()
    changed = replace(plan, timesteps=(500, 900), tol=1e-2)
    words = r"plan\.json has other settings: timesteps .*tol 0\.05 \(now 0\.01\).*--overwrite"
    with pytest.raises(ValueError, match=words) as caught:
        discover(digits, changed, tmp_path, watch=log)
    assert "another --output folder" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert log.events == []
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"timesteps": (500,)}, r"timesteps \[900\] \(now \[500\]\)"),
        ({"timesteps": (900, 500)}, r"timesteps \[900\] \(now \[900, 500\]\)"),
        ({"seeds": (1, 0)}, r"seeds \[0, 1\] \(now \[1, 0\]\)"),
        ({"class_labels": (3, 3)}, r"class_labels None \(now \[3\]\)"),
        ({"class_labels": (3, 4)}, r"class_labels None \(now \[3, 4\]\), paired False"),
        ({"memory": 2**27}, r"memory 1073741824 \(now 134217728\)"),
    ],
)
def test_a_folder_is_of_one_plan(plan, digits, tmp_path, changed, words):
    discover(digits, plan, tmp_path)
    memory = {"memory": changed.pop("memory")} if "memory" in changed else {}
    with pytest.raises(ValueError, match=rf"other settings: .*{words}"):
        discover(digits, replace(plan, **changed), tmp_path, **memory)


def test_the_budget_and_threads_of_a_run_stay_where_none_are_given(plan, digits, tmp_path):
    discover(digits, plan, tmp_path, memory=2**27)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        (found,) = discover(digits, plan, tmp_path)
    finally:
        torch.set_num_threads(before)
    assert found.reused


def test_other_weights_under_the_same_name_never_reuse(plan, digits, tmp_path, monkeypatch):
    discover(digits, plan, tmp_path)
    monkeypatch.setattr(type(digits), "fingerprint", "another")
    with pytest.raises(ValueError, match=r"fingerprint.*--overwrite"):
        discover(digits, plan, tmp_path)


def test_another_schedule_never_reuses(plan, digits, tmp_path):
    discover(digits, plan, tmp_path)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear")
    other = LatentModel(digits.network, scheduler, name="digits", null_cond=digits.conditions.null)
    with pytest.raises(ValueError, match=r"other settings: scheduler \w{16} \(now \w{16}\)\."):
        discover(other, plan, tmp_path)


def test_other_weights_never_reuse_wherever_they_differ(plan, tmp_path):
    model = pullback.load("digits")
    discover(model, plan, tmp_path)
    model.network.conv_out.weight.data.view(-1)[-1] += 1
    with pytest.raises(ValueError, match=r"other settings: fingerprint \w{16} \(now \w{16}\)\."):
        discover(model, plan, tmp_path)


def test_overwriting_replaces_the_whole_run(plan, digits, tmp_path, blocks):
    """No unit and no basis of another plan stays, and what is no part of a run does."""
    discover(digits, plan, tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    other = replace(plan, timesteps=(500,), seeds=(0,), seed=1)
    (found,) = discover(digits, other, tmp_path, overwrite=True)
    assert not found.reused
    assert found.basis.provenance["seed"] == 1
    assert set(snapshot(tmp_path)) == {
        "mine.txt", "plan.json", "units/unit-000000.safetensors", "receipts/unit-000000.json",
        "basis_t0500.safetensors", "latents_t0500.safetensors",
    }  # fmt: skip
    (again,) = discover(digits, other, tmp_path)
    assert again.reused


def test_an_interrupted_overwriting_never_takes_units_of_the_former_plan(
    plan, digits, tmp_path, blocks, monkeypatch
):
    discover(digits, plan, tmp_path)
    unlink = type(tmp_path).unlink
    removed = []

    def ending(path, **options):
        if path.name == "unit-000001.safetensors" or path == plan_path(tmp_path):
            raise KeyboardInterrupt
        removed.append(path.name)
        unlink(path, **options)

    other = replace(plan, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "unlink", ending)
        with pytest.raises(KeyboardInterrupt):
            discover(digits, other, tmp_path, overwrite=True)
    assert set(removed) >= PUBLISHED
    with pytest.raises(ValueError, match=r"other settings: seed 0 \(now 1\)"):
        discover(digits, other, tmp_path)
    (found,) = discover(digits, plan, tmp_path)
    assert len(found.basis) == 2


@pytest.mark.parametrize("left", ["latents", "basis", "summary"])
def test_any_file_tells_another_plan(plan, digits, tmp_path, left):
    """Such as those of an earlier version, or where a plan was lost."""
    bases = discover(digits, plan, tmp_path)
    write_json(summary_path(tmp_path), summarize(digits, bases))
    for name in snapshot(tmp_path):
        if not name.startswith(left):
            (tmp_path / name).unlink()
    words = r"summary\.json.* seed 0 \(now 1\)" if left == "summary" else rf"{left}.*no run"
    with pytest.raises(ValueError, match=rf"{words}.*another --output.*--overwrite"):
        discover(digits, replace(plan, seed=1), tmp_path)
    discover(digits, replace(plan, seed=1), tmp_path, overwrite=True)


def test_a_summary_of_something_else_is_not_overwritten(plan, digits, tmp_path):
    for text, words in (('{"mine": 1}', r"pullback\.summary/1"), ("{", "no JSON")):
        summary_path(tmp_path).write_text(text)
        for overwrite in (False, True):
            with pytest.raises(ValueError, match=rf"summary\.json is damaged .*{words}"):
                discover(digits, plan, tmp_path, overwrite=overwrite)
    assert set(snapshot(tmp_path)) == {"summary.json"}


def test_the_summary_tells_what_was_reached(plan, digits, tmp_path):
    plan = replace(plan, timesteps=(900, 200), tol=1e-9)  # more than float32 can give
    bases = discover(digits, plan, tmp_path)
    summary = summarize(digits, bases)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["settings"] == BatchRun(tmp_path).settings
    assert summary["settings"]["timesteps"] == [900, 200]
    for row, item in zip(summary["timesteps"], bases, strict=True):
        assert row["t"] == item.t
        assert row["basis"] == basis_path(tmp_path, item.t).name
        assert row["converged"] == int(item.basis.converged.sum()) < row["samples"] == 2
        assert sum(row["stopped"].values()) == 2
        assert "converged" not in row["stopped"]
        assert row["angle_bound"]["max"] == float(item.basis.angle_bound.max())
        assert row["products"]["total"] == int(item.basis.products.sum())


def test_a_unit_that_fails_is_an_error_that_is_tried_again(plan, digits, tmp_path, monkeypatch):
    def failing(*_):
        raise FloatingPointError("a NaN in the second sample")

    with monkeypatch.context() as patch:
        patch.setattr(batch_worker, "compute", failing)
        with pytest.raises(RuntimeError, match=r"1 of 1 units .*a NaN in the second sample.*again"):
            discover(digits, plan, tmp_path)
    assert published(tmp_path) == set()
    (found,) = discover(digits, plan, tmp_path)
    assert not found.reused


def test_a_run_that_somebody_cancels_is_no_finished_one(plan, digits, tmp_path, blocks):
    class Cancelling(Watch):
        def started(self, t):
            BatchRun(tmp_path).cancel()

    with pytest.raises(RuntimeError, match="was cancelled"):
        discover(digits, plan, tmp_path, watch=Cancelling())
    assert published(tmp_path) == set()
    assert len(discover(digits, plan, tmp_path)[0].basis) == 2


def test_two_runs_do_not_share_a_folder(plan, digits, tmp_path):
    class Second(Watch):
        def started(self, t):
            with ThreadPoolExecutor(1) as pool, pytest.raises(OSError, match="Another run is at"):
                pool.submit(discover, digits, replace(plan, timesteps=(500,)), tmp_path).result()

    discover(digits, plan, tmp_path, watch=Second())
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {*PUBLISHED, "plan.json"}


def test_what_killed_runs_left_is_swept(plan, digits, tmp_path):
    left = tmp_path / ".basis_t0900.safetensors.4711-0123abcd.partial"
    left.mkdir()
    (left / "basis_t0900.safetensors").write_text("half")
    discover(digits, plan, tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("kind", ["basis", "latents"])
def test_a_disk_that_is_full_when_bases_are_published_loses_nothing(
    plan, digits, tmp_path, monkeypatch, kind
):
    import safetensors.torch

    save = safetensors.torch.save_file

    def full(tensors, path, metadata):
        if kind in str(path.name):
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        save(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(OSError, match=rf"{kind}_t0900.* could not be written: .*No space left"):
            discover(digits, plan, tmp_path)
    assert published(tmp_path) == ({"latents_t0900.safetensors"} if kind == "basis" else set())
    assert [bases.reused for bases in discover(digits, plan, tmp_path)] == [True]
    assert published(tmp_path) == PUBLISHED
