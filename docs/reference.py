"""Writes the reference: a page for each public room, with all that its ``__all__`` names.

Nothing is listed here by hand. A room is ``pullback`` itself, a public package below it (at any
depth) that has an ``__all__``, a public module right below it, or ``pullback_ext``. A name that
several rooms give is described in full where it lives, and the others point there. ``conf.py``
calls ``write`` before Sphinx reads; the tests read ``rooms`` and ``entries``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

#: Public modules that are no part of the Python interface: commands have `--help`.
_NOT_FOR_PYTHON = {"pullback.cli"}

#: Bases whose members are Python's own.
_FOREIGN = "object, tuple, dict, Protocol, Generic, ABC, Exception"


@dataclass(frozen=True)
class Entry:
    """A public name of a room."""

    room: str
    name: str
    value: Any

    @property
    def path(self) -> str:
        """The name with its room."""
        return f"{self.room}.{self.name}"

    @property
    def kind(self) -> str:
        """One of "module", "class", "function" and "data"."""
        if isinstance(self.value, ModuleType):
            return "module"
        if inspect.isclass(self.value):
            return "class"
        return "function" if inspect.isroutine(self.value) else "data"

    @property
    def text(self) -> str:
        """Its docstring; of data, the comment `#:` above the assignment."""
        return _comment(self) if self.kind == "data" else inspect.getdoc(self.value) or ""


def rooms() -> list[str]:
    """Names of the public rooms, the top first."""
    import pullback

    return ["pullback", *_below(pullback), "pullback_ext"]


def _below(package: ModuleType) -> Iterator[str]:
    """The rooms inside a package. A module inside a room is none; a package may be."""
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        top = package.__name__ == "pullback"
        private = found.name.rpartition(".")[2].startswith("_") or found.name in _NOT_FOR_PYTHON
        if private or not (found.ispkg or top):
            continue
        module = importlib.import_module(found.name)
        if names(module):
            yield found.name
        if found.ispkg:
            yield from _below(module)


def names(module: ModuleType) -> list[str]:
    """The public names of a room: its ``__all__``, or what a single file without one defines."""
    if hasattr(module, "__all__") or hasattr(module, "__path__"):
        return list(getattr(module, "__all__", []))
    kinds = (inspect.isclass, inspect.isfunction)
    own = ((k, v) for k, v in vars(module).items() if any(kind(v) for kind in kinds))
    return [k for k, v in own if v.__module__ == module.__name__ and not k.startswith("_")]


def entries(room: str) -> list[Entry]:
    """The public names of a room, in the order of their kind."""
    module = importlib.import_module(room)
    found = [Entry(room, name, getattr(module, name)) for name in names(module)]
    order = ["module", "class", "function", "data"]
    return sorted(found, key=lambda entry: (order.index(entry.kind), entry.name.lower()))


def home(entry: Entry) -> str:
    """The room where a name is described: the one that its value comes from."""
    origin = getattr(entry.value, "__module__", None) or entry.room
    homes = [room for room in rooms() if f"{origin}.".startswith(f"{room}.")]
    best = max(homes, key=len, default=entry.room)
    given = names(importlib.import_module(best))
    return best if entry.name in given and entry.kind in ("class", "function") else entry.room


def members(kind: type) -> dict[str, Any]:
    """Public methods and properties of a class, with those of the bases that are ours."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] not in ("pullback", "pullback_ext"):
            continue
        for name, value in vars(base).items():
            method = isinstance(value, (property, classmethod, staticmethod))
            if not name.startswith("_") and (method or inspect.isfunction(value)):
                found[name] = value
    return found


def write(folder: Path) -> list[str]:
    """Write the pages of all rooms, and return their names without suffix, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    found = rooms()
    for old in folder.glob("*.rst"):
        if old.stem not in found:
            old.unlink()
    for room in found:
        path = folder / f"{room}.rst"
        text = page(room)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
    return found


def page(room: str) -> str:
    """The page of a room, in reStructuredText."""
    module = importlib.import_module(room)
    doc = inspect.getdoc(module) or ""
    lines = [room, "=" * len(room), "", f".. py:module:: {room}", "", doc, ""]
    for entry in entries(room):
        lines += _DIRECTIVES[entry.kind](entry)
    return "\n".join(lines) + "\n"


def _module(entry: Entry) -> list[str]:
    name = entry.value.__name__
    text = f"   The room :py:mod:`{name}`."
    return [f".. py:data:: {entry.name}", "   :no-index:", "", text, ""]


def _class(entry: Entry) -> list[str]:
    if home(entry) != entry.room:
        return _elsewhere(entry)
    return [
        f".. autoclass:: {entry.path}",
        "   :members:",
        # The fields of a named tuple stand under Attributes.
        f"   :exclude-members: {', '.join(getattr(entry.value, '_fields', ()))}",
        f"   :inherited-members: {_FOREIGN}",
        "   :special-members: __len__, __getitem__",
        "",
    ]


def _function(entry: Entry) -> list[str]:
    return (
        [f".. autofunction:: {entry.path}", ""] if home(entry) == entry.room else _elsewhere(entry)
    )


def _elsewhere(entry: Entry) -> list[str]:
    first = (entry.text.strip().splitlines() or [""])[0]
    target = f":py:obj:`{home(entry)}.{entry.name}`"
    directive = f".. py:{entry.kind}:: {entry.name}{_arguments(entry)}"
    return [directive, "", f"   {first}", f"   The same as {target}.", ""]


def _arguments(entry: Entry) -> str:
    """The arguments of a function, without their types."""
    if entry.kind != "function":
        return ""
    signature = inspect.signature(entry.value)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def _data(entry: Entry) -> list[str]:
    value = repr(entry.value)
    shown = [f"   :value: {value}"] if len(value) <= 100 and "object at" not in value else []
    return [f".. py:data:: {entry.name}", *shown, "", f"   {entry.text}", ""]


_DIRECTIVES: dict[str, Callable[[Entry], list[str]]] = {
    "module": _module,
    "class": _class,
    "function": _function,
    "data": _data,
}


def _comment(entry: Entry) -> str:
    """The `#:` lines above the assignment of a name, wherever in its room that is."""
    for source in _sources(entry.room):
        text = source.read_text("utf-8")
        lines = text.splitlines()
        for node in ast.parse(text).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", 0)]
            if any(isinstance(one, ast.Name) and one.id == entry.name for one in targets):
                above = []
                for line in reversed(lines[: node.lineno - 1]):
                    if not line.startswith("#:"):
                        break
                    above.insert(0, line.removeprefix("#:").strip())
                if above:
                    return " ".join(above)
    return ""


def _sources(room: str) -> list[Path]:
    file = Path(inspect.getfile(importlib.import_module(room)))
    return sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file]
