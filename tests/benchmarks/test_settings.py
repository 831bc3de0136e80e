"""What the benchmarks measure when they are asked for, what they refuse, what a failure leaves."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import edits, gram
from benchmarks.__main__ import _BENCHES, _settings, app


@pytest.mark.parametrize("name", sorted(_BENCHES))
def test_each_measures_more_than_its_quick_run(name):
    for device in ("cpu", "cuda"):
        whole, quick = (
            _settings(name, torch.device(device), quick=quick) for quick in (False, True)
        )
        assert type(whole) is type(quick)
        assert whole != quick


def test_methods_that_make_other_images_are_not_timed(monkeypatch):
    monkeypatch.setattr(
        edits, "edited_one_by_one", lambda *_, **__: torch.zeros(1, 2, 3, 1, 16, 16)
    )
    with pytest.raises(RuntimeError, match="different images"):
        edits.run(edits.Settings.quick(), torch.device("cpu"))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    path.write_text('{"old": 1}')
    results = {"native": True, "copy_bytes_per_s": 1e9, "rows": [], "no JSON": object()}
    monkeypatch.setattr(gram, "run", lambda *_: results)
    arguments = ["gram", "--quick", "--output", str(path)]
    with pytest.raises(TypeError, match="not JSON serializable"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_in_a_sentence():
    result = CliRunner().invoke(app, ["gram", "--device", "cuda"])
    assert result.exit_code == 2
    assert "no usable NVIDIA GPU" in result.output
