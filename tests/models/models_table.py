"""Writes the table of docs/models.md from the tests' tiny networks.

Run it as `python -m tests.models.models_table`.

The names come from the library, the last column from a comparison with dense Jacobians in float64.
"""

from __future__ import annotations

import re
from pathlib import Path

from pullback import local_basis
from pullback.models.families import FAMILIES
from pullback.testing import leading, sine
from tests.models import by_hand, families

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- table: python -m tests.models.models_table -->", "<!-- end of table -->"
HEAD = (
    "| family | class | blocks | default tap | condition | sine to dense |\n"
    "| --- | --- | --- | --- | --- | ---: |\n"
)

#: The entries of `families.TINY` that have a line, with what people call them.
LINES = {
    "UNet2DModel": "DDPM",
    "UNet2DConditionModel": "Stable Diffusion 1, 2",
    "UNet2DConditionModel, SDXL": "Stable Diffusion XL",
    "DiTTransformer2DModel": "DiT",
    "PixArtTransformer2DModel": "PixArt-α, PixArt-Σ",
    "SD3Transformer2DModel": "Stable Diffusion 3, 3.5",
    "FluxTransformer2DModel": "Flux",
}
#: Where a family's middle block is, whatever its depth.
MIDDLE = {"single_transformer_blocks": "the middle one of all blocks, double ones first"}


def measured(name: str) -> float:
    """The sine between the default tap's basis in float32 and the dense one, two samples' worst."""
    case, model = by_hand.case(name), families.model_of(name)
    jacobian = case.encoder(case.tiny.default, case.tiny.index)
    rank = by_hand.rank_of(jacobian)
    found = local_basis(model, case.x, case.t, rank, cond=case.cond or None)
    return sine(found.v, leading(jacobian, rank)[2]).max().item()


def line(name: str, sine_seen: float) -> str:
    """The line of a family."""
    model = families.model_of(name)
    default = model.default_tap
    blocks = model.blocks()
    stems = dict.fromkeys(re.sub(r"\.\d+$", ".i", path) for path in blocks)
    if default in stems:
        default = f"`{default}`"
    else:  # the depth of a full-size network is another, and so is the number
        assert default == blocks[(len(blocks) - 1) // 2]
        default = "the middle block"
    arguments = model.conditions.arguments or {}
    needed = ", ".join(f"`{key}`" + ("" if kind.needed else "?") for key, kind in arguments.items())
    cells = [
        LINES[name],
        f"`{type(model.network).__name__}`",
        ", ".join(f"`{stem}`" for stem in stems),
        default,
        needed or "none",
        f"{sine_seen:.0e}",
    ]
    return f"| {' | '.join(cells)} |\n"


def table(sines: dict[str, float]) -> str:
    """The whole table, from the sine of each family."""
    kinds = {type(families.model_of(name).network) for name in LINES}
    assert set(FAMILIES) <= kinds, "a family of the library has no line"
    return HEAD + "".join(line(name, sines[name]) for name in LINES)


def replaced(page: str, new: str, begin: str = BEGIN) -> str:
    """The page with the table after a mark replaced."""
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(END)
    return f"{before}{begin}\n\n{new}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(
        replaced(PAGE.read_text("utf-8"), table({name: measured(name) for name in LINES})), "utf-8"
    )
