"""What the machine at hand can do at best: copy, and multiply matrices."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from pullback.profiling.clock import least

#: Side of the matrices, and bytes of the tensor that is copied, which no cache holds.
_SIDE = {"cpu": 1024, "cuda": 8192}
_COPIED = {"cpu": 128 << 20, "cuda": 1 << 30}


@dataclass(frozen=True)
class Machine:
    """A device and its measured limits.

    Attributes:
        name: of the processor or the GPU.
        threads: that torch uses on the CPU.
        dtype: of the matrices.
        copy_bandwidth: bytes read and written per second by a copy of a large tensor.
        gemm_rate: floating-point operations per second of a product of large matrices.
        half_rate: the same in the half precision that is fastest here; None where the dtype is one.
        half_dtype: that dtype.
    """

    name: str
    threads: int
    dtype: str
    copy_bandwidth: float
    gemm_rate: float
    half_rate: float | None
    half_dtype: str | None


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Measure what a device can do at best.

    Args:
        device: which.
        dtype: of the matrices.

    Cost: a second or two, and two tensors of 128 MiB (1 GiB on a GPU).
    """
    kind = "cuda" if device.type == "cuda" else "cpu"
    rate = _gemm_rate(device, dtype, _SIDE[kind])
    halves = {}
    if dtype.itemsize > 2:
        for half in (torch.bfloat16, torch.float16):
            halves[str(half).removeprefix("torch.")] = _gemm_rate(device, half, _SIDE[kind])
    best = max(halves, key=lambda name: halves[name]) if halves else None
    return Machine(
        name=torch.cuda.get_device_name(device) if kind == "cuda" else _processor(),
        threads=torch.get_num_threads(),
        dtype=str(dtype).removeprefix("torch."),
        copy_bandwidth=_copy_bandwidth(device, _COPIED[kind]),
        gemm_rate=rate,
        half_rate=None if best is None else halves[best],
        half_dtype=best,
    )


def _copy_bandwidth(device: torch.device, size: int) -> float:
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * size / least({"copy": lambda: target.copy_(source)}, device, rounds=7)["copy"]


def _gemm_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randn(side, side, generator=generator, device="cpu")
    a, out = drawn.to(device, dtype), torch.empty(side, side, device=device, dtype=dtype)
    return 2 * side**3 / least({"gemm": lambda: torch.mm(a, a.mT, out=out)}, device, 5)["gemm"]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
