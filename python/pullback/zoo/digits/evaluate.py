"""Judge the digit model: `python -m pullback.zoo.digits.evaluate`.

A support vector machine trained on real digits labels class-conditional samples; the share it
labels as asked, beside its own accuracy on real digits it has not seen, is the model's evidence.
The digits it learns are distorted a little as those that the model learnt were: one that knows
upright digits only would judge the distortion.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure

from pullback._files import write_json
from pullback.models import LatentModel, denoise, load
from pullback.zoo.digits.data import (
    NULL_CLASS,
    NUM_CLASSES,
    load_digits,
    random_affine,
    resample,
)

_DISTORTED_COPIES = 5


@dataclass(frozen=True, eq=False)
class Judged:
    """Real digits for a classifier, as flattened 16 x 16 images with their labels.

    Attributes:
        features: to learn from, as they are and distorted, `[N, 256]`.
        labels: of those, `[N]`.
        digit: of which digit of the data each is a copy, `[N]`.
        unseen: the last quarter, undistorted, `[M, 256]`.
        unseen_labels: of those, `[M]`.
    """

    features: Any
    labels: Any
    digit: Any
    unseen: Any
    unseen_labels: Any


def real_digits(seed: int = 0, copies: int = _DISTORTED_COPIES) -> Judged:
    """Three quarters of the real digits with distorted copies, and the last quarter as it is."""
    from sklearn.model_selection import train_test_split

    images, labels = load_digits()
    generator = torch.Generator().manual_seed(seed)
    known, unseen = train_test_split(
        torch.arange(len(labels)).numpy(), test_size=0.25, random_state=seed, stratify=labels
    )
    seen = [resample(images[known])]
    seen += [resample(images[known], random_affine(len(known), generator)) for _ in range(copies)]
    return Judged(
        torch.cat(seen).flatten(1).numpy(),
        labels[known].repeat(len(seen)).numpy(),
        torch.from_numpy(known).repeat(len(seen)).numpy(),
        resample(images[unseen]).flatten(1).numpy(),
        labels[unseen].numpy(),
    )


def train_classifier(seed: int = 0) -> tuple[Any, float]:
    """A support vector machine on three quarters of the real digits, as they are and distorted.

    Returns:
        The classifier (of flattened 16 x 16 images), and its accuracy on the last quarter,
        undistorted.
    """
    from sklearn.svm import SVC

    digits = real_digits(seed)
    classifier = SVC(kernel="rbf", C=10.0, gamma="scale").fit(digits.features, digits.labels)
    return classifier, float(classifier.score(digits.unseen, digits.unseen_labels))


def sample_digits(
    model: LatentModel, labels: torch.Tensor, seed: int, steps: int = 50
) -> torch.Tensor:
    """Images `[B, 1, 16, 16]` in [-1, 1], one of each of the classes `[B]`."""
    start = model.schedule.num_timesteps - 1
    noise = model.sample_latents(len(labels), start, seed)
    return denoise(model, noise, start, cond={"class_labels": labels}, steps=steps).clamp(-1, 1)


def contact_sheet(images: torch.Tensor, rows: int) -> Figure:
    """A figure of `rows` x `columns` images `[B, 1, 16, 16]`, filled row by row."""
    columns = len(images) // rows
    figure = Figure(figsize=(0.55 * columns, 0.55 * rows), facecolor="white")
    axes = figure.subplots(
        rows, columns, gridspec_kw={"wspace": 0.08, "hspace": 0.08}, squeeze=False
    )
    for axis, image in zip(axes.flat, images, strict=True):
        axis.imshow(image[0], cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_axis_off()
    figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.01)
    return figure


def evaluate(
    model: Annotated[str, typer.Option(help="Model name or folder.")] = "digits",
    output: Annotated[Path, typer.Option(help="Folder for evidence.json and samples.png.")] = Path(
        "zoo-training/digits"
    ),
    count: Annotated[int, typer.Option(min=10, help="Samples, a multiple of ten.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
) -> None:
    """Sample, classify, and write what was found."""
    output.mkdir(parents=True, exist_ok=True)
    null = {"class_labels": torch.tensor(NULL_CLASS)}
    latent_model = load(model, null_cond=null)
    labels = torch.arange(NUM_CLASSES).repeat(count // NUM_CLASSES)
    images = sample_digits(latent_model, labels, seed)
    classifier, real_accuracy = train_classifier()
    predicted = torch.from_numpy(classifier.predict(images.flatten(1).numpy()))
    right = predicted == labels
    evidence = {
        "samples": len(labels),
        "recognised": float(right.float().mean()),
        "recognised_per_class": [
            float(right[labels == digit].float().mean()) for digit in range(NUM_CLASSES)
        ],
        "classifier_accuracy_on_unseen_real_digits": real_accuracy,
        "sampler": "DDIM, 50 steps, eta 0",
        "seed": seed,
        "fingerprint": latent_model.fingerprint,
        "torch": torch.__version__,
    }
    write_json(output / "evidence.json", evidence)
    contact_sheet(images[:100], rows=10).savefig(output / "samples.png", dpi=120)
    typer.echo(
        f"{evidence['recognised']:.1%} of {len(labels)} samples are recognised as the digit asked "
        f"for; the classifier labels {real_accuracy:.1%} of unseen real digits correctly. "
        f"Written to {output}."
    )


if __name__ == "__main__":
    typer.run(evaluate)
