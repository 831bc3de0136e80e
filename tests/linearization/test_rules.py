"""Every rule against torch's own derivatives, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pullback.linearization import Tape
from pullback.linearization.generic import Generic
from pullback.linearization.linear import RULES

COLUMNS = 3


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(f, x, *, generic=False):
    """Products of a tape equal those of torch.func; `generic`: a rule of ours is missing."""
    tape = Tape(f, x)
    torch.testing.assert_close(tape.value, f(x), rtol=0, atol=0)
    v, u = drawn(COLUMNS, *x.shape, seed=1), drawn(COLUMNS, *tape.value.shape, seed=2)
    pushed = torch.stack([torch.func.jvp(f, (x,), (one,))[1] for one in v])
    back = torch.func.vjp(f, x)[1]
    pulled = torch.stack([back(one)[0] for one in u])
    scale_v, scale_u = float(pushed.abs().max()), float(pulled.abs().max())
    assert scale_v > 0
    assert scale_u > 0
    torch.testing.assert_close(tape.push(v), pushed, rtol=0, atol=1e-12 * scale_v)
    torch.testing.assert_close(tape.pull(u), pulled, rtol=0, atol=1e-12 * scale_u)
    for one in range(COLUMNS):  # one column at a time
        part = slice(one, one + 1)
        torch.testing.assert_close(tape.push(v[part]), pushed[part], rtol=0, atol=1e-12 * scale_v)
        torch.testing.assert_close(tape.pull(u[part]), pulled[part], rtol=0, atol=1e-12 * scale_u)
    assert any(isinstance(step.linear, Generic) for step in tape._steps) == generic
    return tape


def written(y, write):
    """A tensor of which a part is changed in place, and then used."""
    write(y)
    return y.exp() * y


M, N = drawn(5, 4, seed=3), drawn(2, 4, 6, seed=4)
IMAGE = (2, 4, 5, 7)

OWN = {
    "reshape": (lambda x: (x * x).reshape(2, -1, 5), IMAGE),
    "flatten and unflatten": (lambda x: x.flatten(2).unflatten(2, (7, 5)).sin(), IMAGE),
    "squeeze": (lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1).exp(), (3, 4)),
    "squeeze every dimension": (lambda x: x[:, :1].squeeze().sin(), (3, 4)),
    "transpose": (lambda x: (x.transpose(1, -1) * 2).mT.sin(), IMAGE),
    "t": (lambda x: x.t().sin() @ M.t()[:3], (3, 4)),
    "t of a vector": (lambda x: x.sin().t(), (3,)),
    "permute": (lambda x: x.permute(0, 2, -1, 1).sin(), IMAGE),
    "expand": (lambda x: x[:, :1].expand(3, 2, 4, -1, 7) * drawn(3, 2, 4, 5, 7), IMAGE),
    "slice": (lambda x: x[:, 1:-1:2, -3:].sin() + x[:, :2, :3].sin(), (2, 5, 6)),
    "select": (lambda x: x[:, -1].sin() * x.select(2, 0)[:, :1], (2, 4, 4)),
    "split": (lambda x: x.split(3, 1)[0].sin() * x.split([3, 2], 1)[0], (2, 5, 5)),
    "chunk": (lambda x: x.chunk(3, dim=-1)[1].sin(), (2, 7)),
    "two of three pieces": (lambda x: x.chunk(3, 1)[0] * x.chunk(3, 1)[2].exp(), (2, 6)),
    "unbind": (lambda x: x.unbind(1)[0].sin() * x.unbind(1)[2], (2, 3, 4)),
    "cat": (lambda x: torch.cat([x, drawn(2, 4), x.sin()], -1), (2, 3)),
    "stack": (lambda x: torch.stack([x, drawn(2, 3), x.cos()], dim=1).sin(), (2, 3)),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 3)).sin(), IMAGE),
    "negative pad": (lambda x: F.pad(x, (-1, 2)).sin() + 1, IMAGE),
    "mean": (lambda x: x.sin() * x.mean((1, -1), keepdim=True) + x.mean(0), IMAGE),
    "mean of all": (lambda x: x.sin() * x.mean(), (3, 4)),
    "sum": (lambda x: x.sum(1).sin() + x.sum((0, 1)) * x.sum(), (3, 3, 4)),
    "clone and contiguous": (lambda x: x.mT.contiguous().clone().sin(), (3, 4)),
    "to float and back": (lambda x: x.to(torch.float64).double().sin(), (3, 4)),
    "add": (lambda x: x + 2 * x.sin() + 1.5 + drawn(4), (3, 4)),
    "add with a factor": (lambda x: torch.add(x, x.sin(), alpha=-3), (3, 4)),
    "add and spread": (lambda x: x.sin() + x[:, :1] + x[0], (3, 4)),
    "sub": (lambda x: x - x.sin() - drawn(3, 1), (3, 4)),
    "sub with a factor": (lambda x: torch.sub(drawn(3, 4), x, alpha=2) * x, (3, 4)),
    "rsub": (lambda x: 1 - x.sin(), (3, 4)),
    "mul": (lambda x: x * x.exp() * drawn(2, 1, 4) * 2.5 * x[:1], (3, 4)),
    "mul by a wider one": (lambda x: x[:, :1] * drawn(3, 4), (3, 2)),
    "div": (lambda x: x.sin() / (2 + x * x) / 3, (3, 4)),
    "div and spread": (lambda x: x.sin() / (2 + x[:, :1].cos()), (3, 4)),
    "div of a number": (lambda x: 3 / (2 + x.cos()), (3, 4)),
    "neg": (lambda x: -x * x, (3, 4)),
    "where": (lambda x: torch.where(drawn(3, 1) > 0, x.sin(), x[:1]), (3, 4)),
    "where by value": (lambda x: torch.where(x > 0, x.sin(), 0.5 * x), (3, 4)),
    "masked_fill": (lambda x: x.sin().masked_fill(drawn(4) > 0, -2.0), (3, 4)),
    "silu": (lambda x: F.silu(x), (3, 4)),
    "gelu": (lambda x: F.gelu(x) + F.gelu(2 * x, approximate="tanh"), (3, 4)),
    "relu": (lambda x: x.relu() * x, (3, 4)),
    "sigmoid and tanh": (lambda x: x.sigmoid() * x.tanh(), (3, 4)),
    "exp and log": (lambda x: x.exp() + x.square().add(1).log(), (3, 4)),
    "roots": (lambda x: (x.square() + 1).sqrt() + (x.square() + 2).rsqrt(), (3, 4)),
    "reciprocal": (lambda x: (x.square() + 1).reciprocal(), (3, 4)),
    "sin and cos": (lambda x: x.sin() + (2 * x).cos(), (3, 4)),
    "powers": (lambda x: x**2 + x**3 + (x * x + 1) ** -0.5 + x**1, (3, 4)),
    "softmax": (lambda x: x.softmax(-1) * x.softmax(1), (3, 4, 5)),
    "linear": (lambda x: F.linear(x, M, drawn(5)).sin(), (2, 3, 4)),
    "linear of rows": (lambda x: F.linear(x, M, drawn(5)).sin(), (3, 4)),
    "linear without bias": (lambda x: F.linear(x, M), (2, 3, 4)),
    "matrix on the left": (lambda x: M @ x.sin(), (4, 3)),
    "both factors": (lambda x: x @ x.mT.sin(), (4, 3)),
    "bmm": (lambda x: x.sin() @ N, (2, 3, 4)),
    "bmm on the left": (lambda x: N.mT @ x.sin(), (2, 4, 3)),
    "bmm of both": (lambda x: torch.bmm(x, x.mT.sin()), (2, 4, 3)),
    "baddbmm": (
        lambda x: torch.baddbmm(drawn(2, 3, 3), x, x.mT.cos(), beta=0.5, alpha=0.7),
        (2, 3, 4),
    ),
    "conv": (lambda x: F.conv2d(x, drawn(6, 4, 3, 3), drawn(6), 2, 1), IMAGE),
    "conv in groups": (lambda x: F.conv2d(x, drawn(6, 2, 3, 2), None, 1, 2, 2, 2), IMAGE),
    "conv of one dimension": (lambda x: F.conv1d(x, drawn(3, 4, 3), drawn(3), 1, 1), (2, 4, 9)),
    "conv of three": (lambda x: F.conv3d(x, drawn(3, 2, 3, 1, 2)), (2, 2, 4, 3, 3)),
    "conv transposed": (
        lambda x: F.conv_transpose2d(x, drawn(4, 3, 3, 3), drawn(3), 2, 1, 1),
        IMAGE,
    ),
    "nearest": (lambda x: F.interpolate(x.sin(), scale_factor=2.0, mode="nearest"), IMAGE),
    "nearest to a size": (lambda x: F.interpolate(x, size=(7, 9), mode="nearest"), IMAGE),
    "bilinear": (lambda x: F.interpolate(x, size=(9, 8), mode="bilinear"), IMAGE),
    "pooling": (lambda x: F.avg_pool2d(x.sin(), 2) + F.adaptive_avg_pool2d(x, (2, 3)), IMAGE),
    "group norm": (lambda x: F.group_norm(x, 2, drawn(4), drawn(4)), IMAGE),
    "group norm without weights": (lambda x: F.group_norm(x.sin(), 4), IMAGE),
    "group norm and silu": (lambda x: F.silu(F.group_norm(x, 2, drawn(4), drawn(4))), IMAGE),
    "group norm used twice": (lambda x: (g := F.group_norm(x, 2)) * F.silu(g), IMAGE),
    "layer norm": (lambda x: F.layer_norm(x, (4,), drawn(4), drawn(4)).sin(), (2, 3, 4)),
    "layer norm of two sizes": (lambda x: F.layer_norm(x, (3, 4)).sin(), (2, 3, 4)),
    "rms norm": (lambda x: F.rms_norm(x, (4,), drawn(4)).sin(), (2, 3, 4)),
    "in place": (lambda x: x.clone().mul_(2).add_(x.sin()).sub_(drawn(3, 4)).exp_(), (3, 4)),
    "relu in place": (lambda x: nn.ReLU(inplace=True)(x * 2) * x, (3, 4)),
    "copy into all": (lambda x: torch.empty(3, 4, dtype=x.dtype).copy_(x.sin()[:1]) * x, (3, 4)),
    "write a column": (lambda x: written(x * 2, lambda y: y[:, 0].copy_(x[:, 1].sin())), (3, 4)),
    "write a block": (lambda x: written(x * 2, lambda y: y[1:, ::2].mul_(x[:2, :2])), (3, 4)),
    "write a number": (lambda x: written(x * 2, lambda y: y[1].fill_(3.0)), (3, 4)),
    "write into constants": (
        lambda x: written(torch.ones(4, 3).double(), lambda y: y.mT[:, 1:].copy_(x[:, 1:])),
        (3, 4),
    ),
    "write constants": (lambda x: written(x * 2, lambda y: y[:, 3].copy_(drawn(3))), (3, 4)),
    "write twice": (
        lambda x: written(x * 2, lambda y: (y[0].mul_(x[1]), y[:, 0].add_(x[:, 2]))),
        (3, 4),
    ),
    "write what was written": (
        lambda x: written(x * 2, lambda y: (p := y[0]).mul_(x[1]) is p.add_(x[2])),
        (3, 4),
    ),
    "constants by the way": (lambda x: x.sin() * torch.arange(4.0).double().add_(1), (3, 4)),
}

GENERIC = {
    "cumsum": (lambda x: x.cumsum(1).sin(), (3, 4)),
    "sort": (lambda x: x.sort(1).values * x, (3, 4)),
    "largest": (lambda x: x.sin().max(1).values, (3, 4)),
    "index": (lambda x: x[:, torch.tensor([0, 2, 2])].sin(), (3, 4)),
    "einsum of complex": (lambda x: torch.view_as_real(torch.polar(x.exp(), x)).sin(), (3, 4)),
    "complex product": (
        lambda x: torch.view_as_real(torch.view_as_complex(x) * (1 + 2j)).sin(),
        (3, 4, 2),
    ),
    "fft": (lambda x: torch.fft.rfft(x).abs(), (3, 8)),
    "norm": (lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True), (3, 4)),
    "power of a tensor": (lambda x: (x.square() + 1) ** x.sin(), (3, 4)),
    "mean as another dtype": (lambda x: x.float().mean(1, dtype=torch.float64).sin(), (3, 4)),
    "prod": (lambda x: x.prod(1), (3, 4)),
    "several outputs": (lambda x: torch.aminmax(x, dim=1).max.sin(), (3, 4)),
    "addcmul": (lambda x: torch.addcmul(x, x.sin(), x, value=0.5), (3, 4)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_rule_of_ours_equals_torch_s_derivatives(name):
    f, shape = OWN[name]
    check(f, drawn(*shape))


@pytest.mark.parametrize("name", GENERIC)
def test_what_has_no_rule_of_ours_goes_by_torch_s(name):
    f, shape = GENERIC[name]
    if name == "mean as another dtype":
        x = drawn(*shape)
        tape = Tape(f, x)
        v = drawn(COLUMNS, *shape, seed=1)
        expected = torch.stack([torch.func.jvp(f, (x,), (one,))[1] for one in v])
        torch.testing.assert_close(tape.push(v), expected, rtol=1e-6, atol=1e-6)
        return
    check(f, drawn(*shape), generic=True)


def test_every_rule_is_met_by_a_case():
    """A rule that no case reaches would be a rule that nothing tests."""
    met = set()

    class Watched(dict):
        def get(self, name, default=None):
            found = super().get(name, default)
            if found is not None:
                met.add(name)
            return found

    from pullback.linearization import recorder

    before, recorder.RULES = recorder.RULES, Watched(RULES)
    try:
        for f, shape in OWN.values():
            Tape(f, drawn(*shape))
    finally:
        recorder.RULES = before
    # Of those that torch takes apart, or that differ in name alone, another stands for them.
    spared = {
        "reshape", "flatten", "contiguous", "to", "chunk", "_reshape_alias", "lift_fresh", "alias",
        "unsafe_split", "unsafe_split_with_sizes", "square", "_safe_softmax", "avg_pool1d",
        "avg_pool3d", "upsample_nearest1d", "upsample_nearest3d", "_upsample_nearest_exact2d",
        "upsample_bicubic2d", "reflection_pad2d", "replication_pad2d", "split", "stack",
        "_to_copy",  # another dtype: below
    }  # fmt: skip
    missing = {name.removeprefix("aten::") for name in RULES} - {
        name.removeprefix("aten::") for name in met
    }
    assert missing <= spared, missing - spared


@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "transposed", "expanded"])
def test_layouts_of_points_and_blocks_change_nothing(layout):
    def f(x):
        h = F.silu(F.group_norm(F.conv2d(x, drawn(4, 4, 3, 3), padding=1), 2, drawn(4)))
        return F.interpolate(h, scale_factor=2.0).flatten(2).softmax(-1)

    x = drawn(2, 4, 6, 5)
    v, u = drawn(COLUMNS, 2, 4, 6, 5, seed=1), drawn(COLUMNS, 2, 4, 120, seed=2)
    plain = Tape(f, x)
    if layout == "channels-last":
        x = x.to(memory_format=torch.channels_last)
        v = v.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (COLUMNS, 2))
    elif layout == "transposed":
        x = x.mT.contiguous().mT
        v, u = v.mT.contiguous().mT, u.mT.contiguous().mT
    elif layout == "expanded":
        v, u = v[:, :, :1].expand_as(v), u[:, :1].expand_as(u)
    tape = Tape(f, x)
    for found, expected in ((tape.push(v), plain.push(v)), (tape.pull(u), plain.pull(u))):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)]
)
def test_narrow_dtypes_are_as_exact_as_they_can_be(dtype, tol):
    weight, gain = drawn(8, 4, 3, 3) / 6, 1 + 0.1 * drawn(8)

    def f(x):
        h = F.silu(F.group_norm(F.conv2d(x, weight.to(x), padding=1), 2, gain.to(x)))
        tokens = F.layer_norm(h.flatten(2).mT, (8,), gain.to(x))
        return F.gelu(tokens) + (tokens @ tokens.mT / 8).softmax(-1) @ tokens

    x, v = drawn(2, 4, 6, 5).to(dtype), drawn(COLUMNS, 2, 4, 6, 5, seed=1).to(dtype)
    tape, exact = Tape(f, x), Tape(f, x.double())
    u = drawn(COLUMNS, *tape.value.shape, seed=2).to(dtype)
    for found, expected in (
        (tape.push(v), exact.push(v.double())),
        (tape.pull(u), exact.pull(u.double())),
    ):
        assert found.dtype == dtype
        assert float((found.double() - expected).norm() / expected.norm()) < tol


def test_a_change_of_dtype_on_the_way_keeps_each_tangent_in_its_own():
    x, v = drawn(3, 4).float(), drawn(COLUMNS, 3, 4, seed=1).float()
    tape = Tape(lambda x: x.double().sin().float().exp().double(), x)
    u = drawn(COLUMNS, 3, 4, seed=2)
    slope = x.cos() * x.sin().exp()
    pushed, pulled = tape.push(v), tape.pull(u)
    assert (pushed.dtype, pulled.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(pushed, (slope * v).double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pulled, slope * u.float(), rtol=1e-5, atol=1e-6)
