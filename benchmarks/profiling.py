"""The shares of a profile against a sampling profiler that knows nothing of it.

A second thread looks fifty times a second where the first one stands, while the same bases are
computed without any profiler. What it sees is a line of Python, so that it cannot tell an operator
from the Python that calls it; it names the rule of the recording, or the part of the library.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

import torch
from diffusers import DDIMScheduler
from rich.console import Console

from benchmarks.products import unet
from benchmarks.report import print_targets, table_of
from pullback import LatentModel, basis, load, maps
from pullback.maps import Map
from pullback.profiling import profile

#: Share of the wall time that may stay unattributed.
MOST = 0.1

#: Functions of the library, by the kind of work they stand for: file and beginning of the name.
_RULES = (
    ("linearization/contractions.py", "_convolution", "convolution"),
    ("linearization/contractions.py", "_times_matrix", "linear layers"),
    ("linearization/contractions.py", "_matrix_times", "linear layers"),
    ("linearization/contractions.py", "", "attention"),
    ("linearization/attention.py", "", "attention"),
    ("linearization/normalization.py", "", "normalisation"),
    ("linearization/arithmetic.py", "", "gates and entries"),
    ("linearization/views.py", "", "copies"),
)
#: Parts that count as one, whatever is called in them, from the outermost frame on.
_PARTS = (
    ("operators/checks.py", "", "checks"),
    ("operators/derivative.py", "Way.derivative", "primal"),
)


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        digits: samples and rank on the digit model.
        unet: samples, rank and side of the images of the U-Net.
        products: of a sample, after which the bases of the U-Net are left as they are.
        every: seconds between two looks.
        runs: computations that are sampled.
    """

    digits: tuple[int, int] = (8, 10)
    unet: tuple[int, int, int] = (2, 10, 64)
    products: int = 40
    every: float = 0.02
    runs: int = 2

    @classmethod
    def quick(cls) -> Settings:
        """A few seconds' work, which shows that everything runs and measures nothing."""
        return cls(digits=(1, 2), unet=(1, 1, 16), products=4, every=0.002, runs=1)


def run(
    settings: Settings, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Profile both models, and sample the same work.

    Args:
        settings: what to measure.
        device: on which device.
        tell: called with a line on what comes next.

    Returns:
        JSON values: per model the profile, and the shares of looks.
    """
    rows = []
    for name, (map_, samples, rank) in _cases(settings, device).items():
        x = map_.model.sample_latents(samples, 500, seed=0)
        tell(f"{name}: profile")
        most = None if name == "digits" else settings.products
        found = profile(map_, x, 500, rank, advice=False, max_products=most)
        tell(f"{name}: sampled")
        looks = _sampled(
            lambda map_=map_, x=x, rank=rank, most=most: basis(
                map_, x, 500, rank, max_products=most
            ),
            settings,
        )
        total = max(1, sum(looks.values()))
        shares = {kind: count / total for kind, count in looks.most_common()}
        rows.append({"case": name, "profile": found.as_json(), "looks": total, "sampled": shares})
    return {
        "settings": asdict(settings),
        "cases": rows,
        "targets": [target for row in rows for target in _targets(row)],
    }


def _cases(settings: Settings, device: torch.device) -> dict[str, tuple[Map, int, int]]:
    samples, rank = settings.digits
    cases = {"digits": (maps.encoder(load("digits", device=device)), samples, rank)}
    samples, rank, side = settings.unet
    network = unet(side, attention=True).to(device)
    model = LatentModel(network, DDIMScheduler(), latent_shape=(3, side, side))
    cases["unet"] = (maps.output(model, "noise"), samples, rank)
    return cases


def _sampled(run: Callable[[], object], settings: Settings) -> Counter[str]:
    """What the present thread was seen at while `run` went on."""
    watched, done = threading.get_ident(), threading.Event()
    looks: Counter[str] = Counter()

    def look() -> None:
        while not done.wait(settings.every):
            frame = sys._current_frames().get(watched)
            if frame is not None:
                looks[_seen(frame)] += 1

    run()
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    for _ in range(settings.runs):
        run()
    done.set()
    watcher.join()
    return looks


def _seen(frame: FrameType) -> str:
    """The kind of work of a stack."""
    stack = []
    here: FrameType | None = frame
    while here is not None:
        path, _, file = here.f_code.co_filename.rpartition("pullback/")
        if path:
            stack.append((file, getattr(here.f_code, "co_qualname", here.f_code.co_name)))
        here = here.f_back
    for table, frames in ((_PARTS, stack[::-1]), (_RULES, stack)):
        for file, name in frames:
            for of_file, of_name, kind in table:
                if file == of_file and name.startswith(of_name):
                    return kind
    files = [file for file, _ in stack]
    if any(file.startswith(("linearization/", "operators/")) for file in files):
        return "walking the recording"
    return "block algebra" if any(file.startswith("krylov/") for file in files) else "other"


def _by_stage(profile_: dict[str, Any]) -> dict[str, float]:
    """The shares of a profile without those that no line of Python can be told from."""
    return {
        kind: work["share"]
        for kind, work in profile_["kinds"].items()
        if kind not in ("Python", "unattributed")
    }


def _compared(row: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Stages with all that happens in them, Python included: by the profile and by looks."""
    stages = {name: sum(parts.values()) for name, parts in row["profile"]["stages"].items()}
    seen = row["sampled"]
    named = {"checks": "checks", "primal": "primal", "solver": "block algebra", "other": "other"}
    found = [(stage, stages[stage], seen.get(kind, 0.0)) for stage, kind in named.items()]
    products = 1 - sum(share for _, _, share in found)
    return [("products", stages["push"] + stages["pull"], products), *found]


def _targets(row: dict[str, Any]) -> list[dict[str, Any]]:
    shares, seen = _by_stage(row["profile"]), row["sampled"]
    ours = max(shares, key=lambda kind: shares[kind])
    theirs = max((kind for kind in seen if kind in shares), key=lambda kind: seen[kind], default="")
    total = sum(work["share"] for work in row["profile"]["kinds"].values())
    case = row["case"]
    return [
        {
            "name": f"{case}: shares over the wall time",
            "asked": "1 within 0.001",
            "value": total,
            "met": abs(total - 1) < 1e-3,
            "note": "",
        },
        {
            "name": f"{case}: share that is not attributed",
            "asked": f"<= {MOST:g}",
            "value": row["profile"]["unattributed"],
            "met": row["profile"]["unattributed"] <= MOST,
            "note": "",
        },
        {
            "name": f"{case}: the largest kind of work, as the sampling profiler names it",
            "asked": "the same",
            "value": shares[ours],
            "met": ours == theirs,
            "note": f"{ours}; sampled: {theirs}",
        },
    ]


def print_profile(console: Console, results: dict[str, Any]) -> None:
    """A table for each model, and the targets."""
    for row in results["cases"]:
        told, seen = row["profile"], row["sampled"]
        table = table_of(
            f"{row['case']}: {told['seconds']:.2f} s, {row['looks']} looks",
            ("kind of work",),
            ("share", "sampled"),
        )
        names = [*told["kinds"], *(name for name in seen if name not in told["kinds"])]
        for name in names:
            share = told["kinds"].get(name, {}).get("share")
            table.add_row(
                name,
                "" if share is None else f"{share:.1%}",
                f"{seen[name]:.1%}" if name in seen else "",
            )
        console.print(table)
        for stage, share, looks in _compared(row):
            console.print(f"{stage}, Python included: {share:.1%}, sampled {looks:.1%}")
    print_targets(console, results["targets"])
