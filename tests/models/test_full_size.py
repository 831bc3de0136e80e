"""A full-size network on a CPU: Stable Diffusion 1.5's U-Net, with random weights."""

import json
import subprocess
import sys

import pytest

# In a process of its own, so that its peak memory is that of this computation.
SCRIPT = """
import json, resource, time
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from pullback import LatentModel, krylov, maps

torch.manual_seed(0)
began = time.perf_counter()
network = UNet2DConditionModel(
    sample_size=64,
    block_out_channels=(320, 640, 1280, 1280),
    cross_attention_dim=768,
    attention_head_dim=8,
).eval()
scheduler = PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
model = LatentModel(network, scheduler, name="Stable Diffusion 1.5")
loaded = time.perf_counter()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
text = {"encoder_hidden_states": torch.randn(1, 77, 768)}
operator = maps.encoder(model).at(torch.randn(1, 4, 64, 64), 700, text).operator()
basis = krylov.svd(operator, 4, quality="draft", block=4, max_products=PRODUCTS)
v = basis.v.double()
print(json.dumps({
    "parameters": sum(p.numel() for p in network.parameters()),
    "h": list(operator.h_shape),
    "plan": operator.plan,
    "tangents in a pass": operator.chunk.tangents,
    "u": list(basis.u.shape),
    "v": list(basis.v.shape),
    "s": basis.s[0].tolist(),
    "residual": basis.residual[0].tolist(),
    "orthonormal": float((v @ v.mT - torch.eye(4)).abs().max()),
    "products": int(basis.products[0]),
    "stopped": basis.stopped[0],
    "threads": torch.get_num_threads(),
    "seconds to build": round(loaded - began, 1),
    "seconds": round(time.perf_counter() - loaded, 1),
    "peak GB before": round(before * 1024 / 1e9, 2),
    "peak GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
}))
"""


@pytest.mark.slow
def test_a_basis_of_stable_diffusion_on_a_cpu(record_property):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("PRODUCTS", "16")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    for name, value in found.items():
        record_property(name, value)
    print(json.dumps(found, indent=1))  # shown by pytest -s
    assert found["parameters"] == 859_520_964  # as published
    assert found["h"] == [1280, 8, 8]
    assert found["u"] == [1, 4, 1280 * 8 * 8]
    assert found["v"] == [1, 4, 4 * 64 * 64]
    assert found["s"] == sorted(found["s"], reverse=True)
    assert found["s"][-1] > 0
    assert "recorded once for a point" in found["plan"]
    assert found["tangents in a pass"] >= 4
    assert found["orthonormal"] < 1e-5
    # Random weights have a flat spectrum, and 16 products are few.
    assert max(found["residual"]) < 0.7
    assert found["peak GB"] <= 6.5  # the weights take 3.4; reverse mode alone kept all scores
