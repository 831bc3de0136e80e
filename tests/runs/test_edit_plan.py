"""Plans of edits: what their numbers depend on, and so what is never reused."""

import json

import torch

from pullback import Direction, editing, runs


def test_the_settings_tell_all_that_a_plan_holds(digits):
    """Each field of a plan makes other settings, so that no file of another plan is reused."""
    x = torch.ones(1, 16, 16)
    sample = runs.EditSample("seed0")
    plan = runs.EditPlan((sample,), 500, (1.0,))
    changed = {
        "t": 400, "strengths": (2.0,), "directions": (Direction.of(x, "x"),), "indices": (0,),
        "rank": 4, "tap": "mid_block", "way": editing.Addition(), "mask": x[0],
        "window": (500, 400), "boost": 3, "guidance": 2.0, "negative": "a", "steps": 20, "eta": 0.5,
        "inversion": "stochastic", "corrections": 1,
    }  # fmt: skip
    plain = plan.settings(digits)
    assert json.loads(json.dumps(plain)) == plain
    fields = set(runs.EditPlan.__dataclass_fields__) - {"samples"}
    assert set(changed) == fields
    for name, value in changed.items():
        other = runs.EditPlan(**{"samples": (sample,), "t": 500, "strengths": (1.0,), name: value})
        assert other.settings(digits) != plain, name
    directions = [
        Direction.of(x, "x"), Direction.of(-x, "x"), Direction.of(x, "x", unit=2.0),
        Direction.of(x, "x", window=(9, 1)), Direction.of(x, "x", t=1),
    ]  # fmt: skip
    told = [
        runs.EditPlan((sample,), 500, (1.0,), (one,)).settings(digits)["directions"]
        for one in directions
    ]
    assert len({one[0] for one in told}) == len(directions)


def test_the_settings_tell_every_direction_of_an_edit(digits):
    """Directions alone are told as before there were others, so that their files stay valid."""
    one, other = (Direction.of(torch.ones(1, 16, 16), "x", window=(t, t)) for t in (900, 100))

    def told(*entries):
        settings = runs.EditPlan((runs.EditSample("a"),), 500, (1.0,), entries).settings(digits)
        assert json.loads(json.dumps(settings)) == settings
        return settings["directions"]

    (alone,), (also,) = told(one), told(other)
    assert isinstance(alone, str)
    assert told((one, other)) == [[alone, also]]
    assert told(one, other) == [alone, also]
    assert told((other, one)) != told((one, other))


def test_the_settings_of_a_sample_tell_all_that_it_is(digits):
    x = torch.ones(1, 16, 16)
    plain = runs.EditSample("a").settings()
    changed = {"seed": 1, "data": x, "class_label": 1, "prompt": "a"}
    for name, value in changed.items():
        assert runs.EditSample("a", **{name: value}).settings() != plain, name
    assert runs.EditSample("a", data=x).settings() != runs.EditSample("a", data=2 * x).settings()
