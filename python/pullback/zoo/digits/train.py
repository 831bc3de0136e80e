"""Train the digit model: `python -m pullback.zoo.digits.train` (two cores, under an hour).

A class-conditional DDPM (Ho et al. 2020, arXiv:2006.11239) with a null class (Ho & Salimans
2022, arXiv:2207.12598) in pixel space. Every step draws from a generator seeded with the step's
own number, so a run that is interrupted and resumed computes what an uninterrupted one would.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from diffusers import DDPMScheduler, UNet2DModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open

from pullback._files import write_safetensors
from pullback.zoo.digits.data import (
    IMAGE_SIZE,
    NULL_CLASS,
    NUM_CLASSES,
    load_digits,
    random_affine,
    resample,
)


@dataclass(frozen=True)
class Recipe:
    """Every number that decides the trained weights, apart from the hardware's rounding."""

    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    ema_decay: float = 0.998
    null_probability: float = 0.1
    seed: int = 0


def build_network() -> UNet2DModel:
    """The untrained U-Net: 1.8 M parameters, attention at 4 x 4 and in the middle."""
    return UNet2DModel(
        sample_size=IMAGE_SIZE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=8,
        num_class_embeds=NUM_CLASSES + 1,
    )


def build_scheduler() -> DDPMScheduler:
    """The cosine noise schedule: at 16 x 16 a linear one spends half its steps on pure noise."""
    return DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", clip_sample=True
    )


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a half cosine down to 2 % of the peak."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def training_batch(
    images: torch.Tensor, labels: torch.Tensor, recipe: Recipe, step: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The batch of one step, a function of the recipe and the step's number alone.

    Returns:
        Clean images and noise `[B, 1, 16, 16]`, timesteps `[B]` and class labels `[B]`.
    """
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    count = recipe.batch_size
    index = torch.randint(len(images), (count,), generator=generator)
    clean = resample(images[index], random_affine(count, generator))
    noise = torch.randn(clean.shape, generator=generator)
    timesteps = torch.randint(1000, (count,), generator=generator)
    unlabelled = torch.rand(count, generator=generator) < recipe.null_probability
    return clean, noise, timesteps, labels[index].masked_fill(unlabelled, NULL_CLASS)


class TrainingState:
    """The network, its moving average and the optimiser, with an atomic, pickle-free file."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.network = build_network()
        self.ema = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.step = 0

    def update(self, images: torch.Tensor, labels: torch.Tensor, scheduler: DDPMScheduler) -> float:
        """Take one optimiser step and return its loss."""
        clean, noise, timesteps, classes = training_batch(images, labels, self.recipe, self.step)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        predicted = self.network(noisy, timesteps, class_labels=classes).sample
        loss = F.mse_loss(predicted, noise)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        # The average starts as the plain mean of the first steps, so it forgets the random start.
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                self.ema[name].lerp_(parameter, 1 - decay)
        self.step += 1
        return loss.item()

    def save(self, path: Path) -> None:
        """Write the state to a new file and move it into place, so a crash cannot tear it."""
        names = {parameter: name for name, parameter in self.network.named_parameters()}
        tensors = {f"network.{name}": p.detach() for p, name in names.items()}
        tensors |= {f"ema.{name}": average for name, average in self.ema.items()}
        for parameter, moments in self.optimizer.state.items():
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"{key}.{names[parameter]}"] = moments[key]
        metadata = {"step": str(self.step), "recipe": json.dumps(asdict(self.recipe))}
        write_safetensors(path, tensors, metadata)

    def load(self, path: Path) -> None:
        """Continue from a file written by `save`.

        Raises:
            ValueError: the file belongs to a run with another recipe.
        """
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if json.loads(metadata["recipe"]) != asdict(self.recipe):
                raise ValueError(
                    f"{path} belongs to a run with the recipe {metadata['recipe']}, but this run "
                    f"asks for {json.dumps(asdict(self.recipe))}. Give another --output folder, "
                    "or delete the file to start again."
                )
            self.step = int(metadata["step"])
            with torch.no_grad():
                for name, parameter in self.network.named_parameters():
                    parameter.copy_(file.get_tensor(f"network.{name}"))
                    self.ema[name].copy_(file.get_tensor(f"ema.{name}"))
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(self.step)),
                        "exp_avg": file.get_tensor(f"exp_avg.{name}"),
                        "exp_avg_sq": file.get_tensor(f"exp_avg_sq.{name}"),
                    }

    def export(self, folder: Path, scheduler: DDPMScheduler) -> None:
        """Write the averaged network and the scheduler as a diffusers folder."""
        network = build_network()
        network.load_state_dict(self.ema)
        network.eval().save_pretrained(folder / "unet", safe_serialization=True)
        scheduler.save_pretrained(folder / "scheduler")
        index = {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        }
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def train(
    output: Annotated[Path, typer.Option(help="Folder for the checkpoint and the model.")] = Path(
        "zoo-training/digits"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = Recipe.steps,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = Recipe.seed,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
) -> None:
    """Train the digit model, or go on from the checkpoint in the output folder."""
    recipe = Recipe(steps=steps, seed=seed)
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / "checkpoint.safetensors"
    scheduler = build_scheduler()
    state = TrainingState(recipe)
    if checkpoint.exists():
        state.load(checkpoint)
        typer.echo(f"Going on from step {state.step} in {checkpoint}.")
    images, labels = load_digits()
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    average = float("nan")
    started, first_step = time.monotonic(), state.step
    with Progress(*columns) as progress:
        task = progress.add_task("train", total=steps, completed=state.step, loss=average)
        while state.step < steps:
            loss = state.update(images, labels, scheduler)
            average = loss if math.isnan(average) else 0.99 * average + 0.01 * loss
            progress.update(task, completed=state.step, loss=average)
            if state.step % save_every == 0 or state.step == steps:
                state.save(checkpoint)
                state.export(output / "model", scheduler)
    minutes = (time.monotonic() - started) / 60
    typer.echo(
        f"Trained steps {first_step} to {state.step} in {minutes:.1f} minutes; final loss "
        f"{average:.4f}. The model is in {output / 'model'}."
    )


if __name__ == "__main__":
    typer.run(train)
