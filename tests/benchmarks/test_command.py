import json
import math

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.orthonormalize import block_of_condition
from pullback.directions import VARIANTS
from pullback.zoo.digits import directions_report, tables
from tests.zoo.results import intervals_of

METHODS = ("published_default", "published_accurate", "subspace", "ours", "ours_single")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What the quick run of everything printed and wrote."""
    path = tmp_path_factory.mktemp("results") / "new" / "all.json"
    # One thread: what is measured does not matter here, and neighbours may be using the others.
    result = CliRunner().invoke(
        app,
        ["all", "--quick", "--threads", "1", "--output", str(path)],
        env={"COLUMNS": "200"},
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    assert [p.name for p in path.parent.iterdir()] == ["all.json"]
    return result.output, json.loads(path.read_text("utf-8"))


@pytest.fixture(autouse=True, scope="module")
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_environment_is_written(quick):
    environment = quick[1]["environment"]
    assert environment["torch"] == torch.__version__
    for name in (
        "date", "device", "cpu", "threads", "cores", "load_average", "load_average_at_end",
        "python", "diffusers", "pullback", "pullback_ext", "platform",
    ):  # fmt: skip
        assert environment[name] not in (None, "", []), name
    assert environment["threads"] == 1
    assert quick[1]["quick"] is True


def test_every_method_has_its_figures(quick):
    basis = quick[1]["basis"]
    assert tuple(basis["methods"]) == METHODS
    for name, method in basis["methods"].items():
        for key in ("seconds_per_sample", "products_per_direction", "sine"):
            values = method[key]
            assert len(values["all"]) == basis["settings"]["samples"], (name, key)
            assert values["min"] <= values["median"] <= values["max"], (name, key)
            assert all(math.isfinite(value) for value in values["all"]), (name, key)
        assert method["seconds_per_sample"]["min"] > 0
        assert method["peak_bytes"] > 0
        assert method["ratio_to_ours"] > 0
    assert basis["methods"]["ours"]["ratio_to_ours"] == 1
    assert basis["problem"]["n"] == math.prod(basis["problem"]["x_shape"])


def test_the_published_loop_kept_to_its_budget(quick):
    settings, methods = (quick[1]["basis"][key] for key in ("settings", "methods"))
    default, accurate = methods["published_default"], methods["published_accurate"]
    assert default["iterations"]["max"] == settings["default_iterations"]
    assert default["products_per_direction"]["max"] == 2 * settings["default_iterations"]
    assert accurate["iterations"]["max"] <= settings["iteration_cap"]


def test_angles_have_their_figures(quick):
    angles = quick[1]["angles"]
    for row in angles["values"]:
        assert 0 <= row["error_in_eps"] < 40
        for name in ("ours", "batched", "loop"):
            assert 0 < row["seconds_per_matrix"][name]["min"] < math.inf
    for row in angles["products"]:
        assert row["error"]["gram"] < 1e-6
        assert row["ratio_to_gram"]["gram"]["min"] == 1


def test_ours_is_accurate_and_single_samples_give_the_same(quick):
    settings, methods = (quick[1]["basis"][key] for key in ("settings", "methods"))
    for name in ("ours", "ours_single"):
        assert methods[name]["sine"]["max"] <= settings["tol"]
        assert methods[name]["stopped"] == {"converged": settings["samples"]}


def test_a_loop_that_gave_up_is_named(quick):
    text, results = quick
    basis = results["basis"]
    assert basis["methods"]["published_accurate"]["stopped"] == {"max_iter": 2}
    assert "given up" in basis["targets"][0]["note"]
    assert "2 samples stopped at 4 iterations" in text


def test_targets_are_marked_and_never_fail(quick):
    text, results = quick
    targets = results["basis"]["targets"]
    assert [target["asked"] for target in targets] == [">= 90", ">= 35", "<= 11"]
    for target in targets:
        assert target["name"] in text
        assert isinstance(target["met"], bool)
    assert "met" in text


def test_profiles_have_their_figures(quick):
    rows = quick[1]["profile"]["cases"]
    assert [row["case"] for row in rows] == ["digits", "unet"]
    for row in rows:
        shares = [work["share"] for work in row["profile"]["kinds"].values()]
        assert sum(shares) == pytest.approx(1)
        assert row["looks"] >= sum(row["sampled"].values()) - 1e-9
    assert len(quick[1]["profile"]["targets"]) == 6


def test_products_have_their_figures(quick):
    text, results = quick
    products = results["products"]
    assert [row["case"] for row in products["cases"]] == [
        "digits",
        "unet",
        "unet without attention",
    ]
    for row in products["cases"]:
        assert set(row["forwards"]) == set(row["peak_bytes"])
        assert row["forwards"]["forward"] == 1
        assert all(0 < value < math.inf for value in row["forwards"].values())
        assert max(row["difference"].values()) < 1e-5
        assert row["kept_bytes"] > 0
    (normalisation,) = products["normalisation"]
    assert normalisation["copies"]["copy"] == 1
    assert len(products["targets"]) == 2 * len(products["cases"])
    assert 0 < results["basis"]["ceiling"]["ratio_of_the_published_loop"] < math.inf
    assert "Forward passes that a column costs" in text


def test_edits_are_the_same_images_by_every_method(quick):
    text, results = quick
    edits = results["edits"]
    settings = edits["settings"]
    assert edits["problem"]["edits"] == 12
    assert list(edits["methods"]) == ["loop", "ours", "ours_few"]
    for method in edits["methods"].values():
        assert method["largest_difference"] < 1e-4
        assert len(method["seconds_per_edit"]["all"]) == settings["samples"]
        ratio = method["ratio_to_ours"]
        assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
        assert method["label"] in text
    assert edits["methods"]["ours"]["ratio_to_ours"]["median"] == 1
    assert [edits["methods"][name]["rows"] for name in ("loop", "ours", "ours_few")] == [1, 12, 2]
    peaks = {name: method["peak_bytes"] for name, method in edits["methods"].items()}
    assert peaks["loop"] < peaks["ours_few"] < peaks["ours"]


def test_gram_rows(quick):
    gram = quick[1]["gram"]
    assert gram["copy_bytes_per_s"] > 0
    assert [row["product"] for row in gram["rows"]] == ["a b^T", "a a^T"] * 2
    for row in gram["rows"]:
        assert set(row["seconds"]) == {"gram", "bmm_float32", "bmm_float64"}
        assert row["error"]["gram"] < 1e-6
        assert 0 < row["seconds"]["gram"]["min"] <= row["seconds"]["gram"]["median"]
        assert row["bandwidth_fraction"] > 0


def test_rows_of_orthonormalize(quick):
    text, results = quick
    found = results["orthonormalize"]
    assert [row["condition"] for row in found["blocks"]] == [None, 1e4, 1e6]
    for row in found["blocks"]:
        assert row["loss"]["ours"] < 1e-5
        assert row["ratio_to_ours"]["ours"] == {"min": 1, "median": 1}
        assert row["ratio_to_ours"]["qr"]["min"] > 0
        assert min(row["passes"]) >= (1 if row["condition"] is None else 2)
    assert [row["size"] for row in found["steps"]] == [[2, 5, 20, 256]]
    assert found["steps"][0]["ratio_to_ours"]["min"] > 0
    assert [target["name"] for target in found["targets"]] == [
        "times faster than torch.linalg.qr, least of the random blocks",
        "times faster than torch.linalg.qr, least of the ill-conditioned blocks",
    ]
    assert all(target["name"] in text for target in found["targets"])


def test_the_share_of_block_algebra(quick):
    text, results = quick
    algebra = results["basis"]["algebra"]
    assert 0 < algebra["seconds"] < algebra["solver_seconds"]
    assert 0 < algebra["share"] < 1
    assert "Block algebra takes" in text


def test_blocks_have_the_condition_that_is_asked_for():
    block = block_of_condition((2, 7, 300), 1e4, torch.device("cpu"))
    values = torch.linalg.svdvals(block.double())
    torch.testing.assert_close(
        values[:, 0] / values[:, -1], torch.full((2,), 1e4).double(), rtol=1e-2, atol=0
    )


def test_attention_has_its_figures(quick):
    text, results = quick
    found = results["attention"]
    assert [row["case"]["queries"] for row in found["cases"]] == [33, 64]
    for row in found["cases"]:
        for name in ("J", "JT"):
            ratio = row["ratio"][name]
            assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
            assert 0 < row["difference"][name] < 1e-5
            assert min(row["seconds"][name].values()) > 0
    few, many = found["memory"]
    assert 0 < few["ours"] < many["ours"] < 3 * few["ours"]
    assert few["materialised"] > few["ours"]
    assert many["materialised"] is None  # four times as much would not fit
    [target] = found["targets"]
    assert target["name"] in text
    assert target["asked"] == ">= 3.5"


def test_pairs_and_transport_have_their_figures(quick):
    output, results = quick
    [size] = results["pairs"]["sizes"]
    assert size["pairs"] == 66
    assert all(seconds > 0 for seconds in size["seconds"].values())
    assert 0 < size["ratio_of_the_loop"]["min"] <= size["ratio_of_the_loop"]["max"]
    carried = results["transport"]
    assert carried["published"]["products_per_target"] == 2 * 3 * 3 + 3
    assert carried["ratio"]["min"] > 0
    # Three iterations of the loop do not make a basis; both must look the same way all the same.
    assert carried["cosine_of_directions"]["min"] > 0.3
    assert "one direction to 4 targets" in output


def test_every_way_to_find_directions_has_its_ratios(quick):
    text, results = quick
    rows = {row["name"]: row for row in results["finding"]["rows"]}
    assert list(rows) == [
        "spectral",
        "local",
        "boundary, h at t = 999",
        "boundary, h at t = 499",
        "boundary, h of all 2 steps",
        "boundary, planted",
    ]
    for name, row in rows.items():
        published = row["methods"]["published"]
        names = ["ours"] if name.startswith("boundary") else ["ours", "ours_single"]
        assert list(row["methods"]) == ["published", *names]
        for ours in (row["methods"][one] for one in names):
            over = ours["published_over_this"]
            assert 0 < over["seconds"]["min"] <= over["seconds"]["median"] <= over["seconds"]["max"]
            assert over["peak_bytes"] > 0
            # Few iterations of the published loops do not come close; ours is at its tolerance.
            assert ours["sine"]["max"] < 5e-3
            assert ours["sine"]["max"] < published["sine"]["max"]
            gap = published["sine"]["max"] - ours["sine_to_published"]["max"]
            assert abs(gap) <= ours["sine"]["max"] + 1e-6
        assert name.partition(",")[0] in text
    # Two iterations of two vectors; and of one direction and one of the rest.
    for name in ("spectral", "local"):
        products = rows[name]["methods"]["published"]["products_per_sample"]
        assert products["median"] == 2 * 2 * 2
    assert rows["local"]["shapes"]["region"] == 36
    assert rows["boundary, planted"]["shapes"] == {"samples": 16, "entries": 3000}


def test_components_of_trajectories_have_their_figures(quick):
    text, results = quick
    found = results["pca"]
    [stream] = found["streams"]
    assert stream["extra"] is None
    assert stream["bound_holds"]
    assert "The bound by what was lost holds" in text
    assert stream["memory"]["before"] < stream["memory"]["peak"]
    assert len(stream["deviations"]) == len(stream["sines"]) == found["settings"]["rank"]
    assert 0 < stream["sine_of_span"] <= max(stream["sines"]) * math.sqrt(5)
    assert len(found["problem"]["gaps"]) == found["settings"]["rank"]
    for target in found["targets"]:
        assert target["name"] in text


def test_large_runs_have_their_figures(quick):
    text, results = quick
    runs = results["runs"]
    assert [row["batch"] for row in runs["batches"]] == [1, 2]
    assert [row["rank"] for row in runs["ranks"]] == [2, 3]
    for row in (*runs["batches"], *runs["ranks"]):
        assert row["seconds_per_sample"] > 0
        assert row["products_per_direction"] > 2
    assert runs["long"]["bases"] == runs["long"]["converged"] == 8
    assert len(runs["long"]["resident"]) == 4
    assert runs["protocol"]["plain_seconds_per_basis"] > 0
    kills = results["kills"]
    assert sum(kills["kills"].values()) == 1
    assert kills["same"]
    assert kills["written_again"] == 0
    assert "Killed at random moments: 1 of" in text


def test_every_way_is_judged(quick):
    found = quick[1]["directions"]
    ways = {row["way"]: row for row in found["ways"]}
    assert len(ways) == 16
    assert {row["space"] for row in ways.values()} == {"x", "h"}
    assert ways["attention, v"]["samples"] == 0
    assert ways["attention, v"]["products"] == 0
    assert ways["pullback, local"]["products"] > 10
    assert ways["toward a condition"]["products"] < 5
    # Labels that are shuffled cost what labels cost.
    assert ways["labels shuffled, mean"]["rows"] == ways["supervised, mean"]["rows"] > 24 * 3
    for row in ways.values():
        assert row["energy"]["mean"] > 0
        assert 0 < row["linearity"]["mean"] <= 1
        assert 0 <= row["inside"]["low"] <= row["inside"]["high"] <= 1
        assert -1 <= row["transfer"]["low"] <= row["transfer"]["high"] <= 1
        assert row["effect_less_noise"]["mean"] == pytest.approx(
            row["effect"]["mean"] - row["noise_effect"]["mean"]
        )


def test_masked_ways_change_their_region_more(quick):
    """Half of the image is the region; to change the whole evenly is 0.5."""
    found = quick[1]["directions"]
    ways = {row["way"]: row["inside"]["mean"] for row in found["ways"]}
    assert ways["local, joint"] > ways["pullback, local"]


def test_all_variants_of_attention_are_there(quick):
    found = quick[1]["directions"]
    assert len(found["variants"]) == len(VARIANTS)
    assert len(found["places"]) == 2 * (4 * 3 + 3)
    sites = {(row["layer"], row["site"]) for row in found["places"]}
    assert len(sites) == 12
    assert len({tuple(row["window"]) for row in found["places"]}) == 4


def test_intervals_contain_their_means(quick):
    found = quick[1]["directions"]
    told = list(intervals_of(found))
    assert len(told) > 16 * 12
    assert all(one["low"] - 1e-9 <= one["mean"] <= one["high"] + 1e-9 for one in told)


def test_tables_and_picture_are_made_of_results(quick, tmp_path):
    kept = tmp_path / "found.json"
    kept.write_text(json.dumps(quick[1]["directions"]))
    page = tmp_path / "page.md"
    command = directions_report.REPORT.command
    page.write_text(
        "".join(
            f"{tables.mark(command, name)}\n<!-- end of table -->\n"
            for name in directions_report.TABLES
        )
    )
    picture = tmp_path / "curves.png"
    directions_report.REPORT.write(kept, page, picture)
    text = page.read_text("utf-8")
    assert "| supervised, lda | feature | slant |" in text
    assert text.count("| way |") == 4
    assert picture.stat().st_size > 20_000
