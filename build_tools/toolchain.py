"""Finds what a native build needs, without importing torch and without the network.

Used by ``setup.py`` (to build), by ``backend.py`` (to say what must be installed first) and by the
Makefile (``python build_tools/toolchain.py requires``). Only the standard library is needed.

Only torch's headers and ``libtorch_cpu`` take part in a build, through torch's stable ABI, and
nothing of the torch found here is remembered in the binary. So any torch >= 2.10 on this machine
will do, and the one that the package will meet at run time is looked for first.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MIN_TORCH = (2, 10)
TORCH_REQUIREMENT = "torch>=" + ".".join(map(str, MIN_TORCH))

# Always needed, also named in pyproject.toml's build-system table (a test keeps the two equal).
BASE_REQUIREMENTS = ("setuptools>=77", "pybind11>=2.13")

# Names that torch gives to families of GPUs in TORCH_CUDA_ARCH_LIST.
_ARCH_FAMILIES = {
    "Turing": "7.5+PTX",
    "Ampere": "8.0;8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
}

_USUAL_TOOLKIT = Path("/usr/local/cuda")

_GIB = 1024**3
_BYTES_PER_JOB = 2 * _GIB


class BuildError(Exception):
    """Something is missing or wrong; the text is one sentence with the command that cures it."""


# ------------------------------------------------------------------------------------------ torch


@dataclass(frozen=True)
class Torch:
    """An installed torch package: its folder, with ``include`` and ``lib`` below it."""

    folder: Path
    version: str

    @property
    def numbers(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = re.findall(r"\d+", self.version)[:2]
        return int(major), int(minor)

    @property
    def recent_enough(self) -> bool:
        """Whether this torch has the stable ABI that the native code is written for."""
        return self.numbers >= MIN_TORCH

    @property
    def complete(self) -> bool:
        """Whether the headers of the stable ABI are there."""
        return (self.folder / "include/torch/csrc/stable/library.h").is_file()


def read_torch(folder: Path) -> Torch | None:
    """Reads the version of the torch in ``folder`` from its text; None if there is no torch."""
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^__version__\s*=\s*['\"](\d+\.\d+[^'\"]*)['\"]", text, re.MULTILINE)
    return Torch(folder, found.group(1)) if found else None


def _site_packages_of(prefix: Path) -> list[Path]:
    """The site-packages folders of the environment at ``prefix`` for the running Python."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [prefix / lib / python / "site-packages" for lib in ("lib", "lib64")]


def _active_prefixes(env: Mapping[str, str]) -> Iterator[Path]:
    """Environments that the user has switched on.

    An isolated pip build runs the target environment's own interpreter, so that ``sysconfig`` names
    the target. uv makes a second environment for the build instead; the target is then known from
    the variables of its activation, from PATH, or as the ``.venv`` of the working folder.
    """
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if env.get(variable):
            yield Path(env[variable])
    for entry in env.get("PATH", "").split(os.pathsep):
        prefix = Path(entry).parent
        if entry and (prefix / "pyvenv.cfg").is_file():
            yield prefix
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / ".venv/pyvenv.cfg").is_file():
            yield folder / ".venv"
            break


def _torch_folders(env: Mapping[str, str]) -> Iterator[Path]:
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        spec = None
    if spec is not None:
        yield from map(Path, spec.submodule_search_locations or ())
    for scheme in ("purelib", "platlib"):
        yield Path(sysconfig.get_path(scheme)) / "torch"
    config = Path(sys.prefix) / "pyvenv.cfg"
    if config.is_file() and re.search(
        r"^include-system-site-packages\s*=\s*true", config.read_text(), re.MULTILINE
    ):
        yield from (Path(folder) / "torch" for folder in site.getsitepackages([sys.base_prefix]))
    if site.ENABLE_USER_SITE:
        yield Path(site.getusersitepackages()) / "torch"
    for prefix in _active_prefixes(env):
        yield from (folder / "torch" for folder in _site_packages_of(prefix))


def installed_torch(env: Mapping[str, str] = os.environ) -> Torch | None:
    """The torch to build against: the first that is recent enough, else the first found at all."""
    first = None
    for folder in _torch_folders(env):
        torch = read_torch(folder)
        if torch is None or not torch.complete:
            first = first or torch
            continue
        if torch.recent_enough:
            return torch
        first = first or torch
    return first


def require_torch(env: Mapping[str, str] = os.environ) -> Torch:
    """The torch to build against.

    Raises:
        BuildError: there is none, or it is too old.
    """
    torch = installed_torch(env)
    cure = f"{python_command()} -m pip install '{TORCH_REQUIREMENT}'"
    minimum = ".".join(map(str, MIN_TORCH))
    if torch is None:
        raise BuildError(
            f"torch {minimum} or newer is needed to build and was not found in "
            f"{sysconfig.get_path('purelib')}: run `{cure}`, or install with build isolation, "
            "which fetches it."
        )
    if not torch.recent_enough:
        raise BuildError(
            f"torch {minimum} or newer is needed to build and {torch.folder} holds "
            f"torch {torch.version}: run `{cure}`, or install with build isolation, which fetches "
            "a newer one."
        )
    if not torch.complete:
        raise BuildError(
            f"torch {torch.version} in {torch.folder} comes without its C++ headers "
            f"(include/torch/csrc/stable): run `{python_command()} -m pip install "
            f"--force-reinstall 'torch=={torch.version.partition('+')[0]}'`."
        )
    return torch


# ------------------------------------------------------------------------------------------ tools


def python_command() -> str:
    """How a user calls this Python."""
    return "python" if sys.prefix != sys.base_prefix else f"python{sys.version_info.major}"


def _tool_version(path: str) -> tuple[int, ...] | None:
    """The version a tool reports, or None if it does not run.

    A ``cmake`` or ``ninja`` that pip put into one environment is a Python script, which fails when
    it is met in another one; finding it on PATH therefore proves nothing.
    """
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if done.returncode == 0 and found else None


def find_tool(*names: str, minimum: tuple[int, ...] = (0, 0)) -> str | None:
    """The first of ``names`` on PATH, or beside the running Python, that runs and is new enough."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")])
    for name in names:
        for folder in path.split(os.pathsep):
            found = shutil.which(name, path=folder) if folder else None
            if found and (_tool_version(found) or (-1,)) >= minimum:
                return found
    return None


def minimum_cmake() -> tuple[int, int]:
    """The oldest CMake that CMakeLists.txt accepts.

    Raises:
        BuildError: there is no CMakeLists.txt that says so.
    """
    file = ROOT / "CMakeLists.txt"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r"cmake_minimum_required\s*\(\s*VERSION\s+(\d+)\.(\d+)", text)
    if found is None:
        raise BuildError(
            f"{file} is needed to build and is missing or names no oldest CMake: run "
            "`git checkout CMakeLists.txt`, or build from a complete source archive."
        )
    return int(found[1]), int(found[2])


def find_cmake() -> str | None:
    """A usable ``cmake``."""
    return find_tool("cmake", "cmake3", minimum=minimum_cmake())


def find_ninja() -> str | None:
    """A usable ``ninja``."""
    return find_tool("ninja", "ninja-build")


def require_tools() -> tuple[str, str]:
    """Paths of cmake and ninja.

    Raises:
        BuildError: one of them is missing.
    """
    cmake, ninja = find_cmake(), find_ninja()
    if cmake is None or ninja is None:
        oldest = ".".join(map(str, minimum_cmake()))
        missing = " and ".join(
            name
            for name, path in ((f"CMake {oldest} or newer", cmake), ("Ninja", ninja))
            if path is None
        )
        raise BuildError(
            f"{missing} is needed to build and was not found on PATH: "
            f"run `{python_command()} -m pip install cmake ninja`."
        )
    return cmake, ninja


def require_compiler(env: Mapping[str, str] = os.environ) -> str:
    """Path of the C++ compiler: ``CXX`` if set, else c++, g++ or clang++ on PATH.

    Raises:
        BuildError: there is none.
    """
    asked = env.get("CXX", "").split()
    for name in asked[:1] or ("c++", "g++", "clang++"):
        found = shutil.which(name, path=env.get("PATH"))
        if found:
            return found
    what = f"the C++ compiler CXX={env['CXX']}" if asked else "a C++ compiler"
    raise BuildError(
        f"{what} is needed to build and was not found on PATH: run `sudo apt-get install g++` "
        "(Debian, Ubuntu), `sudo dnf install gcc-c++` (Fedora) or "
        "`conda install -c conda-forge cxx-compiler`."
    )


def require_python_headers() -> Path:
    """Folder that holds ``Python.h``.

    Raises:
        BuildError: the interpreter was installed without its headers.
    """
    folder = Path(sysconfig.get_path("include"))
    if not (folder / "Python.h").is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BuildError(
            f"Python.h is needed to build and is not in {folder}: run "
            f"`sudo apt-get install python{version}-dev` (Debian, Ubuntu) or "
            f"`sudo dnf install python{version}-devel` (Fedora)."
        )
    return folder


def require_pybind11() -> Path:
    """Folder with pybind11's headers.

    Raises:
        BuildError: pybind11 is not installed.
    """
    spec = importlib.util.find_spec("pybind11")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "include"
        if (folder / "pybind11/pybind11.h").is_file():
            return folder
    raise BuildError(
        "pybind11 is needed to build without isolation and is not installed: "
        f"run `{python_command()} -m pip install '{BASE_REQUIREMENTS[1]}'`."
    )


# ------------------------------------------------------------------------------------------- CUDA


def cuda_mode(env: Mapping[str, str] = os.environ) -> str:
    """What ``PULLBACK_CUDA`` asks for: AUTO (the default), ON or OFF.

    Raises:
        BuildError: it says something else.
    """
    mode = env.get("PULLBACK_CUDA", "").strip().upper() or "AUTO"
    mode = {"1": "ON", "0": "OFF", "TRUE": "ON", "FALSE": "OFF"}.get(mode, mode)
    if mode not in ("AUTO", "ON", "OFF"):
        raise BuildError(
            f"PULLBACK_CUDA must be AUTO, ON or OFF and is {env['PULLBACK_CUDA']!r}: "
            "run `unset PULLBACK_CUDA` for the default, AUTO."
        )
    return mode


def find_nvcc(env: Mapping[str, str] = os.environ) -> str | None:
    """The CUDA compiler.

    ``CUDACXX``, else ``CUDA_HOME`` or ``CUDA_PATH``, else nvcc on PATH, else /usr/local/cuda. A
    toolkit that is named but not there counts as none: another one is never taken in its place.
    """
    path = env.get("PATH")
    if env.get("CUDACXX"):
        return shutil.which(env["CUDACXX"].split()[0], path=path)
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if env.get(variable):
            return shutil.which("nvcc", path=str(Path(env[variable]) / "bin"))
    return shutil.which("nvcc", path=path) or shutil.which("nvcc", path=str(_USUAL_TOOLKIT / "bin"))


def _toolkit_hint(env: Mapping[str, str]) -> str:
    for variable in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        if env.get(variable):
            return f"{variable}={env[variable]} holds no nvcc"
    return f"there is no nvcc on PATH or in {_USUAL_TOOLKIT}, and CUDA_HOME is not set"


def choose_cuda(env: Mapping[str, str] = os.environ) -> tuple[str, str | None]:
    """The CUDA mode and the compiler to use; OFF and None for a build without CUDA kernels.

    Asks for a toolkit, never for a GPU.

    Raises:
        BuildError: ``PULLBACK_CUDA=ON`` and there is no toolkit.
    """
    mode = cuda_mode(env)
    nvcc = None if mode == "OFF" else find_nvcc(env)
    if mode == "ON" and nvcc is None:
        raise BuildError(
            f"PULLBACK_CUDA=ON needs the CUDA toolkit, and {_toolkit_hint(env)}: install it (with "
            "conda: `conda install -c nvidia cuda-toolkit`) and run `export CUDA_HOME=<its folder>`"
            ", or build for the CPU alone with `PULLBACK_CUDA=OFF`."
        )
    return mode if nvcc else "OFF", nvcc


def translate_arch_list(arch_list: str) -> str:
    """Turns torch's ``TORCH_CUDA_ARCH_LIST`` into CMake's ``CMAKE_CUDA_ARCHITECTURES``.

    >>> translate_arch_list("8.0;9.0+PTX")
    '80-real;90-real;90-virtual'

    Raises:
        BuildError: an entry is neither a compute capability nor a family that torch names.
    """
    words = re.split(r"[;,\s]+", arch_list.strip())
    words = [part for word in words for part in _ARCH_FAMILIES.get(word, word).split(";")]
    result: list[str] = []
    for word in filter(None, words):
        found = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", word)
        if found is None:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST={arch_list!r} has the unknown entry {word!r}: write compute "
                "capabilities, such as `export TORCH_CUDA_ARCH_LIST='8.0;9.0+PTX'`."
            )
        number = found[1] + found[2] + found[3]
        result.append(f"{number}-real")
        if found[4]:
            result.append(f"{number}-virtual")
    return ";".join(dict.fromkeys(result))


def cuda_architectures(env: Mapping[str, str] = os.environ) -> str | None:
    """The architectures asked for, in CMake's notation; None leaves the choice to CMakeLists."""
    if env.get("CMAKE_CUDA_ARCHITECTURES"):
        return env["CMAKE_CUDA_ARCHITECTURES"]
    if env.get("TORCH_CUDA_ARCH_LIST", "").strip():
        return translate_arch_list(env["TORCH_CUDA_ARCH_LIST"])
    return None


# ------------------------------------------------------------------------------------------- jobs


def _free_memory() -> int | None:
    """Bytes of memory that are free, within the control group's limit; None if unknown."""
    free = None
    try:
        meminfo = Path("/proc/meminfo").read_text()
        free = int(re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)[1]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            free = min(free, max(int(limit) - used, 0))
    except (OSError, TypeError, ValueError):
        pass
    return free


def parallel_jobs(env: Mapping[str, str] = os.environ) -> int:
    """Compilers to run at once: ``MAX_JOBS``, else as many as cores and free memory allow."""
    if env.get("MAX_JOBS", "").strip():
        try:
            return max(1, int(env["MAX_JOBS"]))
        except ValueError:
            raise BuildError(
                f"MAX_JOBS must be a whole number and is {env['MAX_JOBS']!r}: run `unset MAX_JOBS`."
            ) from None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = _free_memory()
    by_memory = cores if free is None else free // _BYTES_PER_JOB
    return max(1, min(cores or 1, by_memory or 1))


# -------------------------------------------------------------------------------------- all of it


@dataclass(frozen=True)
class Toolchain:
    """What one build uses, all of it found."""

    compiler: str
    python_headers: Path
    torch: Torch
    pybind11: Path
    cmake: str
    ninja: str
    cuda: str  # AUTO, ON or OFF
    nvcc: str | None
    architectures: str | None  # as CMake has them; None for its default
    jobs: int


def require_toolchain(env: Mapping[str, str] = os.environ) -> Toolchain:
    """Finds everything that a build needs.

    Raises:
        BuildError: something is missing.
    """
    compiler = require_compiler(env)  # first: what most machines lack
    python_headers = require_python_headers()
    cuda, nvcc = choose_cuda(env)
    cmake, ninja = require_tools()
    return Toolchain(
        compiler=compiler,
        python_headers=python_headers,
        torch=require_torch(env),
        pybind11=require_pybind11(),
        cmake=cmake,
        ninja=ninja,
        cuda=cuda,
        nvcc=nvcc,
        architectures=cuda_architectures(env),
        jobs=parallel_jobs(env),
    )


# ----------------------------------------------------------------------------------- requirements


def build_requirements(env: Mapping[str, str] = os.environ) -> list[str]:
    """What must be installed before a build, beyond ``BASE_REQUIREMENTS``.

    torch only where the environment has none that is recent enough; CMake and Ninja only where
    PATH has none that runs.
    """
    wanted = []
    torch = installed_torch(env)
    if torch is None or not (torch.recent_enough and torch.complete):
        wanted.append(TORCH_REQUIREMENT)
    if find_cmake() is None:
        wanted.append("cmake>=" + ".".join(map(str, minimum_cmake())))
    if find_ninja() is None:
        wanted.append("ninja")
    return wanted


if __name__ == "__main__":
    if sys.argv[1:] != ["requires"]:
        sys.exit("usage: python build_tools/toolchain.py requires")
    print("\n".join([*BASE_REQUIREMENTS, *build_requirements()]))
