"""What the two packages import is what pyproject.toml says they need."""

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import workshop

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[2]
OURS = {"pullback", "pullback_ext"}


@dataclass(frozen=True)
class Import:
    """One import of a third-party module.

    Attributes:
        module: its first part, such as "torch".
        needed: whether the importing module cannot be imported without it, because the import
            stands neither in a function nor under a `try` that expects it to fail.
    """

    module: str
    needed: bool


def imports(code: str) -> Iterator[Import]:
    """Third-party imports of a file, but for those that only the type check sees."""

    def walk(node: ast.AST, needed: bool) -> Iterator[Import]:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        for module in {name.partition(".")[0] for name in names}:
            if module not in OURS | sys.stdlib_module_names:
                yield Import(module, needed)
        inside = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            inside = node.orelse
        for child in inside:
            optional = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            optional |= isinstance(node, ast.Try) and child in node.body and catches(node)
            yield from walk(child, needed and not optional)

    def catches(node: ast.Try) -> bool:
        return any(
            handler.type is None
            or re.search(r"\b(Import|ModuleNotFound)Error\b", ast.unparse(handler.type))
            for handler in node.handlers
        )

    return walk(ast.parse(code), needed=True)


@pytest.fixture(scope="module")
def found():
    """Every import of the two packages, with the files that have it."""
    found: dict[Import, list[str]] = {}
    for package in ("python/pullback", "pullback_ext"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for one in imports(file.read_text(encoding="utf-8")):
                found.setdefault(one, []).append(str(file.relative_to(ROOT)))
    return found


def names(requirements):
    return {workshop.normal(re.match(r"[\w.-]+", line)[0]) for line in requirements}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def provides():
    """The distributions that provide a module; where none is installed, one of its name."""
    # By their files, which packages_distributions does not read in Python 3.10.
    known: dict[str, set[str]] = {}
    for one in importlib.metadata.distributions():
        name = one.name
        for module in {file.parts[0].partition(".")[0] for file in one.files or []}:
            known.setdefault(module, set()).add(name)
    return lambda module: {workshop.normal(name) for name in known.get(module, [module])}


def test_every_import_is_declared(found, project, provides):
    declared = names(project["dependencies"])
    extras = set().union(*map(names, project["optional-dependencies"].values()))
    undeclared = {
        f"{one.module} (in {', '.join(files)})"
        for one, files in found.items()
        if not provides(one.module) & (declared if one.needed else declared | extras)
    }
    assert undeclared == set(), (
        "add them to the dependencies in pyproject.toml with their reason, or import what only an "
        "extra brings inside the function that uses it"
    )


def test_every_dependency_is_imported(found, project, provides):
    imported = set().union(*(provides(one.module) for one in found))
    assert names(project["dependencies"]) - imported == set()


def test_how_imports_are_read():
    code = """
import os, one.part as o
from two.part import x
from pullback import y
from . import z
if TYPE_CHECKING:
    import never
else:
    import three
try:
    import four
except ImportError:
    four = None
try:
    import five
finally:
    pass
class C:
    import six_
    def f(self):
        from seven import x
"""
    needed = {one.module: one.needed for one in imports(code)}
    always = {"one", "two", "three", "five", "six_"}
    assert needed == dict.fromkeys(always, True) | {"four": False, "seven": False}
