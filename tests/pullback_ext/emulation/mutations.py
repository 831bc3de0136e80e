"""Leaves out each place where threads of a kernel wait, and tells which cases notice.

Run as a script in a process of its own, as every mutant runs in a child: without a barrier a kernel
may well write where it likes. Prints JSON: the sites reached, each with the first case and schedule
that noticed, or null.
"""

import json
import os
import sys

import numpy as np

from tests.pullback_ext.emulation import attending, emulated
from tests.pullback_ext.emulation.emulated import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    SCHEDULES,
    gram,
    normalize_tangents,
    orthonormal_rows,
    orthonormalize,
    ritz,
    squared_singular_values,
)


def cases():
    """name -> schedule -> arrays. Batches are larger than the grid, so that blocks walk."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    products = normal(7, 20, 400)
    against = orthonormal_rows(rng, 5, 40, 300)
    block = normal(5, 37, 300)
    block[1, 5] = block[1, 4]
    block[2] = 0
    block[3] = block[3, :1] + 1e-6 * block[3]
    not_finite = normal(4, 3, 200)
    not_finite[2, 1, 77] = np.nan
    mixed = normal(97, 97) * np.logspace(0, -5, 97, dtype=np.float32) @ normal(97, 210)
    matrices = rng.standard_normal((4, 33, 33))
    matrices += matrices.transpose(0, 2, 1)
    x = np.linspace(0, 1, 200)
    late = np.stack([np.exp(-(((x - m) / 0.5) ** 2)) for m in np.linspace(0, 1, 20)])
    late = np.stack([late, normal(20, 200), 2 * late]).astype(np.float32)
    narrow = rng.standard_normal((60, 7, 11))
    narrow[[9, 33], 0, 3] = narrow[21, 6, 2] = np.nan  # the first and the last thread's row
    broad = rng.standard_normal((4, 35, 41))

    def tangents(*shape):
        """Of one shape with what belongs to their primal."""
        return FLOAT32, normal(*shape), normal(*shape[1:]), normal(*shape[1:3])

    short, long = tangents(3, 13, 1, 1, 70), tangents(3, 4, 1, 5, 211)
    cut = tangents(1, 2, 1, 1, 65537)
    strips = [np.moveaxis(normal(*lead, 5, 70, 2), -3, -1) for lead in ((4, 1), (1,))]
    scale = normal(1, 70)
    attended = [normal(2, 2, n, 20) for n in (70, 70, 70)]
    directions = [normal(3, *x.shape) for x in attended]
    out, lse = normal(2, 2, 70, 20), normal(2, 2, 70)

    def halves(dtype, schedule):
        """The first sample's, computed by tensor cores."""
        first = [emulated.narrow(dtype, x[:1]) for x in (*attended, out)]
        sums = np.ascontiguousarray(lse[:1], np.float64)
        turned = [emulated.narrow(dtype, x[:, :1]) for x in directions]
        return [
            *attending.attend(dtype, *first[:3], schedule=schedule),
            attending.tangents(dtype, *first, sums, *turned, schedule=schedule),
            *attending.cotangents(dtype, *first, sums, turned[0], schedule=schedule),
        ]

    return {
        "gram": lambda s: [gram(FLOAT32, products, schedule=s)],
        "not finite": lambda s: orthonormalize(FLOAT32, not_finite, schedule=s),
        "ritz": lambda s: ritz(matrices, schedule=s),
        "by warps": lambda s: [squared_singular_values(narrow, schedule=s)],
        "tangents by warps": lambda s: [normalize_tangents(*short, schedule=s)],
        "tangents by blocks": lambda s: [normalize_tangents(*long, schedule=s)],
        "tangents in parts": lambda s: [normalize_tangents(*cut, schedule=s)],
        "channels last": lambda s: [
            normalize_tangents(FLOAT32, *strips, scale, channels_last=True, schedule=s)
        ],
        "attention": lambda s: attending.attend(FLOAT32, *attended, schedule=s),
        "attention's tangents": lambda s: [
            attending.tangents(FLOAT32, *attended, out, lse, *directions, schedule=s)
        ],
        "attention's cotangents": lambda s: attending.cotangents(
            FLOAT32, *attended, out, lse, directions[0], schedule=s
        ),
        "attention of float16": lambda s: halves(FLOAT16, s),
        "attention of bfloat16": lambda s: halves(BFLOAT16, s),
        "by blocks": lambda s: [squared_singular_values(broad, schedule=s)],
        "many samples": lambda s: orthonormalize(
            FLOAT32, block, against[:, :3], against[:, 3:], schedule=s
        ),
        "late passes": lambda s: [
            x
            for samples in (late, late[:1])
            for x in orthonormalize(FLOAT32, samples, against[: len(samples), :3, :200], schedule=s)
        ],
        "many rows": lambda s: orthonormalize(FLOAT32, mixed[None], schedule=s),
    }


def first_to_notice(runs, want):
    for name, run in runs.items():
        for schedule in SCHEDULES:
            try:
                got = run(schedule)
            except (emulated.EmulationError, AssertionError):
                return name, schedule
            if not all(np.array_equal(x, y, True) for x, y in zip(got, want[name], strict=True)):
                return name, schedule
    return None


def in_child(work):
    """What work() gives, or that the process died."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.write(write, json.dumps(work()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else ("the process died", "")


def main():
    runs, want, reached = cases(), {}, {}
    for name, run in runs.items():
        before = emulated.passed()
        want[name] = run("ascending")
        for site, count in emulated.passed().items():
            if count > before.get(site, 0):
                reached.setdefault(site, []).append(name)
    assert first_to_notice(runs, want) is None, "the kernels themselves are wrong"
    report = []
    for site, names in reached.items():  # the others are the same without it
        emulated.library().set_skipped(site.number)
        concerned = {name: runs[name] for name in names}
        noticed = in_child(lambda concerned=concerned: first_to_notice(concerned, want))
        report.append({"site": site, "noticed": noticed})
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
