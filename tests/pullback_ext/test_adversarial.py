"""Documented error bounds against rows that are made to break them (adversarial.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pullback_ext
from tests.pullback_ext import adversarial
from tests.pullback_ext.adversarial import BACKENDS, GRAM, LOSS
from tests.pullback_ext.emulation import emulated
from tests.pullback_ext.emulation.emulated import FLOAT32, FLOAT64

KERNELS = ["native", "portable", "cuda"]
pytestmark = [
    pytest.mark.usefixtures("native"),
    pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler"),
]


@pytest.fixture(scope="module", params=KERNELS)
def backend(request):
    return BACKENDS[request.param]()


@pytest.mark.parametrize("steps", [-16, -15, 14, 1])
@pytest.mark.parametrize("columns", [512, 1024, 1025, 4096])
def test_rows_of_equal_entries_have_the_products_that_are_promised(backend, columns, steps):
    block = adversarial.equal_entries(columns, 3, steps).astype(np.float32)
    assert adversarial.gram_error(FLOAT32, backend.gram(FLOAT32, block), block) < GRAM


@pytest.mark.parametrize("period", [64, 512, 1024])
@pytest.mark.parametrize("width", [1, 8, 16])
def test_sums_that_are_always_rounded_up_stay_within_the_bound(backend, width, period):
    """A large product, then halves of its last digit: no order of so many has a larger error."""
    at = np.arange(2048) % period
    small = np.where(at < 8 * width, 2.0**-24, 2.0**-27)
    row = np.sqrt(np.where(at < width, 1.0, small * (1 + 2.0**-20)))
    block = np.tile(row, (1, 2, 1)).astype(np.float32)
    assert adversarial.gram_error(FLOAT32, backend.gram(FLOAT32, block), block) < GRAM


@pytest.mark.parametrize("run", [16, 64, 128, 512])
@pytest.mark.parametrize("steps", [14, -9])
def test_shifted_rows_become_as_orthonormal_as_promised(backend, run, steps):
    block = adversarial.shifted_rows(1024, run, steps).astype(np.float32)
    assert adversarial.loss(backend.orthonormalize(FLOAT32, block, None)[0]) < LOSS[False]


@pytest.mark.parametrize("k", [16, 64])
def test_errors_of_many_rows_do_not_add_up(backend, k):
    """Entries x and -y whose squares round up and whose product rounds down, in every pair."""
    pattern = adversarial.signs(k, 1024, 8)
    for x, y in [(1 - 16 * 2.0**-23, 1 + 5 * 2.0**-23), (1 + 3 * 2.0**-23, 1 - 2.0**-23)]:
        block = np.where(pattern > 0, x, -y)[None].astype(np.float32)
        q, _ = backend.orthonormalize(FLOAT32, block, None)
        assert adversarial.loss(q) < LOSS[False]


@pytest.mark.parametrize(("k", "s"), [(20, 0.81), (30, 0.95), (60, 0.99)])
def test_the_span_is_kept_as_promised_where_errors_grow_from_row_to_row(backend, k, s):
    directions = emulated.orthonormal_rows(np.random.default_rng(k), 1, k, 400, np.float64)[0]
    block = (adversarial.kahan(k, s) @ directions).astype(np.float32)
    assert np.linalg.cond(block.astype(np.float64)) < 1e6
    q, _ = backend.orthonormalize(FLOAT32, block[None], None)
    assert adversarial.loss(q) < LOSS[False]
    assert adversarial.away(block.astype(np.float64), q[0].astype(np.float64)).max() < 1e-5


def test_the_plain_torch_twins_keep_the_same_bounds():
    gram, orthonormalize = pullback_ext.reference.gram, pullback_ext.reference.orthonormalize
    for drawn in adversarial.named():
        block = torch.from_numpy(drawn.block)
        assert adversarial.gram_error(FLOAT32, gram(block).numpy(), drawn.block) < GRAM
        assert adversarial.loss(orthonormalize(block)[0].numpy()) < LOSS[False]


@pytest.mark.cuda
def test_a_gpu_keeps_the_same_bounds():
    rng = np.random.default_rng(0)
    for drawn in [*adversarial.named(), *(adversarial.draw(rng) for _ in range(500))]:
        block = torch.from_numpy(emulated.wide(drawn.dtype, drawn.block)).cuda()
        block = block if drawn.dtype == FLOAT64 else block.float()
        against = None if drawn.against is None else torch.from_numpy(drawn.against).cuda()
        if drawn.dtype != FLOAT64:
            got, wide = pullback_ext.gram(block).cpu().numpy(), block.cpu().numpy()
            assert adversarial.gram_error(FLOAT32, got, wide) < GRAM, drawn.kind
        q = pullback_ext.orthonormalize(block, against).q.cpu().numpy()
        assert adversarial.loss(q, drawn.against) < LOSS[drawn.dtype == FLOAT64], drawn.kind


# -------------------------------------------------------------------------------------- the search


def test_a_search_finds_no_block_that_breaks_a_bound(backend):
    seen = adversarial.run(backend, 150, seed=1)
    assert seen.failures == []


@pytest.mark.parametrize(
    ("name", "environment"),
    [("native", {"PULLBACK_ISA": "avx2"}), ("torch", {"PULLBACK_EXT_DISABLE": "1"})],
    ids=["avx2", "torch"],
)
def test_a_search_on_what_is_chosen_by_the_environment(python, native, name, environment):
    if "PULLBACK_ISA" in environment and native.build_info()["isa_in_use"] != "avx512":
        pytest.skip("AVX2 is what `native` runs here")
    report = search(python, name, 1000, **environment)
    assert report["isa"] == (environment.get("PULLBACK_ISA"))


def search(python, name, blocks, **environment):
    where = [str(Path(pullback_ext.__file__).parents[1]), str(Path(__file__).parents[2])]
    command = ["-m", "tests.pullback_ext.adversarial", "--backend", name, "--blocks", str(blocks)]
    result = python(*command, path=":".join(where), timeout=600, check=False, **environment)
    report = json.loads(result.stdout)
    assert report["failures"] == []
    assert result.returncode == 0
    assert report["blocks"] >= blocks
    # The search is worth something as long as it comes close to what is promised of gram.
    assert name == "torch" or report["gram"] > 0.5 * GRAM
    return report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks"), [("native", 10_000), ("portable", 5000), ("cuda", 1000)]
)
def test_a_long_search_finds_no_block_that_breaks_a_bound(python, name, blocks):
    search(python, name, blocks)
