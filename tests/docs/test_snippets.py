"""Snippets run, from the top of each document to its end, and print what the document says."""

import ast
import contextlib
import io
import runpy
import sys

import pytest

from tests.docs.documents import DOCUMENTS, MODEL_CARD, ROOT, named, same_output, snippets

WITH_PYTHON = [path for path in DOCUMENTS if snippets(path)]


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


def test_the_documents_that_teach_have_snippets():
    pages = "start models sampling maps directions operators accuracy native command-line editing"
    taught = {ROOT / "README.md", MODEL_CARD, *(ROOT / f"docs/{name}.md" for name in pages.split())}
    taught |= {ROOT / "docs/runs.md"}
    assert taught <= set(WITH_PYTHON)


@pytest.mark.parametrize("path", WITH_PYTHON, ids=named)
def test_snippets_run_and_print_what_is_written(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if path == MODEL_CARD:
        pytest.importorskip("sklearn", reason="the model card's snippet imports the evaluation")
    namespace = {"__name__": "snippet"}
    for code, expected, line in snippets(path):
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


def test_example_edits_a_sample_along_timesteps(capsys, monkeypatch, tmp_path):
    arguments = f"--timesteps 300,100 --strengths=-4,0,4 --steps 20 --output {tmp_path / 'e.png'}"
    monkeypatch.setattr(sys, "argv", ["edits_along_timesteps.py", *arguments.split()])
    runpy.run_path(str(ROOT / "examples/edits_along_timesteps.py"), run_name="__main__")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [int(words[2]) for words in lines] == [300, 100]
    assert all(float(words[4]) > 0.05 for words in lines)
    assert (tmp_path / "e.png").read_bytes().endswith(b"IEND\xaeB`\x82")
