"""Runs: what is computed, what is reused, and who is told."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from diffusers import DDPMScheduler

import pullback
from pullback import local_basis
from pullback._files import write_json
from pullback.models import LatentModel
from pullback.runs import Watch, basis_path, discover, latents_path, summarize, summary_path


class Log(Watch):
    """Notes what it is told."""

    def __init__(self):
        self.events = []
        self.products = 0

    def started(self, t):
        self.events.append(("started", t))

    def stepped(self, step):
        self.products = step.products

    def finished(self, bases):
        self.events.append(("reused" if bases.reused else "computed", bases.t))


def test_bases_are_those_of_the_sampled_latents(plan, digits, tmp_path):
    (found,) = discover(digits, plan, tmp_path)
    assert torch.equal(found.x, digits.sample_latents(2, 900, seed=[0, 1]))
    alone = local_basis(digits, found.x, 900, 2, tol=5e-2)
    torch.testing.assert_close(found.basis.s, alone.s)
    assert found.basis.converged.all()
    assert found.seconds > 0


def test_a_run_goes_on_from_what_is_there(plan, digits, tmp_path):
    first, second = Log(), Log()
    discover(digits, plan, tmp_path, watch=first)
    assert first.events == [("started", 900), ("computed", 900)]
    assert first.products > 0
    before = basis_path(tmp_path, 900).stat().st_mtime_ns
    longer = replace(plan, timesteps=(500, 900))
    found = discover(digits, longer, tmp_path, watch=second)
    assert [(item.t, item.reused) for item in found] == [(500, False), (900, True)]
    assert second.events == [
        ("started", 500), ("computed", 500), ("started", 900), ("reused", 900),
    ]  # fmt: skip
    assert basis_path(tmp_path, 900).stat().st_mtime_ns == before


def test_other_settings_are_refused_before_anything_is_computed(plan, digits, tmp_path):
    discover(digits, plan, tmp_path)
    log = Log()
    changed = replace(plan, timesteps=(500, 900), tol=1e-2)
    with pytest.raises(ValueError, match=r"tol 0\.05 \(now 0\.01\)"):
        discover(digits, changed, tmp_path, watch=log)
    assert log.events == []
    assert not basis_path(tmp_path, 500).exists()


def test_other_weights_under_the_same_name_never_reuse(plan, digits, tmp_path, monkeypatch):
    discover(digits, plan, tmp_path)
    monkeypatch.setattr(type(digits), "fingerprint", "another")
    with pytest.raises(ValueError, match=r"fingerprint.*--overwrite"):
        discover(digits, plan, tmp_path)


def test_overwriting_computes_again(plan, digits, tmp_path):
    discover(digits, plan, tmp_path)
    (found,) = discover(digits, replace(plan, seed=1), tmp_path, overwrite=True)
    assert not found.reused
    assert found.basis.provenance["seed"] == 1
    (again,) = discover(digits, replace(plan, seed=1), tmp_path)
    assert again.reused


def test_a_basis_whose_latents_are_gone_is_computed_again(plan, digits, tmp_path):
    discover(digits, plan, tmp_path)
    latents_path(tmp_path, 900).unlink()
    (found,) = discover(digits, plan, tmp_path)
    assert not found.reused
    assert latents_path(tmp_path, 900).exists()


def test_the_summary_tells_what_was_reached(plan, digits, tmp_path):
    plan = replace(plan, timesteps=(900, 200), tol=1e-9)  # more than float32 can give
    bases = discover(digits, plan, tmp_path)
    summary = summarize(digits, plan, bases)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["settings"]["timesteps"] == [900, 200]
    assert "t" not in summary["settings"]
    for row, item in zip(summary["timesteps"], bases, strict=True):
        assert row["t"] == item.t
        assert row["basis"] == basis_path(tmp_path, item.t).name
        assert row["converged"] == int(item.basis.converged.sum()) < row["samples"] == 2
        assert sum(row["stopped"].values()) == 2
        assert "converged" not in row["stopped"]
        assert row["angle_bound"]["max"] == float(item.basis.angle_bound.max())
        assert row["products"]["total"] == int(item.basis.products.sum())


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"timesteps": (500,), "tol": 1e-2}, r"other settings: tol 0\.05 \(now 0\.01\)\."),
        ({"timesteps": (500,)}, r"timesteps 900 too, which are not asked for now \(500 are\)"),
    ],
)
def test_a_folder_is_of_one_plan(plan, digits, tmp_path, changed, words):
    """Its summary and figures would be overwritten, though no basis would be."""
    discover(digits, plan, tmp_path)
    before = snapshot(tmp_path)
    log = Log()
    with pytest.raises(ValueError, match=words) as caught:
        discover(digits, replace(plan, **changed), tmp_path, watch=log)
    assert "\n" not in str(caught.value)
    assert "another --output folder" in str(caught.value)
    assert log.events == []
    assert snapshot(tmp_path) == before


def test_overwriting_leaves_no_basis_of_another_plan(plan, digits, tmp_path):
    discover(digits, plan, tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"timesteps 900 too.*remove those files"):
        discover(digits, replace(plan, timesteps=(500,), seed=1), tmp_path, overwrite=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("left", ["latents", "summary"])
def test_any_file_tells_another_plan(plan, digits, tmp_path, left):
    bases = discover(digits, plan, tmp_path)
    write_json(summary_path(tmp_path), summarize(digits, plan, bases))
    for path in tmp_path.iterdir():
        if not path.name.startswith(left):
            path.unlink()
    with pytest.raises(ValueError, match=rf"{left}.* other settings: seed 0 \(now 1\)\."):
        discover(digits, replace(plan, seed=1), tmp_path)
    discover(digits, plan, tmp_path)


def test_a_summary_of_something_else_is_not_overwritten(plan, digits, tmp_path):
    summary_path(tmp_path).write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=r"summary\.json is damaged .*pullback\.summary/1"):
        discover(digits, plan, tmp_path)
    summary_path(tmp_path).write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is damaged .*no JSON"):
        discover(digits, plan, tmp_path)


def test_two_runs_do_not_share_a_folder(plan, digits, tmp_path):
    class Second(Watch):
        def started(self, t):
            with ThreadPoolExecutor(1) as pool, pytest.raises(OSError, match="Another run is at"):
                pool.submit(discover, digits, replace(plan, timesteps=(500,)), tmp_path).result()

    discover(digits, plan, tmp_path, watch=Second())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"basis_t0900.safetensors", "latents_t0900.safetensors"}


def test_what_killed_runs_left_is_swept(plan, digits, tmp_path):
    left = tmp_path / ".basis_t0900.safetensors.4711-0123abcd.partial"
    left.mkdir()
    (left / "basis_t0900.safetensors").write_text("half")
    discover(digits, plan, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_keeps_what_is_finished(plan, digits, tmp_path, monkeypatch):
    wider = replace(plan, timesteps=(900, 500))
    save = safetensors.torch.save_file

    def full(tensors, path, metadata):
        if "basis_t0500" in str(path):
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        save(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(OSError, match=r"basis_t0500.* could not be written: .*No space left"):
            discover(digits, wider, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "basis_t0900.safetensors", "latents_t0900.safetensors", "latents_t0500.safetensors",
    }  # fmt: skip
    assert [bases.reused for bases in discover(digits, wider, tmp_path)] == [True, False]
