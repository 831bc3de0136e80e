"""`pullback profile`: what it writes and says, and what it refuses."""

import json

import pytest

from pullback import maps, profiling
from tests.cli.calls import done, refused, snapshot

QUICK = ("--samples", "1", "--rank", "2", "--quality", "draft", "--repeats", "1", "--no-advice")


def test_the_folder_holds_what_is_listed_and_the_profile_is_printed(call, tmp_path, digits):
    folder = tmp_path / "out"
    result = done(
        call("profile", "digits", *QUICK, "-t", "900,500", "--class-label", "3", "-o", folder,
             "--json")
    )  # fmt: skip
    told = json.loads(result.stdout)
    assert told == json.loads((folder / "profile.json").read_text())
    assert {path.name for path in folder.iterdir()} == {
        "profile.json", "profile.png", "trace.json.gz",
    }  # fmt: skip
    assert told["workload"]["timesteps"] == [500, 900]
    assert told["workload"]["samples"] == 2
    assert told["workload"]["tol"] == 5e-2
    assert sum(work["share"] for work in told["kinds"].values()) == pytest.approx(1)

    before = snapshot(folder)
    again = call("profile", "digits", *QUICK, "-o", folder)
    refused(again, 1, "profile.json is there already", "--overwrite")
    assert snapshot(folder) == before


def test_tables_and_scaling(call, tmp_path, monkeypatch, digits):
    x = digits.sample_latents(1, 500, seed=0, steps=2)
    found = profiling.profile(
        maps.encoder(digits, "conv_in"), x, 500, 2, repeats=1, advice=False, max_products=6
    )
    asked = []
    monkeypatch.setattr(profiling, "profile", lambda *args, **_: asked.append(args) or found)
    monkeypatch.setattr(profiling, "BATCHES", (1, 2))
    folder = tmp_path / "out"
    (tmp_path / "out").mkdir()
    (folder / "profile.png").write_text("of an earlier one")
    result = done(
        call("profile", "digits", *QUICK, "--scaling", "--limit", "1e-9", "--overwrite",
             "--no-figures", "-o", folder)
    )  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {
        "profile.json", "scaling.json", "trace.json.gz",
    }  # fmt: skip
    ((_, x, t, rank, cond),) = asked
    assert (tuple(x.shape), t.tolist(), rank, cond) == ((1, 1, 16, 16), [500], 2, None)
    for word in ("convolution", "unattributed", "100.0 %", "forward passes each", "scaling.json"):
        assert word in result.stdout
    assert len(json.loads((folder / "scaling.json").read_text())["over_samples"]) == 1


@pytest.mark.parametrize(
    ("wrong", "code", "words"),
    [
        (("--limit", "0"), 2, ("--limit", "above 0")),
        (("--repeats", "0"), 2, ("--repeats",)),
        (("--map", "score", "--tap", "mid_block"), 2, ("--tap",)),
        (("--rank", "300"), 1, ("rank",)),
        (("-t", "5000"), 1, ("timestep",)),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(call, tmp_path, wrong, code, words):
    refused(call("profile", "digits", "-o", tmp_path / "out", *wrong), code, *words)
