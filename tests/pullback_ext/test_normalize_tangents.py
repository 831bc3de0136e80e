"""`normalize_tangents` through the public function, on every device there is: its numbers."""

import numpy as np
import pytest
import torch

from pullback_ext import build_info, normalize_tangents, reference
from tests.pullback_ext.tangents import (
    BOUND,
    DTYPES,
    ORDERS,
    allowed,
    dense,
    error_of,
    in_order,
    normal,
    primal,
    work,
)

pytestmark = pytest.mark.usefixtures("native")

# ------------------------------------------------------------------------------------ sizes, orders

# Around vectors of 4, 8 and 16 lanes, chains of 4 and 8, tiles of 1024, runs of 16 positions, tiles
# of channels, warps and blocks of threads, and parts.
GROUPS = [
    (1, 1),
    (1, 7),
    (7, 1),
    (3, 5),
    (1, 129),
    (43, 3),
    (8, 127),
    (5, 205),
    (1, 1025),
    (3, 1500),
]
LONG = [(1, 65537), (4, 30_000), (1, 1_000_003)]
CHANNELS_LAST = [(4, 4, 3), (1, 17, 5), (2, 8, 129), (32, 10, 33), (5, 127, 9), (64, 1, 1030)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 2, 3, *s) for s in GROUPS] + [(2, 1, 1, *s) for s in LONG])
def test_contiguous_groups_of_all_sizes(rng, device, dtype, shape):
    t = normal(rng, device, *shape, dtype=dtype)
    sizes_agree(rng, t, "contiguous")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 2, *s) for s in CHANNELS_LAST])
def test_channels_last_of_all_sizes(rng, device, dtype, shape):
    t = in_order(normal(rng, device, *shape, dtype=dtype), "channels last")
    sizes_agree(rng, t, "channels last")


def sizes_agree(rng, t, order):
    _, batch, groups, channels, positions = t.shape
    xh, scale = primal(rng, t.device, t.dtype, *t.shape[1:])
    xh = in_order(xh, order)
    kinds = [
        None,
        (1, groups, channels, 1),
        (1, 1, 1, positions),
        (batch, 1, channels, positions),
        tuple(t.shape[1:]),
    ]
    for i, sizes in enumerate(kinds):
        gain = None if sizes is None else normal(rng, t.device, *sizes, dtype=work(t.dtype))
        for centered, transposed in [(True, False), (i % 2 == 0, True)]:
            got = normalize_tangents(t, xh, scale, gain, centered, transposed)
            want, largest = dense(t, xh, scale, gain, centered, transposed)
            assert error_of(got, want, largest) <= allowed(t.dtype), (sizes, centered, transposed)
            assert got.stride() == t.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", ORDERS)
def test_sums_of_equal_entries_do_not_drift(device, dtype, order):
    """Rounding errors of equal numbers add up instead of cancelling."""
    for value in (1 + 2.0**-12 - 2.0**-23, 0.1, 1 / 3):
        shape = (1, 1, 1, 1, 1 << 20) if order == "contiguous" else (1, 1, 1, 32, 1 << 15)
        t = in_order(torch.full(shape, value, dtype=dtype, device=device), order)
        xh = in_order(torch.full(shape[1:], value, dtype=dtype, device=device), order)
        scale = torch.ones(1, 1, dtype=dtype, device=device)
        want, largest = dense(t, xh, scale)
        assert error_of(normalize_tangents(t, xh, scale), want, largest) <= BOUND[dtype]


def layouts(x):
    """name -> the same numbers, lying otherwise in memory."""
    k, batch, groups, channels, positions = x.shape
    padded = x.new_full((k + 1, batch, groups, channels, positions + 3), float("nan"))
    padded[1:, ..., :positions] = x
    strided = x.new_full((k, batch, groups, channels, 3 * positions), float("nan"))
    strided[..., ::3] = x
    rows = x.new_full((k, batch + 1, groups, channels, positions), float("nan"))
    rows[:, 1:] = x
    apart = x.new_full((k, batch, groups, positions, groups * channels), float("nan"))
    apart[..., :channels] = x.mT
    shifted = x.new_empty(x.numel() + 1)[1:].view(x.shape)
    shifted.copy_(x)
    return {
        "contiguous": x.contiguous(),
        "channels last": in_order(x, "channels last"),
        "tangents inside of the batch": x.transpose(0, 1).contiguous().transpose(0, 1),
        "groups first": x.movedim(2, 0).contiguous().movedim(0, 2),
        "tangents last": x.movedim(0, -1).contiguous().movedim(-1, 0),
        "backwards": x.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
        "channels last, batch first": in_order(x.transpose(0, 1), "channels last").transpose(0, 1),
        "padded": padded[1:, ..., :positions],
        "strided": strided[..., ::3],
        "some of a batch": rows[:, 1:],
        "some of a batch, channels last": in_order(rows, "channels last")[:, 1:],
        "groups apart": apart[..., :channels].mT,
        "shifted": shifted,
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(3, 2, 4, 5, 6), (2, 3, 2, 16, 64), (2, 2, 1, 1, 50), (2, 2, 20, 1, 1)]
)
def test_layouts_of_every_tensor(rng, device, dtype, shape):
    t = normal(rng, device, *shape, dtype=dtype)
    xh, scale = primal(rng, device, dtype, *shape[1:])
    gain = normal(rng, device, *shape[1:], dtype=work(dtype))
    for name, laid_out in layouts(t).items():
        assert torch.equal(laid_out, t), name
        for primal_order in ORDERS:
            for transposed in (False, True):
                got = normalize_tangents(
                    laid_out, in_order(xh, primal_order), scale.mT.contiguous().mT,
                    in_order(gain, primal_order), True, transposed,
                )  # fmt: skip
                want, largest = dense(t, xh, scale, gain, True, transposed)
                assert error_of(got, want, largest) <= allowed(dtype), name
                if reference.is_dense(laid_out):
                    assert got.stride() == laid_out.stride(), name
                else:
                    assert got.is_contiguous(), name


@pytest.mark.parametrize("order", ORDERS)
def test_expanded_cotangents(rng, device, order):
    """Of stride 0 along any dimensions, as the derivative of a sum is."""
    shape = (3, 2, 4, 8, 30)
    xh, scale = primal(rng, device, torch.float32, *shape[1:])
    for kept in [(), (0,), (1,), (2, 3, 4), (1, 2, 3, 4), (3,), (4,)]:
        sizes = [n if i in kept else 1 for i, n in enumerate(shape)]
        t = normal(rng, device, *sizes, dtype=torch.float32)
        t = (in_order(t, order) if kept == (1, 2, 3, 4) else t).expand(shape)
        got = normalize_tangents(t, in_order(xh, order), scale, None, True, True)
        want, largest = dense(t, xh, scale, None, True, True)
        assert error_of(got, want, largest) <= BOUND[torch.float32]
        assert got.is_contiguous()


# ------------------------------------------------------------------------------------- same bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(7, 5, 6, 3, 43), (5, 3, 2, 16, 200), (5, 3, 1, 17, 4000)])
def test_bits_depend_on_nothing_else_in_the_call(rng, device, dtype, order, shape):
    t = in_order(normal(rng, device, *shape, dtype=dtype), order)
    xh, scale = primal(rng, device, dtype, *shape[1:])
    xh, gain = in_order(xh, order), normal(rng, device, 1, *shape[2:], dtype=work(dtype))
    for transposed in (False, True):
        want = normalize_tangents(t, xh, scale, gain, True, transposed)
        for some in (slice(0, 1), slice(2, 5), slice(None, None, 2), slice(4, None)):
            got = normalize_tangents(t[some], xh, scale, gain, True, transposed)
            assert torch.equal(got, want[some])
        for some in (slice(0, 1), slice(1, 3), slice(2, None)):
            got = normalize_tangents(t[:, some], xh[some], scale[some], gain, True, transposed)
            assert torch.equal(got, want[:, some])
        whole = gain.expand(shape[1:]).contiguous()
        assert torch.equal(normalize_tangents(t, xh, scale, whole, True, transposed), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("order", "shape"),
    [
        ("contiguous", (1, 3, 1, 333_667)),  # rows that are not aligned
        ("contiguous", (1000, 1, 1, 1001)),
        ("channels last", (1, 4, 16, 16_000)),
        ("channels last", (1, 3, 11, 31_001)),
    ],
)
def test_bits_of_results_that_no_cache_holds(rng, device, dtype, order, shape):
    """Results of 32 MB and more, which are written past the caches, and the same in pieces."""
    itemsize = torch.empty(0, dtype=dtype).element_size()
    count = -(-(33 << 20) // (shape[0] * shape[1] * shape[2] * shape[3] * itemsize))
    some = in_order(torch.randn(2, *shape, generator=rng).to(device, dtype), order)
    t = in_order(torch.cat([some] * (count // 2 + 1)), order)
    xh = in_order(torch.randn(shape, generator=rng).to(device, work(dtype)), order)
    scale = normal(rng, device, *shape[:2], dtype=work(dtype))
    want = normalize_tangents(some, xh, scale)
    got = normalize_tangents(t, xh, scale)
    assert got.numel() * itemsize > 1 << 25 > want.numel() * itemsize
    for i in range(0, len(t), 2):
        assert torch.equal(got[i : i + 2], want)


def test_one_gain_a_channel_has_the_bits_of_one_an_entry(rng, device):
    shape = (3, 2, 2, 5, 411)
    t = normal(rng, device, *shape, dtype=torch.float32)
    xh, scale = primal(rng, device, torch.float32, *shape[1:])
    gain = normal(rng, device, 1, 2, 5, 1, dtype=torch.float32)
    for transposed in (False, True):
        want = normalize_tangents(
            t, xh, scale, gain.expand(2, 2, 5, 411).contiguous(), True, transposed
        )
        assert torch.equal(normalize_tangents(t, xh, scale, gain, True, transposed), want)


@pytest.mark.parametrize("order", ORDERS)
def test_threads_do_not_change_the_bits(rng, order):
    shape = (6, 3, 8, 10, 700)
    t = in_order(normal(rng, "cpu", *shape, dtype=torch.float32), order)
    xh, scale = primal(rng, "cpu", torch.float32, *shape[1:])
    want, threads = normalize_tangents(t, xh, scale), torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert torch.equal(normalize_tangents(t, xh, scale), want)
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------------------- difficult numbers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ORDERS)
def test_a_constant_tangent_is_in_the_kernel(rng, device, dtype, order):
    """Of every centered layer: shifting the input changes nothing. So are multiples of xh."""
    shape = (3, 2, 4, 8, 300)
    xh, scale = primal(rng, device, dtype, *shape[1:])
    xh = in_order(xh, order)
    values = normal(rng, device, 3, 2, 4, 1, 1, dtype=dtype)
    t = in_order(values.expand(shape), order)
    few = 8 * torch.finfo(work(dtype)).eps
    largest = (scale[:, :, None, None] * t).double().abs().amax()
    assert float(normalize_tangents(t, xh, scale).double().abs().amax()) <= few * largest
    along = in_order(xh.to(dtype).expand(shape), order)
    got = normalize_tangents(along, xh.to(dtype).to(xh.dtype), scale, None, False)
    kept, _ = dense(along, xh.to(dtype), scale, None, False)
    assert float((got.double() - kept).abs().amax()) <= 8 * torch.finfo(dtype).eps * largest.clamp(
        min=1
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e30), (torch.float32, 1e-30), (torch.bfloat16, 1e30), (torch.bfloat16, 1e-30),
     (torch.float16, 6e4), (torch.float64, 1e300), (torch.float64, 1e-300)],
)  # fmt: skip
def test_huge_and_tiny_tangents(rng, device, order, dtype, size):
    shape = (2, 1, 2, 16, 4000)
    xh, scale = primal(rng, device, dtype, *shape[1:])
    t = normal(rng, device, *shape).clamp(-3, 3) / 3 * size
    t = in_order(t.to(dtype), order)
    for transposed in (False, True):
        got = normalize_tangents(t, xh, scale, None, True, transposed)
        want, largest = dense(t, xh, scale, None, True, transposed)
        assert bool(got.isfinite().all()) or dtype == torch.float16
        want = want.to(dtype).double() if dtype == torch.float16 else want
        finite = want.isfinite()
        assert bool((got.isfinite() == finite).all())
        assert error_of(got[finite], want[finite], largest) <= 2 * allowed(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_group_and_tangent(rng, device, dtype, order, bad):
    shape = (3, 2, 4, 5, 65)
    t = in_order(normal(rng, device, *shape, dtype=dtype), order)
    xh, scale = primal(rng, device, dtype, *shape[1:])
    want = normalize_tangents(t, xh, scale)
    t[1, 0, 2, 3, 64] = bad
    got = normalize_tangents(t, xh, scale)
    hit = torch.zeros(shape[:3], dtype=torch.bool)
    hit[1, 0, 2] = True
    assert not bool(got[1, 0, 2].isfinite().any())
    assert torch.equal(got[~hit], want[~hit])


def test_zero_tangents_and_zero_layers(rng, device):
    xh, scale = primal(rng, device, torch.float32, 2, 3, 4, 50)
    t = torch.zeros(2, 2, 3, 4, 50, device=device)
    assert not bool(normalize_tangents(t, xh, scale).any())
    t = normal(rng, device, 2, 2, 3, 4, 50, dtype=torch.float32)
    assert not bool(normalize_tangents(t, xh, torch.zeros_like(scale)).any())
    assert not bool(normalize_tangents(t, xh, scale, torch.zeros_like(xh), True, True).any())


@pytest.mark.parametrize("order", ORDERS)
def test_it_is_adjoint_to_its_transpose(rng, device, order):
    shape = (4, 2, 4, 8, 37)
    xh, scale = primal(rng, device, torch.float64, *shape[1:])
    gain = normal(rng, device, *shape[1:])
    u, v = (in_order(normal(rng, device, *shape), order) for _ in range(2))
    left = (u * normalize_tangents(v, xh, scale, gain)).sum((1, 2, 3, 4))
    right = (normalize_tangents(u, xh, scale, gain, True, True) * v).sum((1, 2, 3, 4))
    size = u.norm() * v.norm() * (scale.amax() * gain.abs().amax())
    assert float((left - right).abs().amax() / size) < 1e-14


# ------------------------------------------------------------------------------- instruction sets

FORCED = """
import sys, torch, pullback_ext
for order in (0, 1):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        work = torch.float64 if dtype == torch.float64 else torch.float32
        t = torch.arange(3 * 2 * 4 * 7 * 45).double().square().sin().view(3, 2, 4, 7, 45)
        xh = 1.4 * torch.arange(2 * 4 * 7 * 45).double().square().cos().view(2, 4, 7, 45)
        if order:
            t, xh = (x.movedim(-1, -3).contiguous().movedim(-3, -1) for x in (t, xh))
        scale, gain = xh[..., 0, 0].contiguous(), xh[:1, :, :, :1] + 2
        got = pullback_ext.normalize_tangents(
            t.to(dtype), xh.to(work), scale.to(work), gain.to(work), True, bool(order)
        )
        want = pullback_ext.reference.normalize_tangents(
            t.to(dtype).double(), xh.to(work).double(), scale.to(work).double(),
            gain.to(work).double(), True, bool(order)
        )
        print(float((got.double() - want).abs().max() / want.abs().max()))
"""


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_every_instruction_set_is_right(python, isa):
    if isa not in {"avx2": ["avx2"], "avx512": ["avx2", "avx512"]}.get(
        build_info()["isa_in_use"], []
    ):
        pytest.skip(f"this processor runs the {build_info()['isa_in_use']} kernels only")
    lines = python(FORCED, PULLBACK_ISA=isa).stdout.split()
    errors = np.array([float(line) for line in lines]).reshape(2, 4)
    assert (errors > 0).all()
    assert (errors <= [allowed(dtype) for dtype in DTYPES]).all()


def every_number(dtype):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    return bits.view(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_numbers_are_read_exactly_and_rounded_to_the_nearest(rng, device, dtype):
    """With xh = 0 and nothing subtracted the result is scale * t."""
    numbers = every_number(dtype)
    numbers = numbers[numbers.isfinite()].to(device)
    t = numbers[: numbers.numel() // 16 * 16].view(1, -1, 1, 1, 16)
    scale = normal(rng, device, t.shape[1], 1, dtype=torch.float32).abs() + 0.2
    xh = torch.zeros(t.shape[1:], device=device)
    for factor in (torch.ones_like(scale), scale):
        got = normalize_tangents(t, xh, factor, None, False)
        want = (factor[:, :, None, None] * t.float()).to(dtype)
        assert torch.equal(got, want)
