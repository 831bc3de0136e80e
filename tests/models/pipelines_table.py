"""Writes the table of pipelines of docs/models.md from the tests' tiny ones.

Run it as `python -m tests.models.pipelines_table`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from pullback import local_basis
from pullback.testing import leading, sine
from tests.models import by_hand, hub, own_call
from tests.models.models_table import PAGE, replaced

BEGIN = "<!-- table: python -m tests.models.pipelines_table -->"
HEAD = (
    "| pipeline | latents | default tap | condition | sine to dense |\n"
    "| --- | --- | --- | --- | ---: |\n"
)


def measured(case: hub.Case) -> float:
    """The sine between the default tap's basis in float32 and that of the pipeline's own call."""
    model, x = case.model, case.latents(1)
    exact = x.double().requires_grad_()
    given = case.given(case.double, exact)
    t = own_call.handed(case.double, given)[0][2]
    feature = own_call.feature(case.double, case.network(case.double), given, model.default_tap)
    jacobian = own_call.dense(feature, exact)
    rank = by_hand.rank_of(jacobian)
    found = local_basis(model, x, case.counted(t), rank, cond=case.condition("a cat"))
    return sine(found.v, leading(jacobian, rank)[2]).max().item()


def line(case: hub.Case, sine_seen: str) -> str:
    """The line of a pipeline."""
    model = case.model
    tap = model.default_tap
    if tap != "mid_block":
        lists = dict.fromkeys(path.rpartition(".")[0] for path in model.blocks())
        tap = "the middle one of " + ", ".join(f"`{name}`" for name in lists)
    if case.name.startswith("Stable Cascade"):
        tap = "the last of `down_blocks`"
    kinds = model.conditions.arguments or {}
    names = ", ".join(f"`{name}`" + ("" if kind.needed else "?") for name, kind in kinds.items())
    shape = {1: "[L]", 2: "[C, L]", 3: "[C, H, W]", 4: "[C, F, H, W]"}[len(model.latent_shape)]
    frames_first = {"CogVideoX": "[F, C, H, W]", "Stable Video Diffusion": "[F, C, H, W]"}
    shape = {**frames_first, "Kandinsky 5": "[F, H, W, C]"}.get(case.name, shape)
    kind = type(case.pipeline).__name__
    return f"| {case.name} (`{kind}`) | {shape} | {tap} | {names or 'none'} | {sine_seen} |\n"


def cases() -> list[hub.Case]:
    """The pipelines that are taken."""
    names = [name for name in hub.BUILDERS if name not in hub.REFUSED]
    folder = Path(tempfile.mkdtemp())
    return [hub.Case(name, hub.BUILDERS[name](folder / name.replace(" ", ""))) for name in names]


def table(sines: list[str] | None = None) -> str:
    """The whole table; measured where the sines are not given."""
    torch.manual_seed(0)
    lines = [
        line(case, f"{measured(case):.0e}" if sines is None else sines[at])
        for at, case in enumerate(cases())
    ]
    return HEAD + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text("utf-8"), table(), BEGIN), "utf-8")
