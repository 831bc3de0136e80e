"""The model of the kernels' time: it counts the launches that are made, and what they do."""

import ctypes

import pytest

from benchmarks import kernel_model
from benchmarks.kernel_model import JUDGED, Shape, launches, seconds
from tests.pullback_ext.emulation import emulated
from tests.pullback_ext.test_native_readme import block


@pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("against", [0, 70])
def test_the_launches_are_those_of_the_kernels(against):
    for shape in [shape for shape, _ in JUDGED] + [Shape(3, 30, 5000), Shape(2, 130, 9000)]:
        params = emulated.OrthonormalizeParams(block=block(shape.k), dtype=emulated.FLOAT32)
        params.against[0] = block(against)
        params.batch, params.columns = shape.batch, shape.columns
        emulated.library().orthonormalize_plan(ctypes.byref(params))
        made = emulated.recorded(emulated.library().orthonormalize, params)
        model = launches(Shape(shape.batch, shape.k, shape.columns, against), 3)
        assert [one.name for one in model] == [one.kernel for one in made]
        assert [one.blocks for one in model[:5]] == [one.grid for one in made[:5]]


def test_every_judged_shape_takes_at_most_half_of_what_it_took():
    for row in kernel_model.table():
        assert row["is_model"]
        assert row["orthonormalize"] <= row["before"] / 2
        assert row["orthonormalize"] > row["copy"]
        assert row["launches"] <= 14


def test_more_work_takes_longer():
    shape = Shape(8, 50, 16384)
    assert seconds(shape, 1) < seconds(shape, 2) < seconds(shape, 3)
    for more in (Shape(64, 50, 16384), Shape(8, 50, 65536), Shape(8, 50, 16384, 100)):
        assert seconds(more) > seconds(shape)
