"""`pullback edit`: what it writes and says, every option, and what it refuses."""

import json
import pickle
import re

import pytest
import torch
from PIL import Image, ImageSequence

import pullback
from pullback import Direction, directions, editing
from tests.cli.calls import QUICK_EDIT, done, edits, refused


def test_the_folder_holds_what_is_listed_and_the_summary_is_printed(call, tmp_path, digits):
    folder = tmp_path / "out"
    result = done(call("edit", "digits", *QUICK_EDIT, "--gif", "-o", folder, "--json"))
    summary = json.loads(result.stdout)
    assert summary == json.loads((folder / "summary.json").read_text())
    names = {path.name for path in folder.iterdir()}
    assert names == set(summary["files"]) == {
        "summary.json", "edits.png", "edits.gif", "edits_direction00.png", "edits_direction01.png",
        "edits-seed0.safetensors", "basis-seed0.safetensors",
    }  # fmt: skip
    assert summary["directions"] == ["v_1", "v_2"]
    assert summary["strengths"] == [-4.0, 0.0, 4.0]
    settings = summary["settings"]
    assert (settings["t"], settings["rank"], settings["tap"]) == (100, 2, "mid_block")
    assert settings["fingerprint"] == digits.fingerprint
    assert settings["samples"]["seed0"]["seed"] == 0
    assert set(summary["versions"]) == {"pullback", "torch", "diffusers"}
    assert summary["samples"][0] == {
        "name": "seed0", "edits": "edits-seed0.safetensors", "inversion": None,
    }  # fmt: skip
    assert "samples" in result.stderr
    with Image.open(folder / "edits.gif") as film:
        assert sum(1 for _ in ImageSequence.Iterator(film)) == 2 * 3 - 2, "there and back"
        assert film.info["loop"] == 0


def test_edits_are_those_of_a_sweep_along_the_samples_own_bases(edit, tmp_path, digits):
    done(edit(*QUICK_EDIT, "--seeds", "0,5", "--steps", "20", "--quiet"))
    for seed in (0, 5):
        x = digits.sample_latents(1, 100, seed=seed)
        basis = pullback.local_basis(digits, x, 100, 2)
        swept = pullback.sweep(digits, x, 100, basis, [-4, 0, 4], steps=20)
        found, _ = edits(tmp_path / "out", f"seed{seed}")
        assert torch.equal(found["x"], x[0])
        torch.testing.assert_close(found["latents"], swept.latents[0], atol=1e-4, rtol=1e-3)
        saved = pullback.LocalBasis.load(tmp_path / "out" / f"basis-seed{seed}.safetensors")
        assert torch.equal(saved.v, basis.v)


def test_results_are_told_as_a_table_and_a_tree(edit, direction, tmp_path):
    result = done(edit("--direction", direction, "--seeds", "0,1"))
    assert re.search(r"seed1 +sheer +5", result.stdout)
    assert all(path.name in result.stdout for path in (tmp_path / "out").iterdir())


def test_quiet_prints_nothing(edit, direction):
    assert done(edit("--direction", direction, "--quiet", "--seeds", "0")).output == ""


def test_directions_from_files_and_folders(edit, direction, digits, tmp_path):
    Direction.load(direction).renamed("other").save_pretrained(tmp_path / "folder")
    done(
        edit(
            "--direction",
            direction,
            "--direction",
            tmp_path / "folder",
            "-a",
            "0,1",
            "--seeds",
            "2",
        )
    )
    found, metadata = edits(tmp_path / "out", "seed2")
    assert metadata["names"] == ["sheer", "other"]
    assert metadata["settings"]["t"] == 100, "where they were found"
    assert torch.equal(found["latents"][0], found["latents"][1])
    x = found["x"][None]
    still = pullback.denoise(digits, x, 100)
    torch.testing.assert_close(found["latents"][:1, 0], still, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found["latents"][0, 1], still[0], atol=0.1)


def test_directions_that_were_found_at_several_timesteps(edit, direction, tmp_path):
    other = Direction.load(direction)
    Direction.of(other.vector, "x", t=300).save(tmp_path / "other.safetensors")
    both = ("--direction", direction, "--direction", tmp_path / "other.safetensors")
    refused(edit(*both), 1, "timesteps 100, 300", "--timestep")
    result = done(edit(*both, "-t", "100", "--seeds", "0,1", "--json"))
    told = " ".join(result.stderr.split())
    assert told.count("meant for t=300") == 1, "for all samples once"


def test_a_file_of_several_directions_is_one_edit(edit, direction, digits, tmp_path):
    entry = directions.pca(digits, 4, 1, t=300, steps=10).entry(0)
    directions.save(entry, tmp_path / "pca.safetensors")
    args = ("--direction", tmp_path / "pca.safetensors", "--seeds", "2", "--steps", "10", "-a", "3")
    done(edit(*args))
    found, metadata = edits(tmp_path / "out", "seed2")
    assert metadata["names"] == ["pca 0"]
    assert metadata["settings"]["t"] == 300, "where its first step begins"
    expected = pullback.edit(digits, found["x"][None], 300, entry, 3.0, steps=10)
    torch.testing.assert_close(found["latents"][0, 0], expected[0], atol=1e-4, rtol=1e-3)
    assert "reused" in done(edit(*args)).stdout
    # One step of it less, or two edits in place of one, are other settings.
    directions.save(entry[1:], tmp_path / "pca.safetensors")
    refused(edit(*args, "-t", "300"), 1, "other settings: directions", "--overwrite")
    done(edit(*args, "--direction", direction, "-t", "300", "--overwrite"))
    assert edits(tmp_path / "out", "seed2")[1]["names"] == ["pca 0", "sheer"]


def test_a_basis_gives_each_sample_its_own_directions(basis, edit, tmp_path):
    done(basis("-t", "100", output=tmp_path / "bases"))
    path = tmp_path / "bases" / "basis_t0100.safetensors"
    done(edit("--basis", path, "--index", "2,0", "--seeds", "1", "-a", "4"))
    found, metadata = edits(tmp_path / "out", "seed1")
    assert metadata["names"] == ["v_3", "v_1"]
    assert not (tmp_path / "out" / "basis-seed1.safetensors").exists()
    model = pullback.load("digits")
    own = pullback.LocalBasis.load(path)[[1]]
    swept = pullback.sweep(model, found["x"][None], 100, own, [4], indices=[2, 0])
    torch.testing.assert_close(found["latents"], swept.latents[0], atol=1e-4, rtol=1e-3)
    words = ("basis of the 1 samples", "seeds [0, 1]", "--direction")
    refused(edit("--basis", path, "--seeds", "7", output=tmp_path / "other"), 1, *words)
    result = edit("--basis", path, "--index", "3", output=tmp_path / "other")
    refused(result, 1, "index of a basis", "between 0 and 2, got 3")


def test_a_basis_of_one_sample_is_taken_for_all(edit, tmp_path):
    done(edit(*QUICK_EDIT))
    one = tmp_path / "out" / "basis-seed0.safetensors"
    done(edit("--basis", one, "--seeds", "3,4", "-a", "2", output=tmp_path / "all"))
    assert edits(tmp_path / "all", "seed4")[0]["latents"].shape == (2, 1, 1, 16, 16)


@pytest.mark.parametrize(
    ("options", "way"),
    [
        (("--way", "addition"), editing.Addition()),
        (("--way", "guidance", "--scale", "0.5", "--repeats", "2"), editing.Guidance(0.5, 2)),
        (("--way", "shooting", "--rank", "3"), editing.Shooting(rank=3)),
        (("--window", "100,60"), None),
        (("--boost", "60"), None),
        (("--eta", "0.5"), None),
        (("--class-label", "7", "--guidance", "2.5"), None),
        (("--mask", "half.png"), None),
    ],
)
def test_ways_and_walks(edit, direction, half, digits, tmp_path, monkeypatch, options, way):
    monkeypatch.chdir(tmp_path)
    done(edit("--direction", direction, "--seeds", "4", "-a", "0,1", *options))
    found, _ = edits(tmp_path / "out", "seed4")
    label = dict(zip(options[::2], options[1::2], strict=True))
    chosen = {"seed": [4]}
    if "--class-label" in label:
        chosen |= {"cond": digits.encode(class_label=7), "guidance": 2.5}
    if "--mask" in label:
        chosen["mask"] = torch.arange(16).expand(16, 16).ge(8).float()
    if "--window" in label:
        chosen["window"] = (100, 60)
    if "--boost" in label:
        chosen["boost"] = 60
    if "--eta" in label:
        chosen["eta"] = 0.5
    x = digits.sample_latents(1, 100, seed=4, cond=chosen.get("cond"))
    assert torch.equal(found["x"], x[0])
    swept = pullback.sweep(
        digits, x, 100, [Direction.load(direction)], [0, 1], way=way, **chosen
    )  # fmt: skip
    torch.testing.assert_close(found["latents"], swept.latents[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("name", "asymmetric"), [("injection", False), ("asymmetric", True)])
def test_features_are_edited_along_the_bases_directions_of_h(
    edit, digits, tmp_path, name, asymmetric
):
    done(edit(*QUICK_EDIT, "--way", name, "--tap", "down_blocks.2"))
    found, metadata = edits(tmp_path / "out")
    assert metadata["names"] == ["u_1", "u_2"]
    x = digits.sample_latents(1, 100, seed=0)
    basis = pullback.local_basis(digits, x, 100, 2, "down_blocks.2")
    along = [basis.direction(i, space="h") for i in range(2)]
    way = editing.Injection(asymmetric=asymmetric)
    swept = pullback.sweep(digits, x, 100, along, [-4, 0, 4], way=way)
    torch.testing.assert_close(found["latents"], swept.latents[0], atol=1e-4, rtol=1e-3)


def test_an_image_is_inverted_and_told_how_well(edit, direction, image, tmp_path):
    result = done(edit("--direction", direction, "--image", image, "-a", "0,1", "--json"))
    (told,) = json.loads(result.stdout)["samples"]
    assert told["name"] == "three_of_mine"
    assert told["inversion"]["psnr"] > 40
    found, metadata = edits(tmp_path / "out", "three_of_mine")
    assert metadata["inversion"] == told["inversion"]
    data = torch.frombuffer(bytearray(Image.open(image).tobytes()), dtype=torch.uint8)
    data = data.reshape(1, 16, 16) / 127.5 - 1
    assert (found["latents"][0, 0] - data).abs().max() < 0.05
    result = done(edit("--direction", direction, "--image", image, "-a", "0,1"))
    assert re.search(r"three_of_mine +sheer +2 +\d+\.\d dB +reused", result.stdout)


def test_an_image_that_is_inverted_badly_gets_advice(edit, direction, image):
    few = ("--corrections", "0", "--steps", "10", "-t", "900")
    result = done(edit("--direction", direction, "--image", image, *few))
    told = " ".join(result.stderr.split())
    assert "three_of_mine: " in told
    assert "use corrections=1" in told


def test_a_stochastic_inversion_is_exact(edit, direction, image):
    how = ("--inversion", "stochastic", "-a", "0,1", "--json")
    result = done(edit("--direction", direction, "--image", image, *how))
    assert json.loads(result.stdout)["samples"][0]["inversion"]["error"] < 1e-4


def write(path, value):
    if isinstance(value, Image.Image):
        value.save(path)
    else:
        path.write_bytes(value)
    return path


def hostile(tmp_path):
    """Arguments that cannot be met, with the exit code and words of the error."""
    x = torch.ones(1, 16, 16)
    files = {
        "small": write(tmp_path / "small.png", Image.new("L", (8, 8))),
        "colour": write(tmp_path / "colour.png", Image.new("RGB", (16, 16))),
        "text": write(tmp_path / "text.png", b"no image"),
        "odd": write(tmp_path / "odd.png", Image.new("L", (24, 24))),
        "pickle": write(tmp_path / "pickle.safetensors", pickle.dumps([1.0])),
        "cut": tmp_path / "cut.safetensors",
        "wide": tmp_path / "wide.safetensors",
        "tap": tmp_path / "tap.safetensors",
        "feature": tmp_path / "feature.safetensors",
    }
    Direction.of(x, "x").save(files["cut"])
    files["cut"].write_bytes(files["cut"].read_bytes()[:-8])
    Direction.of(torch.ones(3, 8, 8), "x").save(files["wide"])
    Direction.of(torch.ones(4), "h", tap="nowhere", pool="space").save(files["tap"])
    Direction.of(torch.ones(96), "h", tap="mid_block", pool="space").save(files["feature"])
    return [
        (["--image", files["small"]], 1, ["16 x 16 of mode L", "got 8 x 8", "small.png"]),
        (["--image", files["colour"]], 1, ["16 x 16 of mode L", "of mode RGB", "convert"]),
        (["--image", files["text"]], 1, ["text.png is no image"]),
        (["--image", tmp_path / "nowhere.png"], 1, ["nowhere.png cannot be read", "No such file"]),
        (["--image", files["small"], "--seeds", "1"], 2, ["--image or --seeds"]),
        (["--mask", files["odd"]], 1, ["mask of 16 x 16", "got 24 x 24"]),
        (["--mask", files["text"]], 1, ["text.png is no image"]),
        (["--mask", files["small"], "--direction", files["feature"]], 1, ["pooled feature"]),
        (["--direction", files["wide"]], 1, ["[1, 16, 16]", "got [3, 8, 8]"]),
        (["--direction", files["tap"]], 1, ["'nowhere'", "mid_block"]),
        (["--direction", files["cut"]], 1, ["cut.safetensors is damaged"]),
        (["--direction", files["pickle"]], 1, ["a pickle", "is not read"]),
        (["--direction", tmp_path / "nowhere"], 1, ["Expected a direction file", "nowhere"]),
        (["--basis", files["pickle"]], 1, ["pickle.safetensors"]),
        (["--basis", files["wide"]], 1, ["wide.safetensors"]),
        (["--basis", files["wide"], "--direction", files["wide"]], 2, ["--basis or --direction"]),
        (["--index", "0", "--direction", files["wide"]], 2, ["--index or --direction"]),
        (["--index", "5", "-t", "100"], 1, ["index", "5"]),
        (["--way", "force"], 1, ["addition, guidance, shooting", "'force'"]),
        (["--way", "shooting", "--direction", files["feature"]], 1, ["Shooting is for"]),
        (["--way", "guidance", "--direction", files["feature"]], 1, ["Guidance is for"]),
        (["--way", "guidance", "--repeats", "0"], 1, ["repeats"]),
        (["--strengths", "a,b"], 2, ["--strengths", "'a,b'"]),
        (["--strengths", "1,inf"], 2, ["--strengths", "finite"]),
        (["--strengths", "1e40"], 1, ["1e+40 overflows torch.float32"]),
        (["--window", "300,500"], 2, ["--window", "downwards"]),
        (["--window", "300"], 2, ["--window"]),
        (["-t", "1000"], 1, ["between 0 and 999", "1000"]),
        (["--boost", "1000"], 1, ["between 0 and 999"]),
        (["--boost", "100", "--eta", "1"], 1, ["either eta or boost"]),
        (["--eta", "2"], 1, ["eta from 0 to 1"]),
        (["--steps", "0"], 1, ["steps between 1 and 1000"]),
        (["--class-label", "11"], 1, ["between 0 and 10"]),
        (["--class-label", "1,2,3"], 1, ["one for each of the 2", "got 3"]),
        (["--class-label", "1", "--prompt", "a"], 2, ["--prompt or --class-label"]),
        (["--prompt", "a"], 1, ["prompt"]),
        (["--negative", "a"], 1, ["prompt"]),
        (["--rank", "0", "-t", "100"], 1, ["got 0"]),
        (["--tap", "middle", "-t", "100"], 1, ["'middle'", "mid_block"]),
        (["--seeds", "4294967296"], 1, ["below 2^32"]),
        (["--seeds", "1,1"], 1, ["different names"]),
        (["--memory", "lots"], 2, ["--memory"]),
    ]  # fmt: skip


def test_bad_input_is_told_and_leaves_nothing(edit, tmp_path):
    for args, code, words in hostile(tmp_path):
        result = edit(*args)
        assert result.exit_code == code, args
        refused(result, code, *words)
        left = list((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else []
        assert not left, args


def test_wrong_inversions_are_told(edit, direction, image, tmp_path):
    base = ("--direction", direction, "--image", image)
    refused(edit(*base, "--inversion", "exact"), 1, "ddim, stochastic", "'exact'")
    refused(edit(*base, "--corrections", "-1"), 1, "corrections")
    refused(edit(*base, "--image", image), 1, "different names")
    assert not list((tmp_path / "out").iterdir())


def test_strengths_that_overflow_half_precision(edit, direction, tmp_path):
    args = ("--direction", direction, "--dtype", "float16", "--seeds", "0", "--strengths", "1e6")
    refused(edit(*args), 1, "1e+06 overflows torch.float16", "smaller strengths")
    assert not list((tmp_path / "out").iterdir())


def test_edits_that_are_not_finite_are_not_written(edit, direction, tmp_path, monkeypatch):
    sweep = editing.sweep

    def overflowing(*given, **options):
        found = sweep(*given, **options)
        found.latents[0, 0, -1, 0, 0, 0] = torch.nan
        return found

    monkeypatch.setattr("pullback.editing.sweep", overflowing)
    result = edit("--direction", direction, "--seeds", "0")
    refused(result, 1, "seed0 contain NaN or Inf", "smaller strengths")
    assert not list((tmp_path / "out").iterdir())
