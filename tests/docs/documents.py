"""The documents of the project, their snippets and headings, and how outputs are compared."""

import re
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs"
# Built environments and outputs may hold documents of other people.
FOLDERS = ("docs", "examples", "csrc", "benchmarks", "python", "pullback_ext", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))])
MODEL_CARD = ROOT / "python/pullback/zoo/digits/README.md"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
#: Lines whose numbers depend on the machine's rounding by more than the last digit.
LOOSE = re.compile(r"^(bound|products)\b|tangents a pass")


def named(path):
    return str(path.relative_to(ROOT))


def prose(path):
    """A document without its code blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def snippets(path):
    """Python blocks of a document with the text block that follows each, and their lines."""
    text = path.read_text(encoding="utf-8")
    blocks = [
        (m[1], m[2], text.count("\n", 0, m.start()) + 2, m.start(), m.end())
        for m in FENCE.finditer(text)
    ]
    found = []
    for here, following in pairwise([*blocks, None]):
        if here[0] != "python":
            continue
        printed = ""
        if following and following[0] == "text" and not text[here[4] : following[3]].strip():
            printed = following[1]
        found.append((here[1], printed, here[2]))
    return found


def headings(path, level="#+"):
    return re.findall(rf"^{level} (.+)$", prose(path), re.MULTILINE)


def slug(heading):
    """A heading as links name it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def same_output(expected, got):
    """Whether two outputs agree, up to the last digits of numbers and to spacing."""
    lines, seen = expected.rstrip().splitlines(), got.rstrip().splitlines()
    return len(lines) == len(seen) and all(map(same_line, lines, seen))


def same_line(expected, got):
    if NUMBER.sub("#", expected).split() != NUMBER.sub("#", got).split():
        return False
    for want, have in zip(NUMBER.findall(expected), NUMBER.findall(got), strict=True):
        a, b = float(want), float(have)
        if LOOSE.search(expected):
            close = b <= 2 * a and a <= 2 * b
        elif "." in want:
            digits = len(want.partition(".")[2])
            close = abs(a - b) <= max(1.01 * 10**-digits, 0.01 * abs(a))
        else:
            close = a == b
        if not close:
            return False
    return True
