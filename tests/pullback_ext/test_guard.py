"""Raw operators refuse to lose a derivative; what they are without the guard."""

import pytest
import torch
from torch.autograd import forward_ad

from pullback_ext import __main__ as command
from pullback_ext import _loader, _ops, block_step, gram, orthonormalize, reference, ritz

pytestmark = pytest.mark.usefixtures("native")

DERIVATIVE = "gram: expected inputs without derivatives, got {} that "


def refuses(name="a"):
    return pytest.raises(RuntimeError, match=DERIVATIVE.format(name))


@pytest.fixture
def a(rng):
    return torch.randn(2, 3, 50, generator=rng)


@pytest.fixture
def b(rng):
    return torch.randn(2, 4, 50, generator=rng)


def test_refuses_a_forward_mode_tangent(a, b):
    with refuses():
        torch.func.jvp(gram, (a,), (a,))
    with refuses("b"):
        torch.func.jvp(lambda y: gram(a, y), (b,), (b,))
    with forward_ad.dual_level(), refuses():
        gram(forward_ad.make_dual(a, a))


IN_INFERENCE_MODE = "gram: expected .* got a call inside torch.func.jvp in inference mode"


@pytest.mark.parametrize("function", [gram, _ops.overload("gram")], ids=["gram", "operator"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_refuses_a_tangent_in_every_grad_mode(a, context, function):
    # Before 2.12 torch itself loses the tangent in inference mode (pytorch#177318).
    lost = context is torch.inference_mode and _loader.torch_release(torch.__version__) < (2, 12)
    refused = pytest.raises(RuntimeError, match=IN_INFERENCE_MODE) if lost else refuses()
    with context(), refused:
        torch.func.jvp(function, (a,), (a,))


def test_a_torch_that_loses_tangents_in_inference_mode_is_told_by_its_version(python):
    """The guard of torch 2.10 and 2.11, on whatever torch this is."""
    code = """
import torch
torch.__version__ = "2.11.0"
from pullback_ext import _ops, __main__ as command

def refused(call):
    try:
        call()
    except RuntimeError as error:
        return "inside torch.func.jvp in inference mode, where torch 2.11.0" in str(error)

for name in _ops.OPS:
    op, args = _ops.overload(name), next(iter(command.CASES[name](torch.device("cpu")))).args
    first = args[0]

    @torch.inference_mode()
    def f(x):
        return op(*args)[0]

    f(first)  # without a transform there is nothing to lose
    assert refused(lambda: torch.func.jvp(f, (first,), (first,))), name
    torch.func.jvp(lambda x: (x, op(*args)), (first,), (first,), has_aux=True)  # out of the mode
print("fine")
"""
    assert python(code).stdout.strip() == "fine"


def test_refuses_a_tangent_under_vmap(a):
    tangents = torch.randn(5, *a.shape)
    with refuses():
        torch.func.vmap(lambda t: torch.func.jvp(gram, (a,), (t,))[1])(tangents)
    with refuses():
        torch.func.jacfwd(lambda x: gram(x).sum())(a)


def test_refuses_reverse_mode(a, b):
    with refuses():
        torch.func.vjp(gram, a)
    with refuses("b"):
        torch.func.grad(lambda y: gram(a, y).sum())(b)
    with refuses():
        gram(a.requires_grad_())


def test_refuses_an_input_computed_from_one_that_requires_grad(a):
    with refuses():
        gram(a.requires_grad_() * 2)


def test_keyword_arguments_are_watched_too(a, b):
    with refuses("b"):
        torch.ops.pullback.gram(a, b=b.requires_grad_())


def test_passes_where_there_is_nothing_to_lose(a, b):
    want = gram(a, b)
    watched = a.clone().requires_grad_()
    with torch.no_grad():
        assert torch.equal(gram(watched, b), want)
    with torch.inference_mode():
        got = gram(watched, b)
        assert torch.equal(got, want)
        assert got.is_inference()
    assert torch.equal(gram(watched.detach(), b), want)
    # Other inputs of the function have tangents, these have none.
    value, tangent = torch.func.jvp(lambda x: x.sum() + gram(a, b).sum(), (a,), (a,))
    assert torch.isfinite(value)
    torch.testing.assert_close(tangent, a.sum().double())


def test_the_reference_is_differentiable(a):
    a = a.double()
    value, tangent = torch.func.jvp(reference.gram, (a,), (a,))
    torch.testing.assert_close(tangent, 2 * value)
    assert torch.autograd.gradcheck(
        reference.gram, (a[:1, :2, :3].clone().requires_grad_(),), check_forward_ad=True
    )


def test_an_unguarded_operator_would_be_silently_wrong(a):
    """The reason for the guard; should torch change its mind, this says so."""
    library = torch.library.Library("pullback_unguarded", "DEF")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda x: torch.from_numpy(2 * x.numpy()), "CPU")
    op = torch.ops.pullback_unguarded.double.default
    _, tangent = torch.func.jvp(op, (a,), (torch.ones_like(a),))
    assert not tangent.any()


def test_every_operator_is_guarded():
    for name in _ops.OPS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pullback::{name}", "Autograd")


def tensor_arguments(name):
    """The arguments of an operator's first case, and which of them are tensors."""
    args = next(iter(command.CASES[name](torch.device("cpu")))).args
    names = [argument.name for argument in _ops.overload(name)._schema.arguments]
    return args, [(i, names[i]) for i, x in enumerate(args) if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize("name", _ops.OPS)
def test_every_tensor_argument_of_every_operator_is_watched(name):
    op = _ops.overload(name)
    args, watched = tensor_arguments(name)
    assert watched
    for i, argument in watched:

        def f(x, i=i):
            return op(*args[:i], x, *args[i + 1 :])

        refused = pytest.raises(RuntimeError, match=f"{name}: expected .* got {argument} that ")
        with refused:
            torch.func.jvp(f, (args[i],), (torch.ones_like(args[i]),))
        with refused:
            torch.func.vjp(f, args[i])
        with refused:
            f(args[i].detach().clone().requires_grad_())
        with torch.no_grad():
            f(args[i].detach().clone().requires_grad_())


@pytest.mark.parametrize("name", ["gram", "orthonormalize", "ritz"])
@pytest.mark.parametrize("convert", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
def test_a_sparse_tensor_is_named_and_not_the_processor(name, convert, recwarn):
    block = convert(torch.eye(3).repeat(2, 1, 1))
    with pytest.raises(RuntimeError, match=rf"{name}: expected dense.*sparse.*\.to_dense\(\)"):
        {"gram": gram, "orthonormalize": orthonormalize, "ritz": ritz}[name](block)
    assert not [one for one in recwarn if "plain torch" in str(one.message)]


@pytest.mark.parametrize("seed", [1.5, "5", None])
def test_a_seed_of_another_type_is_named(seed):
    block = torch.eye(3).unsqueeze(0)
    for call in (
        lambda: orthonormalize(block, seed=seed),
        lambda: block_step(block[:, :1], block[:, 1:2], block[:, 2:], seed=seed),
    ):
        with pytest.raises(ValueError, match="Expected a seed as a whole number, got"):
            call()
