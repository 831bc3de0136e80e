"""Ways to differentiate a function, for the tests of those that have rules of their own.

Each takes a function of one tensor, a point x, tangents v `[k, *x.shape]` and cotangents u
`[k, *f(x).shape]`.
"""

import torch
import torch.nn.functional as F

import pullback_ext

func = torch.func


def push(f, x, v):
    """J v for all tangents."""
    return func.vmap(lambda t: func.jvp(f, (x,), (t,))[1])(v)


def pull(f, x, u):
    """Jᵀ u for all cotangents."""
    return func.vmap(func.vjp(f, x)[1])(u)[0]


def _backward(f, x, v, u):
    x = x.detach().requires_grad_()
    f(x).backward(u[0])
    return x.grad


def _through_a_graph(f, x, v, u):
    """J v by reverse mode twice, on copies, as `TangentGraph` does."""
    copies = x.detach().expand(len(v), *x.shape).flatten(0, 1).requires_grad_()
    y = f(copies.clone())
    w = torch.zeros_like(y).requires_grad_()
    (g,) = torch.autograd.grad(y, copies, w, create_graph=True)
    return torch.autograd.grad(g, w, v.reshape(copies.shape))[0]


def _over_points(f, x, v, u):
    points = torch.stack([x, 2 * x + 1, x.flip(0)])
    forward = func.vmap(lambda x: push(f, x, v))(points)
    reverse = func.vmap(lambda x: pull(f, x, u))(points)
    return torch.cat([forward.flatten(), reverse.flatten()])


def _through_vmap(f, x, v, u):
    points = torch.stack([x, 2 * x + 1])
    value, tangent = func.jvp(func.vmap(f), (points,), (v[:2],))
    (cotangent,) = func.vjp(func.vmap(f), points)[1](u[:2])
    return torch.cat([value.flatten(), tangent.flatten(), cotangent.flatten()])


FIRST = {
    "value": lambda f, x, v, u: f(x),
    "jvp": lambda f, x, v, u: func.jvp(f, (x,), (v[0],))[1],
    "vjp": lambda f, x, v, u: func.vjp(f, x)[1](u[0])[0],
    "vmap jvp": lambda f, x, v, u: push(f, x, v),
    "vmap vjp": lambda f, x, v, u: pull(f, x, u),
    "linearize": lambda f, x, v, u: func.vmap(func.linearize(f, x)[1])(v),
    "jacfwd": lambda f, x, v, u: func.jacfwd(f)(x),
    "jacrev": lambda f, x, v, u: func.jacrev(f)(x),
    "backward": _backward,
    "graph": _through_a_graph,
    "over points": _over_points,
    "through vmap": _through_vmap,
}


def _jvp_jvp(f, x, v, u):
    return func.jvp(lambda x: func.jvp(f, (x,), (v[0],))[1], (x,), (v[1],))[1]


def _jvp_vjp(f, x, v, u):
    return func.jvp(lambda x: func.vjp(f, x)[1](u[0])[0], (x,), (v[1],))[1]


HIGHER = {
    "jvp jvp": _jvp_jvp,
    "jvp vjp": _jvp_vjp,
    "vjp jvp": lambda f, x, v, u: func.vjp(lambda x: func.jvp(f, (x,), (v[0],))[1], x)[1](u[0])[0],
    "vjp vjp": lambda f, x, v, u: func.vjp(lambda x: func.vjp(f, x)[1](u[0])[0], x)[1](v[0])[0],
    "jvp jvp jvp": lambda f, x, v, u: func.jvp(lambda x: _jvp_jvp(f, x, v, u), (x,), (v[2],))[1],
    "vjp jvp vjp": lambda f, x, v, u: func.vjp(lambda x: _jvp_vjp(f, x, v, u), x)[1](v[0])[0],
    "vmap jvp vjp": lambda f, x, v, u: func.vmap(lambda t: _jvp_vjp(f, x, [t, t], u))(v),
    "vmap vjp jvp": lambda f, x, v, u: func.vmap(
        lambda t, c: func.vjp(lambda x: func.jvp(f, (x,), (t,))[1], x)[1](c)[0]
    )(v, u),
}


def relative(got, want):
    """Largest difference over the largest entry; both must be of one shape, and not zero."""
    assert got.shape == want.shape
    assert want.abs().max() > 0
    return float((got - want).abs().max() / want.abs().max())


# ------------------------------------------------------------------------------------- functions


def _normalized(x, dims, eps, centered=True):
    """By torch's arithmetic: its own `layer_norm` has wrong second derivatives in forward mode."""
    x = x - x.mean(dims, keepdim=True) if centered else x
    return x * torch.rsqrt((x * x).mean(dims, keepdim=True) + eps)


def _groups(x, groups, weight, bias, eps=1e-5):
    y = _normalized(x.reshape(len(x), groups, -1), -1, eps).reshape(x.shape)
    sizes = (1, -1, *[1] * (x.dim() - 2))
    return y * weight.reshape(sizes) + bias.reshape(sizes)


def _geglu(x):
    a, g = x.chunk(2, dim=-1)
    return a * F.gelu(g)


def _attention(q, k, v):
    s = q @ k.mT * q.shape[-1] ** -0.5
    return torch.softmax(s + torch.full(s.shape[-2:], -torch.inf).triu(1), -1) @ v


#: By public name: the function, its truth of torch's functions, the shape of x, and that of each
#: further argument that can be differentiated.
FUNCTIONS = {
    "group_norm": (
        lambda x, w, b: pullback_ext.group_norm(x, 3, w, b),
        lambda x, w, b: _groups(x, 3, w, b),
        (2, 6, 3, 5),
        [(6,), (6,)],
    ),
    "group_norm_silu": (
        lambda x, w, b: pullback_ext.group_norm_silu(x, 2, w, b, 1e-3),
        lambda x, w, b: F.silu(_groups(x, 2, w, b, 1e-3)),
        (2, 6, 7),
        [(6,), (6,)],
    ),
    "layer_norm": (
        lambda x, w, b: pullback_ext.layer_norm(x, (3, 5), w, b),
        lambda x, w, b: _normalized(x, (-2, -1), 1e-5) * w + b,
        (2, 4, 3, 5),
        [(3, 5), (3, 5)],
    ),
    "rms_norm": (
        lambda x, w: pullback_ext.rms_norm(x, (7,), w, 1e-2),
        lambda x, w: _normalized(x, -1, 1e-2, centered=False) * w,
        (3, 7),
        [(7,)],
    ),
    "silu": (pullback_ext.silu, F.silu, (2, 3, 5), []),
    "gelu": (pullback_ext.gelu, F.gelu, (2, 3, 5), []),
    "geglu": (pullback_ext.geglu, _geglu, (2, 3, 6), []),
    "scaled_dot_product_attention": (
        lambda x: pullback_ext.scaled_dot_product_attention(x, x.sin(), x.cos(), is_causal=True),
        lambda x: _attention(x, x.sin(), x.cos()),
        (2, 3, 5, 4),
        [],
    ),
}


def case(name, dtype=torch.float64):
    """The function of x, its truth, x, tangents and cotangents, drawn anew."""
    ours, truth, shape, others = FUNCTIONS[name]
    others = [torch.randn(size, dtype=dtype) for size in others]
    x = torch.randn(shape, dtype=dtype)
    v = torch.randn(3, *shape, dtype=dtype)
    u = torch.randn(3, *truth(x, *others).shape, dtype=dtype)
    return lambda x: ours(x, *others), lambda x: truth(x, *others), x, v, u
