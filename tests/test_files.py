"""Files appear complete or not at all."""

import json

import pytest
import torch
from safetensors import safe_open

from pullback import _files


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def half():
        with _files.replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_indented_and_has_no_nan(tmp_path):
    path = tmp_path / "file.json"
    _files.write_json(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    assert path.read_text().endswith("}\n")
    with pytest.raises(ValueError, match="JSON compliant"):
        _files.write_json(path, float("nan"))
    assert json.loads(path.read_text()) == {"a": [1, None]}


def test_tensors_of_any_layout_with_their_metadata(rng, tmp_path):
    path = tmp_path / "file.safetensors"
    a = torch.randn(3, 4, generator=rng).mT
    _files.write_safetensors(path, {"a": a}, {"format": "test/1"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "test/1"}
        assert torch.equal(file.get_tensor("a"), a)
    assert list(tmp_path.iterdir()) == [path]
