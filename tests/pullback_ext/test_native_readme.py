"""What csrc/README.md says of layers, limits, arrays and launches is what the sources say."""

import ast
import ctypes
import itertools
import math
import re

import pytest

from pullback_ext import reference
from tests.pullback_ext.emulation import attending, emulated
from tests.pullback_ext.emulation.emulated import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, recorded

SOURCES = emulated.CSRC
BYTES = {FLOAT32: 4, FLOAT64: 8, FLOAT16: 2, BFLOAT16: 2}


def plain(cell):
    return cell.strip().strip("`")


@pytest.fixture(scope="module")
def tables():
    """Every table of the page: [its header, row, ...], each a list of cells."""
    found, lines = [], (SOURCES / "README.md").read_text().splitlines()
    for is_table, group in itertools.groupby(lines, lambda line: line.startswith("|")):
        if is_table:
            header, _, *rows = ([c.strip() for c in line.strip("|").split("|")] for line in group)
            found.append([header, *rows])
    return found


def rows_of(tables, *header):
    """Rows of the tables that begin with these columns."""
    found = [row for head, *rows in tables if head[: len(header)] == list(header) for row in rows]
    assert found
    return found


# ------------------------------------------------------------------------------------------ layers

MAY_USE = {
    "common": {"common"},
    "numerics": {"numerics", "common"},
    "cpu": {"cpu", "numerics", "common"},
    "cuda": {"cuda", "numerics", "common"},
    "ops": {"ops", "cpu", "cuda", "numerics", "common"},
    "library.cpp": {"ops", "cpu"},
    "module.cpp": {"common", "cpu"},
}


def includes(path):
    return re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text())


def sources():
    return [path for path in SOURCES.rglob("*") if path.suffix in (".h", ".cpp", ".cu")]


def test_files_include_what_their_folder_may_use(tables):
    told = rows_of(tables, "Folder", "Holds", "May use")
    assert {plain(name).rstrip("/`") for row in told for name in row[0].split(",")} == set(MAY_USE)
    for path in sources():
        allowed = MAY_USE[path.relative_to(SOURCES).parts[0]]
        ours = {name.split("/")[0] for name in includes(path) if (SOURCES / name).is_file()}
        assert ours <= allowed, path


def test_cuda_sources_see_no_torch_header():
    seen = [*(SOURCES / "cuda").glob("*"), *(SOURCES / "numerics").glob("*")]
    for path in seen:  # grows
        for name in includes(path):
            assert not name.startswith("torch/"), path
            if (SOURCES / name).is_file() and SOURCES / name not in seen:
                seen.append(SOURCES / name)
    assert SOURCES / "common" / "block.h" in seen


# ------------------------------------------------------------------------------------------ limits


def test_limits_are_those_of_the_sources_and_defined_once(tables):
    limits = {plain(row[0]): (int(row[1]), plain(row[2])) for row in rows_of(tables, "Constant")}
    for name, (value, file) in limits.items():
        definition = re.compile(rf"constexpr \w+ {name} = (\d+);")
        found = {
            str(path.relative_to(SOURCES)): definition.findall(path.read_text())
            for path in sources()
        }
        assert {path: values for path, values in found.items() if values} == {file: [str(value)]}
    assert limits["kMostRows"][0] == reference.MOST_ROWS


# ------------------------------------------------------------------------------------------ arrays


@pytest.mark.parametrize(
    ("file", "struct"),
    [
        ("common/orthonormalize_params.h", "struct OrthonormalizeParams"),
        ("cuda/orthonormalize_stages.h", "struct Workspace"),
        ("cpu/orthonormalize.cpp", "class Orthonormalizer"),
    ],
)
def test_arrays_have_the_names_and_shapes_of_the_sources(tables, file, struct):
    body = re.search(rf"{struct} {{(.*?)\n}};", (SOURCES / file).read_text(), re.DOTALL)[1]
    field = re.compile(r"(?:Rows|\*|>) (\w+?)_?(?:\[kAgainst\])?; +// (\[[^]]+\])")
    written = dict(field.findall(body))
    assert len(written) > 7
    arrays = [
        {plain(row[0]): row[1] for row in rows}
        for head, *rows in tables
        if head[:3] == ["Name", "Shape", "dtype"]
    ]
    assert written in arrays


# ---------------------------------------------------------------------------------------- launches

OPERATORS = {
    ast.Add: lambda x, y: x + y,
    ast.Sub: lambda x, y: x - y,
    ast.Mult: lambda x, y: x * y,
    ast.Div: lambda x, y: x / y,
}
FUNCTIONS = {
    "ceil": math.ceil,
    "floor": math.floor,
    "max": max,
    "min": min,
    "triangle": lambda n: n * (n + 1) // 2,
    "pitch": lambda n: n | 1,
}


def value(formula, symbols):
    """What a formula of the page amounts to."""

    def walk(node):
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return symbols[node.id]
        if isinstance(node, ast.Call):
            return FUNCTIONS[node.func.id](*map(walk, node.args))
        assert isinstance(node, ast.BinOp), formula
        return OPERATORS[type(node.op)](walk(node.left), walk(node.right))

    return walk(ast.parse(formula, mode="eval").body)


def formulas(cell):
    return re.findall(r"`([^`]+)`", cell)


def expected(tables, kernel, symbols, case=0):
    """Grid, block and shared memory of a kernel by the page, which may tell cases of the latter."""
    (row,) = (row for row in rows_of(tables, "Kernel", "Grid") if plain(row[0]) == kernel)
    shared = formulas(row[2])
    return (kernel, value(plain(row[1]), symbols), 256, value(shared[case], symbols))


SHARED_OF_EVERY_DEVICE = 99 * 1024
MULTIPROCESSORS = 132  # of the emulated device


def with_sizes(tables, column, symbols, without_b=False):
    """The symbols, and those that the page derives from them for an op."""
    symbols = dict(symbols)
    for row in rows_of(tables, "", "`gram`", "`orthonormalize`"):
        cell = row[column] if formulas(row[column]) else row[1]  # "as there"
        if not formulas(cell):
            continue  # not of this op
        sizes = [value(formula, symbols) for formula in formulas(cell)]
        case = -1 if without_b else 0
        if plain(row[0]) == "factor":
            large = symbols["p"] == 0 or sizes[0] > SHARED_OF_EVERY_DEVICE
            case = 2 if symbols["k"] > 96 else int(large)
        if plain(row[0]) == "products":
            case = int(symbols["t"] == 64)
        symbols[plain(row[0])] = sizes[case]
    return symbols


needs_compiler = pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler")


def block(rows):
    return emulated.Rows(None, rows, (ctypes.c_int64 * 3)())


def check(tables, launches, symbols, case=0):
    assert [tuple(one) for one in launches] == [
        expected(tables, one.kernel, symbols, case) for one in launches
    ]
    return {one.kernel for one in launches}


@needs_compiler
@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize(
    ("batch", "k", "p", "columns"),
    [
        (1, 1, None, 1),
        (8, 50, None, 16384),
        (16, 30, 7, 65536),
        (3, 200, 130, 5000),
        (2, 600, 1, 9),
    ],
)
def test_gram_is_launched_as_told(tables, dtype, batch, k, p, columns):
    params = emulated.GramParams(a=block(k), b=block(k if p is None else p), symmetric=p is None)
    params.dtype, params.batch, params.columns = dtype, batch, columns
    splits = emulated.library().gram_plan(ctypes.byref(params))
    symbols = {"B": batch, "k": k, "p": k if p is None else p, "N": columns}
    wide = max(k, symbols["p"])
    symbols["t"] = 16 if wide <= 16 else 32 if wide <= 32 else 64
    symbols = with_sizes(tables, 1, symbols, without_b=p is None)
    assert splits == symbols["splits"]
    launches = recorded(emulated.library().gram, params)
    assert check(tables, launches, symbols) == {"gram_split", "gram_sum"}


@needs_compiler
@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize(
    ("batch", "k", "against", "columns"),
    [
        (1, 1, (0, 0), 1),
        (8, 50, (50, 100), 16384),
        (16, 10, (10, 35), 65537),
        (2, 96, (0, 200), 4096),
        (2, 97, (3, 0), 4096),
        (1, 256, (256, 256), 200000),
    ],
)
def test_orthonormalize_is_launched_as_told(tables, dtype, batch, k, against, columns):
    params = emulated.OrthonormalizeParams(block=block(k), dtype=dtype)
    params.against[0], params.against[1] = map(block, against)
    params.working_dtype = FLOAT64 if dtype == FLOAT64 else FLOAT32
    params.batch, params.columns = batch, columns
    emulated.library().orthonormalize_plan(ctypes.byref(params))
    symbols = {
        "B": batch,
        "k": k,
        "p": sum(against),
        "N": columns,
        "w": BYTES[params.working_dtype],
    }
    symbols |= {"p_0": against[0], "p_1": against[1], "M": MULTIPROCESSORS}
    symbols = with_sizes(tables, 2, symbols | {"t": 16 if k <= 16 else 32 if k <= 32 else 64})
    few = batch * symbols["tiles"] * symbols["splits"] < MULTIPROCESSORS
    symbols["pieces"] = 4 if few else 1
    assert params.splits.count == symbols["splits"]
    launches = recorded(emulated.library().orthonormalize, params)
    limits = {plain(row[0]): int(row[1]) for row in rows_of(tables, "Constant")}
    first = ["part_peaks", "row_scales", "block_products", "cholesky_factors", "apply_transform"]
    separate = first[2:] * (limits["kSeparatePasses"] - 1)
    assert [one.kernel for one in launches] == [*first, *separate, "late_passes"]
    assert len(launches) <= 14
    check(tables, [*launches[:5], launches[-1]], symbols)
    most = limits["kBlocksOfUnsurePass"] * MULTIPROCESSORS
    for sure, unsure in zip(launches[2:5] * 2, launches[5:-1], strict=True):
        walks = sure.kernel != "cholesky_factors"
        assert unsure == sure._replace(grid=min(sure.grid, most) if walks else sure.grid)


@needs_compiler
@pytest.mark.parametrize("n", [1, 10, 33, 78, 79, 96])
def test_ritz_is_launched_as_told(tables, n):
    params = emulated.RitzParams(batch=5, n=n)
    launches = recorded(emulated.library().ritz, params)
    assert check(tables, launches, {"B": 5, "n": n}, int(n > 78)) == {"ritz_jacobi"}


@needs_compiler
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("m", [1, 10, 32, 33, 64])
def test_squared_singular_values_are_launched_as_told(tables, dtype, m):
    params = emulated.SquaredSingularValuesParams(
        c=block(m), dtype=dtype, matrices=100_003, columns=2 * m
    )
    launches = recorded(emulated.library().squared_singular_values, params)
    symbols = {"P": 100_003, "m": m, "k": m}
    kernel = f"squared_singular_values_by_{'warps' if m <= 32 else 'blocks'}"
    assert check(tables, launches, symbols) == {kernel}


@needs_compiler
@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize(
    ("shape", "channels_last", "kernels"),
    [
        ((3, 5, 2, 4, 256), False, ["normalize_groups_by_warps"]),
        ((4, 5, 2, 4, 257), False, ["normalize_groups_by_blocks"]),
        ((16, 1, 32, 16, 4096), False, ["normalize_groups_by_blocks"]),
        ((16, 1, 32, 16, 4097), False, ["sums_of_parts", "means_of_groups", "normalize_parts"]),
        ((1, 2, 3, 10, 100_003), False, ["sums_of_parts", "means_of_groups", "normalize_parts"]),
        ((5, 2, 32, 10, 4096), True, ["sums_of_channels", "means_of_groups", "normalize_channels"]),
        (
            (2, 1, 1, 17, 40_000),
            True,
            ["sums_of_channels", "means_of_groups", "normalize_channels"],
        ),
    ],
)
def test_normalize_tangents_is_launched_as_told(tables, dtype, shape, channels_last, kernels):
    params = emulated.NormalizeTangentsParams(None, None, None, None, None, dtype, *shape)
    params.channels_last = channels_last
    k, batch, groups, channels, positions = shape
    symbols = {"k": k, "c": -(-k // 2), "B": batch, "G": groups, "Cg": channels, "P": positions}
    symbols |= {"L": channels * positions, "n": 16 // BYTES[dtype]}
    for row in rows_of(tables, "`normalize_tangents`", "contiguous", "channels last"):
        for formula in formulas(row[1 + channels_last]):
            symbols[plain(row[0])] = value(formula, symbols)
    launches = recorded(emulated.library().normalize_tangents, params)
    assert [one.kernel for one in launches] == kernels
    check(tables, launches, symbols)
    columns = groups * (channels if channels_last else 1)
    sums = k * batch * (symbols["parts"] * columns + groups) * 2 if len(kernels) > 1 else 0
    assert emulated.library().normalize_tangents_plan(ctypes.byref(params)) == sums


@needs_compiler
@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("width", [40, 64, 65, 300])
def test_attention_is_launched_as_told(tables, dtype, width):
    params = attending.AttentionParams(dtype=dtype)
    params.tangents, params.batch, params.heads, params.key_heads = 7, 3, 8, 4
    params.queries, params.keys, params.depth, params.width = 1000, 77, 48, width
    for rows in (params.q, params.k, params.v, params.g, params.dq):
        rows.data = 1  # there; nothing runs
    halves = BYTES[dtype] == 2  # by tensor cores, and o is computed anew
    sums = "attention_sums" + "_of_warps" * halves
    rows, o = ("attention_rows" + "_of_warps" * halves, 1, 0, 0, 0), (sums, 1, 8, 1000, width)
    again, peaks = [o] * halves, [("products_with_peaks", 7, 0, 0, 0)] * halves
    told = {  # kernel, T, M, L, n
        attending.FORWARD: [rows, o],
        attending.TANGENTS: [
            *again,
            rows,
            *(peaks or [("centers_of_tangents", 7, 0, 0, 0)]),
            (sums, 7, 8, 1000, width),
        ],
        attending.OF_QUERIES: [
            *again,
            rows,
            *peaks,
            ("centers_of_cotangents", 7, 0, 0, 0),
            (sums, 7, 8, 1000, 48),
        ],
        attending.OF_KEYS: [(sums, 7, 4, 77, 48), (sums, 7, 4, 77, width)],
    }
    for kind, expected_launches in told.items():
        params.kind, params.tangents = kind, 1 if kind == attending.FORWARD else 7
        launches = recorded(emulated.library().attention, params)
        assert [one.kernel for one in launches] == [one[0] for one in expected_launches]
        for launch, (_, count, heads, length, n) in zip(launches, expected_launches, strict=True):
            columns = 128 if n > 64 and dtype != FLOAT64 else 64
            symbols = {"T": count, "B": 3, "H": 8, "Sq": 1000, "M": heads, "L": length, "n": n}
            symbols |= {"c": columns, "g": 1 if dtype == FLOAT64 else 128 // columns}
            check(tables, [launch], symbols | {"w": 8 if dtype == FLOAT64 else 4})


def test_every_kernel_is_told_of(tables):
    kernel = re.compile(r"__global__\s+void\s+__launch_bounds__\([^)]*\)\s+(\w+)\(")
    texts = [path.read_text() for path in (SOURCES / "cuda").glob("*.cu")]
    written = {name for text in texts for name in kernel.findall(text)}
    assert written == {plain(row[0]) for row in rows_of(tables, "Kernel", "Grid")}
