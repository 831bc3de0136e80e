"""Commands, run in this process on the digit model."""

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import pullback
from pullback import Direction, cli, models
from tests.cli.calls import QUICK, QUICK_GLOBAL, QUICK_PATH, QUICK_TRANSPORT


@pytest.fixture
def call(digits, monkeypatch):
    """Runs a command in this process; the plain digit model is not read again."""
    read = models.load

    def load(name, device="cpu", dtype=None, call=None):
        plain = name == "digits" and device == "cpu" and dtype is None and call is None
        return digits if plain else read(name, device=device, dtype=dtype, call=call)

    monkeypatch.setattr(models, "load", load)
    return lambda *args: CliRunner().invoke(cli.app, [str(arg) for arg in args])


@pytest.fixture
def basis(call, tmp_path):
    """Runs `pullback basis digits` with few samples into a folder, without figures."""

    def run(*args, output=tmp_path / "out"):
        return call("basis", "digits", *QUICK, "--no-figures", "-o", output, *args)

    return run


@pytest.fixture(scope="session")
def finished(digits, tmp_path_factory):
    """A folder that the command filled, figures included, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "new" / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", lambda name, device, dtype, call: digits)
        args = ["basis", "digits", *QUICK, "-t", "900,200", "-o", str(folder), "--json"]
        result = CliRunner().invoke(cli.app, args)
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture
def edit(call, tmp_path):
    """Runs `pullback edit digits` with one direction file and few strengths, without figures."""

    def run(*args, output=tmp_path / "out"):
        return call("edit", "digits", "--no-figures", "-o", output, *args)

    return run


@pytest.fixture
def direction(digits, tmp_path, rng):
    """The file of one direction of latents, of unit 4, found at t = 100."""
    vector = torch.randn(1, 16, 16, generator=rng)
    path = tmp_path / "sheer.safetensors"
    Direction.of(vector, "x", t=100, unit=4.0, name="sheer", model=digits).save(path)
    return path


@pytest.fixture
def image(digits, tmp_path):
    """A file of a digit."""
    x = pullback.denoise(digits, digits.sample_latents(1, 100, seed=3), 100)[0, 0]
    path = tmp_path / "three of mine.png"
    Image.fromarray(((x + 1) * 127.5).round().clamp(0, 255).byte().numpy()).save(path)
    return path


@pytest.fixture
def half(tmp_path):
    """The file of a mask that edits the right half, at twice the size of the latents."""
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    mask.save(tmp_path / "half.png")
    return tmp_path / "half.png"


@pytest.fixture
def transport(call, tmp_path):
    """Runs `pullback transport digits` on few samples into a folder, without figures."""

    def run(*args, output=tmp_path / "out"):
        return call("transport", "digits", *QUICK_TRANSPORT, "--no-figures", "-o", output, *args)

    return run


@pytest.fixture
def path(call, tmp_path):
    """Runs `pullback path digits` with few segments into a folder, without figures."""

    def run(*args, output=tmp_path / "out"):
        return call("path", "digits", *QUICK_PATH, "--no-figures", "-o", output, *args)

    return run


@pytest.fixture
def shared(call, tmp_path):
    """Runs `pullback global digits` on few samples into a folder, without figures."""

    def run(*args, output=tmp_path / "out"):
        return call("global", "digits", *QUICK_GLOBAL, "--no-figures", "-o", output, *args)

    return run
