"""gram: accuracy, layouts, determinism, edges, messages."""

import json

import pytest
import torch

from pullback_ext import _ops, build_info, gram, reference

pytestmark = pytest.mark.usefixtures("native")

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def bound(dtype, device):
    """What random rows come to; any rows at all are within 1e-6 (test_adversarial.py)."""
    if dtype == torch.float64:
        return 1e-14
    return 3e-7 if device.type == "cpu" else 1e-6


# B, k, p (None: with itself), N. Around the tiles of 3, 4, 6, 16 and 64 rows, the panels of 512 and
# 1024 columns, the parts of 2048.
SHAPES = [
    (1, 1, None, 1),
    (2, 5, None, 7),
    (3, 10, None, 256),
    (2, 7, 5, 31),
    (1, 13, 64, 1023),
    (2, 50, None, 1025),
    (1, 65, 3, 2048),
    (2, 17, 18, 2049),
    (1, 50, 50, 5000),
    (1, 130, None, 513),
    (4, 3, None, 40961),
]


def block(rng, *shape, dtype=torch.float32, device="cpu"):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(device, dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("batch", "k", "p", "columns"), SHAPES)
def test_close_to_the_exact_product(rng, device, gram_error, dtype, batch, k, p, columns):
    a = block(rng, batch, k, columns, dtype=dtype, device=device)
    b = None if p is None else block(rng, batch, p, columns, dtype=dtype, device=device)
    got = gram(a, b)
    assert got.dtype == torch.float64
    assert got.device == a.device
    assert got.is_contiguous()
    assert gram_error(got, a, b) < bound(dtype, device)


def test_float32_error_does_not_grow_with_the_length(rng, device, gram_error):
    # Sums of squares of like numbers, where a single float32 accumulator drifts (8e-6 at 65536).
    a = 1 + 0.1 * block(rng, 1, 4, 300_000, device=device)
    assert gram_error(gram(a), a) < 2e-7


@pytest.mark.parametrize("scale", [1e18, 1e-18])
def test_huge_and_tiny_rows(rng, device, gram_error, scale):
    a = block(rng, 2, 6, 3000, device=device)
    a[:, ::2] *= scale
    assert gram_error(gram(a), a) < bound(a.dtype, device)


def test_float32_products_overflow_to_infinity_as_documented(device):
    a = torch.full((1, 2, 100), 1e20, device=device)
    assert gram(a).isinf().all()
    assert gram(a.double()).isfinite().all()


def test_not_a_number_stays_in_its_row_and_column(rng, device):
    a = block(rng, 2, 9, 700, device=device)
    a[1, 4, 333] = torch.nan
    bad = gram(a).isnan()
    want = torch.zeros_like(bad)
    want[1, 4, :] = True
    want[1, :, 4] = True
    assert torch.equal(bad, want)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_symmetric_to_the_bit_and_equal_to_the_two_operand_form(rng, device, dtype):
    a = block(rng, 2, 37, 2500, dtype=dtype, device=device)
    got = gram(a)
    assert torch.equal(got, got.mT)
    assert torch.equal(got, gram(a, a))
    assert torch.equal(got[:, :5, 9:], gram(a[:, :5], a[:, 9:]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_widened_exactly(rng, device, dtype):
    a = block(rng, 2, 11, 1500, dtype=dtype, device=device)
    b = block(rng, 2, 5, 1500, dtype=dtype, device=device)
    assert torch.equal(gram(a, b), gram(a.float(), b.float()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [1, 16])
def test_every_finite_16_bit_number_is_read_right(device, dtype, width):
    # width 1 takes the scalar conversion of the CPU kernel, width 16 the vector one.
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    numbers = bits.view(dtype)
    numbers = numbers[numbers.isfinite()]
    numbers = numbers[: len(numbers) // 16 * 16].to(device).reshape(-1, 1, width)
    identity = torch.eye(width, dtype=dtype, device=device).expand(len(numbers), width, width)
    assert torch.equal(gram(numbers, identity), numbers.double())


def layouts(dense):
    """Tensors equal to ``dense`` [B, k, N] in other memory."""
    batch, k, columns = dense.shape
    wide = dense.new_full((batch, 2 * k, 3 * columns + 5), torch.nan)
    wide[:, ::2, 2 : 3 * columns + 2 : 3] = dense
    yield "every second row, every third column", wide[:, ::2, 2 : 3 * columns + 2 : 3]
    yield "columns first", dense.mT.contiguous().mT
    yield "rows outermost", dense.transpose(0, 1).contiguous().transpose(0, 1)
    yield "batch innermost", dense.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    odd = dense.new_empty(dense.numel() + 1)[1:]  # not aligned to a vector
    yield "off by one element", odd.copy_(dense.flatten()).view(dense.shape)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_layout_changes_no_bit(rng, device, dtype):
    dense = block(rng, 3, 14, 2100, dtype=dtype, device=device)
    other = block(rng, 3, 9, 2100, dtype=dtype, device=device)
    alone, pair, reverse = gram(dense), gram(dense, other), gram(other, dense)
    for name, tensor in layouts(dense):
        assert torch.equal(tensor, dense)
        assert tensor.stride() != dense.stride() or tensor.data_ptr() % 16
        assert torch.equal(gram(tensor), alone), name
        assert torch.equal(gram(tensor, other), pair), name
        assert torch.equal(gram(other, tensor), reverse), name


def test_expanded_dimensions(rng, device):
    row = block(rng, 1, 1, 600, device=device)
    for shape, tensor in [
        ("batch", row.expand(4, 1, 600)),
        ("rows", row.expand(1, 7, 600)),
        ("batch and rows", row.expand(4, 7, 600)),
        ("columns", row[:, :, :1].expand(1, 1, 600)),
        ("all", row[:, :, :1].expand(2, 3, 600)),
    ]:
        assert 0 in tensor.stride(), shape
        assert torch.equal(gram(tensor), gram(tensor.contiguous())), shape


def test_overlapping_rows(rng, device):
    windows = block(rng, 1000, device=device).unfold(0, 300, 10)[None]  # rows share memory
    assert windows.stride(1) < windows.shape[2]
    assert torch.equal(gram(windows), gram(windows.contiguous()))


def test_a_channels_last_block_gives_the_bits_of_a_contiguous_one(rng, device):
    image = block(rng, 2, 8, 5, 6, device=device)  # [k, C, H, W], two dimensions of one sample
    kept = image.contiguous(memory_format=torch.channels_last)
    rows = kept.permute(0, 2, 3, 1).flatten(1)[None]  # a view: columns in memory order
    assert rows.data_ptr() == kept.data_ptr()
    assert torch.equal(gram(rows), gram(image.permute(0, 2, 3, 1).flatten(1)[None].contiguous()))


@pytest.mark.parametrize(("k", "columns"), [(3, 100), (50, 4096), (80, 3000)])
def test_a_sample_does_not_depend_on_its_batch(rng, device, k, columns):
    a = block(rng, 9, k, columns, device=device)
    b = block(rng, 9, 20, columns, device=device)
    alone, pair = gram(a), gram(a, b)
    for i in range(9):
        assert torch.equal(gram(a[i : i + 1])[0], alone[i])
        assert torch.equal(gram(a[i : i + 1], b[i : i + 1])[0], pair[i])
    assert torch.equal(gram(a[3:8]), alone[3:8])


def test_a_row_does_not_depend_on_the_other_rows(rng, device):
    # ... as long as the plan, which looks at k and p, is the same.
    a = block(rng, 2, 16, 5000, device=device)
    assert torch.equal(gram(a)[:, :7, :7], gram(a[:, :7]))


def test_the_number_of_threads_changes_no_bit(rng):
    a = block(rng, 3, 50, 20_000)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(gram(a))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_repeated_calls_give_the_same_bits(rng, device):
    a = block(rng, 4, 33, 9000, device=device)
    first = gram(a)
    assert all(torch.equal(gram(a), first) for _ in range(20))


def test_the_input_is_left_alone(rng, device):
    a = block(rng, 2, 5, 300, device=device)
    kept = a.clone()
    gram(a, a)
    assert torch.equal(a, kept)


@pytest.mark.parametrize(
    ("a", "b", "shape"),
    [
        ((0, 3, 5), None, (0, 3, 3)),
        ((2, 0, 5), None, (2, 0, 0)),
        ((2, 3, 0), None, (2, 3, 3)),
        ((2, 3, 0), (2, 4, 0), (2, 3, 4)),
        ((2, 3, 5), (2, 0, 5), (2, 3, 0)),
        ((2, 0, 5), (2, 4, 5), (2, 0, 4)),
        ((0, 0, 0), None, (0, 0, 0)),
    ],
)
def test_empty_products(device, a, b, shape):
    b = None if b is None else torch.ones(b, device=device)
    got = gram(torch.ones(a, device=device), b)
    assert got.shape == shape
    assert got.dtype == torch.float64
    assert got.device.type == device.type
    assert not got.any()


BAD = [
    (torch.ones(3, 4), None, r"expected a of shape \[B, k, N\], got \[3, 4\]"),
    (torch.ones(1, 2, 3, 4), None, r"expected a of shape \[B, k, N\], got \[1, 2, 3, 4\]"),
    (
        torch.ones(1, 2, 3, dtype=torch.int64),
        None,
        "expected a of dtype float32, float64, float16 or bfloat16, got int64",
    ),
    (torch.ones(1, 2, 3, dtype=torch.complex64), None, "float16 or bfloat16, got complex64"),
    (
        torch.ones(2, 3, 5),
        torch.ones(2, 4, 6),
        r"expected b of shape \[2, p, 5\] beside a of shape \[2, 3, 5\], got \[2, 4, 6\]",
    ),
    (torch.ones(2, 3, 5), torch.ones(1, 4, 5), r"expected b of shape \[2, p, 5\]"),
    (torch.ones(2, 3, 5), torch.ones(2, 5), r"expected b of shape \[2, p, 5\]"),
    (
        torch.ones(2, 3, 5),
        torch.ones(2, 4, 5, dtype=torch.float64),
        "expected b of dtype float32 like a, got float64",
    ),
]


@pytest.mark.parametrize(("a", "b", "message"), BAD)
def test_bad_input_is_named_alike_by_kernel_reference_and_fake(a, b, message):
    for function in (gram, reference.gram, _ops.OPS["gram"].fake):
        with pytest.raises(RuntimeError, match="^gram: .*" + message):
            function(a, b)


@pytest.mark.cuda
def test_operands_on_two_devices_are_refused():
    here, there = torch.ones(1, 2, 3), torch.ones(1, 2, 3, device="cuda")
    for a, b in ((here, there), (there, here)):
        with pytest.raises(RuntimeError, match="expected b on "):
            gram(a, b)


@pytest.mark.cuda
def test_runs_on_the_current_stream_of_its_own_device(rng, gram_error):
    for index in range(torch.cuda.device_count()):
        a = block(rng, 4, 50, 16384)
        stream = torch.cuda.Stream(index)
        with torch.cuda.stream(stream):
            there = a.to(f"cuda:{index}", non_blocking=True)
            torch.cuda._sleep(10**7)
            got = gram(there.mul_(1.0))
        stream.synchronize()
        assert got.device.index == index
        assert gram_error(got, a) < bound(a.dtype, got.device)


FORCED = """
import json, torch, pullback_ext
a = torch.arange(2 * 29 * 3001, dtype=torch.float64).sin().view(2, 29, 3001)
values = {str(d): pullback_ext.gram(a.to(d)).flatten().tolist()
          for d in (torch.float32, torch.float64, torch.bfloat16)}
print(json.dumps({"isa": pullback_ext.build_info()["isa_in_use"], "values": values}))
"""


def test_instruction_sets_agree_to_rounding(python):
    available = {"avx2": ["avx2"], "avx512": ["avx2", "avx512"]}.get(build_info()["isa_in_use"])
    if available is None:
        pytest.skip(f"this processor runs the {build_info()['isa_in_use']} kernels only")
    results = {}
    for isa in available:
        result = json.loads(python(FORCED, PULLBACK_ISA=isa).stdout)
        assert result["isa"] == isa
        results[isa] = result["values"]
    a = torch.arange(2 * 29 * 3001, dtype=torch.float64).sin().view(2, 29, 3001)
    scale = float(a.square().sum(2).max())
    for values in results.values():
        for dtype, bound in ((torch.float32, 2e-7), (torch.float64, 1e-14), (torch.bfloat16, 2e-7)):
            got = torch.tensor(values[str(dtype)], dtype=torch.float64).view(2, 29, 29)
            want = reference.gram(a.to(dtype))
            assert float((got - want).abs().max()) < bound * scale


def test_an_instruction_set_that_is_not_there_is_refused(python):
    code = "import torch, pullback_ext\npullback_ext.gram(torch.ones(1, 2, 3))"
    result = python(code, check=False, PULLBACK_ISA="mmx")
    assert result.returncode != 0
    assert "RuntimeError: PULLBACK_ISA: expected " in result.stderr
    assert "got 'mmx'" in result.stderr


def test_threads_are_those_of_torch(python):
    code = """
import os, torch, pullback_ext
count = lambda: len(os.listdir("/proc/self/task"))
torch.set_num_threads(1)
a = torch.ones(8, 50, 16384)
pullback_ext.gram(a)
alone = count()
torch.set_num_threads(3)
pullback_ext.gram(a)
print(alone, count())
"""
    alone, three = map(int, python(code).stdout.split())
    assert three == alone + 2
