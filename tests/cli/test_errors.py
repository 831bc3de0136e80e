"""Wrong usage and what cannot be done: one paragraph on stderr, and the exit code."""

import pytest
import torch

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


def test_debug_shows_the_traceback(basis):
    result = basis("-t", "500", "--rank", "0", "--debug")
    assert isinstance(result.exception, ValueError)
