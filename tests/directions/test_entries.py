"""Several directions in one file: what is saved comes back and edits alike, all else is refused."""

import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import pullback
from pullback import Direction, directions
from tests.directions.made import drawn, same


def steps(count=3, **given):
    """Directions of one feature, one a step, whose windows meet."""
    return tuple(
        drawn("h", t=700 - 100 * i, window=(750 - 100 * i, 600 - 100 * i), unit=1.0 + i, **given)
        for i in range(count)
    )


def edited(path, rows=None, vectors=None, **header):
    """Rewrite a file of several directions with other rows, vectors or entries of its header."""
    with safe_open(path, framework="pt") as file:
        entries, kept = dict(file.metadata()), file.get_tensor("vectors").clone()
    if rows is not None:
        entries["directions"] = json.dumps(rows)
    save_file({"vectors": kept if vectors is None else vectors}, path, {**entries, **header})


def rows_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["directions"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("space", ["x", "h", "prompt"])
def test_every_field_of_every_direction_comes_back(tmp_path, space, dtype):
    entry = [drawn(space, unit=0.1 + i, name=f"größer {i}").to(dtype) for i in range(4)]
    directions.save(entry, tmp_path / "new" / "e.safetensors")
    found = directions.load(str(tmp_path / "new" / "e.safetensors"))
    assert isinstance(found, tuple)
    assert len(found) == 4
    assert all(same(one, other) for one, other in zip(found, entry, strict=True))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["e.safetensors"]


@pytest.mark.parametrize("pack", [lambda one: one, lambda one: [one], lambda one: (one,)])
def test_one_direction_is_the_file_that_it_saves_itself(tmp_path, pack):
    one = drawn()
    directions.save(pack(one), tmp_path / "a.safetensors")
    assert same(Direction.load(tmp_path / "a.safetensors"), one)
    one.save(tmp_path / "b.safetensors")
    (found,) = directions.load(tmp_path / "b.safetensors")
    assert same(found, one)


def test_what_was_loaded_follows_neither_the_file_nor_one_another(tmp_path):
    directions.save(steps(), tmp_path / "e.safetensors")
    first, second, _ = directions.load(tmp_path / "e.safetensors")
    before = second.vector.clone()
    first.vector.zero_()
    assert torch.equal(second.vector, before)


def test_a_component_edits_from_its_file_as_it_did_before(tmp_path, digits):
    components = directions.pca(digits, 6, 2, steps=4, tap="up_blocks.0")
    entry = components.entry(1)
    directions.save(entry, tmp_path / "pca.safetensors")
    found = directions.load(tmp_path / "pca.safetensors")
    assert [one.window for one in found] == [one.window for one in entry]
    x = digits.sample_latents(2, 999, seed=3)
    expected = pullback.edit(digits, x, 999, entry, 2.0, steps=4)
    assert torch.equal(pullback.edit(digits, x, 999, found, 2.0, steps=4), expected)
    plain = pullback.denoise(digits, x, 999, steps=4)
    assert not torch.allclose(expected, plain, atol=0.05)
    swept = pullback.sweep(digits, x, 999, [found, found[0].renamed("one")], [1.0], steps=4)
    assert swept.names == ("pca 1", "one"), "its steps share their name"


def test_a_direction_of_labels_at_several_timesteps_comes_back(tmp_path):
    features = torch.randn(12, 3, 5)
    labels = [0] * 6 + [1] * 6
    found = directions.supervised(
        features, labels, t=[900, 500, 100], space="h", tap="mid_block", pool="space"
    )
    directions.save(found.entry(), tmp_path / "s.safetensors")
    again = directions.load(tmp_path / "s.safetensors")
    assert all(same(one, other) for one, other in zip(again, found.directions, strict=True))


def test_a_direction_alone_is_not_loaded_of_several(tmp_path):
    path = tmp_path / "e.safetensors"
    directions.save(steps(), path)
    for read in (Direction.load, Direction.from_pretrained):
        with pytest.raises(ValueError, match=r"holds several directions.*directions\.load\(path\)"):
            read(path)


@pytest.mark.parametrize(
    ("entry", "kind", "words"),
    [
        ([], ValueError, "at least one direction, got none"),
        ([drawn(), drawn("h")], ValueError, "of one space in one file, got 'x' of smile and 'h'"),
        ([drawn("h"), drawn("h", tap="down_blocks.0")], ValueError, "of one tap"),
        (
            [drawn("h", vector=torch.ones(96), pool=pool) for pool in ("space", None)],
            ValueError,
            "of one pool",
        ),
        ([drawn(), drawn(vector=torch.ones(1, 8, 8))], ValueError, r"shape.*\[1, 16, 16\]"),
        ([drawn(), drawn().to(torch.float64)], ValueError, "of one dtype"),
        ([drawn(), "smile"], TypeError, "Expected directions, got str"),
        ([drawn().vector], TypeError, "Expected directions, got Tensor"),
    ],
)
def test_what_is_no_entry_is_not_saved(tmp_path, entry, kind, words):
    with pytest.raises(kind, match=words):
        directions.save(entry, tmp_path / "e.safetensors")
    assert not list(tmp_path.iterdir())


def damages(rows, vectors):
    """What a damaged file holds, by rows or vectors, and what is said of it."""
    return [
        ({"rows": rows[:2]}, r"one for each of 2 directions, got \[3, 96, 4, 4\]"),
        ({"rows": []}, "two vectors or more"),
        ({"rows": rows[:1], "vectors": vectors[:1]}, "two vectors or more"),
        ({"rows": {"space": "h"}}, "expected directions with space"),
        ({"rows": [*rows[:2], 3]}, "expected directions with space"),
        ({"rows": [{**rows[0], "more": 1}, *rows[1:]]}, "expected directions with space"),
        ({"rows": [rows[0], {**rows[1], "tap": "other"}, rows[2]]}, "of one tap"),
        ({"rows": [{**one, "space": "x"} for one in rows]}, "no tap for the space"),
        ({"rows": [rows[0], {**rows[1], "unit": 0}, rows[2]]}, "unit as a finite number above 0"),
        ({"directions": "{"}, "expected directions as JSON in the header"),
        ({"vectors": 2 * vectors}, "vector of norm 1, got 2"),
        ({"vectors": vectors.long()}, "torch.int64"),
        ({"vectors": torch.tensor(1.0)}, r"got \[\]"),
        ({"vectors": torch.full_like(vectors, torch.nan)}, "finite numbers"),
    ]


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "e.safetensors"
    directions.save(steps(), path)
    whole = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        cases = damages(rows_of(path), file.get_tensor("vectors").clone())
    for change, words in cases:
        path.write_bytes(whole)
        edited(path, **change)
        with pytest.raises(ValueError, match=words) as caught:
            directions.load(path)
        message = str(caught.value)
        assert message.startswith(f"{path} is damaged: ")
        assert message.endswith(". Copy it again, or find the direction again.")
    path.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="is damaged or is no safetensors file"):
        directions.load(path)
    save_file({"vector": torch.ones(2, 2)}, path, {"format": "pullback.Entry/1"})
    with pytest.raises(ValueError, match="expected the one tensor vectors, got vector"):
        directions.load(path)


def test_files_of_others_are_named(tmp_path, digits):
    with pytest.raises(FileNotFoundError, match="No direction file at"):
        directions.load(tmp_path / "none.safetensors")
    path = tmp_path / "b.safetensors"
    x = digits.sample_latents(1, 500, seed=1)
    pullback.local_basis(digits, x, 500, 2, quality="draft").save(path)
    with pytest.raises(ValueError, match="is a local basis"):
        directions.load(path)
    torch.save({"vectors": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="a zip archive"):
        directions.load(path)


def test_random_bytes_anywhere_give_directions_or_an_error(tmp_path, seed):
    path, chance = tmp_path / "e.safetensors", random.Random(seed)
    directions.save([drawn("prompt", name=f"{i}") for i in range(3)], path)
    whole = path.read_bytes()
    refused = 0
    for _ in range(500):
        changed = bytearray(whole)
        last = len(whole) if chance.random() < 0.2 else whole.index(b"}}") + 200
        for _ in range(chance.choice([1, 1, 2, 8])):
            changed[chance.randrange(min(last, len(whole)))] = chance.randrange(256)
        path.write_bytes(changed)
        said, found = None, ()
        try:
            found = directions.load(path)
        except ValueError as error:
            said = str(error)
        refused += said is not None
        assert said is None or (str(path) in said and len(said) < 1000)
        assert all(abs(float(one.vector.double().norm()) - 1) < 1e-2 for one in found)
    assert refused > 150
