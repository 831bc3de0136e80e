"""Builds the native library with CMake and Ninja, and lists the packages.

Metadata stands in pyproject.toml, the native sources in CMakeLists.txt, the search for torch, the
compilers and the CUDA toolkit in build_tools/toolchain.py. Variables that are honoured:
PULLBACK_CUDA, CMAKE_CUDA_ARCHITECTURES, TORCH_CUDA_ARCH_LIST, CUDACXX, CUDA_HOME, CXX, MAX_JOBS,
CMAKE_ARGS.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from setuptools import Extension, __version__, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_tools"))

import toolchain  # noqa: E402  (found through the line above)

if int(__version__.partition(".")[0]) < 77:  # only without build isolation
    sys.exit(
        f"pullback: setuptools 77 or newer is needed to build and this is {__version__}: run "
        f"`{toolchain.python_command()} -m pip install --upgrade setuptools`."
    )

PACKAGE_DATA = {
    "pullback": [
        "py.typed",
        *(f"zoo/**/*.{ending}" for ending in ("safetensors", "json", "md", "png")),
    ],
    "pullback_ext": ["py.typed", "*.pyi"],
}


def packages() -> list[str]:
    """Both import packages with everything below them."""
    return [
        *find_packages(str(ROOT / "python"), include=["pullback", "pullback.*"]),
        *find_packages(str(ROOT), include=["pullback_ext", "pullback_ext.*"]),
    ]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second build out of ``folder`` until this one is done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            import fcntl
        except ImportError:  # not on this platform
            pass
        else:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class CMakeBuild(build_ext):
    """Runs CMake once and copies the module to where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        """Builds ``pullback_ext._native``."""
        try:
            module = build_native(toolchain.require_toolchain(), self.distribution.get_version())
        except toolchain.BuildError as problem:
            # SystemExit, and not an error class of setuptools: those are printed with a traceback.
            sys.exit(f"pullback: {problem}")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(module, target)


def build_native(found: toolchain.Toolchain, version: str) -> Path:
    """Configures and builds; returns the path of the module."""
    kind = "cuda" if found.nvcc else "cpu"
    folder = ROOT / "build" / f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}-{kind}"
    module = folder / "out" / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    print(
        f"pullback: torch {found.torch.version} in {found.torch.folder}; {found.compiler}; "
        f"{found.nvcc or 'no CUDA toolkit: CPU only'}; {found.jobs} jobs",
        flush=True,
    )
    with locked(folder):
        forget_other_toolchain(folder, found)
        headers = keep_headers(found.pybind11, folder / "pybind11")
        call(
            configuration(found, folder / "cmake", headers, module.parent, version),
            "CMake could not configure the native library",
        )
        call(
            [found.cmake, "--build", str(folder / "cmake"), "--parallel", str(found.jobs)],
            "the native library does not compile",
        )
    if not module.is_file():
        raise toolchain.BuildError(f"CMake ended well and wrote no {module}.")
    return module


def configuration(
    found: toolchain.Toolchain, folder: Path, pybind11: Path, output: Path, version: str
) -> list[str]:
    """The command that configures the build in ``folder``; the module is written to ``output``."""
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_MAKE_PROGRAM": found.ninja,
        "PULLBACK_CUDA": found.cuda,
        "PULLBACK_TORCH_DIR": found.torch.folder.resolve(),
        "PULLBACK_PYTHON_INCLUDE": found.python_headers,
        "PULLBACK_PYBIND11_INCLUDE": pybind11,
        "PULLBACK_EXT_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
        "PULLBACK_OUTPUT_DIR": output,
        "PULLBACK_VERSION": version,
    }
    if found.nvcc:
        options["CMAKE_CUDA_COMPILER"] = found.nvcc
        if found.architectures:
            options["CMAKE_CUDA_ARCHITECTURES"] = found.architectures
    return [
        *(found.cmake, "-G", "Ninja", "-S", str(ROOT), "-B", str(folder)),
        *(f"-D{name}={value}" for name, value in options.items()),
        *shlex.split(os.environ.get("CMAKE_ARGS", "")),
    ]


def call(command: list[str], complaint: str) -> None:
    """Shows a command and runs it; a failure is told with the command that repeats it."""
    print("+ " + shlex.join(command), flush=True)
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise toolchain.BuildError(
            f"{complaint} (the cause stands above): to repeat it alone, run "
            f"`{shlex.join(command)}`."
        )


def forget_other_toolchain(folder: Path, found: toolchain.Toolchain) -> None:
    """Drops CMake's cache when it was made for other compilers, GPUs or another checkout."""
    record = folder / "toolchain.json"
    now = json.dumps(
        {
            "source": str(ROOT),
            "compiler": found.compiler,
            "nvcc": found.nvcc,
            "architectures": found.architectures,
        },
        sort_keys=True,
    )
    if not record.is_file() or record.read_text() != now:
        shutil.rmtree(folder / "cmake", ignore_errors=True)
        record.write_text(now)


def keep_headers(source: Path, kept: Path) -> Path:
    """Copies pybind11's headers to ``kept``, beside the build.

    An isolated build has them under a new path each time, which would make every rebuild a full
    one. Files that have not changed keep their dates.
    """
    for path in sorted(source.rglob("*.h")):
        copy = kept / path.relative_to(source)
        if not copy.is_file() or copy.read_bytes() != path.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return kept


def scratch_folder() -> str:
    """A folder for setuptools that is new each time.

    setuptools packs whatever lies in its build folder, also modules deleted since the last build.
    """
    folder = tempfile.mkdtemp(prefix="pullback-build-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


setup(
    packages=packages(),
    package_dir={"pullback": "python/pullback", "pullback_ext": "pullback_ext"},
    package_data=PACKAGE_DATA,
    include_package_data=False,
    ext_modules=[Extension("pullback_ext._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    options={"build": {"build_base": scratch_folder()}},
    zip_safe=False,
)
