"""Runs: what is computed, what is reused, and who is told."""

import json
from dataclasses import replace

import pytest
import torch

from pullback import local_basis
from pullback.runs import Watch, basis_path, discover, latents_path, summarize


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
