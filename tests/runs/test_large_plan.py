"""Plans of large runs: units, what is refused, and what the numbers depend on."""

import json
from dataclasses import fields, replace

import pytest
import torch

from pullback.runs import BatchPlan, BatchRun, Plan, plan_path
from pullback.runs.batch_plan import default_memory
from pullback.runs.batch_unit import samples_at_once
from tests.runs.large import PLAN

CHANGED = {
    "timesteps": (900, 600), "rank": 3, "seeds": (0, 1), "tap": "down_blocks.1", "tol": 1e-2,
    "batch": 3, "seed": 1, "class_labels": (3,), "prompts": ("a",), "map": "decoder",
    "prompts_hash": "ab", "paired": True, "keep_u": True, "memory": 2**27, "threads": 2,
}  # fmt: skip


def test_units_cover_every_seed_under_every_condition_once(rng):
    count, batch = torch.randint(1, 40, (2,), generator=rng).tolist()
    plan = replace(PLAN, seeds=tuple(range(5, 5 + count)), batch=batch)
    assert [unit.number for unit in plan.units] == list(range(len(plan.units)))
    pairs = [(unit.condition, seed) for unit in plan.units for seed in unit.seeds]
    assert pairs == [(condition, seed) for condition in (0, 1) for seed in plan.seeds]
    for unit in plan.units:
        assert unit.seeds == plan.seeds[unit.first : unit.first + batch]
        part = plan.part(unit)
        assert part.seeds == unit.seeds
        assert part.class_labels == (plan.class_labels[unit.condition],) * len(unit.seeds)


def test_pairs_are_one_condition_of_all_seeds(rng):
    count, batch = torch.randint(2, 40, (2,), generator=rng).tolist()
    seeds = tuple(torch.randperm(100, generator=rng)[:count].tolist())
    labels = (*torch.randint(0, 9, (count - 1,), generator=rng).tolist(), 9)
    given = Plan((900, 960), 2, seeds, "mid_block", 5e-2, class_labels=labels)
    plan = BatchPlan.of(given, batch=batch, memory=1, threads=1)
    assert plan.timesteps == (960, 900)
    assert plan.keep_u
    assert plan.paired == (len(set(labels)) > 1)
    assert [seed for unit in plan.units for seed in unit.seeds] == list(seeds)
    each = dict(zip(seeds, labels, strict=True))
    for unit in plan.units:
        here = plan.part(unit, slice(1, 3))
        assert here.seeds == unit.seeds[1:3]
        assert here.class_labels == tuple(each[seed] for seed in here.seeds)
    same = BatchPlan.of(replace(given, class_labels=(4,) * count), batch=1, memory=1, threads=1)
    assert (same.paired, same.class_labels) == (False, (4,))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"timesteps": (500, 900)}, "from the largest to the smallest"),
        ({"timesteps": ()}, "one or more different timesteps"),
        ({"seeds": ()}, "one or more different seeds"),
        ({"seeds": (1, 1)}, "different seeds"),
        ({"seeds": (0, 2**32)}, "a seed to be between 0 and"),
        ({"class_labels": (3, 11)}, "between 0 and 10"),
        ({"class_labels": (3, 3)}, "different conditions"),
        ({"class_labels": ()}, "one or more different conditions"),
        ({"prompts": ("a",)}, "labels or prompts, got both"),
        ({"prompts_hash": "ab"}, "prompts beside the hash of their file"),
        ({"paired": True}, "one condition for each of the 4 seeds, got 2"),
        ({"paired": True, "class_labels": None}, "one condition for each of the 4 seeds, got 0"),
        ({"paired": True, "class_labels": (1, 2, 3, 11)}, "between 0 and 10"),
        ({"batch": 0}, "batch to be at least 1"),
        ({"memory": 0}, "memory to be at least 1"),
        ({"threads": 0}, "threads to be at least 1"),
        ({"rank": 257}, "= 256"),
        ({"tap": "middle"}, "'middle'"),
    ],
)
def test_what_is_refused(digits, changed, words):
    with pytest.raises(ValueError, match=words):
        replace(PLAN, **changed).check(digits)


def test_the_settings_tell_all_that_a_plan_holds(digits):
    settings = PLAN.settings(digits)
    assert json.loads(json.dumps(settings)) == settings
    assert BatchPlan.of_settings(settings) == PLAN
    assert set(CHANGED) == {field.name for field in fields(BatchPlan)}
    for name, value in CHANGED.items():
        other = replace(PLAN, **{name: value}).settings(digits)
        assert {key for key in settings if other[key] != settings[key]} >= {name}
    keys = "model revision fingerprint scheduler map tap wrt timesteps rank tol batch dtype".split()
    assert {*keys, "seeds", "pullback", "torch", "diffusers"} <= set(settings)


@pytest.mark.parametrize("name", ["rank", "seeds", "tol", "class_labels", "memory", "threads"])
def test_another_plan_is_refused_by_the_names_that_differ(digits, tmp_path, name):
    BatchRun.create(tmp_path, digits, PLAN)
    before = plan_path(tmp_path).read_bytes()
    with pytest.raises(ValueError, match=rf"plan\.json has other settings: {name} [^:]*\(now"):
        BatchRun.create(tmp_path, digits, replace(PLAN, **{name: CHANGED[name]}))
    assert plan_path(tmp_path).read_bytes() == before
    assert BatchRun.create(tmp_path, digits, PLAN).plan == PLAN


def test_another_commit_of_a_model_of_the_hub_is_refused(digits, tmp_path, monkeypatch):
    assert PLAN.settings(digits)["revision"] is None
    monkeypatch.setattr(digits, "revision", "0a1b")
    run = BatchRun.create(tmp_path, digits, PLAN)
    assert run.settings["revision"] == "0a1b"
    monkeypatch.setattr(digits, "revision", "2c3d")
    with pytest.raises(ValueError, match=r"other settings: revision 0a1b \(now 2c3d\)\. Choose"):
        run.work(digits)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "pullback.run/9"}', None])
def test_a_damaged_plan_and_a_missing_one_are_told_apart(tmp_path, text):
    if text is None:
        with pytest.raises(FileNotFoundError, match=r"no run in .*pullback run start"):
            BatchRun(tmp_path)
        return
    plan_path(tmp_path).write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json is damaged or of a later version"):
        BatchRun(tmp_path)


def test_samples_at_once_follow_from_the_budget_alone(digits, monkeypatch):
    rows = [samples_at_once(digits, replace(PLAN, batch=500, memory=2**p)) for p in (18, 24, 40)]
    assert rows[0] == 1 < rows[1] < rows[2] == 500
    monkeypatch.setattr("pullback.operators.memory.free_bytes", lambda _: 1)
    assert samples_at_once(digits, replace(PLAN, batch=500, memory=2**24)) == rows[1]
    assert default_memory(torch.device("cpu")) == 2**30
