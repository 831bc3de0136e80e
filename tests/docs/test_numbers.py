"""The figures of the README's table are those of the run that is kept beside the benchmarks."""

import json
import re

from tests.docs.documents import ROOT

RESULTS = ROOT / "benchmarks/results/basis-amd-epyc-2-threads.json"
METHODS = ["published_default", "published_accurate", "subspace", "ours", "ours_single"]


def test_the_table_against_the_published_loop_is_the_run_that_is_kept():
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("## Against the published loop")[2].partition("\n## ")[0]
    assert RESULTS.name in section
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    kept = json.loads(RESULTS.read_text("utf-8"))["basis"]["methods"]
    for row, name in zip(rows, METHODS, strict=True):
        _, ratio, products, sine = (cell.strip() for cell in row.strip("|").split("|"))
        method = kept[name]
        wanted = method["ratio_to_ours"], method["seconds_per_sample"]["median"]
        shown = [float(number) for number in re.findall(r"[\d.]+(?=\D|$)", ratio)]
        assert shown == [round(wanted[0], 1), round(wanted[1], 3)][: len(shown)], row
        for cell, key in ((products, "products_per_direction"), (sine, "sine")):
            median, worst = (float(part) for part in re.fullmatch(r"(.+) \((.+)\)", cell).groups())
            assert abs(median - method[key]["median"]) <= 0.05 * median, row
            assert abs(worst - method[key]["max"]) <= 0.05 * worst, row
