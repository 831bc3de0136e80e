"""The files of a timestep: whole or not there, and never read under other settings."""

import json
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
