"""`squared_singular_values` through the public function, on every device there is."""

import json

import pytest
import torch

from pullback_ext import build_info, reference, squared_singular_values

pytestmark = pytest.mark.usefixtures("native")

EPS = 2.0**-52
# Around tiles of 2, 3 and 4 rows, strips of 8 and 64 columns, pairs of 4, 8 and 16 lanes, a warp of
# 32 rows, and where LAPACK and cuSOLVER take over.
SIZES = [1, 2, 3, 7, 16, 17, 32, 33, 50, 64, 65, 128, 129]
RECTANGLES = [(1, 9), (9, 1), (3, 70), (70, 3), (16, 65), (50, 20), (33, 47), (64, 129)]


def normal(rng, device, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(device, dtype)


def orthogonal(rng, n):
    return torch.linalg.qr(torch.randn(n, n, generator=rng, dtype=torch.float64))[0]


def error_of(got, want):
    """Largest difference of two values over the largest value of their matrix, in roundings."""
    assert got.shape == want.shape
    assert got.dtype == torch.float64
    assert got.is_contiguous()
    assert bool((got >= 0).all())
    assert bool((got[:, 1:] <= got[:, :-1]).all())
    scale = want.amax(1, keepdim=True)
    return float(((got - want).abs() / torch.where(scale == 0, 1, scale)).max()) / EPS


@pytest.mark.parametrize(("k", "p"), [*zip(SIZES, SIZES, strict=True), *RECTANGLES])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_random_matrices(rng, device, k, p, dtype):
    c = normal(rng, device, 21, k, p, dtype=dtype)
    assert error_of(squared_singular_values(c), torch.linalg.svdvals(c.double()).square()) < 40


@pytest.mark.parametrize("k", [2, 10, 16, 33, 64])
def test_cosines_of_angles(rng, device, k):
    """Spectra with many values that are equal, nearly equal, small, zero."""
    spectra = [
        torch.linspace(0, 1, k),
        torch.ones(k),
        torch.cat([torch.ones(k // 2), torch.zeros(k - k // 2)]),
        torch.cat([torch.zeros(k - 1), torch.ones(1)]),
        1 - torch.logspace(-16, -2, k, dtype=torch.float64),
        torch.logspace(0, -20, k, dtype=torch.float64),
        torch.full((k,), 0.5) + 1e-9 * torch.arange(k),
    ]
    values = torch.stack([s.double().sort(descending=True).values for s in spectra])
    c = torch.stack(
        [orthogonal(rng, k) @ torch.diag(s.sqrt()) @ orthogonal(rng, k) for s in values]
    )
    assert error_of(squared_singular_values(c.to(device)), values.to(device)) < 60


@pytest.mark.parametrize("k", [2, 7, 16, 40])
def test_zero_equal_and_dependent_matrices(rng, device, k):
    row, column = normal(rng, device, k), normal(rng, device, k)
    c = torch.stack(
        [
            torch.zeros(k, k).to(row),
            torch.eye(k).to(row),
            torch.ones(k, k).to(row),
            torch.outer(column, row),
            torch.diag(torch.arange(k).to(row)),
            torch.diag_embed(torch.ones(k - 1).to(row), offset=1),
            torch.triu(torch.ones(k, k).to(row)),
        ]
    )
    got = squared_singular_values(c)
    assert not bool(got[0].any())
    assert bool((got[1] == 1).all())
    assert error_of(got, torch.linalg.svdvals(c).square()) < 40
    assert got[4].tolist() == [float(i * i) for i in reversed(range(k))]


def test_a_spectrum_that_is_known_exactly(device):
    """c with ones on and below the diagonal: 1 / (4 sin^2((2 i - 1) pi / (4 k + 2)))."""
    mpmath = pytest.importorskip("mpmath")
    for k in (3, 16, 50):
        angles = [(2 * i - 1) * mpmath.pi / (4 * k + 2) for i in range(1, k + 1)]
        want = [float(1 / (4 * mpmath.sin(angle) ** 2)) for angle in angles]
        c = torch.ones(1, k, k, dtype=torch.float64, device=device).tril()
        want = torch.tensor([want], dtype=torch.float64, device=device)
        assert error_of(squared_singular_values(c), want) < 20


@pytest.mark.parametrize("k", [1, 3, 16, 40, 70])
@pytest.mark.parametrize("power", [-510, -480, 0, 480, 505])
def test_entries_of_any_size(rng, device, k, power):
    """About 1e-153 to 1e152: a power of two changes nothing but the exponents."""
    if k > 64 and device.type == "cuda":
        pytest.skip("cuSOLVER scales in its own way")
    c = normal(rng, device, 5, k, k)
    got = squared_singular_values(torch.ldexp(c, torch.tensor(power, device=device)))
    assert torch.equal(got, torch.ldexp(squared_singular_values(c), torch.tensor(2 * power)))


def test_squares_beyond_float64(device):
    c = torch.tensor([1e308, 1e200, 1e-200, 5e-324], dtype=torch.float64, device=device)
    got = squared_singular_values(torch.diag_embed(c.unsqueeze(1).expand(-1, 3)))
    assert got.tolist() == [[float("inf")] * 3] * 2 + [[0.0] * 3] * 2


@pytest.mark.parametrize("k", [4, 16, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_blocks_of_one_product_are_read_through_their_strides(rng, device, k, dtype):
    frames = normal(rng, device, 6, k, 60, dtype=dtype)
    flat = frames.flatten(0, 1)
    products = flat @ flat.mT  # [6 k, 6 k]
    pairs = products.view(6, k, 6, k).movedim(2, 1)
    row = pairs[2]
    assert row.stride() == (k, 6 * k, 1)
    want = squared_singular_values(row.contiguous())
    for c in (row, row.contiguous().mT.contiguous().mT):
        assert torch.equal(squared_singular_values(c), want)
    assert torch.equal(
        squared_singular_values(pairs[2, 1:2].expand(3, k, k)), want[1:2].expand(3, k)
    )


@pytest.mark.parametrize(("k", "p"), [(1, 3), (5, 5), (16, 16), (17, 9), (40, 41), (140, 135)])
def test_a_matrix_alone_has_the_bits_that_it_has_in_a_batch(rng, device, k, p):
    """Beside matrices that take longer or shorter, in every lane, and in any number of threads."""
    if k > 64 and device.type == "cuda":
        pytest.skip("cuSOLVER's bits may depend on the batch")
    c = normal(rng, device, 37, k, p)
    c[3] = 0
    c[5] *= torch.logspace(0, -18, p).to(c)
    c[6, :, 1:] = c[6, :, :1]
    c[7, :1] *= 1e200
    want = squared_singular_values(c)
    places = range(37) if k < 100 else (0, 5, 36)
    for i in places:
        assert torch.equal(squared_singular_values(c[i : i + 1]), want[i : i + 1]), i
    for start in (1, 6, 11):
        assert torch.equal(squared_singular_values(c[start:]), want[start:])
    assert torch.equal(squared_singular_values(c.flip(0)), want.flip(0))


def test_threads_do_not_change_the_bits(rng):
    c = normal(rng, "cpu", 3000, 12, 12)
    want, threads = squared_singular_values(c), torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert torch.equal(squared_singular_values(c), want)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(0, 4, 4), (0, 200, 200), (0, 1, 3)])
def test_empty(device, shape):
    got = squared_singular_values(torch.zeros(shape, device=device))
    assert got.shape == (0, min(shape[1:]))
    assert got.dtype == torch.float64


@pytest.mark.parametrize("k", [3, 40, 140])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named_or_nan(rng, device, k, bad):
    c = normal(rng, device, 60, k, k)
    c[37, 1, 2] = c[50, 0, 0] = bad
    if device.type == "cpu":
        for function in (squared_singular_values, reference.squared_singular_values):
            with pytest.raises(RuntimeError, match=r"finite entries, got .* in matrix 37 of c"):
                function(c)
        return
    got, whole = squared_singular_values(c), [i for i in range(60) if i not in (37, 50)]
    assert bool(got[[37, 50]].isnan().all())
    want = torch.linalg.svdvals(c[whole]).square()
    assert error_of(got[whole], want) < 40


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (torch.ones(3, 3), r"shape \[P, k, p\], k and p from 1 up, got \[3, 3\]"),
        (torch.ones(1, 0, 4), r"k and p from 1 up, got \[1, 0, 4\]"),
        (torch.ones(0, 4, 0), r"k and p from 1 up, got \[0, 4, 0\]"),
        (torch.ones(1, 3, 3).half(), "float64 or float32, got float16"),
        (torch.full((2, 3, 3), float("nan")), "NaN or infinity in matrix 0 of c"),
    ],
)
def test_bad_arguments_are_named(c, message):
    for function in (squared_singular_values, reference.squared_singular_values):
        with pytest.raises(RuntimeError, match="squared_singular_values: expected .*" + message):
            function(c)


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_vmap_folds(rng, dim):
    c = normal(rng, "cpu", 3, 5, 4, 6).movedim(0, dim)
    got = torch.func.vmap(squared_singular_values, in_dims=dim)(c)
    for i in range(3):
        assert torch.equal(got[i], squared_singular_values(c.select(dim, i)))


def test_derivatives_are_refused_with_what_to_do_instead(rng):
    c = normal(rng, "cpu", 2, 3, 3)
    refused = pytest.raises(RuntimeError, match=r"would answer with .* use torch.linalg.svdvals")
    with refused:
        torch.func.jvp(squared_singular_values, (c,), (c,))
    with refused:
        torch.func.grad(lambda x: squared_singular_values(x).sum())(c)


FORCED = """
import json, torch, pullback_ext
c = torch.arange(20 * 17 * 19, dtype=torch.float64).square().sin().view(20, 17, 19)
print(json.dumps(pullback_ext.squared_singular_values(c).tolist()))
"""


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_instruction_sets_agree_to_rounding(python, isa):
    if isa not in {"avx2": ["avx2"], "avx512": ["avx2", "avx512"]}.get(
        build_info()["isa_in_use"], []
    ):
        pytest.skip(f"this processor runs the {build_info()['isa_in_use']} kernels only")
    got = torch.tensor(json.loads(python(FORCED, PULLBACK_ISA=isa).stdout), dtype=torch.float64)
    c = torch.arange(20 * 17 * 19, dtype=torch.float64).square().sin().view(20, 17, 19)
    assert error_of(got, torch.linalg.svdvals(c).square()) < 40
