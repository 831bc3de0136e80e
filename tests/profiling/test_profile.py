"""Profiles: shares that add up, work that is called what it is, numbers, files, bad input."""

import gzip
import json

import pytest
import torch
from PIL import Image

from pullback import basis, maps, profiling
from tests.profiling.conftest import Attention, Convolutions, model_of


def test_shares_add_up_to_the_wall_time(profiled):
    assert tuple(profiled.kinds) == profiling.KINDS
    shares = [work.share for work in profiled.kinds.values()]
    assert all(share >= 0 for share in shares)
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    stages = sum(sum(parts.values()) for parts in profiled.stages.values())
    assert stages == pytest.approx(1, abs=1e-6)
    seconds = sum(work.seconds for work in profiled.kinds.values())
    assert seconds == pytest.approx(profiled.seconds, rel=1e-6)
    assert profiled.unattributed <= 0.1
    assert profiled.overhead == profiled.profiled_seconds / profiled.seconds - 1


def test_every_part_of_the_computation_is_seen(profiled):
    for stage in ("checks", "primal", "push", "pull", "solver"):
        assert sum(profiled.stages[stage].values()) > 0, stage
    for kind in ("convolution", "normalisation", "block algebra", "primal", "checks", "Python"):
        assert profiled.kinds[kind].share > 0, kind
    assert profiled.stages["push"].keys() & {"checks", "primal", "block algebra"} == set()
    assert "convolution" not in profiled.stages["checks"]


def test_products_are_those_of_the_computation(profiled, digits):
    x = digits.sample_latents(2, 500, seed=3, steps=4)
    found = basis(maps.encoder(digits), x, 500, 3, quality="draft", seed=1, max_products=200)
    told = profiled.workload
    assert told["products"] == int(found.products.sum())
    j, jt = profiled.products["J"], profiled.products["JT"]
    # The checks multiply each of two samples once with J and once with its transpose.
    assert j.count + jt.count == told["products"] - 4
    for cost in (j, jt):
        assert cost.seconds > 0
        assert cost.forwards == pytest.approx(cost.seconds / profiled.forward_seconds)
    assert (told["samples"], told["rank"], told["timesteps"]) == (2, 3, [500])
    assert (told["n"], told["m"], told["converged"]) == (256, 1536, int(found.converged.sum()))
    assert profiled.plan.startswith("recorded once for a point; 2 samples")
    assert profiled.peak_bytes > 2 * 3 * (256 + 1536) * 4


def test_work_and_limits_are_measured(profiled):
    machine = profiled.machine
    assert machine.copy_bandwidth > 1e8
    assert machine.gemm_rate > 1e8
    assert machine.half_dtype in ("bfloat16", "float16")
    convolution = profiled.kinds["convolution"]
    assert convolution.gemm_fraction > 0
    assert profiled.kinds["normalisation"].flops == 0
    assert profiled.kinds["normalisation"].bytes > 0
    assert profiled.kinds["Python"].gemm_fraction is profiled.kinds["Python"].copy_fraction is None
    assert {one["kind"] for one in profiled.operators} <= set(profiling.KINDS)
    gains = [one.gain for one in profiled.advice]
    assert gains == sorted(gains, reverse=True)
    assert all(0.05 <= gain < 1 for gain in gains)


def test_flops_are_those_of_the_layers():
    """Convolutions of a map of convolutions alone: two operations for each weight and place."""
    model = model_of(Convolutions(), (2, 12, 12))
    x = torch.randn(2, 2, 12, 12)
    found = profiling.profile(
        maps.output(model, "noise"), x, 10, 2, repeats=1, advice=False, max_products=40
    )
    once = sum(2 * 9 * c * d for c, d in Convolutions.sizes()) * 12 * 12
    products = found.products["J"].count + found.products["JT"].count
    assert found.kinds["convolution"].flops == pytest.approx(once * products)
    assert found.advice == ()
    _dominates(found, "convolution")


def test_attention_is_called_attention():
    model = model_of(Attention(), (8, 20, 20))
    x = torch.randn(1, 8, 20, 20)
    found = profiling.profile(
        maps.output(model, "noise"), x, 10, 2, repeats=1, advice=False, max_products=20
    )
    assert found.kinds["attention"].flops > 0
    assert found.kinds["convolution"].flops == found.kinds["linear layers"].flops == 0
    _dominates(found, "attention")


def _dominates(found, kind):
    """Among the kinds that a product is made of it takes the most, by far."""
    of_products = profiling.KINDS[:6]
    rest = sum(found.kinds[other].share for other in of_products if other != kind)
    assert found.kinds[kind].share > 2 * rest


def test_products_by_transforms_are_attributed_too():
    """A function with rules of its own cannot be recorded; its operators are told by name."""

    class Same(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def jvp(ctx, tangent):
            return tangent * 2

        @staticmethod
        def backward(ctx, cotangent):
            return cotangent * 2

    class Own(Convolutions):
        def forward(self, x, t):
            return Same.apply(super().forward(x, t))

    model = model_of(Own(), (2, 12, 12))
    found = profiling.profile(
        maps.output(model, "noise"), torch.randn(2, 2, 12, 12), 10, 2,
        repeats=1, advice=False, max_products=20,
    )  # fmt: skip
    assert found.plan.startswith("by torch.func")
    _dominates(found, "convolution")
    assert found.unattributed <= 0.1


def test_files(profiled, tmp_path):
    folder = tmp_path / "new" / "folder"
    profiled.save(folder)
    assert {one.name for one in folder.iterdir()} == {
        "profile.json", "profile.png", "trace.json.gz",
    }  # fmt: skip
    told = json.loads((folder / "profile.json").read_text())
    assert told == json.loads(json.dumps(profiled.as_json()))
    assert told["format"] == "pullback.profile/1"
    assert told.keys() >= {
        "seconds", "runs", "profiled_seconds", "overhead", "unattributed", "kinds", "stages",
        "products", "machine", "workload", "forward_seconds", "peak_bytes", "plan", "advice",
        "operators",
    }  # fmt: skip
    assert "trace" not in told
    with gzip.open(folder / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    names = {event["name"] for event in events}
    assert {"pullback.push", "pullback.pull", "pullback.primal", "pullback.solver"} <= names
    assert "pullback.step aten::convolution" in names
    with Image.open(folder / "profile.png") as image:
        assert min(image.size) > 500
    profiled.save(tmp_path / "bare", figure=False)
    assert not (tmp_path / "bare/profile.png").exists()


def test_arguments_are_checked(digits):
    x = digits.sample_latents(1, 500, seed=0, steps=2)
    encoder = maps.encoder(digits)
    with pytest.raises(ValueError, match="Expected repeats to be at least 1, got 0"):
        profiling.profile(encoder, x, 500, 2, repeats=0)
    with pytest.raises(TypeError, match="Expected a map, got"):
        profiling.profile(digits, x, 500, 2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'block'"):
        profiling.profile(encoder, x, 500, 2, block=3)
    with pytest.raises(ValueError, match="timestep"):
        profiling.profile(encoder, x, 5000, 2)
    with pytest.raises(ValueError, match="rank"):
        profiling.profile(encoder, x, 500, 257)
