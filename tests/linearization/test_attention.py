"""Attention in a recording: one map, by the native operator, whatever a module asks for."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pullback.linearization import Tape, UnrecordableError
from pullback.linearization.attention import Attention
from pullback_ext import _intercepted_attention
from pullback_ext.intercept import recordable
from tests.linearization.test_tape import Square


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    """The native operator for the small attention of these tests too."""
    monkeypatch.setattr(_intercepted_attention, "_WORTHWHILE", 0)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TEXT = drawn(2, 4, 7, 6, seed=3), drawn(2, 4, 7, 6, seed=4)
SHUT = torch.zeros(9, 9, dtype=torch.bool).index_fill_(1, torch.tensor([0, 3]), True)
BLIND = torch.arange(9).unsqueeze(1)
sdpa = F.scaled_dot_product_attention


def fast(x):
    """A module that asks for a backend without a forward mode."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return sdpa(x.sin(), x, x.cos())


ONE_MAP = {
    "self": lambda x: sdpa(x.sin(), x.cos(), x * 2),
    "flash": fast,
    "cross": lambda x: sdpa(x.sin(), *TEXT),
    "keys alone": lambda x: sdpa(drawn(2, 4, 5, 6), x.sin(), drawn(2, 4, 9, 6, seed=1)),
    "values alone": lambda x: sdpa(drawn(2, 4, 5, 6), drawn(2, 4, 9, 6, seed=1), x.sin()),
    "scale": lambda x: sdpa(x, x, x, scale=0.7),
    "causal": lambda x: sdpa(x, x, x, is_causal=True),
    "a boolean mask": lambda x: sdpa(x, x, x, attn_mask=SHUT),
    "an additive mask": lambda x: sdpa(x, x, x, attn_mask=drawn(2, 1, 9, 9, seed=5)),
    "a row that sees nothing": lambda x: sdpa(x, x, x, attn_mask=SHUT & (BLIND != 4)),
    "grouped heads": lambda x: sdpa(x, x[:, :2].sin(), x[:, 2:].cos(), enable_gqa=True),
}  # fmt: skip
TAKEN_APART = {
    "three sizes": lambda x: sdpa(x[0], x[0].sin(), x[0]),
    "a mask that depends on x": lambda x: sdpa(x, x, x, attn_mask=x @ x.mT),
    "keys of one sample": lambda x: sdpa(x, x[:1].sin(), x[:1]),
}


def check(f, x):
    with recordable():
        tape = Tape(f, x)
    with sdpa_kernel(SDPBackend.MATH):
        plain = ONE_MAP["self"] if f is fast else f
        if f is fast:

            def plain(x):
                return sdpa(x.sin(), x, x.cos())

        torch.testing.assert_close(tape.value, plain(x), rtol=1e-12, atol=1e-12)
        v, u = drawn(3, *x.shape, seed=1), drawn(3, *tape.value.shape, seed=2)
        pushed = torch.stack([torch.func.jvp(plain, (x,), (one,))[1] for one in v])
        back = torch.func.vjp(plain, x)[1]
        pulled = torch.stack([back(one)[0] for one in u])
    for found, expected in ((tape.push(v), pushed), (tape.pull(u), pulled)):
        assert float(expected.norm()) > 0
        assert float((found - expected).norm() / expected.norm()) <= 1e-12
    return sum(isinstance(step.linear, Attention) for step in tape._steps)


@pytest.mark.parametrize("name", ONE_MAP)
def test_attention_is_one_map(name):
    assert check(ONE_MAP[name], drawn(2, 4, 9, 6)) == 1


@pytest.mark.parametrize("name", TAKEN_APART)
def test_what_the_operator_does_not_take_is_taken_apart(name):
    assert check(TAKEN_APART[name], drawn(2, 4, 9, 6)) == 0


def test_dropout_is_left_to_torch():
    with recordable():
        torch.manual_seed(0)
        tape = Tape(lambda x: sdpa(x, x, x, dropout_p=0.5), drawn(2, 4, 9, 6))
    assert not any(isinstance(step.linear, Attention) for step in tape._steps)


def test_rules_that_somebody_wrote_are_seen_before_attention_too():
    with recordable(), pytest.raises(UnrecordableError, match="rules of its own, Square"):
        Tape(lambda x: sdpa(Square.apply(x), x, x), drawn(2, 4, 9, 6))


def test_rules_that_somebody_wrote_are_seen_behind_attention_too():
    with recordable(), pytest.raises(UnrecordableError, match="rules of its own, Square"):
        Tape(lambda x: Square.apply(sdpa(x, x, x)), drawn(2, 4, 9, 6))


def test_a_mask_that_comes_from_attention_is_taken_apart():
    def f(x):
        y = sdpa(x, x, x)
        return sdpa(x, x, x, attn_mask=y @ y.mT)

    with recordable():
        tape = Tape(f, drawn(2, 4, 9, 6))  # taken apart: autograd sees that the mask depends on x
        assert sum(isinstance(step.linear, Attention) for step in tape._steps) == 1


def test_attention_to_constants_is_a_constant():
    def f(x):
        with torch.no_grad():
            constant = sdpa(x, x, x)
        return constant * x

    with recordable():
        tape = Tape(f, x := drawn(2, 4, 9, 6))
    torch.testing.assert_close(tape.push(torch.ones(1, 2, 4, 9, 6).double())[0], sdpa(x, x, x))


def test_what_is_kept_grows_with_the_tokens_and_not_with_their_square():
    def kept(tokens):
        with recordable():
            return Tape(lambda x: sdpa(x, x, x), torch.randn(1, 2, tokens, 8)).kept_bytes

    assert kept(512) == 2 * kept(256) == 4 * kept(128)


def test_transforms_inside_the_context_differentiate_as_ever():
    x, v = drawn(2, 4, 9, 6), drawn(2, 4, 9, 6, seed=1)
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.func.vjp(lambda x: sdpa(x, x, x), x)[1](v)[0]
    with recordable():
        found = torch.func.vjp(lambda x: sdpa(x, x, x), x)[1](v)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("low", [torch.finfo(torch.float32).min, -1e4])
def test_a_query_that_a_finite_mask_hides_every_key_from_keeps_its_precision(low):
    mask = torch.where(SHUT | (BLIND == 4), low, 0.0)
    x = drawn(2, 4, 9, 6).float()

    def f(x, mask=mask):
        return sdpa(x.sin(), x, x.cos(), attn_mask=mask.to(x))

    with recordable():
        tape, exact = Tape(f, x), Tape(f, x.double())
    v, u = drawn(3, 2, 4, 9, 6, seed=1).float(), drawn(3, 2, 4, 9, 6, seed=2).float()
    pairs = ((tape.push(v), exact.push(v.double())), (tape.pull(u), exact.pull(u.double())))
    for found, expected in pairs:
        assert float((found.double() - expected).norm() / expected.norm()) < 2e-6


def test_the_native_operator_is_taken_where_the_scores_are_many(monkeypatch):
    monkeypatch.setattr(_intercepted_attention, "_WORTHWHILE", 2 * 64 * 64)
    for tokens, taken in ((64, True), (63, False)):
        with recordable():
            tape = Tape(lambda x: sdpa(x, x, x), torch.randn(1, 2, tokens, 8))
        assert any(isinstance(step.linear, Attention) for step in tape._steps) == taken
