"""The table of methods against the functions that it names and the page that tells them."""

import importlib
import inspect
import re
from dataclasses import FrozenInstanceError

import pytest

import pullback
from pullback import directions
from tests.docs.documents import PAGES

METHODS = directions.available()
ARXIV = re.compile(r"arXiv:\d{4}\.\d{5}")


@pytest.mark.parametrize("method", METHODS, ids=lambda one: one.name)
def test_a_row_is_of_a_public_function_that_names_its_source(method):
    package, _, name = method.function.rpartition(".")
    room = importlib.import_module(package)
    assert name in room.__all__
    doc = inspect.getdoc(getattr(room, name))
    numbers = ARXIV.findall(method.source)
    assert len(numbers) == 1
    assert numbers[0] in doc
    assert method.source.startswith(re.match(r"\w+", method.source)[0] + " et al. ")


@pytest.mark.parametrize("method", METHODS, ids=lambda one: one.name)
def test_a_row_says_where_what_and_of_whom(method):
    assert method.space
    assert set(method.space) <= {"x", "h", "prompt"}
    assert set(method.needs) <= {"samples", "labels", "a mask", "a target condition"}
    assert method.moves in ("one sample", "all samples")
    assert (method.moves == "one sample") <= ("samples" not in method.needs)
    parameters = inspect.signature(_function(method)).parameters
    assert ("mask" in parameters) >= ("a mask" in method.needs)
    assert ("target_cond" in parameters) == ("a target condition" in method.needs)
    assert ("labels" in method.needs) == (method.name in ("supervised", "boundary", "pairs"))
    # Functions of labelled features take any space, and say so.
    assert ("space" in parameters and "folds" in parameters) == (len(method.space) == 3)
    assert all(text == text.strip() and "\n" not in text for text in vars(method).values()
               if isinstance(text, str))  # fmt: skip


def _function(method):
    package, _, name = method.function.rpartition(".")
    return getattr(importlib.import_module(package), name)


def test_every_function_that_makes_a_direction_has_a_row():
    """What gives an object with `direction` or `entry`, or several, is a way to find some."""
    makers = set()
    for room in (pullback, directions):
        for name in room.__all__:
            function = getattr(room, name)
            if not inspect.isfunction(function):
                continue
            kind = str(inspect.signature(function).return_annotation)
            made = getattr(pullback, kind, None) or getattr(directions, kind, None)
            if hasattr(made, "direction") or hasattr(made, "entry"):
                makers.add(f"{room.__name__}.{name}")
    rows = {one.function for one in METHODS}
    # Others of the same methods: of any map, of features of one's own, and what is carried.
    also = {"pullback.basis", "pullback.directions.pca_of"}
    assert rows <= makers | {"pullback.directions.from_pairs"}
    assert makers - rows <= also


def test_the_table_is_a_tuple_that_prints_as_a_table():
    assert isinstance(METHODS, tuple)
    assert len({one.name for one in METHODS}) == len(METHODS)
    head, *lines = str(METHODS).splitlines()
    assert head.split() == ["method", "finds", "in", "of", "needs", "cost"]
    at = [head.index(word) for word in ("finds", "in ", "of ", "needs", "cost")]
    for line, one in zip(lines, METHODS, strict=True):
        cells = [line[i:j].strip() for i, j in zip([0, *at], [*at, None], strict=True)]
        needs = ", ".join(one.needs) or "nothing"
        assert cells == [one.name, one.finds, ", ".join(one.space), one.moves, needs, one.cost]
    assert max(map(len, [head, *lines])) <= 170
    with pytest.raises(FrozenInstanceError):
        METHODS[0].name = "other"


def test_every_row_stands_on_the_page_of_directions():
    text = (PAGES / "directions.md").read_text("utf-8")
    section = text.partition("## Ways to find one")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    told = {row[1].strip(): row for row in rows}
    assert list(told) == [one.name for one in METHODS]
    for one in METHODS:
        _, _, functions, _, source, _ = told[one.name]
        assert f"`{one.function.replace('pullback.directions', 'directions')}`" in functions
        assert source.strip() == one.source.partition(",")[0]
