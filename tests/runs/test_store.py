"""The files of a timestep: whole or not there, and never read under other settings."""

import json
import math
from dataclasses import replace

import pytest
import torch

from pullback import LocalBasis, local_basis
from pullback.runs import TimestepBases, basis_path, latents_path, store

SETTINGS = {"model": "digits", "rank": 2, "t": 900}


@pytest.fixture(scope="module")
def bases(digits):
    x = digits.sample_latents(2, 900)
    return TimestepBases(900, x, local_basis(digits, x, 900, 2, quality="draft"), 1.5, reused=False)


def test_what_is_written_is_read_again(bases, tmp_path):
    written = store.write(tmp_path, bases, SETTINGS)
    found = store.read(tmp_path, 900, SETTINGS)
    assert found.reused
    assert not written.reused
    assert found.seconds == 1.5
    assert torch.equal(found.x, bases.x)
    assert torch.equal(found.basis.v, bases.basis.v)
    assert found.basis.provenance == written.basis.provenance
    assert found.basis.provenance["run"] == {"settings": SETTINGS, "seconds": 1.5}
    assert {path.name for path in tmp_path.iterdir()} == {
        "basis_t0900.safetensors",
        "latents_t0900.safetensors",
    }


def test_what_is_not_complete_is_not_read(bases, tmp_path):
    assert store.read(tmp_path, 900, SETTINGS) is None
    store.write(tmp_path, bases, SETTINGS)
    assert store.read(tmp_path, 500, SETTINGS) is None
    latents_path(tmp_path, 900).unlink()
    assert store.read(tmp_path, 900, SETTINGS) is None


def test_latents_of_other_settings_are_not_read(bases, tmp_path):
    store.write(tmp_path, bases, {**SETTINGS, "rank": 1})
    kept = latents_path(tmp_path, 900).read_bytes()
    store.write(tmp_path, bases, SETTINGS)
    latents_path(tmp_path, 900).write_bytes(kept)
    assert store.read(tmp_path, 900, SETTINGS) is None


def test_other_settings_are_named(bases, tmp_path):
    store.write(tmp_path, bases, SETTINGS)
    wanted = {**SETTINGS, "rank": 3, "new": True}
    with pytest.raises(ValueError, match=r"rank 2 \(now 3\), new unknown \(now True\)"):
        store.read(tmp_path, 900, wanted)


def test_a_basis_of_no_run_is_not_taken_for_one(bases, tmp_path):
    bases.basis.save(basis_path(tmp_path, 900))
    with pytest.raises(ValueError, match="model unknown"):
        store.read(tmp_path, 900, SETTINGS)


@pytest.mark.parametrize("path_of", [basis_path, latents_path])
def test_a_damaged_file_is_named_and_can_be_overwritten(bases, tmp_path, path_of):
    store.write(tmp_path, bases, SETTINGS)
    path = path_of(tmp_path, 900)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{path.name} is damaged.*--overwrite"):
        store.read(tmp_path, 900, SETTINGS)
    store.write(tmp_path, bases, SETTINGS)
    assert store.read(tmp_path, 900, SETTINGS) is not None


def test_where_the_basis_is_the_latents_are(bases, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalBasis, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write(tmp_path, bases, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["latents_t0900.safetensors"]
    assert store.read(tmp_path, 900, SETTINGS) is None


def test_settings_survive_json(bases, tmp_path):
    settings = {**SETTINGS, "prompts": ["ein »a«", "b"], "class_labels": None}
    store.write(tmp_path, replace(bases, t=5), settings)
    assert store.read(tmp_path, 5, json.loads(json.dumps(settings))) is not None


def test_a_run_of_other_types_is_named(bases, tmp_path):
    for run, words in (
        (None, "expected run as a mapping, got None"),
        ([], r"expected run as a mapping, got \[\]"),
        ({"settings": None}, "expected settings as a mapping, got None"),
        ({"settings": SETTINGS, "seconds": "1"}, "expected seconds of 0 or more, got '1'"),
        ({"settings": SETTINGS, "seconds": math.nan}, "expected seconds of 0 or more, got nan"),
    ):
        basis = replace(bases.basis, provenance={**bases.basis.provenance, "run": run})
        basis.save(basis_path(tmp_path, 900))
        with pytest.raises(ValueError, match=rf"basis_t0900.* is damaged \({words}.*--overwrite"):
            store.read(tmp_path, 900, SETTINGS)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.ones(2, 1, 16), r"expected x \[2, 1, 16, 16\], got \[2, 1, 16\]"),
        (torch.ones(2, 1, 16, 16).double(), "expected x .* in float32, got .* in torch.float64"),
        (torch.ones(3, 1, 16, 16), "expected 2 samples, got 3"),
        (torch.full((2, 1, 16, 16), math.nan), "expected finite latents"),
    ],
)
def test_latents_of_another_kind_are_named(bases, tmp_path, x, words):
    settings = {**SETTINGS, "dtype": "float32"}
    store.write(tmp_path, replace(bases, x=x), settings)
    with pytest.raises(ValueError, match=rf"latents_t0900.* is damaged \({words}.*--overwrite"):
        store.read(tmp_path, 900, settings)


def test_a_basis_of_another_size_than_its_settings_say_is_named(bases, tmp_path):
    settings = {**SETTINGS, "rank": 2, "sample_seeds": [0, 1, 2]}
    store.write(tmp_path, bases, settings)
    with pytest.raises(
        ValueError, match=r"is damaged \(expected s of shape \[3, 2\], got \[2, 2\]"
    ):
        store.read(tmp_path, 900, settings)
