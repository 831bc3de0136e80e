"""Builds, wheels and installs, in copies of the source tree and environments of their own."""

import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow

# Runs the op on the CPU and says where it came from and what the binary holds.
PROBE = """
import json, torch, pullback_ext
from pullback_ext import _loader, _ops
a = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
right = torch.equal(pullback_ext.gram(a), a.double() @ a.double().mT)
print(json.dumps({"available": pullback_ext.available(), "right": right,
                  "file": pullback_ext.__file__, "native": _loader.native().__file__,
                  "kernels": [_ops.has_kernel("gram", on) for on in ("cpu", "cuda")],
                  "why_not_on_cuda": _ops.why_no_kernel("cuda"), **pullback_ext.build_info()}))
"""


@pytest.fixture
def installed(make_environment):
    """Installs a wheel into an environment without compilers and runs the op there."""

    def install(wheel):
        environment = make_environment()
        environment.pip("install", "--no-deps", "--no-index", wheel.path)
        info = environment.call(PROBE)
        assert info["available"]
        assert info["right"]
        assert Path(info["file"]).is_relative_to(environment.site_packages)
        return info

    return install


def test_without_toolkit(build_wheel, installed):
    info = installed(build_wheel("PULLBACK_CUDA=OFF"))
    assert info["cuda"] is None
    assert info["cuda_architectures"] == []
    assert info["kernels"] == [True, False]
    assert "built without CUDA kernels" in info["why_not_on_cuda"]
    assert b".nv_fatbin" not in Path(info["native"]).read_bytes()


def test_toolkit_is_used_without_a_gpu(toolkit, default_wheel, installed):
    """The default build; the binary loads, whether or not this torch knows CUDA."""
    info = installed(default_wheel)
    assert re.fullmatch(r"\d+\.\d+.*", info["cuda"])
    assert info["cuda_architectures"] == ["80"]


def test_wheel_holds_the_package_and_nothing_else(default_wheel):
    names = set(default_wheel.names)
    for package, folder in (("pullback", "python/pullback"), ("pullback_ext", "pullback_ext")):
        sources = (ROOT / folder).rglob("*.py")
        expected = {f"{package}/{path.relative_to(ROOT / folder).as_posix()}" for path in sources}
        assert expected <= names, f"not in the wheel: {sorted(expected - names)}"
        if (ROOT / folder / "py.typed").is_file():
            assert f"{package}/py.typed" in names
    zoo = ROOT / "python/pullback/zoo"
    for path in zoo.rglob("*"):
        if path.suffix in (".safetensors", ".json", ".md", ".png"):
            assert f"pullback/zoo/{path.relative_to(zoo).as_posix()}" in names
    assert sum(name.endswith(".so") for name in names) == 1
    others = {name.split("/")[0] for name in names} - {"pullback", "pullback_ext"}
    assert all(other.endswith(".dist-info") for other in others)
    assert not [name for name in names if name.endswith((".cpp", ".cu", ".h", ".pyc"))]
    assert not [name for name in names if Path(name).name.startswith(("test_", "conftest"))]
    assert not [name for name in names if "tests" in Path(name).parts]


def test_wheel_is_named_for_its_python_and_platform(default_wheel):
    tag = default_wheel.path.name.split("-", 2)[2]
    assert tag.startswith(f"cp{sys.version_info.major}{sys.version_info.minor}-")
    assert "any" not in tag


def test_version_is_the_same_everywhere(default_wheel, make_environment):
    version = re.search(r'^version = "(.+?)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert default_wheel.path.name.startswith(f"pullback-{version}-")
    environment = make_environment()
    environment.pip("install", "--no-deps", "--no-index", default_wheel.path)
    found = environment.call(
        "import json, importlib.metadata, pullback, pullback_ext; print(json.dumps(["
        "importlib.metadata.version('pullback'), pullback.__version__, "
        "pullback_ext.build_info()['version']]))"
    )
    assert found == [version] * 3


def test_weights_are_no_pickles(default_wheel):
    endings = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt")
    assert not [name for name in default_wheel.names if name.endswith(endings)]


def test_editable_install_shows_the_checkout(tree, default_wheel, make_environment):
    del default_wheel  # built before, so that this build has little to do
    environment = make_environment()
    options = ["--no-deps", "--no-index", "--no-build-isolation"]
    environment.pip("install", *options, "--editable", tree, CMAKE_CUDA_ARCHITECTURES="80")
    info = environment.call(PROBE)
    assert info["right"]
    assert Path(info["file"]) == tree / "pullback_ext/__init__.py"
    (module,) = (tree / "pullback_ext").glob("_native*.so")
    where = environment.call(
        "import json, pullback, pullback_ext._native as n; "
        "print(json.dumps([pullback.__file__, n.__file__]))"
    )
    assert where == [str(tree / "python/pullback/__init__.py"), str(module)]
    assert (environment.folder / "bin/pullback").is_file()


def test_second_build_compiles_nothing(tree, default_wheel, clean_env, run):
    del default_wheel
    env = clean_env | {"CMAKE_CUDA_ARCHITECTURES": "80"}
    done = run([sys.executable, "setup.py", "build_ext", "--inplace"], env=env, cwd=tree)
    assert "ninja: no work to do" in done.stdout


@pytest.fixture
def path_without_nvcc(tmp_path):
    """A PATH with all that a build needs, but for CUDA's compiler."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("c++", "g++", "gcc", "as", "ld", "cmake", "ninja", "sh"):
        found = shutil.which(tool)
        if found:
            (folder / tool).symlink_to(found)
    return str(folder)


@pytest.mark.parametrize("command", ["wheel", "install --editable"])
def test_demanded_toolkit_is_missing(tree, clean_env, run, path_without_nvcc, tmp_path, command):
    env = clean_env | {
        "PATH": path_without_nvcc,
        "PULLBACK_CUDA": "ON",
        "CUDA_HOME": str(tmp_path / "no-toolkit"),
    }
    options = ["--no-deps", "--no-index", "--no-build-isolation"]
    verb, *more = command.split()
    done = run(
        [sys.executable, "-m", "pip", verb, *options, *more, tree],
        env=env,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode != 0
    complaints = [line.strip() for line in done.stdout.splitlines() if "pullback: " in line]
    assert len(complaints) == 1
    assert complaints[0].startswith("pullback: PULLBACK_CUDA=ON needs the CUDA toolkit")
    assert "PULLBACK_CUDA=OFF" in complaints[0]
    assert "Traceback" not in done.stdout


def test_compiler_is_missing(tree, clean_env, run, tmp_path):
    env = clean_env | {"PATH": str(tmp_path)}
    done = run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], env=env, cwd=tree, check=False
    )
    assert done.returncode != 0
    assert "apt-get install g++" in done.stdout
    assert "Traceback" not in done.stdout


def test_source_archive_is_complete(tree, clean_env, run, tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'build_tools'); import backend; "
        f"print(backend.build_sdist({str(tmp_path)!r}))"
    )
    run([sys.executable, "-c", code], env=clean_env, cwd=tree)
    (archive,) = tmp_path.glob("pullback-*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    found = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*")}
    needed = {"CMakeLists.txt", "setup.py", "pyproject.toml", "build_tools/backend.py", "LICENSE"}
    needed |= {path.relative_to(tree).as_posix() for path in (tree / "csrc").rglob("*.[chp]*")}
    needed |= {path.relative_to(tree).as_posix() for path in (tree / "python").rglob("*.py")}
    assert needed <= found
    assert not [name for name in found if name.endswith((".so", ".pyc"))]


def test_isolated_build_takes_the_installed_torch(
    tree, default_wheel, make_environment, tmp_path, monkeypatch
):
    """`pip wheel .` as a user runs it: needs the package index for setuptools and pybind11."""
    import torch

    del default_wheel
    environment = make_environment(sees_ours=False)
    (environment.site_packages / "torch").symlink_to(Path(torch.__file__).parent)
    done = environment.pip(
        *("wheel", "-v", "--no-deps", "-w", tmp_path / "wheels", tree),
        check=False,
        CMAKE_CUDA_ARCHITECTURES="80",
        PIP_RETRIES="0",
    )
    if "No matching distribution found" in done.stdout and "Running setup.py" not in done.stdout:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stdout[-6000:]
    assert f"in {environment.site_packages / 'torch'};" in done.stdout
    assert not re.search(
        r"Collecting torch\b|Installing collected packages:.*\btorch\b", done.stdout
    )
    assert list((tmp_path / "wheels").glob("pullback-*.whl"))
