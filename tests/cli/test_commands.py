"""The command line on the digit model: what it writes and says, and how it fails and resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer
from diffusers import AutoencoderKL, DiTPipeline, StableDiffusionPipeline
from safetensors import safe_open
from typer.testing import CliRunner

import pullback
import pullback_ext
from pullback import cli, maps, models
from pullback.cli import commands
from tests.models import families

QUICK = ("--samples", "2", "--rank", "3", "--quality", "draft")


@pytest.fixture(scope="session")
def digits():
    """The digit model, read once for all calls in this process."""
    return pullback.load("digits")


@pytest.fixture
def call(digits, monkeypatch):
    """Runs a command in this process; the plain digit model is not read again."""
    read = models.load

    def load(name, device="cpu", dtype=None):
        plain = name == "digits" and device == "cpu" and dtype is None
        return digits if plain else read(name, device=device, dtype=dtype)

    monkeypatch.setattr(models, "load", load)
    return lambda *args: CliRunner().invoke(cli.app, [str(arg) for arg in args])


@pytest.fixture
def basis(call, tmp_path):
    """Runs `pullback basis digits` with few samples into a folder, without figures."""

    def run(*args, output=tmp_path / "out"):
        return call("basis", "digits", *QUICK, "--no-figures", "-o", output, *args)

    return run


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """A folder that the command filled, figures included, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "new" / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", lambda name, device, dtype: digits)
        args = ["basis", "digits", *QUICK, "-t", "900,200", "-o", str(folder), "--json"]
        result = CliRunner().invoke(cli.app, args)
    assert result.exit_code == 0, result.output
    return folder, result


def refused(result, code, *words):
    """An error: its exit code, one paragraph on stderr with these words, nothing on stdout."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    message = " ".join(result.stderr.replace("│", " ").split())
    for word in words:
        assert word in message
    return message


# ------------------------------------------------------------------------------------------- info


def test_info_tells_versions_native_state_and_models(call):
    result = call("info", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["versions"]["torch"] == torch.__version__
    assert "digits" in found["zoo"]
    assert set(found["native"]["usable"]) | set(found["native"]["unusable"]) >= {"cpu"}
    text = call("info").stdout
    assert torch.__version__ in text
    assert "native library" in text


def test_info_of_a_model_lists_its_taps(call, digits):
    found = json.loads(call("info", "digits", "--json").stdout)
    assert found["latent_shape"] == [1, 16, 16]
    assert found["timesteps"] == 1000
    assert found["null_condition"] == {"class_labels": 10}
    paths = [tap["path"] for tap in found["taps"]]
    assert paths == [tap.path for tap in digits.taps()]
    assert found["default_tap"] in paths
    assert found["takes"] == {"class_labels": "needed"}
    assert found["predicts"] == "epsilon"
    text = call("info", "digits").stdout
    assert "mid_block  (default)" in text
    assert "96 x 4 x 4" in text
    assert "class_labels = 10" in text


@pytest.mark.parametrize("name", families.TINY)
def test_info_describes_every_family(call, monkeypatch, name):
    model = families.model_of(name)
    monkeypatch.setattr(models, "load", lambda *_args, **_kwargs: model)
    found = json.loads(call("info", name, "--json").stdout)
    assert found["default_tap"] == families.TINY[name].default
    assert [tap["path"] for tap in found["taps"]] == model.blocks()
    assert found["predicts"] == ("flow" if families.TINY[name].flow else "epsilon")
    assert found["max_timestep"] == (1000 if families.TINY[name].flow else 999)
    text = call("info", name).stdout
    assert f"{families.TINY[name].default}  (default)" in text
    if "encoder_hidden_states" in found["takes"]:
        assert found["null_condition"] is None
        assert "none known: give --prompt" in text


def test_info_tells_the_size_of_an_encoded_null_prompt(call, monkeypatch):
    known = families.model_of("UNet2DConditionModel")
    null = {"encoder_hidden_states": torch.zeros(5, 32)}
    model = pullback.LatentModel(known.network, known.schedule.scheduler, null_cond=null)
    monkeypatch.setattr(models, "load", lambda *_args, **_kwargs: model)
    found = json.loads(call("info", "any", "--json").stdout)
    assert found["null_condition"] == {"encoder_hidden_states": {"shape": [5, 32]}}
    assert "encoder_hidden_states 5 x 32" in call("info", "any").stdout


# ------------------------------------------------------------------------------------------- taps


def test_taps_as_a_table_and_as_json(call, digits):
    found = json.loads(call("taps", "digits", "--json").stdout)
    assert found["default"] == "mid_block"
    assert found["taps"] == [
        {"path": tap.path, "shape": list(tap.shape), "share": tap.share} for tap in digits.taps()
    ]
    lines = call("taps", "digits").stdout.splitlines()
    assert len(lines) == 1 + len(found["taps"])
    assert lines[4].split() == ["mid_block", "(default)", "96", "x", "4", "x", "4", "24.5%"]
    refused(call("taps", "letters"), 1, "'letters'", "digits")


# ------------------------------------------------------------------------------------------ basis


def test_json_is_alone_on_stdout_and_is_the_summary(finished):
    folder, result = finished
    summary = json.loads(result.stdout)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["timesteps"] == [900, 200]
    assert summary["shapes"] == {"x": [1, 16, 16], "v": [1, 16, 16], "u": [96, 4, 4]}
    for row in summary["timesteps"]:
        assert row["samples"] == row["converged"] == 2
        assert row["angle_bound"]["max"] <= 5e-2
        assert row["s"]["median"] == sorted(row["s"]["median"], reverse=True)
        assert row["products"]["per_direction"] > 2
        assert not row["reused"]
    assert "products" in result.stderr
    assert "bound" in result.stderr


def test_all_files_are_there_and_whole(finished):
    folder, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "summary.json", "overview.png", "spectrum.png",
        "latents_t0900.safetensors", "latents_t0200.safetensors",
        "basis_t0900.safetensors", "basis_t0200.safetensors",
        "directions_t0900.png", "directions_t0200.png",
        "strips_sample00.png", "strips_sample01.png",
    }  # fmt: skip
    for name in names:
        if name.endswith(".png"):
            assert (folder / name).read_bytes().endswith(b"IEND\xaeB`\x82")


def test_the_saved_latents_and_basis_belong_together(finished, digits):
    folder, _ = finished
    with safe_open(folder / "latents_t0200.safetensors", framework="pt") as file:
        x = file.get_tensor("x")
    torch.testing.assert_close(x[1:], digits.sample_latents(1, 200, seed=1))
    saved = pullback.LocalBasis.load(folder / "basis_t0200.safetensors")
    again = pullback.local_basis(digits, x, 200, 3, quality="draft")
    torch.testing.assert_close(saved.s, again.s)
    torch.testing.assert_close(saved.v, again.v)


def test_results_are_told_as_a_tree_with_a_line_each(basis, tmp_path):
    result = basis("-t", "500")
    assert result.exit_code == 0
    for path in (tmp_path / "out").iterdir():
        assert path.name in result.stdout
    assert "2/2" in result.stdout


def test_quiet_prints_nothing(basis):
    result = basis("-t", "500", "--quiet")
    assert result.exit_code == 0
    assert result.output == ""


def test_seeds_and_class_labels_choose_the_samples(basis, call, tmp_path, digits):
    folder = tmp_path / "labelled"
    result = call(
        "basis", "digits", "--seeds", "7,2-3", "--class-label", "4,5,6", "-t", "700", "-k", "2",
        "--quality", "draft", "--no-figures", "-o", folder, "--memory", "256MiB", "--json",
    )  # fmt: skip
    settings = json.loads(result.stdout)["settings"]
    assert settings["sample_seeds"] == [7, 2, 3]
    assert settings["class_labels"] == [4, 5, 6]
    with safe_open(folder / "latents_t0700.safetensors", framework="pt") as file:
        x = file.get_tensor("x")
    five = {"class_labels": torch.tensor([5])}
    torch.testing.assert_close(x[1:2], digits.sample_latents(1, 700, seed=2, cond=five))


def test_another_tap_and_dtype(basis):
    result = basis("-t", "500", "--tap", "down_blocks.1", "--dtype", "float64", "--json")
    summary = json.loads(result.stdout)
    assert summary["shapes"]["u"] == [64, 4, 4]
    assert summary["settings"]["dtype"] == "float64"


# ------------------------------------------------------------------------- maps, taps, conditions


@pytest.mark.parametrize("name", ["decoder", "noise", "denoised", "score"])
def test_other_maps(call, digits, tmp_path, name):
    folder = tmp_path / name
    result = call(
        "basis", "digits", *QUICK, "-t", "500", "--map", name, "-o", folder, "--json",
        *(() if name == "decoder" else ("--no-figures",)),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["settings"]["map"] == name
    variable = [96, 4, 4] if name == "decoder" else [1, 16, 16]
    assert summary["shapes"] == {"x": [1, 16, 16], "v": variable, "u": [1, 16, 16]}
    saved = pullback.LocalBasis.load(folder / "basis_t0500.safetensors")
    assert saved.provenance["wrt"] == ("h" if name == "decoder" else "x")
    of = maps.decoder(digits) if name == "decoder" else maps.output(digits, name)
    x = digits.sample_latents(2, 500)
    again = pullback.basis(of, x, 500, 3, quality="draft")
    torch.testing.assert_close(saved.s, again.s)
    torch.testing.assert_close(saved.v, again.v)
    if name == "decoder":  # directions of features are not drawn as latents
        assert {path.name for path in folder.glob("*.png")} == {"spectrum.png"}
        assert call("basis", "digits", *QUICK, "-t", "500", "--map", name, "-o", folder).stdout


def test_maps_never_reuse_one_another(basis):
    assert basis("-t", "500", "--map", "noise").exit_code == 0
    refused(basis("-t", "500", "--map", "score"), 1, "map noise (now score)", "--overwrite")


def test_a_tap_may_name_which_output_is_meant(basis, digits, tmp_path):
    result = basis("-t", "500", "--tap", "down_blocks.1:0", "--json")
    summary = json.loads(result.stdout)
    assert summary["settings"]["tap"] == "down_blocks.1:0"
    assert summary["shapes"]["u"] == [64, 4, 4]
    saved = pullback.LocalBasis.load(tmp_path / "out" / "basis_t0500.safetensors")
    x = digits.sample_latents(2, 500)
    again = pullback.local_basis(digits, x, 500, 3, ("down_blocks.1", 0), quality="draft")
    torch.testing.assert_close(saved.s, again.s)
    refused(basis("-t", "500", "--tap", "mid_block:1"), 1, "one tensor", "mid_block:1")
    refused(basis("-t", "500", "--tap", "down_blocks.1:9"), 1, "no index 9", "0 to 1")


def test_a_prompt_is_refused_where_there_is_none(basis, call, tmp_path, monkeypatch):
    refused(basis("-t", "500", "--prompt", "a seven"), 1, "digits takes no prompt", "a class label")
    both = ("--prompt", "a seven", "--class-label", "7")
    refused(basis("-t", "500", *both), 2, "--prompt or --class-label")
    known = families.model_of("UNet2DConditionModel")
    pipeline = StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=known.network,
        scheduler=known.schedule.scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    mute = pullback.load(pipeline)
    monkeypatch.setattr(models, "load", lambda *_args, **_kwargs: mute)
    refused(
        call("basis", "mute", *QUICK, "-t", "500", "--prompt", "a", "-o", tmp_path / "out"),
        1, "StableDiffusionPipeline has no text encoder", "saved whole",
    )  # fmt: skip
    found = json.loads(call("info", "mute", "--json").stdout)
    assert found["null_condition"] is None
    assert found["default_tap"] == "mid_block"


def test_a_transformer_from_a_folder(call, tmp_path):
    known = families.model_of("DiTTransformer2DModel")
    vae = AutoencoderKL(
        block_out_channels=(4,), down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",), norm_num_groups=1, latent_channels=4,
    )  # fmt: skip
    DiTPipeline(known.network, vae, known.schedule.scheduler).save_pretrained(tmp_path / "dit")
    result = call(
        "basis", tmp_path / "dit", *QUICK, "-t", "500", "--class-label", "3", "--tap",
        "transformer_blocks.2", "-o", tmp_path / "out", "--no-figures", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["shapes"] == {"x": [4, 8, 8], "v": [4, 8, 8], "u": [16, 24]}
    assert summary["timesteps"][0]["converged"] == 2


@pytest.mark.slow
def test_demo_writes_what_it_lists(call, tmp_path):
    folder = tmp_path / "demo"
    result = call("demo", "-o", folder)
    assert result.exit_code == 0, result.output
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["timesteps"] == [900, 700, 500, 200]
    assert summary["settings"]["rank"] == 12
    assert all(row["converged"] == row["samples"] == 16 for row in summary["timesteps"])
    names = {path.name for path in folder.iterdir()}
    assert len(names) == 1 + 2 * 4 + 2 + 4 + 4
    assert all(name in result.stdout for name in names)


# ----------------------------------------------------------------------------------------- resume


def test_going_on_reuses_what_is_there_and_says_so(basis, tmp_path):
    assert basis("-t", "900").exit_code == 0
    path = tmp_path / "out" / "basis_t0900.safetensors"
    before = path.stat().st_mtime_ns
    result = basis("-t", "900,500")
    assert result.exit_code == 0
    assert "reused" in result.stdout
    assert path.stat().st_mtime_ns == before
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["timesteps"]
    assert [row["reused"] for row in rows] == [True, False]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (("--rank", "2"), "rank"),
        (("--seeds", "0,5"), "sample_seeds"),
        (("--seed", "1"), "seed"),
        (("--tol", "0.01"), "tol"),
        (("--tap", "down_blocks.2"), "tap"),
        (("--class-label", "3"), "class_labels"),
        (("--dtype", "float64"), "dtype"),
    ],
)
def test_changed_settings_never_reuse(finished, call, changed, name):
    folder, _ = finished
    before = (folder / "basis_t0900.safetensors").read_bytes()
    quick = [] if changed[0] == "--seeds" else ["--samples", "2"]
    options = dict(zip(("--rank", "--quality"), ("3", "draft"), strict=True))
    options |= {changed[0]: changed[1]}
    flat = [word for pair in options.items() for word in pair]
    result = call("basis", "digits", *quick, *flat, "-t", "900", "-o", folder, "--no-figures")
    refused(result, 1, "other settings", name, "--overwrite", "--output")
    assert (folder / "basis_t0900.safetensors").read_bytes() == before


def test_other_weights_under_the_same_name_never_reuse(basis, digits, monkeypatch):
    assert basis("-t", "900").exit_code == 0
    monkeypatch.setattr(type(digits), "fingerprint", "another")
    refused(basis("-t", "900"), 1, "fingerprint", "--overwrite")


def test_overwrite_computes_again(basis, tmp_path):
    assert basis("-t", "900").exit_code == 0
    result = basis("-t", "900", "--seed", "1", "--overwrite", "--json")
    summary = json.loads(result.stdout)
    assert summary["settings"]["seed"] == 1
    assert not summary["timesteps"][0]["reused"]
    saved = pullback.LocalBasis.load(tmp_path / "out" / "basis_t0900.safetensors")
    assert saved.provenance["seed"] == 1


def test_overwriting_leaves_no_figure_of_the_old_bases(basis, tmp_path):
    assert basis("-t", "900").exit_code == 0
    old = tmp_path / "out" / "strips_sample03.png"
    old.write_bytes(b"of bases that are no more")
    assert basis("-t", "900", "--seed", "1", "--overwrite").exit_code == 0
    assert not old.exists()


def test_a_basis_whose_latents_are_gone_is_computed_again(basis, tmp_path):
    assert basis("-t", "900").exit_code == 0
    latents = tmp_path / "out" / "latents_t0900.safetensors"
    latents.unlink()
    summary = json.loads(basis("-t", "900", "--json").stdout)
    assert not summary["timesteps"][0]["reused"]
    assert latents.exists()


def test_ctrl_c_leaves_whole_files_only_and_the_next_call_goes_on(tmp_path):
    folder = tmp_path / "out"
    # A shell that starts this in the background may have made it ignore SIGINT.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pullback.cli import main; sys.exit(main())"
    )
    args = ("basis", "digits", *QUICK, "-t", "900,700,500,400,300,200", "-o", str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", program, *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (folder / "basis_t0900.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "interrupted" in err
    names = [path.name for path in folder.iterdir()]
    assert "summary.json" not in names
    assert not any("partial" in name for name in names)
    for name in names:
        with safe_open(folder / name, framework="pt") as file:
            assert file.keys()
    result = CliRunner().invoke(cli.app, [*args, "--json", "--no-figures"])
    rows = json.loads(result.stdout)["timesteps"]
    assert rows[0]["reused"]
    assert not rows[-1]["reused"]


def _environment():
    paths = [str(Path(module.__file__).parents[1]) for module in (pullback, pullback_ext)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--tap", "middle"], 1, ["'middle'", "mid_block", "down_blocks.0", "up_blocks.2"]),
        (["-t", "1000"], 1, ["between 0 and 999", "1000"]),
        (["-t", "-1"], 1, ["between 0 and 999", "-1"]),
        (["-t", "500,500"], 1, ["different timesteps"]),
        (["-t", "0.5"], 2, ["--timesteps", "0.5"]),
        (["--rank", "0"], 1, ["between 1 and min(n, m)", "got 0"]),
        (["--rank", "257"], 1, ["= 256", "got 257"]),
        (["--device", "abacus"], 1, ["'abacus'", "cpu"]),
        (["--dtype", "int8"], 1, ["float32", "'int8'"]),
        (["--memory", "lots"], 2, ["--memory", "4GiB", "'lots'"]),
        (["--memory", "0GiB"], 2, ["--memory"]),
        (["--quality", "superb"], 1, ["draft", "'superb'"]),
        (["--tol", "2"], 1, ["between 0 and 1"]),
        (["--class-label", "11"], 1, ["between 0 and 10", "11"]),
        (["--class-label", "1,2,3"], 1, ["one for each of the 2", "got 3"]),
        (["--seeds", "1"], 2, ["--samples or --seeds"]),
        (["--map", "encode"], 1, ["encoder, decoder, noise, denoised, score", "'encode'"]),
        (["--map", "noise", "--tap", "mid_block"], 2, ["--tap", "map noise has no tap"]),
        (["--map", "decoder", "--tap", "middle"], 1, ["'middle'", "mid_block"]),
        (["--map", "decoder", "--rank", "257"], 1, ["min(1536, 256) = 256", "got 257"]),
        (["--colour", "red"], 2, ["--colour"]),
    ],
)
def test_bad_input(basis, args, code, words):
    refused(basis("-t", "500", *args), code, *words)


def test_an_unknown_model(call, tmp_path):
    refused(call("info", "./nowhere"), 1, "'./nowhere'", "digits")
    refused(call("basis", "letters", "-o", tmp_path / "out"), 1, "'letters'", "digits")


def test_no_gpu_is_an_error_that_names_the_device(basis):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    refused(basis("-t", "500", "--device", "cuda"), 1, "'cuda'", "cpu")


def test_an_output_that_is_a_file(basis, tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    refused(basis("-t", "500", output=path), 1, str(path.name), "--output")
    refused(basis("-t", "500", output=path / "below"), 1, "--output")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["basis_t0900.safetensors", "latents_t0900.safetensors"])
def test_a_damaged_file_is_named_and_can_be_overwritten(basis, tmp_path, name):
    assert basis("-t", "900").exit_code == 0
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:100])
    refused(basis("-t", "900"), 1, name, "damaged", "--overwrite")
    assert basis("-t", "900", "--overwrite").exit_code == 0


def test_debug_shows_the_traceback(basis):
    result = basis("-t", "500", "--rank", "0", "--debug")
    assert isinstance(result.exception, ValueError)


def test_no_command_shows_the_commands(call):
    text = call().output
    for command in ("demo", "basis", "info", "taps"):
        assert command in text


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("512 MiB", 512 << 20), ("1.5kib", 1536), ("2GB", 2 * 10**9), ("99", 99)],
)
def test_memory_sizes(text, size):
    assert commands.parse_memory(text) == size


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", (3,)),
        ("0,2, 5", (0, 2, 5)),
        ("0-3", (0, 1, 2, 3)),
        ("7,1-2", (7, 1, 2)),
        ("-4", (-4,)),
    ],
)
def test_lists_of_numbers(text, numbers):
    assert commands.parse_list(text, "--seeds") == numbers


@pytest.mark.parametrize("text", ["", "a", "1,", "3-1", "1.5"])
def test_what_is_no_list_of_numbers(text):
    with pytest.raises(typer.BadParameter):
        commands.parse_list(text, "--seeds")
