"""Unmodified modules in forward mode, and what torch still gets wrong there."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from pullback_ext import _intercepted_attention, intercept
from pullback_ext.intercept import forward_mode_ready
from tests.pullback_ext.derivatives import relative


def jvp_columns(f, x, v):
    return torch.func.vmap(lambda tangent: torch.func.jvp(f, (x,), (tangent,))[1])(v)


def test_group_norm_of_a_channels_last_primal():
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    v = torch.randn(3, 2, 8, 5, 5, dtype=torch.float64)
    weight, bias = torch.randn(8).double(), torch.randn(8).double()

    def f(x):
        return F.group_norm(x, 4, weight, bias)

    with forward_mode_ready():
        tangents = jvp_columns(f, x, v)
    step = 1e-6
    numeric = torch.stack([(f(x + step * w) - f(x - step * w)) / (2 * step) for w in v])
    assert tangents.abs().max() > 0
    assert torch.allclose(tangents, numeric, atol=1e-7)


def test_group_norm_by_keyword():
    x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
    with forward_mode_ready():
        tangent = torch.func.jvp(lambda x: F.group_norm(input=x, num_groups=2), (x,), (x,))[1]
    assert torch.isfinite(tangent).all()


def test_attention_has_a_forward_rule_inside_the_context_only():
    q = torch.randn(2, 3, 7, 4, dtype=torch.float64)
    v = torch.randn(2, 2, 3, 7, 4, dtype=torch.float64)

    def f(x):
        return F.scaled_dot_product_attention(x, x, x)

    with forward_mode_ready():
        tangents = jvp_columns(f, q, v)
    step = 1e-6
    numeric = torch.stack([(f(q + step * w) - f(q - step * w)) / (2 * step) for w in v])
    assert torch.allclose(tangents, numeric, atol=1e-7)


@pytest.mark.parametrize("tokens", [7, 200])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("backend", [b for b in SDPBackend.__members__.values() if b.value >= 0])
def test_attention_that_asks_for_a_backend_itself(backend, mode, tokens):
    """Its own context is the inner one, and would have the last word."""
    q = torch.randn(2, 3, tokens, 4, dtype=torch.float64)
    v = torch.randn(2, 2, 3, tokens, 4, dtype=torch.float64)

    def plain(x):
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    def f(x):
        with sdpa_kernel(backend):
            return plain(x)

    def product(f):
        with forward_mode_ready():
            if mode == "forward":
                return jvp_columns(f, q, v)
            return torch.func.vmap(torch.func.vjp(f, q)[1])(v)[0]

    assert torch.equal(product(f), product(plain))


def test_the_context_ends():
    x = torch.randn(2, 8, 5, 5)
    with forward_mode_ready():
        pass
    assert F.group_norm(x.to(memory_format=torch.channels_last), 2).shape == x.shape
    assert torch.overrides._get_current_function_mode() is None


def test_compiled_forward_mode_still_drops_custom_rules():
    """Canary for pytorch#192985: when this fails, torch.compile around jvp may be allowed."""

    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return torch.from_numpy(x.detach().numpy() ** 2)

        @staticmethod
        def setup_context(ctx, inputs, _output):
            ctx.save_for_forward(*inputs)

        @staticmethod
        def jvp(ctx, tangent):
            return 2 * ctx.saved_tensors[0] * tangent

    def push(x, v):
        return torch.func.jvp(Opaque.apply, (x,), (v,))[1]

    x, v = torch.rand(4) + 1, torch.rand(4) + 1
    assert torch.allclose(push(x, v), 2 * x * v)
    try:
        compiled = torch.compile(push, backend="eager", fullgraph=True)(x, v)
    except Exception as error:
        pytest.skip(f"torch {torch.__version__} refuses to compile it: {type(error).__name__}")
    assert not torch.allclose(compiled, 2 * x * v)


#: Weight and bias, by size.
AFFINE = {size: torch.randn(2, size, dtype=torch.float64).unbind() for size in (6, 8)}
FUNCTIONS = {
    "F.group_norm": (lambda x: F.group_norm(x, 4, *AFFINE[8]), "normalize_tangents"),
    "torch.group_norm": (lambda x: torch.group_norm(x, 4, *AFFINE[8]), "normalize_tangents"),
    "by keyword": (
        lambda x: F.group_norm(num_groups=2, eps=1e-3, bias=AFFINE[8][1], input=x),
        "normalize_tangents",
    ),
    "nn.GroupNorm": (nn.GroupNorm(2, 8).double(), "normalize_tangents"),
    "F.layer_norm": (lambda x: F.layer_norm(x, (6,), *AFFINE[6]), "normalize_tangents"),
    "torch.layer_norm": (lambda x: torch.layer_norm(x, [5, 6]), "normalize_tangents"),
    "nn.LayerNorm": (nn.LayerNorm(6).double(), "normalize_tangents"),
    "F.rms_norm": (lambda x: F.rms_norm(x, (6,), AFFINE[6][0], 1e-3), "normalize_tangents"),
    "torch.rms_norm": (lambda x: torch.rms_norm(x, (6,), eps=1e-3), "normalize_tangents"),
    "nn.RMSNorm": (nn.RMSNorm(6).double(), "normalize_tangents"),
    "F.silu": (F.silu, "silu_backward"),
    "nn.SiLU": (nn.SiLU(), "silu_backward"),
    "F.gelu": (F.gelu, "gelu_backward"),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), "gelu_backward"),
    "nn.GELU": (nn.GELU("tanh"), "gelu_backward"),
}


class Calls(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def of_any_size(monkeypatch):
    """Our functions for small tensors too."""
    monkeypatch.setattr(intercept, "_WORTHWHILE", dict.fromkeys(intercept._WORTHWHILE, 0))
    monkeypatch.setattr(_intercepted_attention, "_WORTHWHILE", 0)


@pytest.mark.parametrize("samples", [1, 30])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_small_samples_are_left_to_torch(name, samples):
    f, op = FUNCTIONS[name]
    shapes = {"small": (samples, 8, 5, 6), "large": (samples, 8, 400, 6)}
    for size, shape in shapes.items():
        if size == "large" and name == "torch.layer_norm":  # of all entries of a sample
            continue
        x = torch.randn(shape, dtype=torch.float64)
        with Calls() as calls, forward_mode_ready():
            torch.func.jvp(f, (x,), (x,))
        ours = op == "normalize_tangents" or "ones" in calls.names or "expand" in calls.names
        assert (op in calls.names and ours) == (size == "large")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torchs_functions_are_ours_inside_the_context(name, of_any_size):
    f, op = FUNCTIONS[name]
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    v = torch.randn(3, 2, 8, 5, 6, dtype=torch.float64)
    with Calls() as calls, forward_mode_ready():
        value, tangents = f(x), jvp_columns(f, x, v)
        cotangents = torch.func.vmap(torch.func.vjp(f, x)[1])(v)[0]
    assert calls.names.count(op) == 2  # forward and reverse, for all tangents at once
    assert torch.equal(value, f(x))
    with Calls() as calls:
        want = jvp_columns(f, x, v)
        assert relative(tangents, want) < 1e-12
        assert relative(cotangents, torch.func.vmap(torch.func.vjp(f, x)[1])(v)[0]) < 1e-12
    assert "normalize_tangents" not in calls.names


def test_what_has_no_rule_is_left_to_torch(of_any_size):
    """In-place SiLU, whole numbers, sparse tensors, classes derived from a tensor."""

    class Derived(torch.Tensor):
        pass

    x = torch.randn(2, 8)
    with forward_mode_ready():
        y = x.clone()
        assert F.silu(y, inplace=True) is y
        assert nn.SiLU(inplace=True)(x.clone()).equal(y)
        assert type(F.silu(x.as_subclass(Derived))) is Derived
        with pytest.raises(NotImplementedError, match="Sparse"):
            F.silu(x.to_sparse())
        with pytest.raises(RuntimeError, match="not implemented for 'Long'"):
            F.silu(torch.ones(3, dtype=torch.int64))
        tangent = torch.func.jvp(lambda x: F.silu(x * 1, inplace=True), (x,), (x,))[1]
    assert torch.allclose(tangent, torch.func.jvp(F.silu, (x,), (x,))[1])


def test_a_trace_has_one_node_for_each_norm(of_any_size):
    layers = nn.Sequential(nn.GroupNorm(2, 8, affine=False), nn.SiLU(), nn.RMSNorm(6))
    layers.double().requires_grad_(False)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    v = torch.randn(3, 2, 8, 5, 6, dtype=torch.float64)
    with forward_mode_ready():
        graph = make_fx(lambda x, v: jvp_columns(layers, x, v))(x, v)
        want = jvp_columns(layers, x, v)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("pullback.normalize_tangents.default") == 2
    assert relative(graph(x, v), want) < 1e-13


def norm_silu(x, between=None):
    y = F.group_norm(x, 4, *AFFINE[8])
    return F.silu(y if between is None else between(y))


@pytest.mark.parametrize(
    ("between", "fused"),
    [
        (None, True),
        (lambda y: y, True),
        (lambda y: y + 0, False),
        (lambda y: y.mul_(2), False),
        (lambda y: y.view(y.shape), False),
    ],
)
def test_silu_of_a_group_norm_is_fused_where_cotangents_are_pulled(between, fused, of_any_size):
    x = torch.randn(2, 8, 5, dtype=torch.float64)
    v = torch.randn(3, 2, 8, 5, dtype=torch.float64)

    def f(x):
        return norm_silu(x, between)

    want = f(x), torch.func.vmap(torch.func.vjp(f, x)[1])(v)[0], jvp_columns(f, x, v)
    with forward_mode_ready():
        value, pull = torch.func.vjp(f, x)
        with Calls() as calls:
            cotangents = torch.func.vmap(pull)(v)[0]
        tangents = jvp_columns(f, x, v)
    assert calls.names.count("normalize_tangents") == 1
    assert torch.equal(value, want[0])
    assert relative(cotangents, want[1]) < 1e-12
    assert relative(tangents, want[2]) < 1e-12
    with forward_mode_ready(), Calls() as calls:
        pull = torch.func.vjp(f, x)[1]
    assert (calls.names.count("silu") == 1 and calls.names.count("native_group_norm") == 2) == fused


def test_fusion_forgets_what_came_before(of_any_size):
    """A change in place, another norm, or the same tensor later on."""
    x = torch.randn(2, 8, 5, dtype=torch.float64)

    def f(x):
        y = F.group_norm(x, 4)
        y.mul_(3)
        changed = F.silu(y)
        y, z = F.group_norm(x, 4), F.group_norm(x, 2)
        return changed + F.silu(y) + F.silu(z) + F.silu(z)

    want = torch.func.vjp(f, x)[1](x)[0]
    with forward_mode_ready():
        assert relative(torch.func.vjp(f, x)[1](x)[0], want) < 1e-12


# --------------------------------------------------------------------------- modules of a class


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


class Heir(Double):
    pass


class Own(Double):
    def forward(self, x):
        return 10 * super().forward(x)


@pytest.fixture
def registered(monkeypatch):
    """`Double` runs a function that says so."""
    monkeypatch.setattr(intercept, "_FUNCTIONS", dict(intercept._FUNCTIONS))
    intercept.register(Double, lambda module, x: 2 * x + 1000)


def test_a_registered_class_runs_its_function_inside_the_context(registered):
    x, stock = torch.ones(1), Double.__dict__["forward"]
    with forward_mode_ready():
        assert Double()(x) == 1002
        assert Heir()(x) == 1002
        assert Own()(x) == 10020
        with forward_mode_ready():
            assert Double()(x) == 1002
        assert Double()(x) == 1002
    assert Double()(x) == 2
    assert Double.__dict__["forward"] is stock
    assert not intercept._PATCHES


def test_an_inherited_forward_is_given_back(monkeypatch):
    monkeypatch.setattr(intercept, "_FUNCTIONS", dict(intercept._FUNCTIONS))
    intercept.register(Heir, lambda module, x: -x)
    with forward_mode_ready():
        assert Heir()(torch.ones(1)) == -1
        assert Double()(torch.ones(1)) == 2
    assert "forward" not in Heir.__dict__


def test_a_class_has_one_function(registered):
    def other(module, x):
        return x

    with pytest.raises(ValueError, match="expected one function for Double"):
        intercept.register(Double, other)
    intercept.register(Own, other)
    intercept.register(Own, other)  # the same again is no conflict


@pytest.mark.parametrize("where", ["module", "context"])
def test_everything_is_restored_after_an_error(registered, where):
    stock, matmul = Double.__dict__["forward"], torch.backends.mkldnn.matmul.fp32_precision

    def fail():
        with forward_mode_ready():
            if where == "module":
                Double()(object())
            raise KeyError

    with pytest.raises((TypeError, KeyError)):
        fail()
    assert Double.__dict__["forward"] is stock
    assert torch.overrides._get_current_function_mode() is None
    assert torch.backends.mkldnn.matmul.fp32_precision == matmul
    assert intercept._THREAD.contexts == 0


def test_other_threads_see_the_original(registered):
    x, inside, found = torch.ones(1), threading.Event(), {}
    leave = threading.Event()

    def enter():
        with forward_mode_ready():
            found["inside"] = float(Double()(x))
            inside.set()
            assert leave.wait(10)
        found["after"] = float(Double()(x))

    thread = threading.Thread(target=enter)
    thread.start()
    assert inside.wait(10)
    found["other"] = float(Double()(x))
    leave.set()
    thread.join(10)
    assert found == {"inside": 1002, "other": 2, "after": 2}


def test_many_threads_enter_and_leave(registered):
    """Each is inside by itself: what others do meanwhile does not end its context."""
    x, stock, wrong = torch.ones(1), Double.__dict__["forward"], []
    start = threading.Barrier(4)

    def work():
        start.wait(10)
        for _ in range(50):
            with intercept._registered():
                if Double()(x) != 1002:
                    wrong.append("inside")
            if Double()(x) != 2:
                wrong.append("outside")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert Double.__dict__["forward"] is stock


# ------------------------------------------------------------------------------- whole networks


class Block(nn.Module):
    """A bit of everything, as networks have it."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(2, 8), nn.LayerNorm(6), nn.RMSNorm(6)])
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.linear = nn.Linear(6, 12)
        self.silu, self.gelu = nn.SiLU(), nn.GELU()

    def forward(self, x):
        x = x + self.conv(self.silu(self.norms[0](x)))
        a, g = self.linear(self.norms[1](x)).chunk(2, dim=-1)
        x = x + a * self.gelu(g)
        last = x.movedim(1, -1).contiguous().movedim(-1, 1)
        return F.group_norm(last, 4) + self.norms[2](x)


@pytest.mark.parametrize("where", ["in torch.func", "by autograd"])
def test_an_unmodified_module(where, of_any_size):
    module = Block().double()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    v = torch.randn(3, 2, 8, 5, 6, dtype=torch.float64)
    step = 1e-6

    def products():
        if where == "by autograd":
            point = x.clone().requires_grad_()
            y = module(point.clone())
            return torch.autograd.grad(y, [point, *module.parameters()], v[0])
        parameters = dict(module.named_parameters())

        def of_parameters(parameters):
            return torch.func.functional_call(module, parameters, x)

        return [
            module(x),
            torch.func.vmap(torch.func.vjp(module, x)[1])(v)[0],
            *torch.func.vjp(of_parameters, parameters)[1](v[0])[0].values(),
        ]

    with forward_mode_ready():
        found = products()
        tangents = jvp_columns(module, x, v)
    for got, want in zip(found, products(), strict=True):
        assert relative(got, want) < 1e-11
    with torch.no_grad():
        numeric = torch.stack([module(x + step * t) - module(x - step * t) for t in v]) / (2 * step)
    assert relative(tangents, numeric) < 1e-6
