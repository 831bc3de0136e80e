"""What the build finds, asks for and says, without building anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import backend
import toolchain
import workshop

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(toolchain.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def fake_torch(site_packages, version, headers=True):
    folder = site_packages / "torch"
    folder.mkdir(parents=True)
    (folder / "version.py").write_text(f"from x import y\n__version__ = '{version}'\ncuda = None\n")
    if headers:
        (folder / "include/torch/csrc/stable").mkdir(parents=True)
        (folder / "include/torch/csrc/stable/library.h").touch()
    return folder


@pytest.fixture
def only_torch(monkeypatch, tmp_path):
    """Lets the search see one torch of the given version, or none."""

    def place(version=None, **options):
        folders = [fake_torch(tmp_path, version, **options)] if version else []
        monkeypatch.setattr(toolchain, "_torch_folders", lambda env: iter(folders))

    return place


# ----------------------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    ("version", "asked"),
    [
        (None, True),
        ("2.5.1", True),
        ("2.9.1+cu128", True),
        ("2.10.0", False),
        ("2.13.0+cpu", False),
        ("2.15.0a0+git1234", False),
        ("3.0.0.dev20270101", False),
    ],
)
def test_torch_is_a_build_requirement_only_where_there_is_none_that_will_do(
    only_torch, version, asked
):
    only_torch(version)
    for hook in (backend.get_requires_for_build_wheel, backend.get_requires_for_build_editable):
        assert ("torch>=2.10" in hook()) is asked


def test_torch_without_headers_does_not_count(only_torch):
    only_torch("2.13.0", headers=False)
    assert "torch>=2.10" in backend.get_requires_for_build_wheel()


@pytest.mark.parametrize("found", [True, False])
def test_isolated_build_finds_torch_of_the_target_environment(make_environment, found):
    """pip hides the target's packages from an isolated build and runs the target's Python."""
    environment = make_environment(sees_ours=False)
    if found:
        fake_torch(environment.site_packages, "2.12.0")
    code = (
        f"import sys, json; sys.path.insert(0, {str(ROOT / 'build_tools')!r}); "
        "sys.path = [p for p in sys.path if 'site-packages' not in p]; "
        "import toolchain; print(json.dumps(toolchain.build_requirements()))"
    )
    assert ("torch>=2.10" in environment.call(code)) is not found


def test_build_environment_apart_finds_torch_of_the_active_one(
    make_environment, monkeypatch, tmp_path
):
    """uv builds in an environment of its own and keeps the active one on PATH."""
    active = make_environment("active", sees_ours=False)
    torch = fake_torch(active.site_packages, "2.12.0")
    apart = make_environment("apart", sees_ours=False)
    code = (
        f"import sys, json; sys.path.insert(0, {str(ROOT / 'build_tools')!r}); import toolchain; "
        "found = toolchain.installed_torch(); print(json.dumps(found and str(found.folder)))"
    )
    assert apart.call(code) is None
    path = os.pathsep.join([str(apart.folder / "bin"), str(active.folder / "bin")])
    assert apart.call(code, PATH=path, VIRTUAL_ENV=str(apart.folder)) == str(torch)


def test_tools_that_do_not_run_are_asked_for(monkeypatch, tmp_path, only_torch):
    only_torch("2.13.0")
    for name in ("cmake", "ninja"):
        script = tmp_path / name
        script.write_text(
            "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'cmake'\"; exit 1\n"
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda name: str(tmp_path))
    asked = backend.get_requires_for_build_wheel()
    assert [re.match(r"\w+", line)[0] for line in asked] == ["cmake", "ninja"]


def test_tools_on_path_are_not_asked_for(only_torch):
    only_torch("2.13.0")
    if toolchain.find_cmake() and toolchain.find_ninja():
        assert backend.get_requires_for_build_wheel() == []
    else:
        pytest.skip("CMake or Ninja is not installed here")


def test_search_does_not_import_torch():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'build_tools')!r}); import toolchain; "
        "toolchain.require_torch(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------ complaints


def one_sentence_with_a_command(error):
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and text.count("`") >= 2


def test_missing_torch(only_torch):
    only_torch(None)
    with pytest.raises(toolchain.BuildError, match=r"torch 2\.10 or newer .* not found") as error:
        toolchain.require_torch()
    assert "pip install 'torch>=2.10'" in str(error.value)
    assert one_sentence_with_a_command(error)


def test_old_torch(only_torch):
    only_torch("2.9.1+cu128")
    with pytest.raises(toolchain.BuildError, match=r"torch 2\.9\.1\+cu128") as error:
        toolchain.require_torch()
    assert "pip install 'torch>=2.10'" in str(error.value)
    assert one_sentence_with_a_command(error)


def test_missing_compiler(tmp_path):
    with pytest.raises(toolchain.BuildError, match="apt-get install g") as error:
        toolchain.require_compiler({"PATH": str(tmp_path)})
    assert one_sentence_with_a_command(error)


def test_missing_cmakelists(monkeypatch, tmp_path, only_torch):
    """No version of CMake is assumed in its place."""
    only_torch("2.13.0")
    monkeypatch.setattr(toolchain, "ROOT", tmp_path)
    with pytest.raises(toolchain.BuildError, match=r"CMakeLists\.txt .* is missing") as error:
        toolchain.minimum_cmake()
    assert one_sentence_with_a_command(error)
    with pytest.raises(SystemExit, match=r"^pullback: .*CMakeLists\.txt"):
        backend.get_requires_for_build_wheel()


def test_missing_toolkit(monkeypatch, tmp_path):
    monkeypatch.setattr(toolchain, "_USUAL_TOOLKIT", tmp_path / "cuda")
    env = {"PATH": str(tmp_path)}
    assert toolchain.choose_cuda(env) == ("OFF", None)
    assert toolchain.choose_cuda(env | {"PULLBACK_CUDA": "OFF"}) == ("OFF", None)
    with pytest.raises(toolchain.BuildError, match="no nvcc on PATH") as error:
        toolchain.choose_cuda(env | {"PULLBACK_CUDA": "on"})
    assert one_sentence_with_a_command(error)


def test_toolkit_that_is_named_is_not_replaced_by_another(tmp_path):
    for name in ("CUDA_HOME", "CUDA_PATH", "CUDACXX"):
        env = {"PATH": os.environ["PATH"], name: str(tmp_path / "cuda-99")}
        assert toolchain.find_nvcc(env) is None


def test_off_ignores_the_toolkit(toolkit):
    assert toolchain.choose_cuda(dict(os.environ, PULLBACK_CUDA="OFF")) == ("OFF", None)


def test_unknown_cuda_mode():
    with pytest.raises(toolchain.BuildError, match="AUTO, ON or OFF") as error:
        toolchain.cuda_mode({"PULLBACK_CUDA": "perhaps"})
    assert one_sentence_with_a_command(error)


# ---------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize(
    ("torch_list", "cmake_list"),
    [
        ("8.0", "80-real"),
        ("8.0;9.0+PTX", "80-real;90-real;90-virtual"),
        ("8.0 9.0+PTX", "80-real;90-real;90-virtual"),
        ("8.0, 8.6", "80-real;86-real"),
        ("9.0a", "90a-real"),
        ("10.0;12.0+PTX", "100-real;120-real;120-virtual"),
        ("8.0;8.0", "80-real"),
        ("Hopper", "90-real;90-virtual"),
        ("Ampere;9.0", "80-real;86-real;86-virtual;90-real"),
    ],
)
def test_architecture_list_of_torch(torch_list, cmake_list):
    assert toolchain.translate_arch_list(torch_list) == cmake_list
    assert toolchain.cuda_architectures({"TORCH_CUDA_ARCH_LIST": torch_list}) == cmake_list


def test_architecture_list_of_cmake_comes_first():
    env = {"CMAKE_CUDA_ARCHITECTURES": "90", "TORCH_CUDA_ARCH_LIST": "8.0"}
    assert toolchain.cuda_architectures(env) == "90"
    assert toolchain.cuda_architectures({}) is None


def test_unknown_architecture():
    with pytest.raises(toolchain.BuildError, match="'sm_80'") as error:
        toolchain.translate_arch_list("sm_80;9.0")
    assert one_sentence_with_a_command(error)


# ------------------------------------------------------------------------------------------- jobs


def test_jobs():
    assert toolchain.parallel_jobs({"MAX_JOBS": "3"}) == 3
    assert toolchain.parallel_jobs({"MAX_JOBS": "0"}) == 1
    assert 1 <= toolchain.parallel_jobs({}) <= os.cpu_count()
    with pytest.raises(toolchain.BuildError, match="whole number"):
        toolchain.parallel_jobs({"MAX_JOBS": "all"})


@pytest.mark.parametrize(("free", "jobs"), [(None, 2), (1, 1), (3 * 2**30, 1), (64 * 2**30, 2)])
def test_jobs_are_capped_by_free_memory(monkeypatch, free, jobs):
    monkeypatch.setattr(toolchain, "_free_memory", lambda: free)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert toolchain.parallel_jobs({}) == jobs


# --------------------------------------------------------------------------- one place for a fact


def test_oldest_torch_is_the_same_everywhere(pyproject):
    from pullback_ext import _loader

    assert toolchain.TORCH_REQUIREMENT in pyproject["project"]["dependencies"]
    assert toolchain.MIN_TORCH == _loader.OLDEST_TORCH
    target = re.search(
        r"TORCH_TARGET_VERSION=0x([0-9a-f]{2})([0-9a-f]{2})", (ROOT / "CMakeLists.txt").read_text()
    )
    assert (int(target[1], 16), int(target[2], 16)) == toolchain.MIN_TORCH


def test_build_requirements_are_the_same_in_pyproject(pyproject):
    assert pyproject["build-system"]["requires"] == list(toolchain.BASE_REQUIREMENTS)


def test_oldest_cmake_stands_in_cmakelists_alone(monkeypatch, tmp_path, only_torch):
    oldest = ".".join(map(str, toolchain.minimum_cmake()))
    text = (ROOT / "CMakeLists.txt").read_text()
    assert f"cmake_minimum_required(VERSION {oldest})" in text
    only_torch("2.13.0")
    monkeypatch.setattr(toolchain, "ROOT", tmp_path)
    (tmp_path / "CMakeLists.txt").write_text("cmake_minimum_required( VERSION 99.7 )\n")
    assert "cmake>=99.7" in backend.get_requires_for_build_wheel()
    with pytest.raises(toolchain.BuildError, match=r"CMake 99\.7 or newer is needed"):
        toolchain.require_tools()


def test_version_stands_in_one_place(pyproject):
    version = pyproject["project"]["version"]
    files = [ROOT / "setup.py", ROOT / "CMakeLists.txt", ROOT / "CITATION.cff"]
    files += [*ROOT.glob("build_tools/*"), *ROOT.glob("csrc/**/*.[ch]pp"), *ROOT.glob("*/*.py")]
    files += ROOT.glob("python/pullback/*.py")
    pattern = re.compile(rf"(?<![\d.])['\"]?{re.escape(version)}(?![\d.])")
    assert [
        str(file) for file in files if file.is_file() and pattern.search(file.read_text())
    ] == []


def test_every_dependency_is_pinned_once(pyproject):
    project = pyproject["project"]
    wanted = [*project["dependencies"], *pyproject["build-system"]["requires"]]
    for extra in project["optional-dependencies"]:
        wanted += project["optional-dependencies"][extra]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [re.match(r"([\w.-]+)==(\S+)(?: ; (.+))?$", line) for line in lines]
    assert all(
        pin or not line or line.startswith("#") for pin, line in zip(pins, lines, strict=True)
    )
    names = [workshop.normal(pin[1]) for pin in pins if pin]
    assert {workshop.normal(re.match(r"[\w.-]+", line)[0]) for line in wanted} <= set(names)
    assert "torch==2.13.0" in lines
    unconditional = [workshop.normal(pin[1]) for pin in pins if pin and not pin[3]]
    assert len(unconditional) == len(set(unconditional))


# ------------------------------------------------------------------------- the user's environment


def test_requirements_of_an_extra_keep_their_markers(monkeypatch):
    lines = ["a>=1", 'b>=2; extra == "x"', 'c>=3; python_version >= "3.11" and extra == "x"']
    lines += ['d; extra == "y"']
    monkeypatch.setattr(workshop.importlib.metadata, "requires", lambda _: lines)
    assert workshop.requirements() == ["a>=1"]
    assert workshop.requirements("x") == ["b>=2", 'c>=3; python_version >= "3.11"']


def test_what_is_installed_is_kept(monkeypatch):
    monkeypatch.setattr(workshop, "installed", lambda: {"torch": "2.11.0+cu130", "numpy": "2.1.0"})
    first, last = (text.splitlines() for text in workshop.constraint_choices(pinned=False))
    assert {"torch==2.11.0+cu130", "numpy==2.1.0"} <= set(first)
    assert not any(line.startswith(("torch==2.13", "numpy==2.4")) for line in first)
    assert any(line.startswith("scipy==") for line in first)
    assert last == ["numpy==2.1.0", "torch==2.11.0+cu130"]


def test_own_environment_takes_the_pins(monkeypatch):
    assert workshop.constraint_choices(pinned=True) == [(ROOT / "constraints.txt").read_text()]
