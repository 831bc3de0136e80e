"""`orthonormalize` and `block_step` through the public functions, on every device there is."""

import json
from pathlib import Path

import pytest
import torch

import pullback_ext
from pullback_ext import block_step, orthonormalize, reference

pytestmark = pytest.mark.usefixtures("native")

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def allowed(dtype):
    return 1e-12 if dtype == torch.float64 else 1e-5


def rows(rng, device, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(device, dtype)


def unit(rng, device, batch, count, columns, dtype=torch.float32):
    if count == 0:
        return rows(rng, device, batch, 0, columns, dtype=dtype)
    wide = torch.randn(batch, columns, count, generator=rng, dtype=torch.float64)
    return torch.linalg.qr(wide)[0].mT.to(device, dtype)


def loss(q, against=None):
    q = q.double()
    stack = q if against is None else torch.cat([against.double(), q], dim=1)
    overlap = q @ stack.mT
    overlap[:, :, -q.shape[1] :] -= torch.eye(q.shape[1], dtype=q.dtype, device=q.device)
    return float(torch.linalg.matrix_norm(overlap).max())


# -------------------------------------------------------------------------------- against the twin


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("batch", "k", "p", "columns"),
    [
        (1, 1, 0, 1),
        (2, 10, 0, 257),
        (3, 5, 40, 256),
        (1, 33, 7, 4097),
        (2, 100, 3, 301),
        (1, 2, 0, 2),
    ],
)
def test_agrees_with_the_reference(rng, device, dtype, batch, k, p, columns):
    block = rows(rng, device, batch, k, columns, dtype=dtype)
    work = reference.working_dtype(dtype)
    others = unit(rng, device, batch, p, columns, work)
    got = orthonormalize(block, others)
    want = reference.orthonormalize(block, others)
    assert got.q.dtype == work
    assert got.q.is_contiguous()
    assert (got.rank.dtype, got.replaced.dtype, got.passes.dtype) == (
        torch.int64, torch.bool, torch.int32,
    )  # fmt: skip
    assert loss(got.q, others) < allowed(dtype)
    # Rows are unique, signs included; how well they are determined goes with the condition number.
    assert float((got.q.double() - want[0].double()).norm(dim=2).max()) < 30 * allowed(dtype)
    assert torch.equal(got.rank, want[1])
    assert torch.equal(got.replaced, want[2])
    assert bool((got.passes >= (2 if p else 1)).all())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("k", "p", "d", "columns"), [(5, 5, 35, 256), (10, 10, 0, 999), (3, 0, 0, 50)]
)
def test_a_step_says_what_the_block_was(rng, device, dtype, k, p, d, columns):
    work = reference.working_dtype(dtype)
    w = rows(rng, device, 2, k, columns, dtype=dtype)
    both = unit(rng, device, 2, d + p, columns, work)
    basis, old = both[:, :d], both[:, d:]
    step = block_step(w, old, basis, 7)
    whole = step.residual @ step.q.double() + step.projection.mT @ both.double()
    size = w.double().norm(dim=2).max()
    assert float((whole - w.double()).norm(dim=2).max() / size) < allowed(dtype)
    want = both.double() @ w.double().mT
    torch.testing.assert_close(step.projection, want, rtol=0, atol=float(size) * allowed(dtype))
    assert torch.equal(step.residual, step.residual.tril())
    assert bool((step.residual.diagonal(dim1=1, dim2=2) > 0).all())
    alone = orthonormalize(w, both, 7)
    for ours, theirs in zip((step.q, step.rank, step.replaced, step.passes), alone, strict=True):
        assert torch.equal(ours, theirs)


# ---------------------------------------------------------------------------------- difficult rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dependent_rows_are_replaced_and_flagged(rng, device, dtype):
    block = rows(rng, device, 3, 6, 90, dtype=dtype)
    block[0, 2] = 0
    block[1, 4] = -3 * block[1, 1]
    block[2] = block[2, :1]
    others = unit(rng, device, 3, 4, 90, dtype)
    block[0, 5] = (torch.arange(4.0, device=device).to(dtype) @ others[0]) * 1e20
    got = orthonormalize(block, others)
    want = torch.zeros(3, 6, dtype=torch.bool)
    want[0, 2] = want[0, 5] = want[1, 4] = True
    want[2, 1:] = True
    assert torch.equal(got.replaced.cpu(), want)
    assert got.rank.tolist() == [4, 5, 1]
    assert loss(got.q, others) < allowed(dtype)


def test_random_rows_come_from_the_seed_alone(rng, device):
    block = torch.zeros(4, 3, 40, device=device)
    q = orthonormalize(block, seed=5).q
    assert torch.equal(q, q[:1].expand_as(q))
    assert torch.equal(orthonormalize(block[:1], seed=5).q, q[:1])
    other = orthonormalize(block, seed=6).q
    assert float((q @ other.mT).abs().max()) < 0.9
    assert loss(q) < 1e-5


def test_seeds_have_64_bits(device):
    block = torch.zeros(1, 2, 10, device=device)
    assert not torch.equal(orthonormalize(block, seed=-1).q, orthonormalize(block, seed=1).q)
    with pytest.raises(ValueError, match="64 bits"):
        orthonormalize(block, seed=2**63)


def test_weak_directions_are_kept_and_not_replaced(rng, device):
    direction = unit(rng, device, 1, 2, 500, torch.float64)
    strong, weak = direction[:, :1], direction[:, 1:]
    block = torch.cat([strong, strong + 1e-5 * weak], dim=1).float()
    got = orthonormalize(block)
    assert not bool(got.replaced.any())
    exact = torch.linalg.qr(block.double().mT)[0].mT
    assert float((got.q.double() @ exact.mT).abs()[0, 1, 1]) > 1 - 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["powers", "exponentials", "cosines"])
@pytest.mark.parametrize(("k", "columns"), [(128, 128), (128, 129), (256, 300)])
def test_smooth_rows_become_orthonormal(device, dtype, name, k, columns):
    x = torch.linspace(0.01, 1, columns, dtype=torch.float64, device=device)
    i = torch.arange(k, dtype=torch.float64, device=device).unsqueeze(1)
    block = {"powers": x**i, "exponentials": torch.exp(-i * x), "cosines": torch.cos(i * x)}[name]
    got = orthonormalize(block.unsqueeze(0).to(dtype))
    assert loss(got.q) < allowed(dtype)


def test_a_step_accounts_for_smooth_rows(device):
    x = torch.linspace(0.01, 1, 300, device=device)
    w = (x ** torch.arange(256, device=device).unsqueeze(1)).unsqueeze(0)
    step = block_step(w, w[:, :0], w[:, :0])
    gap = (step.residual @ step.q.double() - w.double()).norm(dim=2) / w.double().norm(dim=2)
    assert float(gap.max()) < 1e-4


@pytest.mark.parametrize("size", [1e37, 1e-41, 1e19, 1e-22])
def test_rows_of_any_size(rng, device, size):
    block = rows(rng, device, 2, 7, 300)
    scaled = (block.double() * size).float()
    got = orthonormalize(scaled)
    assert loss(got.q) < 1e-5
    assert got.rank.tolist() == [7, 7]
    exact = torch.linalg.qr(scaled.double().mT)[0].mT
    assert (
        float((got.q.double() - exact * torch.sign((got.q * exact).sum(2, True))).abs().max())
        < 1e-5
    )


def test_powers_of_two_change_no_bit(rng, device):
    block = rows(rng, device, 1, 5, 200)
    scale = 2.0 ** torch.tensor([0, 30, -30, 60, -60], device=device)
    assert torch.equal(orthonormalize(block * scale[:, None]).q, orthonormalize(block).q)
    powers = torch.tensor([0, 300, -300, 900, -900], device=device, dtype=torch.float64)
    wide = block.double() * 2.0 ** powers[:, None]
    assert torch.equal(orthonormalize(wide).q, orthonormalize(block.double()).q)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_not_finite_is_refused_before_any_work(rng, value, dtype):
    block = rows(rng, "cpu", 2, 3, 50, dtype=dtype)
    block[1, 2, 49] = value
    others = unit(rng, "cpu", 2, 2, 50, reference.working_dtype(dtype))
    text = "row 2 of sample 1 of block"
    with pytest.raises(RuntimeError, match=text):
        orthonormalize(block, others)
    with pytest.raises(RuntimeError, match=text):
        reference.orthonormalize(block, others)
    with pytest.raises(RuntimeError, match="row 2 of sample 1 of w"):
        block_step(block, others, others[:, :0])
    good = torch.where(block.isfinite(), block, 0)
    others[0, 1, 3] = value
    with pytest.raises(RuntimeError, match="row 1 of sample 0 of against"):
        orthonormalize(good, others)
    with pytest.raises(RuntimeError, match="row 0 of sample 0 of v_old"):
        block_step(good, others[:, 1:], others[:, :1])


@pytest.mark.cuda
def test_what_is_not_finite_is_flagged_on_cuda(rng):
    block = rows(rng, "cuda", 2, 3, 50)
    block[1, 2, 49] = float("nan")
    got = orthonormalize(block)
    assert got.replaced.tolist() == [[False] * 3, [False, False, True]]
    assert got.passes[0] > 0 > got.passes[1]
    assert loss(got.q) < 1e-5
    others = unit(rng, "cuda", 2, 2, 50)
    others[0, 1, 3] = float("inf")
    assert (orthonormalize(torch.nan_to_num(block), others).passes > 0).tolist() == [False, True]


# ------------------------------------------------------------------------- layout, batch, threads


def test_strides_and_the_rest_of_the_batch_change_no_bit(rng, device):
    block = rows(rng, device, 3, 9, 3001)
    block[1, 4] = block[1, 0]  # more passes for one sample than for the others
    others = unit(rng, device, 3, 12, 3001)
    want = block_step(block, others[:, 7:], others[:, :7], 3)
    padded = torch.full((3, 18, 9003), float("nan"), device=device)
    padded[:, ::2, ::3] = block
    layouts = [
        padded[:, ::2, ::3],
        block.mT.contiguous().mT,
        block.transpose(0, 1).contiguous().transpose(0, 1),
    ]
    for other in layouts:
        assert other.stride() != block.stride()
        swapped = others.mT.contiguous().mT
        got = block_step(other, swapped[:, 7:], swapped[:, :7], 3)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    for i in range(3):
        alone = block_step(block[i : i + 1], others[i : i + 1, 7:], others[i : i + 1, :7], 3)
        assert all(torch.equal(a, b[i : i + 1]) for a, b in zip(alone, want, strict=True))
    expanded = block[:1].expand(3, -1, -1)
    got = orthonormalize(expanded, others[:1].expand(3, -1, -1))
    assert torch.equal(got.q, orthonormalize(block[:1], others[:1]).q.expand(3, -1, -1))


def test_threads_change_no_bit(rng):
    block = rows(rng, "cpu", 5, 20, 9000)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(orthonormalize(block).q)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_the_input_is_left_alone(rng, device):
    block, others = rows(rng, device, 2, 4, 60), unit(rng, device, 2, 3, 60)
    before = block.clone(), others.clone()
    orthonormalize(block, others)
    block_step(block, others, others[:, :0])
    assert torch.equal(block, before[0])
    assert torch.equal(others, before[1])


@pytest.mark.cuda
def test_can_be_captured_in_a_cuda_graph(rng):
    block, others = rows(rng, "cuda", 3, 6, 700), unit(rng, "cuda", 3, 8, 700)
    want = block_step(block, others[:, 4:], others[:, :4])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = block_step(block, others[:, 4:], others[:, :4])
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


# ------------------------------------------------------------------------------ shapes and refusals


@pytest.mark.parametrize("shape", [(0, 3, 10), (2, 0, 10), (2, 0, 0), (0, 0, 0)])
def test_empty_blocks(device, shape):
    got = orthonormalize(torch.zeros(shape, device=device))
    assert got.q.shape == shape
    assert got.rank.tolist() == [0] * shape[0]
    assert got.replaced.shape == shape[:2]
    assert got.passes.tolist() == [0] * shape[0]
    step = block_step(
        *[torch.zeros(shape, device=device)] * 2, torch.zeros(shape[0], 0, shape[2], device=device)
    )
    assert step.projection.shape == (shape[0], shape[1], shape[1])


BLOCK = torch.ones(2, 3, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BLOCK[0],), r"expected block of shape \[B, k, N\], got \[3, 10\]"),
        ((BLOCK.long(),), "float32, float64, float16 or bfloat16, got int64"),
        ((torch.ones(1, 257, 300),), "at most 256 rows in block, got 257"),
        ((torch.ones(1, 11, 10),), "at most N = 10 rows in all, got 11 in block and 0"),
        ((BLOCK, torch.ones(2, 8, 10)), "got 3 in block and 8 to be orthogonal to"),
        ((BLOCK, torch.ones(1, 2, 10)), r"against of shape \[2, p, 10\].*got \[1, 2, 10\]"),
        ((BLOCK, torch.ones(2, 2, 9)), r"against of shape \[2, p, 10\].*got \[2, 2, 9\]"),
        ((BLOCK, torch.ones(2, 10)), r"against of shape \[2, p, 10\].*got \[2, 10\]"),
        ((BLOCK, torch.ones(2, 2, 10).double()), "against of dtype float32.*got float64"),
        ((BLOCK.double(), torch.ones(2, 2, 10)), "against of dtype float64.*got float32"),
        ((BLOCK.half(), torch.ones(2, 2, 10).half()), "against of dtype float32.*got float16"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(RuntimeError, match="orthonormalize: .*" + message):
        orthonormalize(*arguments)
    with pytest.raises(RuntimeError, match="orthonormalize: .*" + message):
        reference.orthonormalize(*arguments)
    step = message.replace("against", "basis").replace("block", "w")
    if len(arguments) == 2:
        arguments = (
            arguments[0],
            BLOCK[:, :0].to(reference.working_dtype(arguments[0].dtype)),
            arguments[1],
        )
    else:
        arguments = (arguments[0], BLOCK[:, :0], BLOCK[:, :0])
        if "N = " in message or "256" in message:
            empty = arguments[0][:, :0]
            arguments = (arguments[0], empty, empty)
    for function in (block_step, reference.block_step):
        with pytest.raises(RuntimeError, match="block_step: .*" + step):
            function(*arguments)


# -------------------------------------------------------------------------------------------- fuzz


@pytest.mark.parametrize(
    "backend",
    [{}, {"PULLBACK_ISA": "avx2"}, {"PULLBACK_EXT_DISABLE": "1"}],
    ids=["native", "avx2", "torch"],
)
def test_five_thousand_difficult_blocks(python, native, backend):
    if "PULLBACK_ISA" in backend and native.build_info()["isa_in_use"] != "avx512":
        pytest.skip("AVX2 is what `native` runs here")
    where = [str(Path(pullback_ext.__file__).parents[1]), str(Path(__file__).parent)]
    report = python("-m", "fuzz", "--blocks", "5000", path=":".join(where), timeout=600, **backend)
    seen = json.loads(report.stdout)
    assert seen["failures"] == []
    assert seen["blocks"] >= 5000
    assert (seen["isa"] is None) == ("PULLBACK_EXT_DISABLE" in backend)
    assert min(seen["spans"], seen["ranks"]) > 1500  # what the checks apply to
