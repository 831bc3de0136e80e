"""The documents hold: snippets run and print what they say, links and commands exist."""

import ast
import contextlib
import importlib.util
import inspect
import io
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import typer

import pullback
from pullback import cli

ROOT = Path(__file__).parent.parent
# Built environments and outputs may hold documents of other people.
FOLDERS = ("docs", "examples", "csrc", "benchmarks", "python", "pullback_ext", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))])
MODEL_CARD = ROOT / "python/pullback/zoo/digits/README.md"
WITH_PYTHON = [ROOT / "README.md", ROOT / "docs/using.md", MODEL_CARD]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
#: Lines whose numbers depend on the machine's rounding by more than the last digit.
LOOSE = re.compile(r"^(bound|products)\b|tangents a pass")


def named(path):
    return str(path.relative_to(ROOT))


def snippets(path):
    """Python blocks of a document with the text block that follows each, and their lines."""
    text = path.read_text(encoding="utf-8")
    blocks = [
        (m[1], m[2], text.count("\n", 0, m.start()) + 2, m.start(), m.end())
        for m in FENCE.finditer(text)
    ]
    found = []
    for here, following in zip(blocks, [*blocks[1:], None], strict=True):
        if here[0] != "python":
            continue
        printed = ""
        if following and following[0] == "text" and not text[here[4] : following[3]].strip():
            printed = following[1]
        found.append((here[1], printed, here[2]))
    return found


def same_output(expected, got):
    """Whether two outputs agree, up to the last digits of numbers and to spacing."""
    lines, seen = expected.rstrip().splitlines(), got.rstrip().splitlines()
    return len(lines) == len(seen) and all(map(same_line, lines, seen))


def same_line(expected, got):
    if NUMBER.sub("#", expected).split() != NUMBER.sub("#", got).split():
        return False
    for want, have in zip(NUMBER.findall(expected), NUMBER.findall(got), strict=True):
        a, b = float(want), float(have)
        if LOOSE.search(expected):
            close = b <= 2 * a and a <= 2 * b
        elif "." in want:
            digits = len(want.partition(".")[2])
            close = abs(a - b) <= max(1.01 * 10**-digits, 0.01 * abs(a))
        else:
            close = a == b
        if not close:
            return False
    return True


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ("s  26.2 17.5", "s 26.3 17.5", True),
        ("s  26.2 17.5", "s 26.2 18.5", False),
        ("s  26.2", "s 26.2 17.5", False),
        ("t 500", "t 501", False),
        ("bound 1.2e-03", "bound 1.9e-03", True),
        ("bound 1.2e-03", "bound 1.2e-02", False),
        ("converged True", "converged False", False),
        ("(4, 1)", "(4, 2)", False),
        ("one\ntwo", "one", False),
    ],
)
def test_outputs_are_compared_by_their_numbers(expected, got, same):
    assert same_output(expected, got) is same


@pytest.mark.parametrize("path", WITH_PYTHON, ids=named)
def test_snippets_run_and_print_what_is_written(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if path == MODEL_CARD:
        pytest.importorskip("sklearn", reason="the model card's snippet imports the evaluation")
    namespace = {"__name__": "snippet"}
    found = snippets(path)
    assert found
    for code, expected, line in found:
        # Line numbers of an error are those of the document.
        tree = ast.increment_lineno(ast.parse(code), line - 1)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(tree, str(path), "exec"), namespace)
        got = output.getvalue()
        assert same_output(expected, got), (
            f"{named(path)}:{line} prints\n{got}\nand the document says\n{expected}"
        )


def test_the_first_example_is_short_and_shows_what_it_prints():
    code, printed, _ = snippets(ROOT / "README.md")[0]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 12
    assert all(word in printed for word in ("s ", "bound", "converged", "products"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_and_images_exist(path):
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        to = (path.parent / name).resolve() if name else path
        assert to.exists(), f"{named(path)}: {target} does not exist"
        if anchor:
            assert anchor in anchors(to), f"{named(path)}: {target} has no such heading"


def anchors(path):
    """Headings of a document as links name them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


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
            assert words[1] in app.commands, where
            known = {o for p in app.commands[words[1]].params for o in (*p.opts, *p.secondary_opts)}
            asked = {word for word in words[2:] if word.startswith("-")} - {"--help"}
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


def test_every_public_name_is_in_the_documents_and_documented():
    text = "".join(p.read_text("utf-8") for p in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
    for name in pullback.__all__:
        value = getattr(pullback, name)
        if name != "__version__":
            assert re.search(rf"\b{name}\b", text), f"{name} is in no document"
            assert inspect.getdoc(value), f"{name} has no docstring"
        if inspect.isclass(value):
            for member, method in vars(value).items():
                if not member.startswith("_") and (
                    callable(method) or isinstance(method, property)
                ):
                    assert inspect.getdoc(method), f"{name}.{member} has no docstring"


def test_example_follows_samples_along_timesteps(capsys, monkeypatch):
    arguments = "--samples 2 --rank 3 --timesteps 900,880,860 --quality draft"
    monkeypatch.setattr(sys, "argv", ["bases_along_timesteps.py", *arguments.split()])
    runpy.run_path(str(ROOT / "examples/bases_along_timesteps.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [int(line.split()[2]) for line in lines] == [900, 880, 860]
    for line in lines:
        assert "2/2 converged" in line
    for line in lines[1:]:
        angles = [float(word) for word in line.partition("products")[2].split()]
        assert len(angles) == 3
        assert angles == sorted(angles)
        assert 0 < angles[0] <= angles[-1] <= 90
