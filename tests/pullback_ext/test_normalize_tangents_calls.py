"""`normalize_tangents` through the public function: arguments, vmap, derivatives."""

import pytest
import torch

from pullback_ext import normalize_tangents, reference
from tests.pullback_ext.tangents import normal, primal

pytestmark = pytest.mark.usefixtures("native")


@pytest.mark.parametrize(
    "shape", [(0, 2, 3, 4, 5), (2, 0, 3, 4, 5), (2, 3, 0, 4, 5), (2, 3, 4, 0, 5), (2, 3, 4, 5, 0)]
)
def test_empty(device, shape):
    t = torch.zeros(shape, device=device)
    got = normalize_tangents(t, t.new_zeros(shape[1:]), t.new_zeros(shape[1:3]))
    assert got.shape == shape
    assert got.dtype == t.dtype


T, XH, SCALE = torch.ones(1, 2, 3, 4, 5), torch.ones(2, 3, 4, 5), torch.ones(2, 3)
ARGUMENTS = {
    "t of four dimensions": (
        {"t": T[0]},
        r"t of shape \[k, B, G, Cg, P\], got \[2, 3, 4, 5\]",
    ),
    "whole numbers": ({"t": T.int()}, "t of dtype .* float16 or bfloat16, got int32"),
    "normalized of another shape": (
        {"normalized": XH[..., :4]},
        r"normalized of shape \[B, G, Cg, P\] beside t of shape \[1, 2, 3, 4, 5\], "
        r"got \[2, 3, 4, 4\]",
    ),
    "normalized of five dimensions": (
        {"normalized": T},
        r"normalized of shape .* got \[1, 2, 3, 4, 5\]",
    ),
    "normalized too wide": (
        {"normalized": XH.double()},
        "normalized of dtype float32 beside t of dtype float32, got float64",
    ),
    "normalized as narrow as t": (
        {"t": T.bfloat16(), "normalized": XH.bfloat16()},
        "normalized of dtype float32 beside t of dtype bfloat16, got bfloat16",
    ),
    "float32 beside float64": (
        {"t": T.double(), "normalized": XH.double()},
        "scale of dtype float64 beside t of dtype float64, got float32",
    ),
    "scale of another shape": (
        {"scale": SCALE.mT},
        r"scale of shape \[B, G\] beside t of shape .* got \[3, 2\]",
    ),
    "gain of one dimension": (
        {"gain": torch.ones(5)},
        r"gain of four sizes, each 1 or that of normalized, \[2, 3, 4, 5\], got \[5\]",
    ),
    "gain of other sizes": (
        {"gain": torch.ones(2, 3, 2, 1)},
        r"gain of four sizes, .* got \[2, 3, 2, 1\]",
    ),
    "gain of another dtype": (
        {"gain": torch.ones(1, 1, 1, 1).double()},
        "gain of dtype float32 .* got float64",
    ),
}


@pytest.mark.parametrize(("given", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_bad_arguments_are_named(given, message):
    usual = {"t": T, "normalized": XH, "scale": SCALE}
    for function in (normalize_tangents, reference.normalize_tangents):
        with pytest.raises(RuntimeError, match="normalize_tangents: expected .*" + message):
            function(**usual | given)


@pytest.mark.cuda
def test_tensors_on_several_devices_are_named():
    args = [torch.ones(1, 2, 3, 4, 5), torch.ones(2, 3, 4, 5), torch.ones(2, 3)]
    for i in range(3):
        mixed = [x.cuda() if i == j else x for j, x in enumerate(args)]
        with pytest.raises(RuntimeError, match=r"expected .* like t, got"):
            normalize_tangents(*mixed)


@pytest.mark.parametrize(
    "dims",
    [(0, None, None, None), (3, None, None, None), (-1, None, None, None), (5, 4, 2, 0),
     (0, 0, 0, 4), (None, 1, 0, None), (1, None, None, 2), (None, None, 0, None),
     (None, None, None, 0), (2, 2, None, None)],
)  # fmt: skip
@pytest.mark.parametrize("sizes", [None, (1, 3, 4, 1), (2, 1, 1, 30), (1, 1, 1, 1)])
def test_vmap_gives_the_bits_of_a_loop(rng, dims, sizes):
    if sizes is None and dims[3] is not None:
        pytest.skip("there is no gain to be mapped")
    shape = (2, 2, 3, 4, 30)
    arrays = [
        normal(rng, "cpu", *shape, dtype=torch.float32),
        *primal(rng, "cpu", torch.float32, *shape[1:]),
    ]
    arrays.append(None if sizes is None else normal(rng, "cpu", *sizes, dtype=torch.float32))
    args = []
    for x, dim in zip(arrays, dims, strict=True):
        many = x if dim is None else torch.stack([x, 2 * x, x.flip(0)]).movedim(0, dim)
        args.append(many)
    for flags in [(True, False), (False, True)]:

        def f(*tensors, flags=flags):
            return normalize_tangents(*tensors, *flags)

        got = torch.func.vmap(f, in_dims=dims)(*args)
        assert got.shape == (3, *shape)
        for i in range(3):
            one = [x if d is None else x.select(d, i) for x, d in zip(args, dims, strict=True)]
            assert torch.equal(got[i], f(*one))


def test_vmap_of_tangents_keeps_the_primal_as_it_is(rng):
    """One call for all, and not one for each, with the primal not repeated."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "normalize_tangents" in str(func):
                seen.append([tuple(x.shape) for x in args[:3]])
            return func(*args, **(kwargs or {}))

    t = normal(rng, "cpu", 5, 1, 2, 3, 4, 6, dtype=torch.float32)
    xh, scale = primal(rng, "cpu", torch.float32, 2, 3, 4, 6)
    with Watch():
        torch.func.vmap(lambda x: normalize_tangents(x, xh, scale))(t)
    assert seen == [[(5, 2, 3, 4, 6), (2, 3, 4, 6), (2, 3)]]


def test_nested_vmap(rng):
    t = normal(rng, "cpu", 3, 4, 1, 2, 3, 4, 6, dtype=torch.float32)
    xh, scale = primal(rng, "cpu", torch.float32, 8, 3, 4, 6)
    xh, scale = xh.view(4, 2, 3, 4, 6), scale.view(4, 2, 3)
    inner = torch.func.vmap(normalize_tangents, in_dims=(0, None, None))
    got = torch.func.vmap(inner, in_dims=(1, 0, 0))(t, xh, scale)
    for i in range(3):
        for j in range(4):
            assert torch.equal(got[j, i], normalize_tangents(t[i, j], xh[j], scale[j]))


def test_an_empty_batch_under_vmap():
    t = torch.zeros(3, 2, 0, 3, 4, 6)
    got = torch.func.vmap(normalize_tangents)(t, t[:, 0], t[:, 0, :, :, 0, 0])
    assert got.shape == t.shape
    got = torch.func.vmap(normalize_tangents, in_dims=(0, None, None))(
        torch.zeros(3, 0, 2, 3, 4, 6), torch.zeros(2, 3, 4, 6), torch.zeros(2, 3)
    )
    assert got.shape == (3, 0, 2, 3, 4, 6)


def test_derivatives_are_refused_with_what_to_do_instead(rng):
    t = normal(rng, "cpu", 1, 2, 3, 4, 5)
    xh, scale = primal(rng, "cpu", torch.float64, 2, 3, 4, 5)
    refused = pytest.raises(RuntimeError, match=r"would answer with .* by pullback_ext.group_norm")
    with refused:
        torch.func.jvp(lambda x: normalize_tangents(x, xh, scale), (t,), (t,))
    with refused:
        torch.func.grad(lambda x: normalize_tangents(t, x, scale).sum())(xh)


def test_the_reference_is_differentiable(rng):
    t = normal(rng, "cpu", 1, 1, 2, 2, 3).requires_grad_()
    xh, scale = primal(rng, "cpu", torch.float64, 1, 2, 2, 3)
    args = (t, xh.requires_grad_(), scale.requires_grad_(), torch.ones(1, 2, 2, 1).double())
    assert torch.autograd.gradcheck(reference.normalize_tangents, args, check_forward_ad=True)
