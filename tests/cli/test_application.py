"""The command as a whole: what it lists, and that it starts at once."""

import subprocess
import sys

import pytest


def test_no_command_shows_the_commands(call):
    text = call().output
    for command in (
        "demo",
        "basis",
        "edit",
        "transport",
        "path",
        "global",
        "directions",
        "run",
        "info",
        "taps",
    ):
        assert command in text


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["basis", "--help"],
        ["edit", "--help"],
        ["transport", "--help"],
        ["path", "--help"],
        ["global", "--help"],
        ["directions", "--help"],
        ["run", "--help"],
        ["run", "start", "--help"],
        ["directions", "find", "--help"],
        ["directions", "find", "pca", "--help"],
        ["directions", "find", "pca", "a", "-t", "0.5"],
        ["basis", "a", "-t", "0.5"],
        ["transport", "a", "-t", "0.5"],
    ],
)
def test_help_and_wrong_usage_do_not_wait_for_what_computes(args):
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}; sys.argv[1:] = {args!r}\n"
        "from pullback.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted({'torch', 'diffusers', 'matplotlib'} & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == (2 if "0.5" in args else 0), found.stderr
    assert found.stdout.splitlines()[-1] == "[]"
