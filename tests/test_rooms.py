"""The rooms of the house: who imports whom, downwards only, and by the front door.

`pytest -s tests/test_rooms.py` prints the picture.
"""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python/pullback"

#: Which rooms each one stands on directly; what stands under those may be used as well.
FOUNDATIONS = {
    "pullback_ext": [],
    "sampling": [],
    "linearization": ["pullback_ext"],
    "operators": ["linearization"],
    "models": ["pullback_ext", "sampling", "zoo"],
    "krylov": ["operators"],
    "maps": ["models", "operators"],
    "geometry": ["maps", "krylov"],
    "directions": ["geometry"],
    "editing": ["directions"],
    "analysis": ["editing"],
    "figures": ["editing"],
    "runs": ["analysis", "figures"],
    "profiling": ["runs"],
    "cli": ["profiling"],
    # Of the zoo the others know the table of names alone; its recipes are scripts on top of all.
    "zoo": [],
    "zoo.digits": ["cli"],
    # For tests; nobody here imports it.
    "testing": ["geometry"],
}
#: Packages inside a room that users import by name, too: doors of their own.
DOORS = {"pullback.geometry.grassmann", "pullback.geometry.transport"}
#: Serve everyone, and know no room.
COMMON = ("_files", "_garbage", "_memory", "_numbers", "_ranges", "_version")
#: Libraries of others that belong to some rooms alone.
LIBRARIES = {
    "diffusers": {"models", "sampling", "geometry", "cli", "zoo.digits"},  # geometry: its version
    "transformers": {"models"},
    "huggingface_hub": {"directions"},
    "matplotlib": {"figures", "zoo.digits"},
    "typer": {"cli", "zoo.digits"},
    "rich": {"cli", "zoo.digits"},
    "scipy": {"operators", "geometry"},
    "zarr": {"runs"},
    "pyarrow": {"runs"},
    "ray": {"runs"},
}


def room_of(module):
    """The room of a dotted module name; None outside this project."""
    first, _, rest = module.partition(".")
    if first == "pullback_ext":
        return first
    if first != "pullback" or not rest:
        return None
    inside = rest.split(".")
    return ".".join(inside[:2]) if inside[0] == "zoo" and len(inside) > 1 else inside[0]


def module_of(path):
    """The dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path, known=None):
    """The modules that a file imports anywhere in it, for the type checker's sake too."""
    known = FILES if known is None else known
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # What is imported from a package may be a module in it.
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else node.module for name in whole}
    return found


IMPORTS = {module: imports_of(path) for module, path in FILES.items()}
ROOMS = sorted({room_of(module) for module in FILES} - {None, *COMMON})


def below(room):
    """All rooms that a room may use."""
    direct = FOUNDATIONS[room]
    return set(direct).union(*(below(other) for other in direct)) if direct else set()


def arrows():
    """Pairs of rooms, the first of which imports the second."""
    found = set()
    for module, imported in IMPORTS.items():
        here = room_of(module)
        there = {room_of(name) for name in imported} - {None, here, *COMMON}
        found |= {(here, other) for other in there if here is not None}
    return found


def test_the_order_of_the_rooms_has_no_circle_and_names_every_room():
    tuple(graphlib.TopologicalSorter(FOUNDATIONS).static_order())  # raises where there is one
    assert set(ROOMS) <= set(FOUNDATIONS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_downwards_only(room):
    upwards = {other for here, other in arrows() if here == room} - below(room)
    assert not upwards, f"{room} imports {sorted(upwards)}, which do not stand below it"


def test_what_serves_everyone_knows_no_room():
    for name in COMMON:
        assert not {room_of(m) for m in IMPORTS[f"pullback.{name}"]} - {None, *COMMON}


def test_no_two_files_import_each_other_even_in_a_round():
    graph = {
        module: {name for name in imported if name in FILES} - {module, "pullback"}
        for module, imported in IMPORTS.items()
    }
    # A room's own files come in by their full path, so that its front door is no part of a circle.
    assert len(tuple(graphlib.TopologicalSorter(graph).static_order())) >= len(graph)


def test_rooms_are_entered_by_the_front_door():
    """Other rooms' names come from `pullback.<room>`: what is behind it may change."""
    inside = [
        f"{module} imports {name}"
        for module, imported in IMPORTS.items()
        for name in imported
        if room_of(name) not in (None, "pullback_ext", room_of(module))
        and name.count(".") > 1 + room_of(name).count(".")
        and name not in DOORS
    ]
    assert not inside


def test_the_checks_notice_what_they_forbid(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "def f():\n    from pullback import cli\n    from pullback.maps.map import Map\n"
    )
    assert imports_of(path) == {"pullback.cli", "pullback.maps.map"}
    assert room_of("pullback.maps.map") == "maps"
    assert room_of("pullback.zoo.digits.train") == "zoo.digits"
    assert "maps" not in below("models")
    assert below("maps") == {
        "linearization", "models", "operators", "pullback_ext", "sampling", "zoo"
    }  # fmt: skip
    with pytest.raises(graphlib.CycleError):
        tuple(graphlib.TopologicalSorter({"a": ["b"], "b": ["a"]}).static_order())


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_stay_in_their_rooms(library):
    users = {
        room_of(module)
        for module, imported in IMPORTS.items()
        if any(name.split(".")[0] == library for name in imported)
    }
    assert users <= LIBRARIES[library]


def test_native_operators_are_reached_by_the_functions_of_pullback_ext_alone():
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "pullback_ext").glob("*.py")]
    users = [path.name for path in files if re.search(r"torch\.ops\.pullback\.", path.read_text())]
    assert set(users) <= {"_ops.py"}


def test_the_tests_mirror_the_rooms():
    """A folder of tests holds the tests of the room of its name."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}
    known = {room.split(".")[0] for room in ROOMS}
    assert folders <= known | {"pullback_ext", "benchmarks", "packaging", "docs"}
    tested = {"figures", "runs", "cli", "geometry", "maps", "models", "krylov", "operators"}
    assert tested | {"directions", "sampling", "testing"} <= folders


def test_files_have_one_job_and_are_short():
    """Most stay under 400 lines; none of the package comes near 500."""
    lengths = {module: len(path.read_text().splitlines()) for module, path in FILES.items()}
    assert max(lengths.values()) <= 400


def test_the_picture(capsys):
    """Prints files, lines and arrows of every room, from the top down."""
    lines = []
    order = list(graphlib.TopologicalSorter(FOUNDATIONS).static_order())
    for room in reversed([room for room in order if room in ROOMS]):
        files = [path for module, path in FILES.items() if room_of(module) == room]
        lengths = {path.name: len(path.read_text().splitlines()) for path in files}
        longest = max(lengths, key=lengths.get)
        to = sorted(other for here, other in arrows() if here == room)
        lines.append(
            f"{room:11} {len(files):3} files {sum(lengths.values()):5} lines, longest {longest} "
            f"({lengths[longest]:3})  -> {', '.join(to) or '-'}"
        )
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert len(lines) == len(ROOMS)
