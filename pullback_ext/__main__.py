"""What is usable here and why not: ``python -m pullback_ext [--json]``.

Prints what the native library was built from, compares it with this machine (processor, torch,
driver, GPUs), and runs every kernel against its plain-torch twin on every usable device. Ends with
exit code 0 when the library is loaded and every kernel agrees, else 1.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

import pullback_ext
from pullback_ext import _attention_cases, _ops
from pullback_ext._case import Case

Version = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """What came of a case."""

    op: str
    case: str
    device: str
    error: float
    bound: float
    milliseconds: float
    passed: bool
    problem: str = ""


# ------------------------------------------------------------------------------------------ cases


def _gram_cases(device: torch.device) -> Iterator[Case]:
    shapes = [(2, 10, None, 256), (3, 50, None, 4097), (1, 7, 19, 2500), (2, 70, 33, 777)]
    bounds = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-6, torch.bfloat16: 1e-6}
    generator = torch.Generator().manual_seed(0)
    for dtype, bound in bounds.items():
        for batch, k, p, columns in shapes:
            a = torch.randn(batch, k, columns, generator=generator).to(device, dtype)
            b = None
            if p is not None:
                b = torch.randn(batch, p, columns, generator=generator).to(device, dtype)
            rows = a if b is None else b
            norms = a.double().norm(dim=2)[:, :, None] * rows.double().norm(dim=2)[:, None, :]

            def error(got: torch.Tensor, want: torch.Tensor, norms: torch.Tensor = norms) -> float:
                """Largest |got - want| of an entry over the norms of its two rows."""
                return float(((got - want).abs() / norms).max())

            label = str(dtype).removeprefix("torch.")
            shape = f"[{batch}, {k}{'' if p is None else f' x {p}'}, {columns}]"
            yield Case(f"{label} {shape}", (a, b), error, bound)


def _blocks(device: torch.device) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, float]]:
    """Well-conditioned blocks of every dtype, rows to be orthogonal to, and what to ask for."""
    generator = torch.Generator().manual_seed(1)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        work = torch.float64 if dtype == torch.float64 else torch.float32
        for batch, k, p, columns in [(2, 10, 0, 256), (3, 5, 40, 257), (1, 33, 7, 4097)]:
            block = torch.randn(batch, k, columns, generator=generator).to(device, dtype)
            rows = torch.randn(batch, columns, p, generator=generator, dtype=torch.float64)
            against = torch.linalg.qr(rows)[0].mT.to(device, work).contiguous()
            label = f"{str(dtype).removeprefix('torch.')} [{batch}, {k} + {p}, {columns}]"
            yield label, block, against, 1e-12 if work == torch.float64 else 1e-5


def _apart(got: Any, want: Any) -> float:
    """Largest difference of any number in the results, as a share of the largest number."""
    worst = 0.0
    for x, y in zip(got, want, strict=True):
        if x.is_floating_point() and x.numel():
            difference = (x.double() - y.double()).abs().max()
            worst = max(worst, float(difference / y.double().abs().max().clamp_min(1e-300)))
    return worst


def _orthonormalize_error(got: Any, want: Any) -> float:
    """Norm of the largest difference of two rows; they are unique where the rank is full."""
    if not torch.equal(got[1], want[1]) or not torch.equal(got[2], want[2]):
        return float("inf")
    return float((got[0].double() - want[0].double()).norm(dim=2).max())


def _orthonormalize_cases(device: torch.device) -> Iterator[Case]:
    for label, block, against, bound in _blocks(device):
        args = (block, against if against.shape[1] else None, 3)
        yield Case(label, args, _orthonormalize_error, bound)


def _block_step_cases(device: torch.device) -> Iterator[Case]:
    for label, block, against, bound in _blocks(device):
        half = against.shape[1] // 2
        yield Case(label, (block, against[:, half:], against[:, :half], 3), _apart, bound)


def _ritz_cases(device: torch.device) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(2)
    for batch, n in [(3, 1), (2, 7), (2, 40), (1, 96), (1, 111)]:
        t = torch.randn(batch, n, n, generator=generator, dtype=torch.float64).to(device)
        yield Case(f"float64 [{batch}, {n}, {n}]", (t + t.mT,), _apart, 1e-10)


def _squared_singular_values_cases(device: torch.device) -> Iterator[Case]:
    def error(got: torch.Tensor, want: torch.Tensor) -> float:
        """Largest difference of two values over the largest value of their matrix."""
        return float(((got - want).abs() / want.amax(1, keepdim=True)).max())

    generator = torch.Generator().manual_seed(3)
    shapes = [(3, 1, 5), (21, 10, 10), (40, 16, 16), (2, 50, 20), (3, 33, 47), (1, 64, 70)]
    for batch, k, p in [*shapes, (2, 150, 140)]:
        for dtype in (torch.float64, torch.float32):
            c = torch.randn(p, batch, k, generator=generator).to(device, dtype).movedim(0, 2)
            label = f"{str(dtype).removeprefix('torch.')} [{batch}, {k}, {p}]"
            yield Case(label, (c,), error, 2e-14)


def _normalize_tangents_cases(device: torch.device) -> Iterator[Case]:
    """Group, layer and RMS normalisation, and its transpose, in both memory orders."""
    bounds = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
    shapes = [(3, 2, 4, 5, 49), (2, 1, 2, 8, 4099), (5, 33, 1, 1, 320), (2, 1, 1, 1, 70000)]
    generator = torch.Generator().manual_seed(4)
    for dtype, bound in bounds.items():
        for k, batch, groups, channels, positions in shapes:
            work = torch.float64 if dtype == torch.float64 else torch.float32
            size = (batch, groups, channels, positions)

            def normal(*shape: int, dtype: torch.dtype = work) -> torch.Tensor:
                return torch.randn(*shape, generator=generator).to(device, dtype)

            x = normal(*size)
            xh = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), correction=0, keepdim=True)
            layer = groups == channels == 1
            gain = normal(1, 1, 1, positions) if layer else normal(1, groups, channels, 1)
            tangents = normal(k, *size, dtype=dtype)
            if batch == 2:  # channels last
                tangents = tangents.movedim(4, 2).contiguous().movedim(2, 4)
            scale = normal(batch, groups).abs()
            largest = float((scale[:, :, None, None] * gain * tangents).abs().max())

            def error(got: torch.Tensor, want: torch.Tensor, largest: float = largest) -> float:
                """Largest difference over the largest entry of scale * gain * t."""
                return float((got.double() - want.double()).abs().max()) / largest

            label = f"{str(dtype).removeprefix('torch.')} {[k, *size]}"
            for transposed in (False, True):
                args = (tangents, xh, scale, gain, batch < 33, transposed)
                yield Case(f"{label}{' T' if transposed else ''}", args, error, bound)


CASES: dict[str, Callable[[torch.device], Iterator[Case]]] = {
    "gram": _gram_cases,
    "orthonormalize": _orthonormalize_cases,
    "block_step": _block_step_cases,
    "ritz": _ritz_cases,
    "squared_singular_values": _squared_singular_values_cases,
    "normalize_tangents": _normalize_tangents_cases,
    "attention": _attention_cases.attention,
    "attention_tangents": _attention_cases.attention_tangents,
    "attention_cotangents": _attention_cases.attention_cotangents,
}


def _same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _run(op: _ops.Op, case: Case, device: torch.device) -> Row:
    entry = _ops.overload(op.name)

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    problem, error, elapsed = "", float("nan"), float("nan")
    try:
        got = entry(*case.args)
        finish()
        start = time.perf_counter()
        again = entry(*case.args)
        finish()
        elapsed = (time.perf_counter() - start) * 1e3
        error = case.error(got, op.reference(*case.args))
        if not _same_bits(got, again):
            problem = "two runs differ"
        elif not error <= case.bound:
            problem = "differs from the reference"
    except Exception as failure:  # a report goes on
        problem = f"{type(failure).__name__}: {failure}"
    return Row(op.name, case.name, str(device), error, case.bound, elapsed, not problem, problem)


# --------------------------------------------------------------------------------------- machine


def driver_version() -> Version | None:
    """The CUDA version that the NVIDIA driver supports, None without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
        number = ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def covers(capability: Version, architectures: list[str]) -> bool:
    """Whether a GPU of this compute capability can run code built for these architectures.

    Machine code (``90-real``) runs on its own major version from its minor version on, code of a
    variant (``90a``) on exactly its own; PTX (``90-virtual``) runs on everything not older.
    """
    for spelled in architectures:
        match = re.fullmatch(r"(\d+)(\d)([af]?)(-real|-virtual)?", spelled)
        if match is None:
            continue
        built = (int(match[1]), int(match[2]))
        if match[3]:
            if built == capability:
                return True
            continue
        if match[4] != "-virtual" and built[0] == capability[0] and built[1] <= capability[1]:
            return True
        if match[4] != "-real" and built <= capability:
            return True
    return False


def why_no_cuda(
    built: str | None,
    driver: Version | None,
    torch_cuda: str | None,
    torch_sees_gpu: bool,
) -> str | None:
    """Why the CUDA kernels cannot run here, None when they can.

    Args:
        built: toolkit version of the native library, None if built without CUDA.
        driver: what the driver supports, None without a driver.
        torch_cuda: ``torch.version.cuda``.
        torch_sees_gpu: ``torch.cuda.is_available()``.

    Returns:
        One sentence with the remedy.
    """
    if built is None:
        return _ops.why_no_kernel("cuda")
    if driver is None:
        return (
            "there is no NVIDIA driver (libcuda.so.1): install one, or run the container with GPUs"
        )
    major, minor = (int(part) for part in built.split(".")[:2])
    if driver < (major, 0):
        return (
            f"the kernels were built with CUDA {major}.{minor} and the driver supports "
            f"{driver[0]}.{driver[1]}: update the driver, or rebuild with an older toolkit"
        )
    if torch_cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA: install one with it, for example "
            "pip install torch --index-url https://download.pytorch.org/whl/cu130"
        )
    if not torch_sees_gpu:
        return "torch finds no usable GPU: see what nvidia-smi and CUDA_VISIBLE_DEVICES say"
    return None


def _devices(
    info: dict[str, Any] | None, problem: str | None
) -> tuple[list[torch.device], dict[str, str]]:
    """Devices whose native kernels are to be run, and why the others are not."""
    usable: list[torch.device] = []
    unusable: dict[str, str] = {}
    if info is None:
        return usable, {"cpu": str(problem), "cuda": str(problem)}
    if all(_ops.has_kernel(name, "cpu") for name in _ops.OPS):
        usable.append(torch.device("cpu"))
    else:
        unusable["cpu"] = _ops.why_no_kernel("cpu")
    reason = why_no_cuda(
        info["cuda"], driver_version(), torch.version.cuda, torch.cuda.is_available()
    )
    if reason is not None:
        unusable["cuda"] = reason
        return usable, unusable
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        if covers(capability, info["cuda_architectures"]):
            usable.append(torch.device("cuda", index))
        else:
            number = f"{capability[0]}{capability[1]}"
            unusable[f"cuda:{index}"] = (
                f"compute capability {capability[0]}.{capability[1]} is not among the built "
                f"{', '.join(info['cuda_architectures'])}: rebuild with "
                f"CMAKE_CUDA_ARCHITECTURES={number}"
            )
    return usable, unusable


# ----------------------------------------------------------------------------------------- report


def report() -> dict[str, Any]:
    """Everything that the command prints, as plain values."""
    info, problem = None, pullback_ext.why_unavailable()
    if problem is None:
        try:
            info = pullback_ext.build_info()
        except RuntimeError as error:
            problem = str(error)
    usable, unusable = _devices(info, problem)
    rows = [
        _run(op, case, device)
        for device in usable
        for op in _ops.OPS.values()
        for case in CASES[op.name](device)
    ]
    driver = driver_version()
    return {
        "passed": problem is None and bool(rows) and all(row.passed for row in rows),
        "problem": problem,
        "build": info,
        "torch": {
            "version": torch.__version__,
            "cuda": torch.version.cuda,
            "threads": torch.get_num_threads(),
        },
        "driver": None if driver is None else f"{driver[0]}.{driver[1]}",
        "usable": [str(device) for device in usable],
        "unusable": unusable,
        "kernels": [asdict(row) for row in rows],
    }


def _print(found: dict[str, Any]) -> None:
    if found["problem"] is not None:
        print(found["problem"])
    for title, values in (("native library", found["build"]), ("torch", found["torch"])):
        if values is None:
            continue
        print(title)
        for key, value in values.items():
            text = ", ".join(value) if isinstance(value, list) else value
            print(f"  {key:20} {'-' if text in (None, '') else text}")
    print(f"driver\n  {'supports CUDA':20} {found['driver'] or '-'}")
    print("devices")
    for device in found["usable"]:
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "usable"
        print(f"  {device:20} {name}")
    for device, reason in found["unusable"].items():
        print(f"  {device:20} not usable: {reason}")
    if found["kernels"]:
        print("kernels against their references")
    for row in found["kernels"]:
        state = "ok" if row["passed"] else f"FAILED: {row['problem']}"
        print(
            f"  {row['op']:23} {row['device']:8} {row['case']:30} error {row['error']:.1e} "
            f"(bound {row['bound']:.0e}) {row['milliseconds']:8.3f} ms  {state}"
        )


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pullback_ext", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    found = report()
    if options.json:
        print(json.dumps(found, indent=2, allow_nan=True))
    else:
        _print(found)
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
