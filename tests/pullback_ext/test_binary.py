"""Proofs from the binary itself: what it needs, what it exports, which GPU code it holds."""

import platform
import re
import shutil
import struct
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from pullback_ext import build_info

EXECUTABLE_KINDS = {1: "virtual", 2: "real"}  # of a fat binary's entries: PTX, machine code
UNDEFINED = 0  # section index
LOCAL, WEAK = 0, 2  # bindings


class Elf:
    """As much of a 64-bit little-endian ELF file as is needed here."""

    def __init__(self, data):
        assert data[:6] == b"\x7fELF\x02\x01"
        self.data = data
        (table,) = struct.unpack_from("<Q", data, 40)
        size, count, names = struct.unpack_from("<HHH", data, 58)
        rows = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
        strings = rows[names][4]
        self.sections = {self._string(strings + row[0]): row for row in rows}
        self.rows = rows

    def _string(self, at):
        return self.data[at : self.data.index(b"\0", at)].decode()

    def section(self, name):
        row = self.sections[name]
        return self.data[row[4] : row[4] + row[5]]

    def symbols(self, name):
        """(name, binding, defined) of a symbol table."""
        row = self.sections[name]
        strings = self.rows[row[6]][4]
        for at in range(row[4] + 24, row[4] + row[5], 24):
            label, info, _, section = struct.unpack_from("<IBBH", self.data, at)
            yield self._string(strings + label), info >> 4, section != UNDEFINED

    def dynamic(self, tag):
        """Texts of the entries with this tag: 1 NEEDED, 15 RPATH, 29 RUNPATH."""
        row = self.sections[".dynamic"]
        strings = self.rows[row[6]][4]
        for at in range(row[4], row[4] + row[5], 16):
            found, value = struct.unpack_from("<QQ", self.data, at)
            if found == tag:
                yield self._string(strings + value)


def fat_binary(data):
    """(architecture, code) of every entry; as CMake spells it, so "90-virtual" for PTX."""
    at = 0
    while (at := data.find(struct.pack("<I", 0xBA55ED50), at)) >= 0:
        header, size = struct.unpack_from("<6xHQ", data, at)
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, length, payload = struct.unpack_from("<HHIQ", data, entry)
            (architecture,) = struct.unpack_from("<I", data, entry + 28)
            code = data[entry + length : entry + length + payload]
            yield f"{architecture}-{EXECUTABLE_KINDS[kind]}", code
            entry += length + payload
        at = end


def kernels(architecture, code):
    """Names of the kernels in one entry."""
    if architecture.endswith("virtual"):
        assert f".target sm_{architecture.split('-')[0]}".encode() in code
        return {name.decode() for name in re.findall(rb"\.entry\s+([\w$]+)", code)}
    names = (name for name, _, _ in Elf(code).symbols(".symtab"))
    sections = Elf(code).sections
    return {name for name in names if f".text.{name}" in sections}


@pytest.fixture(scope="module")
def elf(binary):
    return Elf(binary.read_bytes())


@pytest.fixture(scope="module")
def undefined(elf):
    """Undefined symbols: name -> whether weak."""
    return {
        name: binding == WEAK for name, binding, defined in elf.symbols(".dynsym") if not defined
    }


def test_it_needs_torch_and_the_c_and_cpp_runtimes_and_nothing_else(elf):
    needed = set(elf.dynamic(1))
    assert "libtorch_cpu.so" in needed
    runtimes = re.compile(r"(libstdc\+\+|libgcc_s|libc|libm|libdl|libpthread|librt|ld-linux.*)\.so")
    others = {name for name in needed if not runtimes.match(name)} - {"libtorch_cpu.so"}
    assert not others  # above all no libcudart, libcuda, libtorch_cuda, libgomp or libpython


def test_it_looks_for_libraries_nowhere_of_its_own(elf):
    assert [*elf.dynamic(15), *elf.dynamic(29)] == []


def test_it_exports_its_module_and_nothing_else(elf):
    exported = {name for name, _, defined in elf.symbols(".dynsym") if defined}
    assert exported == {"PyInit__native"}


def test_no_cuda_symbol_is_needed_to_load_it(undefined):
    cuda = re.compile(r"_*(cuda|cu[A-Z]|nvrtc|cublas|cusolver)|.*[cC]uda", re.ASCII)
    weak = {name for name, is_weak in undefined.items() if is_weak}
    needed = {name for name in undefined if cuda.match(name)} - weak
    # A constant function of libtorch_cpu, which says how torch numbers its device types.
    assert needed <= {"aoti_torch_device_type_cuda"}
    assert "aoti_torch_get_current_cuda_stream" in weak


# ------------------------------------------------------------------------- the stable set of torch

HEADERS = ("torch/csrc/inductor/aoti_torch/c/shim.h", "torch/csrc/stable/c/shim.h")
TARGET = (2, 10)


def declared(text, target):
    """C functions that a header declares for this torch release, version guards obeyed."""
    shown = [True]  # one entry per open #if: whether its text counts
    kept = []
    for line in text.splitlines():
        if re.match(r"\s*#\s*if", line):
            version = re.search(r"TORCH_FEATURE_VERSION >= TORCH_VERSION_(\d+)_(\d+)", line)
            above = version is not None and (int(version[1]), int(version[2])) > target
            shown.append(shown[-1] and not above and "USE_CUDA" not in line)
        elif re.match(r"\s*#\s*endif", line):
            shown.pop()
        elif shown[-1]:
            kept.append(line)
    assert shown == [True]
    return set(re.findall(r"\b((?:aoti_)?torch_\w+)\s*\(", "\n".join(kept)))


@pytest.fixture(scope="module")
def stable_set():
    include = Path(torch.__file__).parent / "include"
    texts = [(include / header).read_text() for header in HEADERS]
    return set().union(*(declared(text, TARGET) for text in texts))


def test_the_guards_of_the_headers_are_obeyed():
    text = """
AOTI int torch_old(int x);
#if TORCH_FEATURE_VERSION >= TORCH_VERSION_2_10_0
AOTI int torch_ten(
    int x);
#ifdef USE_CUDA
AOTI int torch_ten_cuda(int x);
#endif
#endif // TORCH_FEATURE_VERSION >= TORCH_VERSION_2_10_0
#if TORCH_FEATURE_VERSION >= TORCH_VERSION_2_11_0
AOTI int torch_eleven(int x);
#endif
"""
    assert declared(text, (2, 10)) == {"torch_old", "torch_ten"}
    assert declared(text, (2, 9)) == {"torch_old"}
    assert "torch_eleven" in declared(text, (2, 11))


def test_the_stable_set_is_read_with_its_limits(stable_set):
    assert {"aoti_torch_get_sizes", "torch_call_dispatcher", "torch_parallel_for"} <= stable_set
    assert "torch_from_blob" not in stable_set  # 2.11
    assert "torch_stream_native_handle" not in stable_set  # 2.13
    assert "torch_c10_cuda_check_msg" not in stable_set  # not in a CPU-only torch


def test_every_torch_symbol_is_in_the_stable_set(undefined, stable_set):
    of_torch = {name for name in undefined if re.match(r"(aoti_)?torch_", name)}
    assert of_torch  # it does call torch
    assert of_torch - stable_set - {"aoti_torch_get_current_cuda_stream"} == set()


def test_no_cpp_symbol_of_torch_is_used(undefined):
    inside = re.compile(r"_Z\w*?(3c10|2at|5torch|6caffe2)\d")
    assert [name for name in undefined if inside.match(name)] == []


# ------------------------------------------------------------------------------------- GPU code

needs_cuda_build = pytest.mark.skipif(
    "not __import__('pullback_ext').available() "
    "or __import__('pullback_ext').build_info()['cuda'] is None",
    reason="the native library was built without a CUDA toolkit",
)


@pytest.fixture(scope="module")
def gpu_code(elf):
    found = defaultdict(set)
    for architecture, code in fat_binary(elf.section(".nv_fatbin")):
        found[architecture] |= kernels(architecture, code)
    return dict(found)


@pytest.fixture(scope="module")
def source_kernels(repository):
    """Names of the kernels in the CUDA sources."""
    names = set()
    for source in sorted((repository / "csrc" / "cuda").glob("*.cu")):
        found = re.findall(
            r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", source.read_text()
        )
        assert len(found) == source.read_text().count("__global__")
        names.update(found)
    assert names
    return names


@needs_cuda_build
def test_gpu_code_is_there_for_every_declared_architecture(gpu_code):
    declared = set()
    for spelled in build_info()["cuda_architectures"]:
        number = re.match(r"\d+", spelled)[0]
        for kind in EXECUTABLE_KINDS.values():
            if spelled.endswith(kind) or "-" not in spelled:
                declared.add(f"{number}-{kind}")
    assert set(gpu_code) == declared


@needs_cuda_build
def test_every_kernel_is_there_for_every_architecture(gpu_code, source_kernels):
    every = set.union(*gpu_code.values())
    assert all(found == every for found in gpu_code.values())
    for name in source_kernels:
        assert any(re.search(rf"\d{name}(?=[IEv])", mangled) for mangled in every), name
    stems = {s for s in source_kernels for m in every if re.search(rf"\d{s}(?=[IEv])", m)}
    assert stems == source_kernels
    # gram: four input types with three tile sizes each, and the sum of the parts.
    assert len([m for m in every if "10gram_split" in m]) == 12


def frames(code):
    """Kernel -> bytes of local memory per thread, from the attributes of machine code."""
    elf = Elf(code)
    names = [name for name, _, _ in elf.symbols(".symtab")]
    info, found, at = elf.section(".nv.info"), {}, 0
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        if (form, attribute) == (4, 0x11):  # sized value: the frame of a function
            symbol, frame = struct.unpack_from("<II", info, at + 4)
            found[names[symbol - 1]] = frame  # symbols() leaves the null symbol out
        at += 4 + (size if form == 4 else 0)
    return found


# Kernel -> bytes that it may keep in local memory, and what they are. Spilled registers would come
# on top.
# How cosf() and sinf() of random.h reduce large arguments.
LOCAL_MEMORY = {"apply_transform": 32, "late_passes": 32}


@needs_cuda_build
def test_no_register_is_spilled(elf):
    for architecture, code in fat_binary(elf.section(".nv_fatbin")):
        if architecture.endswith("virtual"):
            continue
        every, found = kernels(architecture, code), frames(code)
        allowed = {m: b for m in every for name, b in LOCAL_MEMORY.items() if name in m}
        assert {m: found[m] for m in every if found[m] > 0} == allowed, architecture


# Machine code of compute capability 8 and 9: a load from global memory, a store, how the 16 bytes
# of an access are told, and products of tensor cores: of float32 sums and of float64.
LOAD, STORE, WIDE, MULTIPLY, MULTIPLY_DOUBLES = 0x981, 0x986, 6, 0x23C, 0x23F


def is_wide_load(low, high):
    return low & 0xFFF == LOAD and high >> 9 & 7 == WIDE


def is_wide_store(low, high):
    return low & 0xFFF == STORE and high >> 9 & 7 == WIDE


def is_tensor_product(low, _):
    return low & 0xFFF == MULTIPLY


def instructions(code, kernel):
    """The two words of every instruction of a kernel."""
    return struct.iter_unpack("<QQ", Elf(code).section(f".text.{kernel}"))


READERS = {"gram_split", "part_peaks", "block_products", "apply_transform", "late_passes"}
WRITERS = {"apply_transform", "late_passes"}
ON_TENSOR_CORES = {"attention_rows_of_warps", "attention_sums_of_warps", "products_with_peaks"}


@needs_cuda_build
@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        (READERS | ON_TENSOR_CORES - {"products_with_peaks"}, is_wide_load),
        (WRITERS, is_wide_store),
        (ON_TENSOR_CORES, is_tensor_product),
    ],
    ids=[
        "rows are read 16 bytes at a time",
        "rows are written 16 bytes at a time",
        "tensor cores multiply",
    ],
)
def test_kernels_hold_the_instructions_that_they_are_built_for(elf, named, wanted):
    seen = set()
    for architecture, code in fat_binary(elf.section(".nv_fatbin")):
        if architecture.endswith("virtual"):
            continue
        for kernel in kernels(architecture, code):
            for name in named:
                if re.search(rf"\d{name}(?=[IEv])", kernel):
                    words = instructions(code, kernel)
                    assert any(wanted(*word) for word in words), (architecture, kernel)
                    seen.add(name)
    assert seen == named


@needs_cuda_build
def test_products_of_many_rows_are_those_of_tensor_cores(elf):
    seen = set()
    for architecture, code in fat_binary(elf.section(".nv_fatbin")):
        if architecture.endswith("virtual"):
            continue
        for kernel in kernels(architecture, code):
            found = re.search(r"\d(block_products|late_passes)I.*Li(\d)E", kernel)
            if found:
                on_tensor_cores = any(
                    low & 0xFFF == MULTIPLY_DOUBLES for low, _ in instructions(code, kernel)
                )
                assert on_tensor_cores == (found[2] == "4"), (architecture, kernel)
                seen.add((found[1], found[2]))
    assert len(seen) == 6


def test_a_cpu_build_holds_no_gpu_code(elf):
    if build_info()["cuda"] is None:
        assert ".nv_fatbin" not in elf.sections
    else:
        assert ".nv_fatbin" in elf.sections


# What a stream that is captured into a graph allows, and what waits for nothing.
RUNTIME = {
    "cudaDeviceGetAttribute",
    "cudaFuncSetAttribute",
    "cudaGetDevice",
    "cudaGetErrorString",
    "cudaGetLastError",
    "cudaLaunchKernelEx",
    "cudaSetDevice",
}


def test_nothing_waits_for_the_device_and_nothing_is_allocated_but_by_torch(repository):
    sources = [p for p in (repository / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu")]
    called = {name for p in sources for name in re.findall(r"\b(cuda[A-Z]\w*)\(", p.read_text())}
    assert called == RUNTIME


def test_no_kernel_was_compiled_with_fast_math(repository):
    text = (repository / "CMakeLists.txt").read_text()
    assert not re.search(r"use_fast_math|ffast-math|march=native", text)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets of x86-64")
@pytest.mark.parametrize("isa", ["avx2", "avx512"])
@pytest.mark.parametrize(
    "op", ["attention", "gram", "normalize_tangents", "orthonormalize", "squared_singular_values"]
)
def test_code_for_one_instruction_set_is_not_shared_with_others(repository, tmp_path, op, isa):
    """An inline function compiled for AVX-512 could become the copy that all callers use."""
    compiler = shutil.which("g++") or pytest.skip("there is no g++")
    obj = tmp_path / "kernel.o"
    flags = ["-std=c++20", "-O0", "-march=x86-64-v3", "-mavx512f", "-mavx512dq"]  # -O0 inlines none
    source = repository / "csrc" / "cpu" / f"{op}_{isa}.cpp"
    command = [compiler, *flags, f"-I{repository / 'csrc'}", "-c", source, "-o", obj]
    subprocess.run(command, check=True)
    symbols = list(Elf(obj.read_bytes()).symbols(".symtab"))
    assert any("_item" in name for name, _, _ in symbols)
    shared = {name for name, binding, defined in symbols if defined and binding != LOCAL}
    assert len(shared) == 1, shared
    assert f"{op}_items_{isa}" in shared.pop()  # the entry point
