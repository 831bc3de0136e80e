"""The reference holds every public name, and what it says of tensors and timesteps is complete.

Rooms and names are read from the packages; nothing here is a list of them.
"""

import importlib.util
import inspect
import re
import sys

import pytest

from tests.docs.documents import PAGES, ROOT

#: A shape such as [B, k, n], [B], [B, *x_shape], [B, ...] or [..., k, N].
SHAPE = re.compile(r"\[(?:\.\.\.|[A-Za-z0-9*])[^\[\]]*\]")
UNITS = re.compile(r"training\s+(units|timesteps?)")
TIMESTEPS = {"t", "timestep", "timesteps", "start", "stop"}
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Cost|Source|Sources):")


def load_reference():
    spec = importlib.util.spec_from_file_location("docs_reference", PAGES / "reference.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


reference = load_reference()
ROOMS = reference.rooms()


def sections(doc):
    """The parts of a docstring in Google's style, by their heads; "" is what comes before."""
    found, head = {"": []}, ""
    for line in doc.splitlines():
        match = SECTION.match(line)
        if match:
            head = match[1]
            found.setdefault(head, []).append(line[match.end() :])
        else:
            if line and not line.startswith(" "):
                head = ""  # text after a section
            found[head].append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def items(text):
    """Entries `name: text` of a section; `a, b: text` belongs to both."""
    found = {}
    for part in re.split(r"\n(?=    \S)", f"\n{text}"):
        match = re.match(r"\s*([\w*]+(?:, [\w*]+)*)(?: \([^)]*\))?: ", part)
        for name in match[1].split(", ") if match else ():
            found[name.lstrip("*")] = part
    return found


def is_tensor(annotation):
    text = str(annotation)
    return "Tensor" in text and "Callable" not in text


def problems_of_values(where, values, doc):
    """What the docstring leaves out of named values, `{name: annotation}`."""
    parts = sections(doc)
    # An argument that is kept as an attribute is described where it is given.
    told = items(parts.get("Attributes", "")) | items(parts.get("Args", ""))
    for name, annotation in values.items():
        text = told.get(name, doc)  # a docstring of one line may say it in passing
        if is_tensor(annotation) and not SHAPE.search(text):
            yield f"{where}: no shape like [B, k, n] for {name}"
        timestep = name in TIMESTEPS and not where.startswith("pullback_ext")  # knows matrices only
        if timestep and not UNITS.search(text):
            yield f'{where}: no unit ("training units") for {name}'


def problems_of_function(where, function, doc):
    if not doc:
        yield f"{where}: no docstring"
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    values = {n: p.annotation for n, p in signature.parameters.items() if n not in ("self", "cls")}
    yield from problems_of_values(where, values, doc)
    if is_tensor(signature.return_annotation):
        text = sections(doc).get("Returns", doc)
        if not SHAPE.search(text):
            yield f"{where}: no shape like [B, k, n] for what it returns"


def problems_of_class(where, kind, doc):
    if not doc or (hasattr(kind, "_fields") and doc.startswith(f"{kind.__name__}(")):
        yield f"{where}: no docstring"
        return
    fields = {
        name: annotation
        for name, annotation in inspect.get_annotations(kind).items()
        if not name.startswith("_")
    }
    yield from problems_of_values(where, fields, doc)
    if "__init__" in vars(kind) and not hasattr(kind, "__dataclass_fields__"):
        signature = inspect.signature(kind.__init__)
        values = {n: p.annotation for n, p in signature.parameters.items() if n != "self"}
        yield from problems_of_values(where, values, doc)
    for name, member in reference.members(kind).items():
        function = member.fget if isinstance(member, property) else getattr(kind, name)
        told = inspect.getdoc(getattr(kind, name)) or ""
        yield from problems_of_function(f"{where}.{name}", function, told)


def problems_of(entry):
    if entry.kind == "class":
        yield from problems_of_class(entry.path, entry.value, entry.text)
    elif entry.kind == "function":
        yield from problems_of_function(entry.path, entry.value, entry.text)
    elif not entry.text and entry.name != "__version__":
        where = "a comment #: above its assignment" if entry.kind == "data" else "a docstring"
        yield f"{entry.path}: expected {where}"


def test_every_room_is_in_the_reference():
    """A package of ours that has an `__all__`, found by its text and not by importing it."""
    packages = [*(ROOT / "python/pullback").rglob("__init__.py"), ROOT / "pullback_ext/__init__.py"]
    for file in packages:
        if re.search(r"^__all__ = ", file.read_text("utf-8"), re.MULTILINE):
            name = ".".join(file.parent.relative_to(ROOT).parts).removeprefix("python.")
            assert name in ROOMS or name == "pullback.cli", f"{name} is not in the reference"


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_room_is_in_the_reference(room):
    page = reference.page(room)
    listed = re.findall(r"^\.\. (?:auto|py:)(?:class|function|data):: ([\w.]+)", page, re.M)
    listed = {name.rpartition(".")[2] for name in listed}
    assert listed == set(reference.names(importlib.import_module(room)))


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_give_shapes_and_units(room):
    found = [
        problem
        for entry in reference.entries(room)
        if reference.home(entry) == room
        for problem in problems_of(entry)
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("doc", "found"),
    [
        ("", ["f: no docstring"]),
        ("Turns x `[B, n]` at t in training units; [B, n]", []),
        (
            "Turns.\n\nArgs:\n    x: latents.\n    t: when.\n\nReturns:\n    `[B, n]`.",
            ["f: no shape like [B, k, n] for x", 'f: no unit ("training units") for t'],
        ),
        (
            "Turns.\n\nArgs:\n    x: latents\n        `[B, n]`.\n    t: in training units.\n"
            "\nReturns:\n    More.\n\nCost: one [B] pass.",
            ["f: no shape like [B, k, n] for what it returns"],
        ),
    ],
)
def test_what_is_left_out_is_noticed(doc, found):
    def f(x: "torch.Tensor", t: int, n: int = 3) -> "torch.Tensor":  # noqa: F821
        return x

    assert list(problems_of_function("f", f, doc)) == found
