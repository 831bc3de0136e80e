"""The site is built without a warning, and holds every page and every public name."""

import importlib
import shutil
import subprocess
import sys
import zlib

import pytest

from tests.docs.documents import PAGES, ROOT
from tests.docs.test_reference import ROOMS, reference

NEEDED = ("sphinx", "myst_parser", "furo")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built from a copy, since Sphinx's configuration writes the pages of the reference."""
    for module in NEEDED:
        pytest.importorskip(module, reason="the site needs `pip install '.[docs]'`")
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    leave = shutil.ignore_patterns(
        "build", ".*", "__pycache__", "*.so", "api", "tests", "*.safetensors"
    )
    shutil.copytree(ROOT, source, ignore=leave, dirs_exist_ok=True)
    return target, subprocess.run(
        [sys.executable, *"-m sphinx -q -W --keep-going -c docs .".split(), str(target)],
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_site_builds_without_a_warning(site):
    _, done = site
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip()


@pytest.mark.slow
def test_the_site_has_every_page_and_its_first_page_leads_on(site):
    target, _ = site
    for page in PAGES.glob("*.md"):
        assert (target / "docs" / f"{page.stem}.html").exists()
    assert "docs/index.html" in (target / "index.html").read_text("utf-8")


@pytest.mark.slow
def test_the_site_describes_every_public_name(site):
    target, _ = site
    packed = (target / "objects.inv").read_bytes().split(b"\n", 4)[4]
    known = {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
    for room in ROOMS:
        missing = [
            name
            for name in reference.names(importlib.import_module(room))
            if f"{room}.{name}" not in known
        ]
        assert not missing, f"{room}: {missing}"


@pytest.mark.slow
def test_the_pages_fetch_nothing(site):
    target, _ = site
    for page in target.rglob("*.html"):
        text = page.read_text("utf-8")
        for tag in ('<script src="http', '<link rel="stylesheet" href="http', "@import url(http"):
            assert tag not in text, f"{page}: {tag}"
