"""Files of directions: what is written comes back, what is no direction is refused by name."""

import io
import json
import os
import pickle
import random
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pullback import Direction, local_basis
from tests.directions.made import drawn, same


def edited(path, header=None, tensors=None):
    """Rewrite a file with other header entries, None to take one away, or with other tensors."""
    with safe_open(path, framework="pt") as file:
        entries = dict(file.metadata())
        kept = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    entries |= header or {}
    entries = {name: value for name, value in entries.items() if value is not None}
    save_file(kept if tensors is None else tensors, path, entries)


def described(case):
    return json.dumps(case, default=str)[:40]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("space", ["x", "h", "prompt"])
def test_every_field_comes_back(tmp_path, space, dtype):
    found = drawn(space, unit=0.1 + 0.2, name="größer → „heller“ 😀").to(dtype)
    found.save(tmp_path / "new" / "d.safetensors")
    assert same(Direction.load(tmp_path / "new" / "d.safetensors"), found)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["d.safetensors"]


@pytest.mark.parametrize("given", [
    {"t": None, "window": None, "name": "", "provenance": {}},
    {"t": 0, "window": (0, 0), "unit": 1e-30},
    {"vector": torch.arange(1.0, 97.0), "space": "h", "tap": "a.b:1", "pool": "space"},
    {"vector": torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2)},
    {"provenance": {"deep": [{"a": [1, 2.5, None, True, "ü"]}]}},
])  # fmt: skip
def test_fields_that_are_unusual_come_back(tmp_path, given):
    found = drawn(**{"space": "x", **given})
    found.save(str(tmp_path / "d.safetensors"))
    assert same(Direction.load(str(tmp_path / "d.safetensors")), found)


def test_what_was_loaded_does_not_follow_the_file(tmp_path):
    path = tmp_path / "d.safetensors"
    drawn().save(path)
    found = Direction.load(path)
    before = found.vector.clone()
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))
    assert torch.equal(found.vector, before)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "d.safetensors"
    drawn().save(path)
    before = path.read_bytes()

    def fails(_tensors, target, _metadata):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        drawn().save(path)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors"]


def test_what_is_no_regular_file_is_left(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match="is a folder"):
        drawn().save(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match=r"No direction file at .*from_pretrained"):
        Direction.load(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="No direction file at"):
        Direction.load(tmp_path / "none.safetensors")


HEADERS = [
    *(({name: None}, f"expected {name} as JSON in the header, got None") for name in (
        "space", "tap", "pool", "t", "window", "unit", "name", "provenance"
    )),
    *(({name: value}, f"expected {name} as JSON") for name in ("space", "t", "provenance")
      for value in ("{", "", "[" * 100_000, "1" * 10_000, "mid_block")),
    ({"space": '"h"'}, "tap to say where h is read"),
    ({"space": '"prompt"'}, "embedding"),
    ({"space": '"y"'}, "Expected space as"),
    ({"space": "null"}, "Expected space as"),
    ({"tap": '"mid_block"'}, "no tap for the space"),
    ({"tap": "3"}, "no tap for the space"),
    ({"space": '"h"', "tap": "3"}, "Expected a tap"),
    ({"pool": '"space"'}, "only features are pooled"),
    ({"pool": "[]"}, "Expected pool"),
    ({"t": "-1"}, "t to be at least 0"),
    ({"t": "500.0"}, "t to be a whole number"),
    ({"t": "true"}, "t to be a whole number"),
    ({"t": '"5"'}, "t to be a whole number"),
    ({"window": "[300, 800]"}, "Swap them"),
    ({"window": "[1]"}, "two timesteps"),
    ({"window": "{}"}, "two timesteps"),
    ({"window": "[NaN, 0]"}, "whole number"),
    ({"unit": "0"}, "unit as a finite number above 0"),
    ({"unit": "NaN"}, "unit as a finite number above 0"),
    ({"unit": "Infinity"}, "unit as a finite number above 0"),
    ({"unit": "null"}, "unit as a finite number above 0"),
    ({"unit": "[1.0]"}, "unit as a finite number above 0"),
    ({"name": "3"}, "name as a label"),
    ({"name": '"a\\nb"'}, "name as a label"),
    ({"provenance": "null"}, "provenance as a mapping"),
    ({"provenance": "[]"}, "provenance as a mapping"),
    ({"provenance": '{"s": NaN}'}, "provenance as JSON holds it"),
    ({"provenance": '{"model": 3}'}, "model as a text"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "words"), HEADERS, ids=described)
def test_each_entry_of_the_header_is_checked(tmp_path, header, words):
    path = tmp_path / "d.safetensors"
    drawn().save(path)
    if header == {"provenance": "1" * 10_000}:
        words = "provenance as"  # older Pythons read numbers of any length
    edited(path, header)
    with pytest.raises(ValueError, match=words) as caught:
        Direction.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged: ")
    assert message.endswith(". Copy it again, or find the direction again.")
    assert "\n" not in message
    assert len(message) < 600


VECTORS = [
    ({}, "one tensor vector, got none"),
    ({"v": torch.ones(1)}, "one tensor vector, got v"),
    ({"vector": torch.ones(1), "more": torch.ones(1)}, "one tensor vector, got"),
    ({f"layer{i}": torch.ones(1) for i in range(99)}, "and 94 more"),
    ({"vector": torch.full((2, 2), torch.nan)}, "finite numbers"),
    ({"vector": torch.tensor([1.0, torch.inf])}, "finite numbers"),
    ({"vector": torch.zeros(2, 2)}, "other than zero"),
    ({"vector": torch.ones(2, 2)}, "vector of norm 1, got 2"),
    ({"vector": torch.ones(1, dtype=torch.int64)}, "got torch.int64"),
    ({"vector": torch.ones(1, dtype=torch.bool)}, "got torch.bool"),
    ({"vector": torch.ones(1).to(torch.float8_e4m3fn)}, "got torch.float8_e4m3fn"),
    ({"vector": torch.tensor(1.0)}, r"got shape \[\]"),
    ({"vector": torch.ones(0, 3)}, r"got shape \[0, 3\]"),
]


@pytest.mark.parametrize(("tensors", "words"), VECTORS)
def test_the_tensor_is_checked(tmp_path, tensors, words):
    path = tmp_path / "d.safetensors"
    drawn().save(path)
    edited(path, tensors=tensors)
    with pytest.raises(ValueError, match=words) as caught:
        Direction.load(path)
    assert str(caught.value).startswith(f"{path} is damaged: ")


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("sprung",))


def saved_by(kind):
    into = io.BytesIO()
    if kind == "torch":
        torch.save({"vector": torch.ones(3), "trap": Trap()}, into)
    elif kind == "legacy":
        torch.save(Trap(), into, _use_new_zipfile_serialization=False)
    elif kind == "pickle":
        pickle.dump(Trap(), into)
    elif kind == "text pickle":
        pickle.dump(Trap(), into, protocol=0)
    elif kind == "npy":
        np.save(into, np.ones(3))
    else:
        np.savez(into, vector=np.ones(3))
    return into.getvalue()


@pytest.mark.parametrize(("kind", "words"), [
    ("torch", "a zip archive, such as torch.save"),
    ("legacy", "a pickle, which can run code"),
    ("pickle", "a pickle, which can run code"),
    ("text pickle", "is damaged or is no safetensors file"),
    ("npy", "an array of numpy"),
    ("npz", "a zip archive, such as torch.save and numpy.savez"),
])  # fmt: skip
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pkl", ".bin", ".npy"])
def test_pickles_and_arrays_are_named_and_never_read(tmp_path, monkeypatch, kind, words, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"d{suffix}"
    path.write_bytes(saved_by(kind))
    with pytest.raises(ValueError, match=words):
        Direction.load(path)
    with pytest.raises(ValueError, match=words):
        Direction.from_pretrained(path)
    assert not (tmp_path / "sprung").exists()


def test_files_of_others_are_named(tmp_path, digits):
    path = tmp_path / "d.safetensors"
    save_file({"vector": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"is not a direction: expected the format .* got None"):
        Direction.load(path)
    save_file({"vector": torch.ones(1)}, path, {"format": "pullback.Direction/2"})
    with pytest.raises(ValueError, match=r"got 'pullback.Direction/2'. .* later version"):
        Direction.load(path)
    x = digits.sample_latents(1, 500, seed=1)
    local_basis(digits, x, 500, 2, quality="draft").save(path)
    with pytest.raises(ValueError, match=r"is a local basis.*\.direction\(index\)"):
        Direction.load(path)


def load_or_refuse(path):
    """Load a file that may be anything: a whole direction, or one short error with its name."""
    said = None
    try:
        found = Direction.load(path)
    except ValueError as error:
        said = str(error)
    if said is None:
        assert abs(float(found.vector.double().norm()) - 1) < 1e-2
        return found
    assert str(path) in said
    assert len(said) < 1000
    return None


def test_cut_files_are_refused(tmp_path):
    path = tmp_path / "d.safetensors"
    drawn().save(path)
    whole = path.read_bytes()
    for length in [*range(64), *range(64, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert load_or_refuse(path) is None
    path.write_bytes(whole + b"\0")
    assert load_or_refuse(path) is None


def test_random_bytes_anywhere_give_a_direction_or_an_error(tmp_path, seed):
    path, chance = tmp_path / "d.safetensors", random.Random(seed)
    drawn("prompt").save(path)
    whole = path.read_bytes()
    refused = 0
    for _ in range(1500):
        changed = bytearray(whole)
        # Most of the file is the header, where the fields are.
        last = len(whole) if chance.random() < 0.2 else whole.index(b"}}") + 200
        for _ in range(chance.choice([1, 1, 2, 8])):
            changed[chance.randrange(min(last, len(whole)))] = chance.randrange(256)
        path.write_bytes(changed)
        refused += load_or_refuse(path) is None
    assert refused > 500


def test_random_files_are_refused(tmp_path, seed):
    path, chance = tmp_path / "d.safetensors", random.Random(seed)
    for _ in range(200):
        path.write_bytes(chance.randbytes(chance.choice([0, 1, 7, 8, 9, 100, 3000])))
        assert load_or_refuse(path) is None


def test_the_header_is_plain_json(tmp_path):
    path = tmp_path / "d.safetensors"
    drawn().save(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert header.pop("format") == "pullback.Direction/1"
    read = {name: json.loads(value) for name, value in header.items()}
    assert read["window"] == [800, 300]
    assert read["provenance"]["model"] == "digits"
    assert not re.search("NaN|Infinity", " ".join(header.values()))
