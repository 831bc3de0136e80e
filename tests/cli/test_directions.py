"""`pullback directions`: what each command writes and says, and what it refuses."""

import json
import re

import pytest
import torch
from PIL import Image

import pullback
from pullback import Direction, LocalBasis, cli, directions, figures, models
from pullback.cli import find
from tests.cli.calls import done, refused, snapshot
from tests.models import pipelines

DRAFT = ("--quality", "draft", "-t", "900")


@pytest.fixture
def found(call, tmp_path):
    """Runs `pullback directions find METHOD digits` into a folder."""

    def run(method, *args, output=tmp_path / "out"):
        return call("directions", "find", method, "digits", "-o", output, *args)

    return run


def summary_of(folder):
    return json.loads((folder / "directions.json").read_text())


def edits_of(folder):
    return [directions.load(folder / row["file"]) for row in summary_of(folder)["directions"]]


def right():
    """What the fixture `half` selects, of the latents."""
    return torch.arange(16).expand(16, 16) >= 8


def alike(one, other, atol=1e-4):
    torch.testing.assert_close(one.vector, other.vector, atol=atol, rtol=0)
    for name in ("space", "tap", "pool", "t", "window"):
        assert getattr(one, name) == getattr(other, name)
    assert one.unit == pytest.approx(other.unit, rel=1e-3)


def test_the_table_is_that_of_the_methods(call):
    rows = json.loads(done(call("directions", "list", "--json")).stdout)["methods"]
    told = done(call("directions", "list")).stdout
    assert [row["name"] for row in rows] == [one.name for one in directions.available()]
    for row, one in zip(rows, directions.available(), strict=True):
        for name in ("function", "finds", "moves", "cost", "source"):
            assert row[name] == getattr(one, name)
        assert (tuple(row["space"]), tuple(row["needs"])) == (one.space, one.needs)
        assert re.search(rf"^{one.name} +{re.escape(one.finds)}; ", told, re.MULTILINE)
        assert one.source in told
        if row["command"] is None:
            assert f"from Python: {one.function}" in told
        else:
            assert row["command"] in told
            words = row["command"].split()[1:]
            done(call(*words[: words.index("--how") if "--how" in words else None], "--help"))
    commands = {row["name"] for row in rows if (row["command"] or "").find(" find ") > 0}
    assert commands == set(find.COMMANDS)
    assert {row["name"]: row["command"] for row in rows}["global"] == "pullback global"


def test_pullback_is_the_local_basis_of_the_sample(found, tmp_path, digits):
    result = done(found("pullback", *DRAFT, "-k", "2", "--seed", "4", "--class-label", "3",
                        "--tap", "down_blocks.2", "--json"))  # fmt: skip
    summary = json.loads(result.stdout)
    assert summary == summary_of(tmp_path / "out")
    assert summary["format"] == "pullback.directions/1"
    settings = summary["settings"]
    assert (settings["method"], settings["seed"], settings["rank"]) == ("pullback", 4, 2)
    assert settings["fingerprint"] == digits.fingerprint
    cond = digits.encode(class_label=[3])
    x = digits.sample_latents(1, 900, seed=[4], cond=cond)
    basis = pullback.local_basis(digits, x, 900, 2, "down_blocks.2", cond, quality="draft")
    assert [row["s"] for row in summary["directions"]] == pytest.approx(basis.s[0].tolist())
    for index, row in enumerate(summary["directions"]):
        assert row["file"] == f"pullback-{index}.safetensors"
        one = Direction.load(tmp_path / "out" / row["file"])
        alike(one, basis.direction(index))
        assert (row["t"], row["unit"], row["space"]) == ([900], [1.0], "x")
        assert one.provenance["run"]["settings"] == settings
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"directions.json", "pullback-0.safetensors", "pullback-1.safetensors"}


def test_components_are_files_of_one_direction_a_step(found, tmp_path, digits):
    few = ("--samples", "5", "-k", "2", "--steps", "4", "--seed", "3", "--class-label", "1")
    result = done(found("pca", *few, "--pool", "-t", "800"))
    cond = digits.encode(class_label=1)
    expected = directions.pca(
        digits, 5, 2, t=800, steps=4, seed=3, cond=cond, pool="space"
    )  # fmt: skip
    for index, (row, edit) in enumerate(
        zip(summary_of(tmp_path / "out")["directions"], edits_of(tmp_path / "out"), strict=True)
    ):
        entry = expected.entry(index)
        assert len(edit) == len(entry) == len(row["t"]) == 4
        for one, other in zip(edit, entry, strict=True):
            alike(one, other, 1e-3)
        assert row["t"] == [one.t for one in entry]
        assert row["ratio"] == pytest.approx(float(expected.ratios[index]), rel=1e-3)
        assert row["deviation"] == pytest.approx(float(expected.deviations[index]), rel=1e-3)
    assert re.search(r"pca 1 +h at mid_block +800 to ", result.stdout)
    assert "5/5 samples" in result.stderr


def test_spectral_with_and_without_a_region(found, tmp_path, half, digits):
    done(found("spectral", *DRAFT, "-k", "1", "--mask", half))
    done(found("spectral", *DRAFT, "-k", "1", output=tmp_path / "whole"))
    x = digits.sample_latents(1, 900, seed=0)
    for folder, mask in (("out", right()), ("whole", None)):
        expected = directions.spectral(digits, x, 900, 1, mask=mask, quality="draft")
        ((one,),) = edits_of(tmp_path / folder)
        alike(one, expected.direction(0))
        row = summary_of(tmp_path / folder)["directions"][0]
        assert row["s"] == pytest.approx(float(expected.basis.s[0, 0]), rel=1e-4)


def test_local_tells_gain_and_leakage(found, tmp_path, half, digits):
    args = ("--mask", half, "--null", "1", "--class-label", "7")
    result = done(found("local", *DRAFT, *args, "-k", "2"))
    cond = digits.encode(class_label=[7])
    x = digits.sample_latents(1, 900, seed=0, cond=cond)
    options = {"null": 1, "cond": cond, "quality": "draft"}
    expected = directions.local(digits, x, 900, right(), 2, **options)
    rows = summary_of(tmp_path / "out")["directions"]
    for index, ((one,), row) in enumerate(zip(edits_of(tmp_path / "out"), rows, strict=True)):
        alike(one, expected.direction(index))
        assert row["gain"] == pytest.approx(float(expected.gain[0, index]), rel=1e-4)
        assert row["leakage"] == pytest.approx(float(expected.leakage[0, index]), rel=1e-4)
        assert row["ratio"] == pytest.approx(row["gain"] / row["leakage"])
    assert f"{rows[0]['ratio']:.3g}" in result.stdout
    done(found("local", *DRAFT, *args, "-k", "1", "--joint", output=tmp_path / "joint"))
    joint = directions.local(digits, x, 900, right(), 1, joint=True, **options)
    alike(edits_of(tmp_path / "joint")[0][0], joint.direction(0))


def test_toward_leads_to_the_target(found, tmp_path, half, digits):
    target = ("--target-class", "3", "--class-label", "8")
    done(found("toward", *DRAFT, "--mask", half, "--null", "1", *target))
    cond, to = digits.encode(class_label=[8]), digits.encode(class_label=[3])
    x = digits.sample_latents(1, 900, seed=0, cond=cond)
    expected = directions.toward(
        digits, x, 900, to, right(), null=1, cond=cond, quality="draft"
    )  # fmt: skip
    ((one,),) = edits_of(tmp_path / "out")
    alike(one, expected.direction(0))
    assert one.name == "toward 3"


def test_attention_needs_no_samples(found, tmp_path, digits):
    done(found("attention", "-k", "3", "--matrix", "q", "--side", "output"))
    expected = directions.attention(digits, matrix="q", side="output", rank=3)
    rows = summary_of(tmp_path / "out")["directions"]
    assert [row["eigenvalue"] for row in rows] == expected.values.tolist()
    assert [row["t"] for row in rows] == [[None]] * 3
    for index, (one,) in enumerate(edits_of(tmp_path / "out")):
        alike(one, expected.direction(index))


def test_a_direction_between_two_classes_of_the_model(found, tmp_path, digits):
    few = ("--samples", "6", "--steps", "10", "--seed", "5", "--pool")
    done(found("supervised", "--classes", "3", "8", *few, "-t", "699,499", "--how", "lda"))
    cond = digits.encode(class_label=[3] * 6 + [8] * 6)
    drawn = directions.label_samples(
        digits, range(5, 17), [699, 499], lambda x: x.flatten(1).mean(1),
        pool="space", cond=cond, steps=10,
    )  # fmt: skip
    labels = [3] * 6 + [8] * 6
    expected = directions.supervised(drawn.features, labels, method="lda", **drawn.place)
    (edit,) = edits_of(tmp_path / "out")
    for one, other in zip(edit, expected.entry(), strict=True):
        alike(one, other, 1e-3)
        assert one.name == "3 to 8"
    (row,) = summary_of(tmp_path / "out")["directions"]
    assert row["accuracy"] == expected.accuracy
    assert row["separation"] == pytest.approx(expected.separation, rel=1e-2)


def test_a_boundary_of_scores(found, tmp_path, digits):
    scores = torch.randn(12, dtype=torch.float64)
    path = tmp_path / "scores.txt"
    path.write_text("\n".join(map(repr, scores.tolist())))
    few = ("--steps", "10", "-t", "499", "--seed", "2", "--folds", "2")
    done(found("boundary", "--labels", path, "--top", "4", *few, "-C", "0.1"))
    drawn = directions.label_samples(digits, range(2, 14), 499, None, steps=10)
    order = scores.argsort()
    index = torch.cat([order[:4], order[-4:]])
    labels = [0] * 4 + [1] * 4
    expected = directions.boundary(drawn.features[index], labels, C=0.1, folds=2, **drawn.place)
    ((one,),) = edits_of(tmp_path / "out")
    alike(one, expected.direction(), 1e-3)
    (row,) = summary_of(tmp_path / "out")["directions"]
    assert row["accuracy"] == expected.accuracy
    assert row["deviation"] == pytest.approx(expected.deviation, rel=1e-3)
    # Other scores are other settings, and the same ones again are not.
    assert "reused" in done(found("boundary", "--labels", path, "--top", "4", *few, "-C", "0.1"))\
        .stdout  # fmt: skip
    path.write_text("\n".join(map(repr, (-scores).tolist())))
    result = found("boundary", "--labels", path, "--top", "4", *few, "-C", "0.1")
    refused(result, 1, "other settings: scores", "--overwrite")


def test_a_direction_between_two_prompts(found, tmp_path, monkeypatch):
    model = pullback.load(pipelines.stable_diffusion(tmp_path / "words"))
    monkeypatch.setattr(models, "load", lambda *_args, **_kwargs: model)
    encode, rows = model.encode, []
    monkeypatch.setattr(model, "encode", lambda prompt: rows.append(len(prompt)) or encode(prompt))
    few = ("--samples", "5", "--steps", "4", "-t", "499", "--pool")
    done(found("supervised", "--prompts", "a cat", "a dog", *few))
    assert set(rows) == {2}  # the two prompts, and not one for each sample
    cond = encode(prompt=["a cat"] * 5 + ["a dog"] * 5)
    drawn = directions.label_samples(
        model, range(10), 499, None, pool="space", cond=cond, steps=4
    )  # fmt: skip
    expected = directions.supervised(drawn.features, [0] * 5 + [1] * 5, **drawn.place)
    ((one,),) = edits_of(tmp_path / "out")
    alike(one, expected.direction(), 1e-3)
    assert one.name == "a cat to a dog"


def test_labels_of_two_values_need_no_top(found, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("seed,label\n" + "\n".join(f"{seed},{seed % 2}" for seed in range(8)))
    few = ("--steps", "5", "--folds", "0", "-t", "399", "-q")
    done(found("supervised", "--labels", path, "--samples", "8", *few))
    ((one,),) = edits_of(tmp_path / "out")
    assert one.provenance["counts"] == [4, 4]


def test_the_same_command_reuses_everything(found, tmp_path):
    args = ("attention", "-k", "2")
    done(found(*args, "--quiet"))
    before = snapshot(tmp_path / "out")
    result = done(found(*args))
    assert result.stdout.count("reused") == 2
    assert snapshot(tmp_path / "out") == before
    assert done(found(*args, "--quiet")).output == ""
    # One that was lost is found again with the others.
    (tmp_path / "out" / "attention-1.safetensors").unlink()
    assert "reused" not in done(found(*args)).stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(before)


@pytest.mark.parametrize(
    ("method", "changed", "name"),
    [
        ("attention", ("-k", "1"), "rank 2 (now 1)"),
        ("attention", ("-k", "2", "--matrix", "k"), "matrix v (now k)"),
        ("attention", ("-k", "2", "--dtype", "float64"), "dtype float32"),
        ("pullback", (*DRAFT, "-k", "1"), "method attention (now pullback)"),
    ],
)
def test_files_of_other_settings_are_refused(found, tmp_path, method, changed, name):
    done(found("attention", "-k", "2", "--quiet"))
    before = snapshot(tmp_path / "out")
    refused(found(method, *changed), 1, "other settings", name, "--overwrite", "--output")
    assert snapshot(tmp_path / "out") == before
    done(found(method, *changed, "--overwrite", "--quiet"))
    listed = {row["file"] for row in summary_of(tmp_path / "out")["directions"]}
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"directions.json", *listed}, "none of what was before"


def test_files_without_a_summary_are_not_overwritten_either(found, tmp_path):
    done(found("attention", "-k", "2", "--quiet"))
    (tmp_path / "out" / "directions.json").unlink()
    refused(found("attention", "-k", "1"), 1, "attention-0.safetensors", "other settings: rank")
    done(found("attention", "-k", "2", "--quiet"))
    assert len(edits_of(tmp_path / "out")) == 2


def test_damaged_files_are_told(found, tmp_path):
    done(found("attention", "-k", "2", "--quiet"))
    file, listed = (tmp_path / "out" / name for name in ("attention-1.safetensors",
                                                         "directions.json"))  # fmt: skip
    whole, told = file.read_bytes(), listed.read_text()
    file.write_bytes(whole[:-8])
    refused(found("attention", "-k", "2"), 1, "attention-1.safetensors is damaged", "--overwrite")
    file.write_bytes(whole)
    for text, words in (
        ("{", "no JSON"),
        ("[]", "expected the format"),
        (told.replace("pullback.directions/1", "pullback.edits.summary/1"), "another command"),
        (json.dumps({**json.loads(told), "directions": []}), "expected files of directions"),
        (json.dumps({**json.loads(told), "directions": [{"file": 3}]}), "expected files"),
    ):
        listed.write_text(text)
        refused(found("attention", "-k", "2"), 1, "directions.json", words)
    done(found("attention", "-k", "2", "--overwrite", "-q"))
    assert file.read_bytes()[-768:] == whole[-768:], "the vector of 96 numbers"
    assert len(edits_of(tmp_path / "out")) == 2


def test_a_summary_is_of_files_beside_it_alone(found, tmp_path):
    done(found("attention", "-k", "2", "--quiet"))
    listed = tmp_path / "out" / "directions.json"
    told = json.loads(listed.read_text())
    (tmp_path / "out" / "attention-0.safetensors").rename(tmp_path / "attention-0.safetensors")
    told["directions"][0]["file"] = "../attention-0.safetensors"
    listed.write_text(json.dumps(told))
    assert "reused" not in done(found("attention", "-k", "2")).stdout
    assert len(edits_of(tmp_path / "out")) == 2


def test_what_a_killed_run_left_is_replaced_and_files_of_others_stay(found, tmp_path):
    done(found("attention", "-k", "3", "--quiet"))
    (tmp_path / "out" / "directions.json").unlink()
    mine = tmp_path / "out" / "attention-mine.safetensors"
    mine.write_bytes(b"mine")
    done(found("pullback", *DRAFT, "-k", "1", "--overwrite", "-q"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"directions.json", "pullback-0.safetensors", mine.name}
    assert "reused" in done(found("pullback", *DRAFT, "-k", "1")).stdout


def test_an_interrupted_run_goes_on(found, tmp_path, monkeypatch):
    save, saved = directions.save, []

    def interrupted(entry, path):
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(entry, path)

    monkeypatch.setattr(directions, "save", interrupted)
    assert found("attention", "-k", "2").exit_code == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["attention-0.safetensors"]
    monkeypatch.setattr(directions, "save", save)
    done(found("attention", "-k", "2", "--quiet"))
    assert len(edits_of(tmp_path / "out")) == 2


def hostile(tmp_path):
    """Arguments that cannot be met, with the exit code and words of the error."""
    one, few, alike = (tmp_path / f"{name}.txt" for name in ("one", "few", "alike"))
    one.write_text("1\n" * 12)
    few.write_text("0\n" * 3 + "1\n" * 12)
    alike.write_text("0\n1\n" * 6 + "0.5\n")
    black, odd = tmp_path / "black.png", tmp_path / "odd.png"
    Image.new("L", (16, 16)).save(black)
    Image.new("L", (24, 24)).save(odd)
    both = ("--classes", "1", "2")
    return [
        ("pullback", ["-t", "1000"], 1, ["between 0 and 999", "1000"]),
        ("pullback", ["-k", "0", *DRAFT], 1, ["got 0"]),
        ("pullback", ["--tap", "middle"], 1, ["'middle'", "mid_block"]),
        ("pullback", ["--class-label", "11"], 1, ["between 0 and 10"]),
        ("pullback", ["--class-label", "1", "--prompt", "a"], 2, ["--prompt or --class-label"]),
        ("pullback", ["--prompt", "a"], 1, ["prompt"]),
        ("pullback", ["--quality", "best"], 1, ["draft", "'best'"]),
        ("pullback", ["--memory", "lots"], 2, ["--memory"]),
        ("pca", ["--samples", "3", "-k", "3"], 1, ["rank of at most 2"]),
        ("pca", ["--samples", "1"], 2, ["--samples"]),
        ("spectral", ["--mask", black], 1, ["selects nothing"]),
        ("spectral", ["--mask", odd], 1, ["mask of 16 x 16", "got 24 x 24"]),
        ("local", [], 2, ["--mask"]),
        ("local", ["--mask", tmp_path / "none.png"], 1, ["none.png cannot be read"]),
        ("toward", ["--mask", black], 2, ["--target-class and --target-prompt"]),
        ("toward", ["--mask", black, "--target-class", "3"], 1, ["selects nothing"]),
        ("attention", ["--matrix", "w"], 1, ["v, q, k", "'w'"]),
        ("attention", ["--layer", "nowhere"], 1, ["'nowhere'", "mid_block.attentions.0"]),
        ("supervised", [], 2, ["one of --classes, --prompts and --labels"]),
        ("supervised", [*both, "--labels", one], 2, ["one of --classes"]),
        ("supervised", [*both, "--top", "3"], 2, ["--top"]),
        ("supervised", [*both, "--class-label", "3"], 2, ["are for --labels"]),
        ("supervised", ["--classes", "1", "11"], 1, ["between 0 and 10"]),
        ("supervised", ["--classes", "3", "3"], 1, ["two different classes", "got 3 twice"]),
        ("boundary", ["--prompts", "a", "a"], 1, ["two different classes", "got 'a' twice"]),
        ("supervised", [*both, "--samples", "3"], 1, ["5 samples of each class", "folds"]),
        ("supervised", [*both, "--how", "svm"], 1, ["mean, lda, logistic", "'svm'"]),
        ("supervised", [*both, "-t", "500,900"], 1, ["timesteps that go down"]),
        ("supervised", [*both, "-t", "a"], 2, ["--timestep"]),
        ("supervised", ["--labels", tmp_path / "none.txt"], 1, ["none.txt cannot be read"]),
        ("supervised", ["--labels", one], 1, ["labels of two classes", "got 1 for all 12"]),
        ("supervised", ["--labels", few], 1, ["5 samples of each class", "got 3 and 12"]),
        ("supervised", ["--labels", alike], 1, ["labels of two classes", "3 values", "top="]),
        ("supervised", ["--labels", few, "--samples", "9"], 1, ["Expected 9 scores", "got 15"]),
        ("supervised", ["--labels", few, "--top", "9"], 1, ["half of the 15 samples", "got 9"]),
        ("boundary", ["--labels", one, "--top", "5"], 1, ["got 1 in both groups"]),
        ("boundary", [*both, "-C", "-1"], 1, ["C as a finite number above 0"]),
        ("boundary", [*both, "-t", "900,500"], 2, ["--timestep"]),
    ]  # fmt: skip


def test_bad_input_is_told_and_leaves_nothing(found, tmp_path, monkeypatch):
    """Of classes before any sample is drawn."""
    monkeypatch.setattr(directions, "label_samples", None)
    for method, args, code, words in hostile(tmp_path):
        result = found(method, *args)
        assert result.exit_code == code, (method, args, result.output)
        refused(result, code, *words)
        left = list((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else []
        assert not left, (method, args)


@pytest.fixture
def three(tmp_path, digits):
    """Files of three directions of latents, of which the last two are one edit."""
    made = [Direction.of(torch.randn(1, 16, 16), "x", t=t, model=digits) for t in (900, 700, 500)]
    made[0].save(tmp_path / "a.safetensors")
    directions.save(made[1:], tmp_path / "b.safetensors")
    return made


def test_directions_are_compared_by_the_names_of_their_files(call, tmp_path, three):
    files = (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    told = json.loads(done(call("directions", "compare", *files, "--json")).stdout)
    assert told["names"] == ["a", "b t=700", "b t=500"]
    assert told["retained"] is None
    expected = directions.compare(three).cosines
    assert torch.tensor(told["cosines"], dtype=torch.float64).allclose(expected)
    printed = done(call("directions", "compare", *files)).stdout
    assert re.search(rf"1 +a +1\.00 +{float(expected[0, 1]):.2f}", printed)
    (tmp_path / "more").mkdir()
    three[1].save(tmp_path / "more" / "a.safetensors")
    both = (tmp_path / "a.safetensors", tmp_path / "more" / "a.safetensors")
    names = json.loads(done(call("directions", "compare", *both, "--json")).stdout)["names"]
    assert names[0] != names[1]
    assert names[1].endswith("more/a")


def test_many_directions_are_told_in_few_columns(call, tmp_path):
    made = [Direction.of(torch.randn(5), "h", tap="a", pool="space", t=t) for t in range(9, 0, -1)]
    directions.save(made, tmp_path / "many.safetensors")
    printed = done(call("directions", "compare", tmp_path / "many.safetensors")).stdout
    assert "with the first 6 of 9 (--json has all)" in printed
    cosines = directions.compare(made).cosines
    for place, t in enumerate(range(9, 0, -1)):
        numbers = " +".join(re.escape(f"{float(value):.2f}") for value in cosines[place, :6])
        assert re.search(rf"^ *{place + 1} +many t={t} +{numbers} *$", printed, re.MULTILINE)


def test_what_lies_in_the_spaces_of_a_basis_is_told(call, tmp_path, three, digits):
    x = digits.sample_latents(2, 900, seed=1)
    basis = pullback.local_basis(digits, x, 900, 3, quality="draft")
    basis.save(tmp_path / "basis.safetensors")
    basis.direction(1, sample=1).save(tmp_path / "own.safetensors")
    args = (tmp_path / "a.safetensors", tmp_path / "own.safetensors", "--subspace",
            tmp_path / "basis.safetensors")  # fmt: skip
    told = json.loads(done(call("directions", "compare", *args, "--json")).stdout)
    expected = directions.retained(
        [three[0], basis.direction(1, sample=1)], LocalBasis.load(tmp_path / "basis.safetensors")
    )
    assert torch.tensor(told["retained"], dtype=torch.float64).allclose(expected)
    assert told["retained"][1][1] == pytest.approx(1)
    printed = done(call("directions", "compare", *args)).stdout
    assert "sample 0" in printed
    assert re.search(r"2 +own .* 1\.00\s", printed)


def test_what_cannot_be_compared_is_told(call, tmp_path, three, digits):
    a = tmp_path / "a.safetensors"
    directions.attention(digits, rank=1).direction(0).save(tmp_path / "h.safetensors")
    x = digits.sample_latents(1, 900, seed=1)
    pullback.local_basis(digits, x, 900, 1, quality="draft").save(tmp_path / "basis.safetensors")
    for args, code, words in (
        ([a], 1, ["two directions or more", "got 1"]),
        ([], 2, ["Missing argument"]),
        ([a, tmp_path / "h.safetensors"], 1, ["same space", "'x' of a and 'h' of h"]),
        ([a, tmp_path / "none.safetensors"], 1, ["No direction file at"]),
        ([a, tmp_path / "basis.safetensors"], 1, ["is a local basis"]),
        ([a, a, "--subspace", a], 1, ["a.safetensors is not a local basis"]),
        ([a, a, "--subspace", tmp_path / "none.safetensors"], 1, ["none.safetensors"]),
    ):
        refused(call("directions", "compare", *args), code, *words)


def test_every_command_of_a_group_reports_its_errors(call):
    """As the others do, in one paragraph: none is added to a group without it."""
    import typer

    group = typer.main.get_command(cli.app).commands["directions"]
    nested = {**group.commands, **group.commands["find"].commands}
    for name, command in nested.items():
        if not hasattr(command, "commands"):
            assert any(one.name == "debug" for one in command.params), name


def test_the_angles_are_drawn(call, tmp_path, three, monkeypatch):
    draw, seen = figures.angle_matrix, []
    monkeypatch.setattr(figures, "angle_matrix", lambda found: seen.append(found) or draw(found))
    files = (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    done(call("directions", "compare", *files, "--output", tmp_path / "angles.png"))
    with Image.open(tmp_path / "angles.png") as image:
        assert image.format == "PNG"
    (found,) = seen
    assert found.names == ("a", "b t=700", "b t=500")
    assert torch.equal(found.cosines, directions.compare(three).cosines)
