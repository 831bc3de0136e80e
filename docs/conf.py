"""How Sphinx builds the documentation: `make docs`. Needs no network.

The source folder is the repository, so that links between README.md, docs/ and csrc/ mean the same
on the site as in the repository.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT), str(ROOT / "python")]

from docutils import nodes  # noqa: E402
from sphinx import addnodes  # noqa: E402
from sphinx.domains.python import PyObject  # noqa: E402

import reference  # noqa: E402  (in this folder)
from pullback import __version__  # noqa: E402

_NAMES = reference.write(ROOT / "docs" / "api")

project = "pullback"
author = "The pullback authors"
copyright = "The pullback authors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/api/*.rst",
    "csrc/README.md",
    "python/pullback/zoo/*/README.md",
]
# Not even looked into.
exclude_patterns = [".*", "build", "dist", "benchmarks", "tests", "**/*.egg-info", "pullback-demo*"]

html_theme = "furo"
html_title = f"pullback {__version__}"
html_static_path = ["static"]
html_css_files = ["pullback.css"]
html_copy_source = False
html_show_sphinx = False
# Mathematics is Unicode text: nothing is fetched or run in the reader's browser to show it.

myst_heading_anchors = 3
myst_enable_extensions = ["tasklist"]
# A name that two rooms give is one thing, whichever of the two a link leads to.
suppress_warnings = ["ref.python"]

nitpicky = True
nitpick_ignore_regex = [
    # Other people's types; their own documentation cannot be asked without the network.
    (r"py:.*", r"(?!pullback).*"),
    # A type in a signature that its room does not give away.
    (r"py:class", rf"(?!({'|'.join(map(re.escape, _NAMES))})\.\w+$).*"),
    (r"py:mod", r"pullback_ext\..*"),
]
default_role = "name"
autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False


def contents(app, docname, source):
    """Gives the index page its table of contents: a part for each list of links."""
    if docname != root_doc:
        return
    parts = []
    for title, body in re.findall(r"^## (.+)\n([\s\S]*?)(?=^## |\Z)", source[0], re.MULTILINE):
        links = re.findall(r"^- \[(.+?)\]\((.+?)\.md\)", body, re.MULTILINE)
        entries = [f"{text} <{_docname(target)}>" for text, target in links]
        parts.append((title, entries))
    # Pages that the index does not list, such as written ones, stand with what there is to know.
    listed = " ".join(entry for _, entries in parts for entry in entries)
    pages = sorted(f"/docs/{page.stem}" for page in (ROOT / "docs").glob("*.md"))
    more = [page for page in pages if f"<{page}>" not in listed and page != f"/{root_doc}"]
    parts[1][1].extend(more)
    parts.append(("Reference", [f"/docs/api/{name}" for name in _NAMES]))
    parts[0][1].insert(0, "README </README>")
    for title, entries in parts:
        lines = "\n".join(entries)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{lines}\n```\n"


def _docname(target):
    """A link of the index page as a name of Sphinx's."""
    return "/" + str((ROOT / "docs" / target).resolve().relative_to(ROOT))


def paragraphs(app, what, name, obj, options, lines):
    """Ends of docstrings such as `Cost: ...`, with an indented second line, as paragraphs."""
    inside = False
    for i, line in enumerate(lines):
        found = re.match(r"(Cost|Source|Sources): (.*)", line)
        if found:
            inside = True
            before = [""] if i and lines[i - 1] else []
            lines[i] = "".join(f"{part}\n" for part in before) + f"**{found[1]}:** {found[2]}"
        elif inside and line.strip():
            lines[i] = line.strip()
        else:
            inside = False
        # f(x, t, **cond) is no bold text, and |a - b| no substitution.
        lines[i] = re.sub(r"(?<=[ (])\*\*(?=\w+\))", r"\*\*", lines[i])
        lines[i] = re.sub(r"(?<![\w`|])\|(?=[^\s|`])", r"\|", lines[i])
    lines[:] = "\n".join(lines).split("\n")


def without_private(app, what, name, obj, options, signature, returned):
    """A signature without the private fields of a dataclass."""
    return re.sub(r", _\w+: [^,=]+ = None", "", signature or "") or None, returned


def name_role(role, rawtext, text, lineno, inliner, options=None, content=None):
    """What stands in single backticks: a link if it is a name of ours, and else code."""
    literal = nodes.literal(rawtext, text, classes=["py", "py-obj"])
    if not re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", text):
        return [literal], []
    env = inliner.document.settings.env
    link = addnodes.pending_xref(
        rawtext,
        literal,
        refdomain="py",
        reftype="obj",
        refexplicit=False,
        refwarn=False,
        refdoc=env.docname,
        reftarget=text.removesuffix("()"),
        **{key: env.ref_context.get(key) for key in ("py:module", "py:class")},
    )
    return [link], []


def front_door(app, exception):
    """A page at the top of the site that leads to the index."""
    if exception is None and app.builder.format == "html":
        target = f"{root_doc}.html"
        (Path(app.outdir) / "index.html").write_text(
            f'<!doctype html><meta charset="utf-8"><title>{project}</title>'
            f'<meta http-equiv="refresh" content="0; url={target}">'
            f'<a href="{target}">{project}</a>\n',
            "utf-8",
        )


def setup(app):
    """Called by Sphinx."""
    app.add_role("name", name_role)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("source-read", contents)
    app.connect("autodoc-process-docstring", paragraphs, priority=100)
    app.connect("autodoc-process-signature", without_private)
    app.connect("build-finished", front_door)
