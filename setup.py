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
            module = self._build_native()
        except toolchain.BuildError as problem:
            # SystemExit, and not an error class of setuptools: those are printed with a traceback.
            sys.exit(f"pullback: {problem}")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(module, target)

    def _build_native(self) -> Path:
        """Configures and builds; returns the path of the module."""
        if not (ROOT / "CMakeLists.txt").is_file():
            raise toolchain.BuildError(
                f"{ROOT} has no CMakeLists.txt: build from a complete checkout or source archive."
            )
        compiler = toolchain.require_compiler()
        headers = toolchain.require_python_headers()
        mode, nvcc = toolchain.choose_cuda()
        torch = toolchain.require_torch()
        pybind11 = toolchain.require_pybind11()
        cmake, ninja = toolchain.require_tools()
        jobs = toolchain.parallel_jobs()
        architectures = toolchain.cuda_architectures()

        tag = "-".join(
            [
                sys.implementation.cache_tag,
                sysconfig.get_platform(),
                "cuda" if nvcc else "cpu",
            ]
        )
        folder = ROOT / "build" / tag
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        output = folder / "out"
        with locked(folder):
            self._forget_other_toolchain(
                folder,
                {
                    "source": str(ROOT),
                    "compiler": compiler,
                    "nvcc": nvcc,
                    "architectures": architectures,
                },
            )
            configure = [
                cmake,
                *("-G", "Ninja"),
                *("-S", str(ROOT)),
                *("-B", str(folder / "cmake")),
                "-DCMAKE_BUILD_TYPE=Release",
                f"-DCMAKE_MAKE_PROGRAM={ninja}",
                f"-DPULLBACK_CUDA={mode}",
                f"-DPULLBACK_TORCH_DIR={torch.folder.resolve()}",
                f"-DPULLBACK_PYTHON_INCLUDE={headers}",
                f"-DPULLBACK_PYBIND11_INCLUDE={self._keep_headers(pybind11, folder)}",
                f"-DPULLBACK_EXT_SUFFIX={suffix}",
                f"-DPULLBACK_OUTPUT_DIR={output}",
                f"-DPULLBACK_VERSION={self.distribution.get_version()}",
            ]
            if nvcc:
                configure.append(f"-DCMAKE_CUDA_COMPILER={nvcc}")
                if architectures:
                    configure.append(f"-DCMAKE_CUDA_ARCHITECTURES={architectures}")
            configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
            print(
                f"pullback: torch {torch.version} in {torch.folder}; {compiler}; "
                f"{nvcc or 'no CUDA toolkit: CPU only'}; {jobs} jobs",
                flush=True,
            )
            self._call(configure, "CMake could not configure the native library")
            self._call(
                [cmake, "--build", str(folder / "cmake"), "--parallel", str(jobs)],
                "the native library does not compile",
            )
        module = output / f"_native{suffix}"
        if not module.is_file():
            raise toolchain.BuildError(f"CMake ended well and wrote no {module}.")
        return module

    @staticmethod
    def _call(command: list[str], complaint: str) -> None:
        print("+ " + shlex.join(command), flush=True)
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise toolchain.BuildError(
                f"{complaint} (the cause stands above): to repeat it alone, run "
                f"`{shlex.join(command)}`."
            )

    @staticmethod
    def _forget_other_toolchain(folder: Path, toolchain_now: dict[str, str | None]) -> None:
        """Drops CMake's cache when it was made for other compilers, GPUs or another checkout."""
        record = folder / "toolchain.json"
        now = json.dumps(toolchain_now, sort_keys=True)
        if not record.is_file() or record.read_text() != now:
            shutil.rmtree(folder / "cmake", ignore_errors=True)
            record.write_text(now)

    @staticmethod
    def _keep_headers(source: Path, folder: Path) -> Path:
        """Copies pybind11's headers beside the build.

        An isolated build has them under a new path each time, which would make every rebuild a
        full one. Files that have not changed keep their dates.
        """
        kept = folder / "pybind11"
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
