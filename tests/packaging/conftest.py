"""Copies of the source tree, wheels built from them, and small environments to install into."""

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import toolchain

ROOT = Path(__file__).resolve().parents[2]

# Never part of a checkout; left out of the copy where git cannot say what is.
_NOT_SOURCE = ("build", "dist", ".git", ".venv", "__pycache__", "*.egg-info", "*.so", ".*_cache")


def _copy_sources(target: Path) -> None:
    """Copies what a fresh checkout of the working tree would hold."""
    if not (ROOT / ".git").exists():
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*_NOT_SOURCE))
        return
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A copy of the sources in which builds may write; shared, so that builds are incremental."""
    folder = tmp_path_factory.mktemp("packaging") / "tree"
    _copy_sources(folder)
    return folder


@pytest.fixture(scope="session")
def clean_env():
    """This process's variables without those that steer a build or an import."""
    steering = [
        "PULLBACK_CUDA",
        "CMAKE_CUDA_ARCHITECTURES",
        "TORCH_CUDA_ARCH_LIST",
        "CUDACXX",
        "CUDA_HOME",
        "CUDA_PATH",
        "CMAKE_ARGS",
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "PULLBACK_EXT_DISABLE",
    ]
    return {name: value for name, value in os.environ.items() if name not in steering}


def run(command, *, env, cwd, check=True):
    """Runs a command; returns its output, both streams together, and its exit status."""
    done = subprocess.run(
        [str(part) for part in command],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if check and done.returncode:
        pytest.fail(f"{command} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done


@pytest.fixture(scope="session", name="run")
def run_fixture():
    return run


@dataclass(frozen=True)
class Wheel:
    """A wheel, and the names of the files in it."""

    path: Path

    @property
    def names(self) -> list[str]:
        with zipfile.ZipFile(self.path) as archive:
            return archive.namelist()

    def read(self, name: str) -> str:
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name).decode()


@pytest.fixture(scope="session")
def build_wheel(tree, clean_env, tmp_path_factory):
    """Builds a wheel without isolation, hence without the network; each setting only once."""

    @functools.cache
    def build(*settings: str) -> Wheel:
        folder = tmp_path_factory.mktemp("wheel")
        env = clean_env | dict(setting.split("=", 1) for setting in settings)
        command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
        run([sys.executable, *command, folder, tree], env=env, cwd=folder)
        (path,) = folder.glob("*.whl")
        return Wheel(path)

    return build


@pytest.fixture(scope="session")
def toolkit():
    """The CUDA compiler; tests that need one are skipped where there is none."""
    nvcc = toolchain.find_nvcc({"PATH": os.environ["PATH"]})
    if nvcc is None:
        pytest.skip("no CUDA toolkit: nvcc is not on PATH")
    return nvcc


@pytest.fixture(scope="session")
def default_wheel(build_wheel):
    """What `pip wheel .` makes here, for a single GPU architecture to save time."""
    return build_wheel("CMAKE_CUDA_ARCHITECTURES=80")


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees this one's packages, but not its pullback."""

    folder: Path
    variables: dict[str, str]

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def site_packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def pip(self, *arguments, check=True, **variables):
        """Runs this process's pip on the environment."""
        command = [sys.executable, "-m", "pip", "--python", self.python, *arguments]
        env = self.variables | {"PATH": os.environ["PATH"]} | variables
        return run(command, env=env, cwd=self.folder, check=check)

    def call(self, code: str, check=True, **variables):
        """Runs Python code and returns what it prints, read as JSON."""
        command = [self.python, "-c", code]
        done = run(command, env=self.variables | variables, cwd=self.folder, check=check)
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def make_environment(tmp_path, clean_env):
    """Makes an environment on whose PATH there is nothing: no compiler, no nvcc.

    With ``sees_ours`` it imports torch and all else from where this process has them, by links to
    everything there but pullback, which may be installed there too.
    """

    def make(name="env", sees_ours=True) -> Environment:
        folder = tmp_path / name
        venv.create(folder, with_pip=False, symlinks=True)
        nothing = folder / "nothing"
        nothing.mkdir()
        environment = Environment(folder, clean_env | {"PATH": str(nothing)})
        if sees_ours:
            places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
            # A stacked environment keeps torch further down.
            places |= {str(Path(module).parent.parent) for module in _homes()}
            ours = folder / "ours"
            ours.mkdir()
            for entry in (entry for place in sorted(places) for entry in Path(place).iterdir()):
                if not entry.name.startswith("pullback") and not (ours / entry.name).exists():
                    (ours / entry.name).symlink_to(entry)
            (environment.site_packages / "ours.pth").write_text(f"{ours}\n")
        return environment

    return make


def _homes():
    import numpy
    import torch

    return numpy.__file__, torch.__file__
