"""Installs what a ``make`` target needs into the environment of the running Python.

``--package`` installs pullback in place with what it runs on, building the native library;
``--extra NAME`` installs what one of pyproject.toml's extras names. With ``--pinned`` (the
project's own .venv) the versions are those of constraints.txt. Without it (an environment of the
user's) nothing that is installed is changed; what is missing comes in the versions of
constraints.txt where they fit, else in others that do.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import toolchain

CONSTRAINTS = toolchain.ROOT / "constraints.txt"


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Versions of the distributions in this environment, pullback itself excepted."""
    found = {
        normal(dist.metadata["Name"]): dist.version
        for dist in importlib.metadata.distributions()
        if dist.metadata["Name"]
    }
    found.pop("pullback", None)
    return found


def constraint_choices(pinned: bool) -> list[str]:
    """Texts of constraints files, to be tried in this order."""
    pins = CONSTRAINTS.read_text(encoding="utf-8")
    if pinned:
        return [pins]
    present = installed()
    keep = "".join(f"{name}=={version}\n" for name, version in sorted(present.items()))
    missing = "".join(
        f"{line}\n"
        for line in pins.splitlines()
        if (found := re.match(r"[\w.-]+", line)) and normal(found[0]) not in present
    )
    return [keep + missing, keep]


def have_pip() -> None:
    """Makes sure that pip runs in this environment."""
    for command in (["pip", "--version"], ["ensurepip", "--upgrade"], ["pip", "--version"]):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, check=False)
        if command[0] == "pip" and done.returncode == 0:
            return
    sys.exit(
        f"pullback: {sys.prefix} has no pip: run `uv pip install pip` there, or leave the "
        "environment (`deactivate`) and let make set up its own."
    )


def install(wanted: list[str], pinned: bool) -> None:
    """Installs what is missing of ``wanted`` with the first constraints that can be met."""
    if not wanted:
        return
    choices = constraint_choices(pinned)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        for text in choices:
            file.write_text(text, encoding="utf-8")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(file)]
            if subprocess.run([*command, *wanted], check=False).returncode == 0:
                return
    if pinned:
        sys.exit("pullback: the installation failed; the cause stands above.")
    sys.exit(
        f"pullback: the installation into the active environment {sys.prefix} failed, or would "
        "change packages that are there; the cause stands above. Run `deactivate` (with conda: "
        "`conda deactivate`) and make again for an environment of pullback's own."
    )


def install_in_place() -> None:
    """Builds the native library and makes the checkout importable; installs nothing else."""
    command = "-m pip install --quiet --no-build-isolation --no-deps --editable .".split()
    done = subprocess.run([sys.executable, *command], check=False, cwd=toolchain.ROOT)
    if done.returncode:
        sys.exit("pullback: the build failed; the cause stands above.")


def requirements(extra: str | None = None) -> list[str]:
    """What the installed package needs, or what one of its extras does, from its metadata."""
    lines = importlib.metadata.requires("pullback") or []
    if extra is None:
        return [line for line in lines if "extra" not in line.partition(";")[2]]
    named = re.compile(rf"(;|\sand)\s*extra\s*==\s*['\"]{re.escape(extra)}['\"]$")
    return [named.sub("", line).strip() for line in lines if named.search(line)]


def main() -> None:
    """Reads the command line and installs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--package", action="store_true")
    parser.add_argument("--extra")
    parser.add_argument("--pinned", action="store_true")
    options = parser.parse_args()
    have_pip()
    if options.package:
        print(f"pullback: setting up {sys.prefix} (minutes the first time)", flush=True)
        install([*toolchain.BASE_REQUIREMENTS, *toolchain.build_requirements()], options.pinned)
        install_in_place()
        install(requirements(), options.pinned)
    if options.extra:
        install(requirements(options.extra), options.pinned)


if __name__ == "__main__":
    main()
