"""Commands, run in this process on the digit model."""

import pytest
from typer.testing import CliRunner

from pullback import cli, models
from tests.cli.calls import QUICK


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
