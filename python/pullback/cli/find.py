"""`pullback directions find`: a command for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pullback._files import occupied
from pullback.cli.labels import read_scores
from pullback.cli.loading import load
from pullback.cli.options import (
    AsJson,
    Call,
    Debug,
    Device,
    Dtype,
    Memory,
    Model,
    Overwrite,
    Quality,
    Quiet,
    Tap,
)
from pullback.cli.output import make_folder
from pullback.cli.parsing import parse_call, parse_list, parse_memory
from pullback.cli.request import Delivery

Output = Annotated[Path, typer.Option("--output", "--out", "-o", help="Folder for the results.")]
Timestep = Annotated[
    int, typer.Option("--timestep", "-t", help="Where, in the scheduler's training units.")
]
Rank = Annotated[int, typer.Option("--rank", "-k", help="Directions.")]
Seed = Annotated[int, typer.Option(help="Seed of the sample's noise.")]
FirstSeed = Annotated[int, typer.Option(help="Seed of the first sample; the others count on.")]
Label = Annotated[int | None, typer.Option(help="Class of the condition; none if unset.")]
Text = Annotated[str | None, typer.Option(help="Prompt of the condition.")]
Mask = Annotated[Path, typer.Option(help="Image of the region, white on black.")]
Null = Annotated[int, typer.Option(help="Directions of the rest that are projected off.")]
Steps = Annotated[int, typer.Option(help="Steps over the whole schedule.")]
Pool = Annotated[bool, typer.Option("--pool", help="Take the mean of h over space.")]
Classes = Annotated[
    tuple[int, int] | None, typer.Option(help="Two classes of the model, from one to the other.")
]
Prompts = Annotated[
    tuple[str, str] | None, typer.Option(help="Two prompts, from one to the other.")
]
Labels = Annotated[
    Path | None,
    typer.Option(help="Text of one score a line, for the seeds from --seed on, or of seed,score."),
]
Samples = Annotated[
    int | None,
    typer.Option(min=1, help="Samples of each class [default: 50], or of the file of labels."),
]
Top = Annotated[
    int | None,
    typer.Option(help="How many of the highest scores, and of the lowest, are the classes."),
]
Folds = Annotated[int, typer.Option(help="Of the cross-validation; 0 for none.")]

_FOLDER = Path("pullback-directions")


def pullback(
    model: Model, output: Output = _FOLDER, timestep: Timestep = 500, rank: Rank = 5,
    tap: Tap = None, seed: Seed = 0, class_label: Label = None, prompt: Text = None,
    quality: Quality = "standard", call: Call = None, device: Device = "cpu",
    dtype: Dtype = None, memory: Memory = None, overwrite: Overwrite = False,
    quiet: Quiet = False, as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:  # fmt: skip
    """What of a sample's latents changes its feature h most: its local basis."""
    options = {**_one(timestep, rank, seed, class_label, prompt, quality), "tap": tap}
    delivery = _delivery(output, overwrite, quiet, as_json, memory)
    _find("pullback", options, None, delivery, (model, device, dtype), call)


def spectral(
    model: Model, output: Output = _FOLDER, timestep: Timestep = 500, rank: Rank = 5,
    tap: Tap = None,
    mask: Annotated[
        Path | None, typer.Option(help="Image of where the noise is looked at, white on black.")
    ] = None,
    seed: Seed = 0, class_label: Label = None, prompt: Text = None,
    quality: Quality = "standard", call: Call = None, device: Device = "cpu",
    dtype: Dtype = None, memory: Memory = None, overwrite: Overwrite = False,
    quiet: Quiet = False, as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:  # fmt: skip
    """What of a sample's feature h changes the predicted noise most."""
    options = {**_one(timestep, rank, seed, class_label, prompt, quality), "tap": tap}
    delivery = _delivery(output, overwrite, quiet, as_json, memory)
    _find("spectral", options, mask, delivery, (model, device, dtype), call)


def local(
    model: Model, mask: Mask, output: Output = _FOLDER, timestep: Timestep = 500,
    rank: Rank = 3, null: Null = 5,
    joint: Annotated[
        bool, typer.Option("--joint", help="Weigh the region and the rest, not project.")
    ] = False,
    seed: Seed = 0, class_label: Label = None, prompt: Text = None,
    quality: Quality = "standard", call: Call = None, device: Device = "cpu",
    dtype: Dtype = None, memory: Memory = None, overwrite: Overwrite = False,
    quiet: Quiet = False, as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:  # fmt: skip
    """What of a sample's latents changes a region of its image, and not the rest."""
    options = _one(timestep, rank, seed, class_label, prompt, quality)
    options |= {"null": null, "joint": joint}
    delivery = _delivery(output, overwrite, quiet, as_json, memory)
    _find("local", options, mask, delivery, (model, device, dtype), call)


def toward(
    model: Model, mask: Mask,
    target_class: Annotated[int | None, typer.Option(help="Class to move to.")] = None,
    target_prompt: Annotated[str | None, typer.Option(help="Prompt to move to.")] = None,
    output: Output = _FOLDER, timestep: Timestep = 500, null: Null = 5, seed: Seed = 0,
    class_label: Label = None, prompt: Text = None, quality: Quality = "standard",
    call: Call = None, device: Device = "cpu", dtype: Dtype = None, memory: Memory = None,
    overwrite: Overwrite = False, quiet: Quiet = False, as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:  # fmt: skip
    """What moves a region of a sample's image to another class or prompt."""
    if (target_class is None) == (target_prompt is None):
        raise typer.BadParameter(
            "give one of --target-class and --target-prompt", param_hint="--target-class"
        )
    options = _one(timestep, 1, seed, class_label, prompt, quality) | {"null": null}
    options |= {"target_class": target_class, "target_prompt": target_prompt}
    delivery = _delivery(output, overwrite, quiet, as_json, memory)
    _find("toward", options, mask, delivery, (model, device, dtype), call)


def attention(
    model: Model, output: Output = _FOLDER,
    layer: Annotated[
        str | None, typer.Option(help="Name of the layer; the last of the middle block if unset.")
    ] = None,
    matrix: Annotated[
        str, typer.Option(help="Of its weights: v, q, k, qkv, bilinear or ov.")
    ] = "v",
    side: Annotated[str, typer.Option(help="input or output.")] = "input",
    rank: Rank = 5, call: Call = None, device: Device = "cpu", dtype: Dtype = None,
    overwrite: Overwrite = False, quiet: Quiet = False, as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:  # fmt: skip
    """Eigenvectors of the weights of self-attention: of no samples, for all timesteps."""
    options = {"layer": layer, "matrix": matrix, "side": side, "rank": rank}
    delivery = _delivery(output, overwrite, quiet, as_json)
    _find("attention", options, None, delivery, (model, device, dtype), call)


def pca(
    model: Model, output: Output = _FOLDER,
    samples: Annotated[int, typer.Option(min=2, help="Trajectories.")] = 100,
    rank: Rank = 5,
    timestep: Annotated[
        int | None,
        typer.Option("--timestep", "-t", help="Where they start. [default: the noisiest]"),
    ] = None,
    steps: Steps = 50, tap: Tap = None, pool: Pool = False, seed: FirstSeed = 0,
    class_label: Label = None, prompt: Text = None, call: Call = None, device: Device = "cpu",
    dtype: Dtype = None, memory: Memory = None, overwrite: Overwrite = False,
    quiet: Quiet = False, as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:  # fmt: skip
    """Principal components of h along the trajectories of many samples."""
    _check_condition(class_label, prompt)
    options: dict[str, Any] = {"samples": samples, "rank": rank, "t": timestep, "steps": steps}
    options |= {"tap": tap, "pool": "space" if pool else None, "seed": seed}
    options |= {"class_label": class_label, "prompt": prompt}
    delivery = _delivery(output, overwrite, quiet, as_json, memory)
    _find("pca", options, None, delivery, (model, device, dtype), call)


def supervised(
    model: Model, output: Output = _FOLDER, classes: Classes = None, prompts: Prompts = None,
    labels: Labels = None, top: Top = None, samples: Samples = None,
    how: Annotated[str, typer.Option(help="mean, lda or logistic.")] = "mean",
    timesteps: Annotated[
        str,
        typer.Option("--timestep", "-t", help="Of the features, one or several down: 900,500."),
    ] = "500",
    steps: Steps = 50, tap: Tap = None, pool: Pool = False, folds: Folds = 5,
    seed: FirstSeed = 0, class_label: Label = None, prompt: Text = None, call: Call = None,
    device: Device = "cpu", dtype: Dtype = None, overwrite: Overwrite = False,
    quiet: Quiet = False, as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:  # fmt: skip
    """The direction of h from one class of samples to another."""
    options = _two(classes, prompts, labels, top, samples, seed, class_label, prompt)
    options |= {"how": how, "t": parse_list(timesteps, "--timestep"), "steps": steps, "tap": tap}
    options |= {"pool": "space" if pool else None, "folds": folds}
    delivery = _delivery(output, overwrite, quiet, as_json)
    _find("supervised", options, None, delivery, (model, device, dtype), call)


def boundary(
    model: Model, output: Output = _FOLDER, classes: Classes = None, prompts: Prompts = None,
    labels: Labels = None, top: Top = None, samples: Samples = None,
    price: Annotated[
        float, typer.Option("-C", help="Price of a sample on the wrong side of its margin.")
    ] = 1.0,
    timestep: Timestep = 500, steps: Steps = 50, tap: Tap = None, pool: Pool = False,
    folds: Folds = 5, seed: FirstSeed = 0, class_label: Label = None, prompt: Text = None,
    call: Call = None, device: Device = "cpu", dtype: Dtype = None,
    overwrite: Overwrite = False, quiet: Quiet = False, as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:  # fmt: skip
    """The normal of a linear boundary between two classes of samples, in h."""
    options = _two(classes, prompts, labels, top, samples, seed, class_label, prompt)
    options |= {"C": price, "t": (timestep,), "steps": steps, "tap": tap}
    options |= {"pool": "space" if pool else None, "folds": folds}
    delivery = _delivery(output, overwrite, quiet, as_json)
    _find("boundary", options, None, delivery, (model, device, dtype), call)


def _one(
    t: int, rank: int, seed: int, class_label: int | None, prompt: str | None, quality: str
) -> dict[str, Any]:
    """Options of a method that finds directions at one sample."""
    _check_condition(class_label, prompt)
    return {
        "t": t, "rank": rank, "seed": seed, "class_label": class_label, "prompt": prompt,
        "quality": quality,
    }  # fmt: skip


def _two(
    classes: tuple[int, int] | None,
    prompts: tuple[str, str] | None,
    labels: Path | None,
    top: int | None,
    samples: int | None,
    seed: int,
    class_label: int | None,
    prompt: str | None,
) -> dict[str, Any]:
    """Options of a method that tells two classes apart."""
    if sum(one is not None for one in (classes, prompts, labels)) != 1:
        raise typer.BadParameter(
            "give one of --classes, --prompts and --labels", param_hint="--classes"
        )
    if labels is None and top is not None:
        raise typer.BadParameter("it is for --labels", param_hint="--top")
    _check_condition(class_label, prompt)
    if labels is None and (class_label is not None or prompt is not None):
        raise typer.BadParameter(
            "--class-label and --prompt are for --labels", param_hint="--class-label"
        )
    scores = None if labels is None else read_scores(labels, seed, samples)
    return {
        "classes": classes, "prompts": prompts, "scores": scores, "top": top,
        "samples": 50 if samples is None or labels else samples, "seed": seed,
        "class_label": class_label, "prompt": prompt,
    }  # fmt: skip


def _check_condition(class_label: int | None, prompt: str | None) -> None:
    if class_label is not None and prompt is not None:
        raise typer.BadParameter("give --prompt or --class-label, not both", param_hint="--prompt")


def _delivery(
    output: Path, overwrite: bool, quiet: bool, as_json: bool, memory: str | None = None
) -> Delivery:
    budget = None if memory is None else parse_memory(memory)
    return Delivery(output, budget, overwrite, figures=False, quiet=quiet, as_json=as_json)


def _find(
    method: str,
    options: dict[str, Any],
    mask: Path | None,
    delivery: Delivery,
    model: tuple[str, str, str | None],
    call: list[str] | None,
) -> None:
    given = parse_call(call)
    make_folder(delivery.folder)
    # Before anything that takes long: that the folder can be written to, and is nobody else's.
    with occupied(delivery.folder):
        # Imported when all that can be refused without torch has been.
        from pullback.cli.directions_execution import execute_find

        execute_find(method, options, mask, delivery, lambda: load(*model, given))


#: The methods, by the names of the table of methods.
COMMANDS = {
    command.__name__: command
    for command in (pullback, pca, spectral, supervised, boundary, attention, local, toward)
}
