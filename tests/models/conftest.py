"""Whole pipelines, written and read by stock diffusers."""

import pytest
import torch
from diffusers import DiffusionPipeline

from tests.models import pipelines
from tests.models.pipelines import KINDS


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Pipelines as stock diffusers wrote them, with safetensors weights only."""
    found = {}
    for kind in KINDS:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            root = tmp_path_factory.mktemp(kind)
            pipeline = getattr(pipelines, kind)(root / "words")
        pipeline.save_pretrained(root / "model", safe_serialization=True)
        found[kind] = root / "model"
        weights = {
            path.suffix for path in found[kind].rglob("*model*") if path.stat().st_size > 4e3
        }
        assert ".safetensors" in weights
        assert not weights & {".bin", ".pt", ".ckpt"}
    return found


@pytest.fixture(scope="session")
def stock(folders):
    """The pipelines as stock diffusers reads them, once; tests leave them as they are."""
    return {kind: DiffusionPipeline.from_pretrained(folder) for kind, folder in folders.items()}
