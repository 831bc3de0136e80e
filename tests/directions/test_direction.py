"""A direction: its fields are checked, and small changes make new ones."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import pullback
from pullback import Direction
from tests.directions.made import PROVENANCE, drawn, same

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def norm(direction):
    return float(direction.vector.double().norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (7,), (4, 64, 64), (3, 4, 8, 8), (300_000,)])
def test_a_vector_of_any_length_becomes_a_unit_vector(dtype, shape):
    vector = (50 * torch.randn(shape)).to(dtype)
    found = Direction.of(vector, "x")
    exact = vector.double() / vector.double().norm()
    assert float((found.vector.double() - exact).norm()) <= max(torch.finfo(dtype).eps, 1e-13)
    assert found.vector.dtype == dtype
    assert found.vector.data_ptr() != vector.data_ptr()


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200, 1e307])
def test_lengths_whose_squares_have_no_number(scale):
    vector = torch.randn(50, dtype=torch.float64)
    found = Direction.of(vector * scale, "x")
    assert torch.allclose(found.vector, vector / vector.norm(), rtol=1e-12)


def test_of_keeps_a_copy_without_history():
    vector = torch.nn.Parameter(torch.randn(4, 3))
    found = Direction.of(vector, "prompt")
    assert not found.vector.requires_grad
    before = found.vector.clone()
    with torch.no_grad():
        vector.zero_()
    assert torch.equal(found.vector, before)


@pytest.mark.parametrize(
    ("vector", "kind", "words"),
    [
        ([1.0, 2.0], TypeError, "as a tensor .* got list"),
        (np.ones(3), TypeError, "got ndarray"),
        (torch.ones(3, dtype=torch.int64), ValueError, "got torch.int64"),
        (torch.ones(3, dtype=torch.bool), ValueError, "got torch.bool"),
        (torch.ones(3, dtype=torch.complex64), ValueError, "got torch.complex64"),
        (torch.ones(3).to(torch.float8_e5m2), ValueError, "got torch.float8_e5m2"),
        (
            torch.ones(3, 3).to_sparse(),
            ValueError,
            "dense tensor .*, torch.sparse",
        ),
        (torch.ones(3, device="meta"), ValueError, "on meta"),
        (torch.tensor(1.0), ValueError, r"got shape \[\]"),
        (torch.ones(0, 4), ValueError, r"got shape \[0, 4\]"),
        (torch.tensor([1.0, torch.nan]), ValueError, "finite numbers"),
        (torch.tensor([1.0, -torch.inf]), ValueError, "finite numbers"),
        (torch.zeros(2, 2), ValueError, "other than zero"),
        (-torch.zeros(2, 2), ValueError, "other than zero"),
    ],
)
def test_a_vector_that_is_none(vector, kind, words):
    for make in (Direction, Direction.of):
        with pytest.raises(kind, match=words):
            make(vector, "x")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_vector_of_another_norm_is_refused_by_the_plain_constructor(dtype):
    unit = Direction.of(torch.randn(40).to(dtype), "x").vector
    assert torch.equal(Direction(unit, "x").vector, unit)
    with pytest.raises(ValueError, match=r"Expected a vector of norm 1.*Direction\.of"):
        Direction(unit * (1 + max(20 * torch.finfo(dtype).eps, 1e-11)), "x")


H = {"space": "h", "tap": "mid_block"}


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"space": "z"}, ValueError, "Expected space as"),
        ({"space": "z", "tap": "mid_block"}, ValueError, "Expected space as"),
        ({"space": None}, ValueError, "Expected space as"),
        ({"space": ["x"]}, ValueError, "Expected space as"),
        ({"space": "h"}, ValueError, "tap to say where h is read"),
        ({"space": "h", "tap": ""}, ValueError, "tap to say where"),
        ({"space": "h", "tap": "a\nb"}, ValueError, "tap to say where"),
        ({"space": "h", "tap": 3}, TypeError, "Expected a tap"),
        ({"tap": "mid_block"}, ValueError, 'no tap for the space "x"'),
        ({**H, "pool": "time"}, ValueError, 'pool="space" or None'),
        ({**H, "pool": ["space"]}, ValueError, 'pool="space" or None'),
        ({**H, "pool": "space"}, ValueError, r"pooled feature \[C\].*got \[2, 3, 4\]"),
        ({"pool": "space"}, ValueError, "only features are pooled"),
        ({"space": "prompt"}, ValueError, r"\[tokens, width\], got \[2, 3, 4\]"),
        ({"t": -1}, ValueError, "Expected t to be at least 0"),
        ({"t": 1.0}, ValueError, "t to be a whole number"),
        ({"t": True}, ValueError, "t to be a whole number"),
        ({"window": 500}, ValueError, "two timesteps"),
        ({"window": (5,)}, ValueError, "two timesteps"),
        ({"window": "85"}, ValueError, "two timesteps"),
        ({"window": {8, 5}}, ValueError, "two timesteps"),
        ({"window": (300, 800)}, ValueError, "got 300 to 800. Swap them"),
        ({"window": (300, -1)}, ValueError, "at least 0"),
        ({"window": (300.5, 2)}, ValueError, "whole number"),
        ({"unit": 0}, ValueError, "above 0"),
        ({"unit": -1.0}, ValueError, "above 0"),
        ({"unit": math.nan}, ValueError, "above 0"),
        ({"unit": math.inf}, ValueError, "above 0"),
        ({"unit": "1"}, ValueError, "above 0"),
        ({"unit": True}, ValueError, "above 0"),
        ({"unit": 10**400}, ValueError, "above 0"),
        ({"unit": torch.ones(2)}, ValueError, "above 0"),
        ({"name": None}, ValueError, "label of one line"),
        ({"name": "two\nlines"}, ValueError, "label of one line"),
        ({"name": "\ud800"}, ValueError, "label of one line"),
        ({"name": "a" * 101}, ValueError, "at most 100"),
        ({"provenance": {"s": math.nan}}, ValueError, "as JSON holds it"),
        ({"provenance": {"s": torch.ones(2)}}, ValueError, r"\.tolist\(\)"),
        ({"provenance": {(1, 2): 3}}, ValueError, "as JSON holds it"),
        ({"provenance": {"model": 3}}, ValueError, "model as a text"),
        ({"provenance": {"fingerprint": None}}, ValueError, "fingerprint as a text"),
    ],
)  # fmt: skip
def test_fields_that_are_none(fields, kind, words):
    with pytest.raises(kind, match=words) as caught:
        Direction.of(torch.randn(2, 3, 4), **{"space": "x", **fields})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_provenance_is_a_mapping_that_goes_in_no_circle():
    circle = {}
    circle["self"] = circle
    for wrong in (circle, [], "text"):
        with pytest.raises(ValueError, match="Expected provenance as"):
            Direction(Direction.of(torch.randn(3), "x").vector, "x", provenance=wrong)


def test_numbers_of_other_types_become_plain():
    found = Direction.of(
        torch.randn(3), "x", t=np.int64(5), window=np.array([7, 2]), unit=torch.tensor(2.0)
    )
    assert (found.t, found.window, found.unit) == (5, (7, 2), 2.0)
    assert [type(one) for one in (found.t, *found.window, found.unit)] == [int, int, int, float]
    assert Direction.of(torch.randn(3), "h", tap=("blocks.0", 1)).tap == "blocks.0:1"


def test_provenance_is_a_copy_as_json_has_it():
    given = {"shape": (1, 2), "more": {"a": [1]}}
    found = Direction.of(torch.randn(3), "x", provenance=given)
    given["more"]["a"].append(2)
    assert found.provenance == {"shape": [1, 2], "more": {"a": [1]}}


def test_a_model_fills_the_provenance(digits):
    found = Direction.of(
        torch.randn(96), "h", tap="mid_block", pool="space", t=300, model=digits,
        provenance={"how": "by hand", "model": "mine"},
    )  # fmt: skip
    known = found.provenance
    assert known["fingerprint"] == digits.fingerprint
    assert (known["model"], known["how"], known["tap"]) == ("mine", "by hand", "mid_block")
    assert (known["t"], known["dtype"]) == (300, "float32")
    assert known["pullback"] == pullback.__version__
    assert {"torch", "diffusers"} <= set(known)
    with pytest.raises(TypeError, match="Expected a LatentModel"):
        Direction.of(torch.randn(3), "x", model=digits.network)


def test_displacement_is_strength_times_unit(rng):
    found = drawn(unit=2.5)
    strength = float(torch.randn((), generator=rng))
    added = found.displacement(strength)
    assert torch.allclose(added, strength * 2.5 * found.vector)
    assert abs(float(found.displacement(1.0).norm()) - 2.5) < 1e-5
    assert not bool(found.displacement(0).any())
    assert added.dtype == torch.float32
    for wrong in (math.nan, math.inf, "1", None, True, torch.ones(2)):
        with pytest.raises(ValueError, match="strength as a finite number"):
            found.displacement(wrong)


def test_the_opposite():
    found = drawn()
    other = -found
    assert torch.equal(other.vector, -found.vector)
    assert other.name == "-smile"
    assert other.provenance == {**PROVENANCE, "negated": True}
    again = -other
    assert torch.equal(again.vector, found.vector)
    assert again.name == "smile"
    assert again.provenance["negated"] is False
    assert (-drawn(name="")).name == ""


def test_changes_make_new_directions():
    found = drawn()
    assert found.renamed("grin").name == "grin"
    assert found.with_unit(4).unit == 4.0
    assert found.with_window(900, 900).window == (900, 900)
    assert found.name == "smile"
    assert same(found, drawn(vector=found.vector))
    for wrong in (
        lambda: found.with_window(1, 2), lambda: found.with_unit(0), lambda: found.renamed("\n")
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Expected"):
            wrong()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"


def test_equality_is_identity():
    found = drawn()
    assert found == found
    assert found != drawn(vector=found.vector)
    assert len({found, found}) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("other", DTYPES)
def test_to_converts_and_keeps_norm_1(dtype, other):
    found = drawn(vector=torch.randn(2000).to(dtype))
    moved = found.to(other)
    assert moved.vector.dtype == other
    assert abs(norm(moved) - 1) <= max(2 * torch.finfo(other).eps, 1e-13)
    assert same(found.to("cpu"), found)
    with pytest.raises(ValueError, match="dense tensor"):
        found.to(torch.int32)


def test_to_moves(device):
    found = drawn().to(device)
    assert found.vector.device.type == device.type
    assert found.displacement(1.0).device.type == device.type


def test_covers_its_window_or_its_timestep():
    found = drawn(t=500, window=(800, 300))
    assert [found.covers(t) for t in (801, 800, 500, 300, 299)] == [False, True, True, True, False]
    alone = drawn(t=500, window=None)
    assert [alone.covers(t) for t in (501, 500, 499)] == [False, True, False]
    assert drawn(t=None, window=None).covers(123)


def test_repr_is_one_line_without_numbers_of_the_vector():
    assert repr(drawn()) == (
        "Direction('smile', x, [1, 16, 16], for t=800 to 300, unit 2.5, torch.float32, cpu, "
        "of digits)"
    )
    pooled = Direction.of(torch.randn(96), "h", tap="mid_block", pool="space", t=5)
    assert repr(pooled) == (
        "Direction(unnamed, h at mid_block, pooled over space, [96], for t=5, unit 1, "
        "torch.float32, cpu)"
    )
    assert "any t" in repr(Direction.of(torch.randn(96), "x"))
