"""Links of the documents lead somewhere, and every page is led to."""

import re

import pytest

from tests.docs.documents import DOCUMENTS, PAGES, headings, named, prose, slug

ON_SITE = sorted(path for path in DOCUMENTS if path.parent == PAGES)


def links(path):
    """Targets of the links and images of a document."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(path)))


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_and_images_exist(path):
    for target in links(path):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        to = (path.parent / name).resolve() if name else path
        assert to.exists(), f"{named(path)}: {target} does not exist"
        if anchor:
            found = {slug(heading) for heading in headings(to)}
            assert anchor in found, f"{named(path)}: {target} has no such heading"


@pytest.mark.parametrize("path", [p for p in ON_SITE if p.name != "index.md"], ids=named)
def test_a_page_begins_with_its_contents(path):
    before = prose(path).partition("\n## ")[0]
    listed = re.findall(r"^- \[(.+)\]\(#(.+)\)$", before, re.MULTILINE)
    sections = headings(path, "##")
    assert listed == [(heading, slug(heading)) for heading in sections]


def test_every_page_is_reached_from_the_index():
    """In one step, or from a page of the index in a second one."""

    def linked(pages):
        names = {page.parent / name.partition("#")[0] for page in pages for name in links(page)}
        return {name.resolve() for name in names if name.suffix == ".md"}

    first = linked([PAGES / "index.md"])
    assert {PAGES / "index.md"} | first | linked(first) >= set(ON_SITE)
