"""Commands that the documents name exist, with the options that are named."""

import importlib.util
import re
import shlex

import typer

from pullback import cli
from tests.docs.documents import DOCUMENTS, FENCE, ROOT, named


def commands():
    """Shell commands of all documents, as words, without environment variables."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        lines = [line for m in FENCE.finditer(text) if m[1] == "bash" for line in m[2].splitlines()]
        lines += re.findall(r"`((?:pullback|make|python -m) [^`\n]+)`", text)
        for line in lines:
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield path, words


def test_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    app = typer.main.get_command(cli.app)
    checked = set()
    for path, words in commands():
        where = f"{named(path)}: {' '.join(words)}"
        if words[0] == "make":
            asked = {word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)}
            assert asked <= targets, where
        elif words[0] == "pullback":
            command, rest = app, words[1:]
            while rest and hasattr(command, "commands"):
                assert rest[0] in command.commands, where
                command, rest = command.commands[rest[0]], rest[1:]
            known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            asked = {word for word in rest if word.startswith("-")} - {"--help"}
            assert asked <= known, where
        elif words[:2] == ["python", "-m"]:
            module = words[2].rstrip(",;")
            if module not in ("pip", "pytest", "venv"):
                assert importlib.util.find_spec(module) is not None, where
        checked.add(words[0])
    assert {"make", "pullback", "python"} <= checked


def test_options_that_the_readme_names_are_options_of_basis():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## On the command line")[2].partition("\n## ")[0]
    basis = typer.main.get_command(cli.app).commands["basis"]
    known = {option for parameter in basis.params for option in parameter.opts} | {"--help"}
    assert set(re.findall(r"--[a-z-]+", section)) <= known
