"""Wrong usage and what cannot be done: one paragraph on stderr, and the exit code."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pullback._files import occupied
from tests.cli.calls import refused


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
        (["--device", "meta"], 1, ["'meta'", "no numbers", '"cpu"']),
        (["--device", "meta:0"], 1, ["'meta:0'", "no numbers"]),
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


@pytest.mark.parametrize("seeds", ["4294967296", "0,-1"])
def test_seeds_that_no_generator_takes(call, tmp_path, seeds):
    result = call("basis", "digits", "--seeds", seeds, "-k", "2", "-o", tmp_path / "out")
    refused(result, 1, "Expected seeds of 0 or more and below 2^32", seeds.split(",")[-1])


def test_the_largest_seeds_are_taken(call, tmp_path):
    result = call(
        "basis", "digits", "--seeds", str(2**32 - 1), "--seed", str(2**63 - 1), "-t", "900",
        "-k", "2", "--quality", "draft", "--no-figures", "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output


def test_a_list_that_would_fill_the_memory(call, tmp_path):
    result = call("basis", "digits", "--seeds", f"0-{10**15}", "-o", tmp_path / "out")
    refused(result, 2, "--seeds", "at most 100000 numbers")


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


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def load(*_args, **_kwargs):
        raise AssertionError("the model was read")

    monkeypatch.setattr("pullback.cli.run_request.load", load)


def test_a_folder_that_cannot_be_written_to_is_told_before_any_work(call, nothing_is_loaded):
    result = call("basis", "digits", "-o", "/proc")
    refused(result, 1, "No file can be written in the folder /proc", "choose another one")
    refused(call("basis", "digits", "-o", "/proc/out"), 1, "/proc/out cannot be made", "--output")


def test_a_folder_where_another_run_is_at_work(call, nothing_is_loaded, tmp_path):
    with ThreadPoolExecutor(1) as pool, occupied(tmp_path):
        result = pool.submit(call, "basis", "digits", "-o", tmp_path).result()
    refused(result, 1, "Another run is at work", str(os.getpid()), "wait until it ends")


def test_a_plain_error_of_the_system_is_a_sentence(basis, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pullback.cli.execution.print_results", full)
    refused(basis("-t", "900"), 1, "The output cannot be", ": No space left on device.", "are kept")


def test_debug_shows_the_traceback(basis):
    result = basis("-t", "500", "--rank", "0", "--debug")
    assert isinstance(result.exception, ValueError)
