"""The op table: every cell is there and agrees with the library."""

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pullback_ext import __main__ as command
from pullback_ext import _ops, build_info, gram, orthonormalize, reference, ritz

pytestmark = pytest.mark.usefixtures("native")

OPS = pytest.mark.parametrize("op", _ops.OPS.values(), ids=_ops.OPS)


def cases(op):
    return list(command.CASES[op.name](torch.device("cpu")))


def tensors(result):
    return (result,) if isinstance(result, torch.Tensor) else result


@OPS
def test_no_cell_is_empty(op):
    for field in dataclasses.fields(op):
        value = getattr(op, field.name)
        assert callable(value) or (isinstance(value, str) and value), field.name
    assert getattr(reference, op.name) is op.reference
    assert len(cases(op)) > 0


def test_operators_that_a_stale_library_lacks_are_named():
    assert _ops.absent(["gram", "no_such_operator", "ritz"]) == ["no_such_operator"]


@OPS
def test_the_schema_is_the_registered_one(op):
    assert str(_ops.overload(op.name)._schema) == f"pullback::{op.schema}"


def test_the_table_holds_all_operators_of_the_library():
    names = {name for name in torch._C._dispatch_get_all_op_names() if "pullback::" in name}
    natively = {
        name.removeprefix("pullback::")
        for name in names
        if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")
    }
    assert natively == set(_ops.OPS) == set(command.CASES)


@OPS
def test_kernels_are_registered_for_what_was_built(op):
    assert _ops.has_kernel(op.name, "cpu")
    assert _ops.has_kernel(op.name, "cuda") == (build_info()["cuda"] is not None)
    assert not _ops.has_kernel(op.name, "mps")


@OPS
def test_opcheck(op):
    for case in cases(op)[::5]:  # one of each dtype, with and without b; half a second each
        torch.library.opcheck(_ops.overload(op.name), case.args)


@OPS
def test_fake_results_look_like_real_ones(op):
    for case in cases(op):
        real = _ops.overload(op.name)(*case.args)
        meta = _ops.overload(op.name)(
            *(x.to("meta") if isinstance(x, torch.Tensor) else x for x in case.args)
        )
        with FakeTensorMode() as mode:
            args = [mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in case.args]
            fake = _ops.overload(op.name)(*args)
        for other in (meta, fake):
            for x, y in zip(tensors(other), tensors(real), strict=True):
                assert x.shape == y.shape
                assert x.dtype == y.dtype
                assert x.stride() == y.stride()


@pytest.mark.parametrize(
    ("a_dim", "b_dim"),
    [(0, 0), (1, 0), (3, 2), (0, None), (2, None), (None, 0), (None, 3), (-1, -2)],
)
def test_vmap_of_gram_gives_the_bits_of_a_loop(rng, a_dim, b_dim):
    count, k, p = 3, 4, 5
    a, b = torch.randn(2, k, 300, generator=rng), torch.randn(2, p, 300, generator=rng)
    if a_dim is not None:
        a = torch.randn(count, 2, k, 300, generator=rng).movedim(0, a_dim)
    if b_dim is not None:
        b = torch.randn(count, 2, p, 300, generator=rng).movedim(0, b_dim)

    def select(x, dim, i):
        return x if dim is None else x.select(dim, i)

    got = torch.func.vmap(gram, in_dims=(a_dim, b_dim))(a, b)
    want = [gram(select(a, a_dim, i), select(b, b_dim, i)) for i in range(count)]
    assert torch.equal(got, torch.stack(want))


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_vmap_of_gram_with_itself(rng, dim):
    a = torch.randn(3, 2, 4, 300, generator=rng).movedim(0, dim)
    got = torch.func.vmap(gram, in_dims=dim)(a)
    assert torch.equal(got, torch.stack([gram(a.select(dim, i)) for i in range(3)]))
    assert torch.equal(got, got.mT)


def test_nested_and_chunked_vmap(rng):
    a = torch.randn(3, 6, 2, 4, 100, generator=rng)
    b = torch.randn(6, 2, 5, 100, generator=rng)
    inner = torch.func.vmap(gram, in_dims=(0, None))
    got = torch.func.vmap(inner, in_dims=(1, 0), chunk_size=4)(a, b)  # [6, 3, 2, 4, 5]
    want = torch.stack([torch.stack([gram(a[i, j], b[j]) for i in range(3)]) for j in range(6)])
    assert torch.equal(got, want)


@pytest.mark.parametrize("dims", [(0, 0), (2, None), (None, 1), (-1, 3)])
@pytest.mark.parametrize("name", ["orthonormalize", "block_step"])
def test_vmap_of_blocks_gives_the_bits_of_a_loop(rng, name, dims):
    def draw(rows, dim):
        if dim is None:
            return torch.linalg.qr(torch.randn(2, 60, rows, generator=rng))[0].mT
        wide = torch.randn(3, 2, 60, rows, generator=rng)
        return torch.linalg.qr(wide)[0].mT.movedim(0, dim)

    def select(x, dim, i):
        return x if dim is None else x.select(dim, i)

    block, others = draw(5, dims[0]), draw(7, dims[1])
    if name == "orthonormalize":

        def f(a, b):
            return _ops.overload(name)(a, b, 1)
    else:

        def f(a, b):
            return _ops.overload(name)(a, b[:, 4:], b[:, :4], 1)

    got = torch.func.vmap(f, in_dims=dims)(block, others)
    for i in range(3):
        want = f(select(block, dims[0], i), select(others, dims[1], i))
        for x, y in zip(got, want, strict=True):
            assert torch.equal(x[i], y)


@pytest.mark.parametrize("n", [5, 100])
def test_vmap_of_ritz_gives_the_bits_of_a_loop(rng, n):
    t = torch.randn(3, n, 2, n, generator=rng, dtype=torch.float64)  # [B, n, V, n]
    values, vectors = torch.func.vmap(ritz, in_dims=2)(t)
    for i in range(2):
        want = ritz(t[:, :, i])
        assert torch.equal(values[i], want[0])
        assert torch.equal(vectors[i], want[1])


def test_vmap_over_an_empty_batch(rng):
    block = torch.randn(3, 0, 5, 40, generator=rng)
    got = torch.func.vmap(orthonormalize)(block)
    assert got.q.shape == (3, 0, 5, 40)
    assert got.rank.shape == (3, 0)


def test_vmap_is_a_rule_and_not_a_loop(rng, recwarn):
    torch.func.vmap(gram)(torch.randn(3, 2, 4, 100, generator=rng))
    assert not [w for w in recwarn if "performance drop" in str(w.message)]


def test_make_fx_keeps_the_operator_whole(rng):
    from torch.fx.experimental.proxy_tensor import make_fx

    a = torch.randn(2, 3, 40, generator=rng)
    graph = make_fx(lambda x: gram(x) + 1, tracing_mode="symbolic")(a)
    assert [n.target for n in graph.graph.nodes].count(torch.ops.pullback.gram.default) == 1
    other = torch.randn(5, 7, 90, generator=rng)
    assert torch.equal(graph(other), gram(other) + 1)
